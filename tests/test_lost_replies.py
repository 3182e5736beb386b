"""PostgreSQL did it and nobody heard: the connection is cut between its work and its word."""

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from chat.agent.scripted import long_text
from tests.attaching import FORM_TYPE, form
from tests.backends import postgresql_folder
from tests.cluster import backends
from tests.remote import RemoteDevice, begin, joined
from tests.server import Server
from tests.sockets import RemoteExchange

pytestmark = pytest.mark.process


class Interpreter:
    """Stands between a server and PostgreSQL. A connection that has said `after` is cut off at its next `at`,
    once the answer to that has come and been thrown away. `losses`: how often that is still to happen."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._after = self._at = b""
        self.losses = 0
        self.lost = 0

    def lose(self, times: int, *, at: bytes, after: bytes) -> None:
        self._at, self._after, self.losses = at, after, times

    async def between(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, to_them = await asyncio.open_connection("127.0.0.1", self._port)
        deaf = asyncio.Event()
        back = asyncio.create_task(self._back(theirs, writer, deaf))
        concerned = False
        try:
            while data := await reader.read(65_536):
                concerned = concerned or bool(self._after and self._after in data)
                if concerned and self.losses and self._at in data:
                    self.losses -= 1
                    deaf.set()
                to_them.write(data)
                await to_them.drain()
        except ConnectionError:
            pass
        finally:
            back.cancel()
            for end in (to_them, writer):
                end.close()

    async def _back(self, theirs: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while data := await theirs.read(65_536):
                if deaf.is_set():
                    self.lost += 1
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, str]]:
    """PostgreSQL and Redis."""
    if postgresql_folder() is None or shutil.which("redis-server") is None:
        pytest.skip("PostgreSQL or Redis is not installed: make packages")
    with backends() as environment:
        yield {**environment, "CHAT_ENGINE": "in-process"}


@asynccontextmanager
async def served(tmp_path: Path, shared: dict[str, str]) -> AsyncIterator[tuple[Server, Interpreter]]:
    port = urlsplit(shared["DATABASE_URL"]).port
    assert port is not None
    interpreter = Interpreter(port)
    async with await asyncio.start_server(interpreter.between, "127.0.0.1", 0) as listening:
        here = listening.sockets[0].getsockname()[1]
        there = {**shared, "DATABASE_URL": shared["DATABASE_URL"].replace(f":{port}/", f":{here}/")}
        async with Server(tmp_path, **there) as server:
            yield server, interpreter


COUNT = """
from chat.models import Conversation
conversation = Conversation.objects.get(pk={conversation!r})
print(conversation.messages.filter(client_id={name!r}).count(), conversation.runs.count())
"""


async def test_a_send_whose_commit_was_not_heard_of_is_said_again_and_stored_once(
    tmp_path: Path, shared: dict[str, str], devices: list[RemoteDevice]
) -> None:
    async with served(tmp_path, shared) as (server, interpreter):
        place = await begin(server)
        laptop = await joined(server, place, devices)
        interpreter.lose(1, at=b"COMMIT", after=b'INSERT INTO "chat_message"')
        name = "6f1c2a1e-0a1b-4c3d-9e8f-1234567890ab"
        first = await laptop.say("message.send", signal_id=name, text="/rate 0 /echo Once.")
        assert (interpreter.lost, first["type"], first["code"]) == (1, "nack", "storage")
        again = await laptop.say("message.send", signal_id=name, text="/rate 0 /echo Once.")
        assert (again["type"], again["duplicate"]) == ("ack", True)
        assert (await laptop.ended(again["run"]))["state"] == "completed"
        assert laptop.view.text_of(again["run"]) == "Once."
        counted = await server.python(COUNT.format(conversation=place[0], name=name))
        assert counted.split()[-2:] == ["1", "1"]


async def test_text_whose_commit_was_not_heard_of_is_written_again_and_read_once(
    tmp_path: Path, shared: dict[str, str], devices: list[RemoteDevice]
) -> None:
    async with served(tmp_path, shared) as (server, interpreter):
        place = await begin(server)
        laptop = await joined(server, place, devices)
        ack = await laptop.ask("/rate 100 /long 300")
        await laptop.writes(ack["run"], 20)
        interpreter.lose(3, at=b"chat_append_text", after=b"chat_append_text")
        assert (await laptop.ended(ack["run"]))["state"] == "completed"
        assert interpreter.lost == 3
        assert laptop.view.text_of(ack["run"]) == long_text(300)
        phone = await joined(server, place, devices)
        assert phone.view.text_of(ack["run"]) == long_text(300)


async def test_a_file_whose_row_was_not_heard_of_is_uploaded_again_and_whole(
    tmp_path: Path, shared: dict[str, str]
) -> None:
    async with served(tmp_path, shared) as (server, interpreter):
        conversation, session = await begin(server)
        interpreter.lose(1, at=b"COMMIT", after=b'INSERT INTO "chat_file"')
        path = f"/api/conversations/{conversation}/files"
        query = {"device": str(uuid.uuid4()), "id": str(uuid.uuid4())}
        known = {"host": f"127.0.0.1:{server.port}", "cookie": f"sessionid={session}", "origin": server.url}
        body, said = form("notes.txt", b"Here it is."), []
        for _ in range(2):
            asked = RemoteExchange(server.url, None, "POST", path, query, {**known, "content-type": FORM_TYPE}, body)
            said.append(json.loads(await asked.whole()))
        assert [(one["type"], one.get("code"), one.get("duplicate")) for one in said] == [
            ("nack", "storage", None),
            ("ack", None, True),
        ]
        found = RemoteExchange(
            server.url, None, "GET", f"/conversations/{conversation}/files/{query['id']}/", {}, known
        )
        assert (await found.whole(), interpreter.lost) == (b"Here it is.", 1)
