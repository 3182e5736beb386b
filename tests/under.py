"""With `--under daphne` or `--under uvicorn` the stories go through that server, over real sockets.

It listens in this process, on the event loop of the test and its host: a test can look into both ends.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from daphne.endpoints import build_endpoint_description_strings

from chat.management.commands.serve import OPTIONS
from project.asgi import application

address = ""  # where it listens; empty while none does


@contextlib.asynccontextmanager
async def serving(kind: str | None) -> AsyncIterator[None]:
    """Serve with a server of this kind, if one is asked for."""
    global address
    if kind is None:
        yield
        return
    async with SERVERS[kind]() as port:
        address = f"http://127.0.0.1:{port}"
        try:
            yield
        finally:
            address = ""


@contextlib.asynccontextmanager
async def _uvicorn() -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))  # whoever comes before it is served waits
    server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_config=None, access_log=False))
    ending = asyncio.create_task(server._serve([listener]))  # `serve` would take the signals, which are pytest's
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await ending


@contextlib.asynccontextmanager
async def _daphne() -> AsyncIterator[int]:
    # They install a reactor, which only a server needs.
    from daphne.server import reactor  # noqa: PLC0415

    from chat.server import DrainingServer  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    # There is one reactor in a process, on one loop for good; each test has a loop of its own.
    reactor._asyncioEventloop, reactor._scheduledAt = loop, None
    server = DrainingServer(
        application, endpoints=build_endpoint_description_strings(host="127.0.0.1", port=0), **OPTIONS
    )
    server.abort_start = True  # it sets everything up and does not run the loop, which runs
    server.run()
    try:
        yield server.listening_addresses[0][1]
    finally:
        await server.kill_all_applications().asFuture(loop)
        for listener in server.listeners:
            await listener.asFuture(loop)
        reactor.disconnectAll()
        server.application_checker()  # whoever's exception nobody has looked at
        for call in reactor.getDelayedCalls():
            call.cancel()
        reactor._timerHandle.cancel()


SERVERS = {"daphne": _daphne, "uvicorn": _uvicorn}
