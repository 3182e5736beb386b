"""Three doors, two encodings, two servers: the same conversation, the same answers, the same goodbyes."""

import asyncio
import contextlib
import json
import signal
import uuid
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chat.agent.scripted import long_text
from tests.device import until
from tests.doors import DOORS
from tests.remote import RemoteDevice, begin
from tests.server import Server

pytestmark = pytest.mark.process
ENCODINGS = ("json", "html")
BEATS = 1.0
GUEST = """
from django.contrib.auth.models import User
from django.test import Client
from chat.models import Conversation
conversation = Conversation.objects.get(pk={conversation!r})
guest = User.objects.get_or_create(username="guest")[0]
if {role!r}:
    owner = conversation.participants.get(role="owner")
    conversation.add(by=owner, user=guest, role={role!r})
client = Client()
client.force_login(guest)
print(client.cookies["sessionid"].value)
"""
TOKEN = """
from django.contrib.auth.models import User
from chat.models import AccessToken
print(AccessToken.issue(User.objects.get(username="alice"), "test")[1])
"""


@pytest.fixture(params=["daphne", "uvicorn"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(tmp_path, kind=request.param, CHAT_DRAIN_SECONDS="1") as made:
        yield made


async def synced(device: RemoteDevice) -> RemoteDevice:
    await device.connect()
    await device.synced()
    return device


async def test_every_door_shows_the_same_live_late_and_after_a_change_of_doors(
    server: Server, devices: list[RemoteDevice]
) -> None:
    place = await begin(server)
    everybody = [
        await synced(RemoteDevice(server, *place, door=door, encoding=encoding))
        for door in DOORS
        for encoding in ENCODINGS
    ]
    devices += everybody
    programs, pages = [one for one in everybody if one.encoding == "json"], everybody[1::2]
    # Each asks once, over its own door.
    for number, one in enumerate(programs):
        ack = await one.say("message.send", text=f"/rate 300 /long {60 + number}")
        assert ack["type"] == "ack"
        for other in programs:
            await other.ended(ack["run"])
            assert other.view.text_of(ack["run"]) == long_text(60 + number)
    # One that changes doors while an answer is written loses and repeats nothing.
    roaming = RemoteDevice(server, *place)
    devices.append(roaming)
    await synced(roaming)
    ack = await roaming.say("message.send", text="/rate 150 /long 20000")
    for door in ("sse", "poll", "websocket", "poll", "sse"):
        seen = len(roaming.view.text_of(ack["run"])) if ack["run"] in roaming.view.runs else 0
        await roaming.writes(ack["run"], seen + 20)
        roaming.door = door
        await roaming.connect()
    await roaming.say("run.cancel", run=ack["run"])
    assert (await roaming.ended(ack["run"]))["state"] == "cancelled"
    assert long_text(20_000).startswith(roaming.view.text_of(ack["run"]))
    head = roaming.view.cursor
    await until(lambda: all(one.view.cursor == head for one in everybody), "everybody at the head")
    late = [await synced(RemoteDevice(server, *place, door=door)) for door in DOORS]
    devices += late
    for one in (*programs, *late, roaming):
        assert one.view.comparable() == roaming.view.comparable(), one.door
    # Pages were given the same ranges, whatever the door: without gap or repeat, up to the head.
    for page in pages:
        cursor = 0
        for frame in page.frames:
            if "after" in frame:
                assert frame["after"] <= cursor < frame["serial"], page.door
            cursor = (
                frame.get("serial", cursor) if frame["type"] in {"snapshot", "batch"} or "after" in frame else cursor
            )
        assert cursor == head


SIGNALS: list[tuple[str, bytes]] = [
    ("not JSON", b"hello"),
    ("half", b'{"type": "message.send"'),
    ("array", b"[1]"),
    ("unknown", b'{"type": "dance", "id": "ID"}'),
    ("no id", b'{"type": "message.send", "text": "x"}'),
    ("wrong type", b'{"type": "message.send", "id": "ID", "text": 7}'),
    ("empty", b'{"type": "message.send", "id": "ID", "text": " "}'),
    ("NUL", b'{"type": "message.send", "id": "ID", "text": "a\\u0000b"}'),
    ("surrogate", b'{"type": "message.send", "id": "ID", "text": "\\ud800"}'),
    ("deep", b"[" * 100_000),
    ("too long a text", b'{"type": "message.send", "id": "ID", "text": "' + b"x" * 70_000 + b'"}'),
    ("too large", b'{"type": "message.send", "id": "ID", "text": "' + b"x" * 1_100_000 + b'"}'),
    ("no such run", b'{"type": "run.cancel", "id": "ID", "run": "00000000-0000-4000-8000-000000000000"}'),
    (
        "two targets",
        b'{"type": "run.cancel", "id": "ID", "scope": "all", "send": "00000000-0000-4000-8000-000000000000"}',
    ),
    ("no such message", b'{"type": "queue.remove", "id": "ID", "message": "00000000-0000-4000-8000-000000000000"}'),
    ("rename", b'{"type": "conversation.rename", "id": "ID", "title": "A title"}'),
    ("read", b'{"type": "read", "id": "ID", "serial": 1}'),
    ("send", b'{"type": "message.send", "id": "ID", "text": "/rate 0 /echo Hello"}'),
    ("send again", b'{"type": "message.send", "id": "LAST", "text": "/rate 0 /echo Hello"}'),
    ("ping", b'{"type": "ping"}'),
]


async def answers_over(device: RemoteDevice) -> list[tuple[str, Any]]:
    """What is answered to each, without what differs from one conversation to the next."""
    found, last = [], ""
    for what, body in SIGNALS:
        signal_id = last if b"LAST" in body else str(uuid.uuid4())
        start = len(device.frames)
        await device.say_raw(body.replace(b"ID", signal_id.encode()).replace(b"LAST", signal_id.encode()).decode())
        last = signal_id

        def answer(start: int = start) -> dict[str, Any] | None:
            kinds = {"ack", "nack", "pong"}
            return next((frame for frame in device.frames[start:] if frame["type"] in kinds), None)

        said = await until(answer, what)
        if said.get("id"):
            assert said["id"] == signal_id, what
        shown = {
            name: said.get(name) for name in ("type", "code", "message", "retryable", "duplicate", "state", "outcome")
        }
        shown["message"] = shown["message"] if said["type"] == "nack" else None
        found.append((what, {**shown, "id": bool(said.get("id"))}))
    return found


async def test_every_signal_and_every_mistake_is_answered_alike(server: Server, devices: list[RemoteDevice]) -> None:
    answers = {}
    for door in DOORS:
        device = await synced(RemoteDevice(server, *await begin(server), door=door))
        devices.append(device)
        answers[door] = await answers_over(device)
        assert (await device.say("message.send", text="/rate 0 /echo Still here."))["type"] == "ack"
    assert answers["sse"] == answers["websocket"]
    assert answers["poll"] == answers["websocket"]
    codes = {what: said["code"] for what, said in answers["sse"]}
    assert codes["NUL"] == codes["not JSON"] == "invalid"
    assert codes["too large"] == "too_large"
    assert "Traceback" not in server.output


async def test_who_may_not_is_told_alike(server: Server, devices: list[RemoteDevice]) -> None:
    conversation, session = await begin(server)
    stranger = (await server.python(GUEST.format(conversation=conversation, role=""))).split()[-1]
    for door in DOORS:
        for key, code in ((stranger, 4503), ("nobody", 4501), ("", 4501)):
            outsider = RemoteDevice(server, conversation, key, door=door)
            devices.append(outsider)
            await outsider.connect()
            await outsider.until(partial(getattr, outsider, "closed"), f"{door}: sent away")
            assert outsider.closed == code, door
            assert outsider.frames[-1]["close"] == code
    viewer = (await server.python(GUEST.format(conversation=conversation, role="viewer"))).split()[-1]
    token = (await server.python(TOKEN)).split()[-1]
    for door in DOORS:
        reader = await synced(RemoteDevice(server, conversation, viewer, door=door))
        program = await synced(RemoteDevice(server, conversation, token=token, door=door))
        devices += [reader, program]
        for kind, fields in (("message.send", {"text": "x"}), ("run.cancel", {"scope": "all"})):
            nack = await reader.say(kind, **fields)
            assert (nack["type"], nack["code"]) == ("nack", "forbidden"), door
        ack = await program.say("message.send", text="/rate 0 /echo By token.")
        assert ack["type"] == "ack"
        await reader.ended(ack["run"])
    # The token is revoked: all that came in with it is over, the others stay.
    await server.python("from chat.models import AccessToken\nfor token in AccessToken.objects.all(): token.revoke()")
    programs = [one for one in devices if one.token]
    await until(lambda: all(one.closed == 4501 for one in programs), "sent away")
    owner = await synced(RemoteDevice(server, conversation, session))
    devices.append(owner)
    assert (await owner.say("conversation.rename", title="Still here"))["type"] == "ack"


async def test_a_page_of_another_site_may_neither_listen_nor_speak(server: Server) -> None:
    conversation, session = await begin(server)
    base = f"/api/conversations/{conversation}"
    device = {"device": str(uuid.uuid4())}
    own, other = f"http://127.0.0.1:{server.port}", "http://evil.example"
    body = json.dumps({"type": "conversation.rename", "id": str(uuid.uuid4()), "title": "Mine"})
    async with httpx2.AsyncClient(
        base_url=server.url, cookies={"sessionid": session}, trust_env=False, timeout=30
    ) as client:
        for headers, status in (
            ({"origin": other}, 403),
            ({}, 403),
            ({"origin": "null"}, 403),
            ({"sec-fetch-site": "cross-site"}, 403),
            ({"origin": other, "sec-fetch-site": "same-origin"}, 403),
            ({"sec-fetch-site": "same-origin"}, 200),
            ({"origin": own}, 200),
        ):
            answer = await client.post(f"{base}/signals", params=device, content=body, headers=headers)
            assert answer.status_code == status, headers
            assert answer.headers["cache-control"] == "no-store, no-transform"
            if status == 403:
                assert (answer.json()["type"], answer.json()["code"]) == ("nack", "csrf")
        for accept in ("text/event-stream", "application/json"):
            refused = await client.get(f"{base}/events", params=device, headers={"origin": other, "accept": accept})
            assert (refused.status_code, refused.json()["code"]) == (403, "origin")
            strange = await client.get(f"{base}/events", params={"device": "mine"}, headers={"accept": accept})
            assert (strange.status_code, strange.json()["code"]) == (400, "bad_request")
        for method, path, allowed in (
            ("POST", "events", "GET"),
            ("GET", "signals", "POST"),
            ("DELETE", "signals", "POST"),
        ):
            wrong = await client.request(method, f"{base}/{path}", params=device, headers={"origin": own})
            assert (wrong.status_code, wrong.headers["allow"]) == (405, allowed)


async def test_what_is_said_without_a_connection_is_done_and_answered(server: Server) -> None:
    conversation, _ = await begin(server)
    token = (await server.python(TOKEN)).split()[-1]
    path = f"/api/conversations/{conversation}/signals"
    body = {"type": "message.send", "id": str(uuid.uuid4()), "text": "/rate 0 /echo A script."}
    known = {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=server.url, headers=known, trust_env=False, timeout=30) as client:
        first = await client.post(path, params={"device": str(uuid.uuid4())}, json=body)
        again = await client.post(path, params={"device": str(uuid.uuid4())}, json=body)
        flow = await client.post(path, params={"device": str(uuid.uuid4())}, json={"type": "flow", "serial": 1})
        wrong = await client.post(
            path, params={"device": str(uuid.uuid4())}, json=body, headers={"authorization": "Bearer cvt_no"}
        )
    assert first.json()["type"] == "ack"
    assert again.json()["duplicate"]
    assert again.json()["run"] == first.json()["run"]
    assert (flow.status_code, flow.content) == (204, b"")
    assert wrong.status_code == 401


async def test_a_server_that_ends_says_goodbye_at_every_door(server: Server, devices: list[RemoteDevice]) -> None:
    place = await begin(server)
    devices += [await synced(RemoteDevice(server, *place, door=door)) for door in (*DOORS, *DOORS)]
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    await until(lambda: all(one.closed for one in devices), "drained", 30)
    for one in devices:
        if one.door == "poll" and one.closed == 1006:  # between two polls, and the server listens no more
            continue
        assert one.closed == 4000
        goodbye = one.frames[-1]
        assert (goodbye["type"], goodbye["code"]) == ("bye", "drain")
        assert 0 <= goodbye["retry_in"] <= 5
    async with asyncio.timeout(30):
        assert await server.process.wait() in {0, -signal.SIGTERM}
    assert "Traceback" not in server.output


async def test_those_who_wait_hold_no_thread_and_keep_nobody_waiting(server: Server, tmp_path: Path) -> None:
    conversation, session = await begin(server)

    def threads() -> int:
        assert server.process is not None
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Threads:")))

    waiting = [RemoteDevice(server, conversation, session, door=door) for door in ("sse", "poll") for _ in range(40)]
    try:
        await synced(waiting[0])
        before = threads()
        for one in waiting[1:]:
            await one.connect()
        for one in waiting[1:]:
            await one.synced()
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            for _ in range(5):
                assert (await client.get("/login/")).status_code == 200
        await until(lambda: threads() <= before + 12, "no thread for each of those who wait")
        ack = await waiting[0].say("message.send", text="/rate 0 /echo Everybody.")
        for one in waiting:
            await one.ended(ack["run"])
    finally:
        await asyncio.gather(*(one.disconnect() for one in waiting))


async def test_readers_that_do_not_read_cost_little_and_hold_nobody_up(tmp_path: Path) -> None:
    """W13: twenty of each door that never take a byte more, while much is said."""
    async with Server(tmp_path) as server:
        conversation, session = await begin(server)
        reader = await synced(RemoteDevice(server, conversation, session))
        stuck = []
        for _ in range(20):
            stream, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            writer.write(
                f"GET /api/conversations/{conversation}/events?device={uuid.uuid4()} HTTP/1.1\r\nHost: x\r\n"
                f"Accept: text/event-stream\r\nCookie: sessionid={session}\r\n\r\n".encode()
            )
            assert b"200" in await stream.readline()
            stuck.append(writer)

        before = server.resident()
        for _ in range(3):
            ack = await reader.say("message.send", text="/rate 0 /long 60000")
            await reader.ended(ack["run"])
        assert reader.view.text_of(ack["run"]) == long_text(60_000)
        grown = server.resident() - before
        assert grown < 64 * 2**20, f"{grown / 2**20:.0f} MiB for twenty readers that do not read"
        for writer in stuck:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await reader.disconnect()


@pytest.mark.parametrize("said", ["content-length: 300000000", "transfer-encoding: chunked"])
async def test_a_body_that_is_far_too_large_is_refused_before_it_fills_the_memory(server: Server, said: str) -> None:
    conversation, _ = await begin(server)
    before = server.resident()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    path = f"/api/conversations/{conversation}/signals?device={uuid.uuid4()}"
    writer.write(f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{said}\r\n\r\n".encode())
    piece = b"x" * 65_536
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece) if "chunked" in said else piece
    status = asyncio.create_task(reader.readline())
    refused_by_its_head = server.kind == "daphne" and "content-length" in said
    with contextlib.suppress(ConnectionError):
        for _ in range(0 if refused_by_its_head else 4_000):  # 250 MB, if they were wanted
            writer.write(chunk)
            await writer.drain()
            if status.done():
                break
    answer = b""
    # Whoever goes on writing to a closed socket may lose what was said before it was closed.
    with contextlib.nullcontext() if refused_by_its_head else contextlib.suppress(ConnectionError):
        async with asyncio.timeout(30):
            answer = await status
    assert (answer == b"" and not refused_by_its_head) or int(answer.split()[1]) in {403, 413}
    assert server.resident() - before < 40 * 2**20
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
