"""The door for files: one multipart body in, its part out. What is in the way is said before the body is read."""

import asyncio
import io
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadhandler import MemoryFileUploadHandler
from django.db import DatabaseError
from django.http.multipartparser import MultiPartParser, MultiPartParserError

from chat import host, wire
from chat.contents import inspect
from chat.errors import Code, Refused
from chat.host import Host
from chat.models import File
from chat.roster import ids
from chat.transport.access import check
from chat.transport.http import Receive, Request, Scope, Send, Unwelcome, admit, connect, is_only, turn_away
from chat.transport.post import respond

logger = logging.getLogger(__name__)

T = TypeVar("T")
AROUND = 16 * 1024  # what a multipart body has besides the file
# Apart from the database's: a storage may be far away, and to look into an image takes time and memory.
_threads = ThreadPoolExecutor(2, thread_name_prefix="files")


async def files(scope: Scope, receive: Receive, send: Send) -> None:
    """Keep the file in the body, and answer with an `ack` that has its `part`, or a `nack`."""
    if not await is_only("POST", scope, send):
        return
    signal_id = None
    try:
        request = Request(scope)
        found = await host.running()
        client_id = _client_id(request)
        signal_id = str(client_id)
        said = await _answer(found, request, client_id, receive)
    except Unwelcome as why:
        await turn_away(send, why)
        return
    except Refused as refusal:
        said = wire.nack(signal_id, refusal)
    if said is not None:
        await respond(send, said)


async def _answer(found: Host, request: Request, client_id: uuid.UUID, receive: Receive) -> str | None:
    if not request.is_ours():
        raise Refused(Code.CSRF, "A page of another site may not speak here.")
    if found.draining:
        raise Refused(Code.DRAINING, "This server is about to end. Send it again.", retry_after=1.0)
    if (told := _told_length(request)) is not None and told > settings.CHAT_FILE_BYTES + AROUND:
        raise _too_large()
    passing, _ = connect(found, request, "upload")
    await admit(passing, request)
    found.allowances.spend((passing.user_id, None))
    try:
        known = await found.database.run(_expected, request, client_id)
        body = await _body(receive)
        if body is None:
            return None
        # To its end, whoever leaves meanwhile: no bytes without a row, and above all no row without its bytes.
        file = known if known is not None else await asyncio.shield(_keep(found, request, client_id, body))
    except DatabaseError:
        logger.exception("a file could not be noted", extra=ids(passing))
        raise Refused(Code.STORAGE, "The file could not be stored. Try again.", retry_after=1.0) from None
    return wire.control("ack", id=str(client_id), part=file.part(), **({"duplicate": True} if known else {}))


def _expected(request: Request, client_id: uuid.UUID) -> File | None:
    access = check(request.credential, request.conversation, request.device)
    return File.expected(access.participant, client_id)


async def _keep(found: Host, request: Request, client_id: uuid.UUID, body: bytes) -> File:
    name, data = await _away(partial(_file_in, body, request.headers.get(b"content-type", b"").decode("latin1")))
    content = await _away(partial(inspect, data, settings.CHAT_FILE_TYPES))
    stored = await _away(partial(File.put, data, content))
    try:
        access = await found.database.run(check, request.credential, request.conversation, request.device)
        file = await found.database.run(
            partial(File.keep, stored, content, by=access.participant, client_id=client_id, name=name, size=len(data))
        )
    except Refused:
        await _away(partial(File.drop, stored))
        raise
    # Any other error leaves them: a commit that nobody heard of may have made their row.
    if file.stored.name != stored.name:  # another try was faster
        await _away(partial(File.drop, stored))
    return file


async def _away(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, work)


def _client_id(request: Request) -> uuid.UUID:
    try:
        return uuid.UUID(request.wanted.get("id", ""))
    except ValueError:
        raise Refused(Code.INVALID, "id: Say how to call the file: id=<uuid>.") from None


def _told_length(request: Request) -> int | None:
    told = request.headers.get(b"content-length", b"")
    return int(told) if told.isdigit() else None


async def _body(receive: Receive) -> bytes | None:
    """All of it; None if it was cut off. Raises Refused as soon as there is too much."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > settings.CHAT_FILE_BYTES + AROUND:
            raise _too_large()
    return bytes(body)


class _InMemory(MemoryFileUploadHandler):
    """Whatever its size, which we know."""

    def handle_raw_input(self, *arguments: Any, **named: Any) -> None:
        self.activated = True


def _file_in(body: bytes, content_type: str) -> tuple[str, bytes]:
    meta = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": len(body)}
    try:
        _, sent = MultiPartParser(meta, io.BytesIO(body), [_InMemory()], "utf-8").parse()
    except (MultiPartParserError, SuspiciousOperation):
        raise Refused(Code.INVALID, "The body is not multipart/form-data with one file.") from None
    if (file := sent.get("file")) is None:
        raise Refused(Code.INVALID, "file: the form has no such field with a file.")
    data = file.read()
    if len(data) > settings.CHAT_FILE_BYTES:
        raise _too_large()
    return file.name or "", data


def _too_large() -> Refused:
    most = settings.CHAT_FILE_BYTES
    said = f"{most / 1_048_576:.3g} MB" if most >= 1_048_576 else f"{most:,} bytes"
    return Refused(Code.TOO_LARGE, f"This file is too large: it may have {said}.")
