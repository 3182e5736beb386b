"""The doors behind a real nginx: as Debian has it, without upgrades, buffering, impatient, and with TLS."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from chat.agent.scripted import long_text
from chat.client import connect, events
from chat.client.memory import Memory, Transport
from tests.device import until
from tests.doors import DOORS
from tests.nginx import BLOCKED, NGINX, UPGRADE, Front, nginx
from tests.remote import RemoteDevice, begin
from tests.server import Server

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        NGINX is None and not os.environ.get("CI_STRICT"), reason="nginx is not installed: apt-get install nginx"
    ),
]
HTTP_DOORS = DOORS[1:]
# Whoever set this up has told nginx to hold answers back, whatever they say.
BUFFERED = (
    "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering; "
    "proxy_buffer_size 256k; proxy_buffers 8 256k; proxy_busy_buffers_size 512k;"
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(tmp_path / "server", CHAT_HEARTBEAT_SECONDS="1", BEHIND_PROXY="1") as made:
        yield made


def behind(front: Front, place: tuple[str, str], door: str, devices: list[RemoteDevice]) -> RemoteDevice:
    devices.append(RemoteDevice(front, *place, door=door))
    return devices[-1]


def pings(device: RemoteDevice) -> int:
    return sum(frame["type"] == "ping" for frame in device.frames)


async def streams(device: RemoteDevice) -> None:
    """Ask, and see the text grow while it is written, not only when it has ended."""
    await device.connect()
    await device.synced()
    ack = await device.say("message.send", text="/rate 60 /long 180")
    seen: set[int] = set()
    known: dict[str, Any] = device.view.runs

    def ended() -> bool:
        if ack["run"] in known:
            seen.add(len(device.view.text_of(ack["run"])))
        return bool(known.get(ack["run"], {}).get("state") == "completed")

    await device.until(ended, "the end")
    assert device.view.text_of(ack["run"]) == long_text(180)
    assert len(seen) > 3, f"{device.door}: the text came in {len(seen)} pieces"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_with_its_usual_settings_nothing_is_held_back(
    server: Server, tmp_path: Path, devices: list[RemoteDevice], *, tls: bool
) -> None:
    place = await begin(server)
    async with nginx(tmp_path / "nginx", server.url, tls=tls) as front:
        for door in DOORS:
            device = behind(front, place, door, devices)
            await streams(device)
            await device.disconnect()


@pytest.mark.parametrize("transport", Transport)
async def test_a_program_comes_in_by_tls(server: Server, tmp_path: Path, transport: Transport) -> None:
    conversation, session = await begin(server)
    async with nginx(tmp_path / "nginx", server.url, tls=True) as front:
        url = f"{front.url}/conversations/{conversation}/"
        async with connect(url, session=session, transports=[transport], memory=Memory(), tls=front.tls) as talk:
            ack = await talk.send("/rate 0 /long 40")
            async with asyncio.timeout(30):
                async for event in talk:
                    if isinstance(event, events.RunEnded):
                        break
            assert ack.run
            answer = talk.view.answer_of(ack.run)
            assert answer is not None
            assert (answer.text, talk.transport) == (long_text(40), transport)
        # A certificate nobody vouches for is no server of ours.
        async with connect(url, session=session, transports=[transport], memory=Memory()) as careful:
            await until(lambda: "CERTIFICATE_VERIFY_FAILED" in careful.trouble, "a refused certificate")
            assert careful.hello is None


async def test_where_sockets_are_not_let_through_both_other_doors_are(
    server: Server, tmp_path: Path, devices: list[RemoteDevice]
) -> None:
    place = await begin(server)
    async with nginx(tmp_path / "nginx", server.url, BLOCKED) as front:
        with pytest.raises(InvalidStatus):
            await behind(front, place, "websocket", devices).connect()
        for door in HTTP_DOORS:
            await streams(behind(front, place, door, devices))


async def test_where_buffering_is_on_the_http_doors_still_stream(
    server: Server, tmp_path: Path, devices: list[RemoteDevice]
) -> None:
    place = await begin(server)
    async with nginx(tmp_path / "nginx", server.url, BLOCKED + BUFFERED) as front:
        for door in HTTP_DOORS:
            await streams(behind(front, place, door, devices))


async def test_a_proxy_that_cuts_what_is_idle_cuts_nobody(
    server: Server, tmp_path: Path, devices: list[RemoteDevice]
) -> None:
    """60 s against a heartbeat of 20 s, made short: 4 s against 1 s, with more room for a busy machine."""
    place = await begin(server)
    async with nginx(
        tmp_path / "nginx", server.url, f"{UPGRADE} proxy_read_timeout 4s; proxy_send_timeout 4s;"
    ) as front:
        waiting = [behind(front, place, door, devices) for door in DOORS]
        for one in waiting:
            await one.connect()
            await one.synced()

        async def beat() -> None:
            for one in waiting:
                await one.say_raw('{"type": "ping"}')

        for number in range(6):
            await beat()
            await until(lambda n=number: min(map(pings, waiting)) > n, "a heartbeat")  # type: ignore[misc]
        for one in waiting:
            assert one.closed is None, one.door
            assert sum(frame["type"] == "hello" for frame in one.frames) == 1, f"{one.door} had to come again"
