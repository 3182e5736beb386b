"""`make run-cluster`: one address, whose processes may be killed, and nothing of it left when it has ended."""

import asyncio
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from chat.client import connect, events
from chat.management.commands.seed_demo import ADMIN
from chat.pages.accounts import DEMO_ACCOUNTS
from tests.backends import postgresql_folder
from tests.device import until
from tests.nginx import NGINX
from tests.server import PYTHON, ROOT

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(400)]
PATIENCE = 120


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that PostgreSQL can enter also if it may not be started by who runs the tests."""
    if postgresql_folder() is None or shutil.which("redis-server") is None or NGINX is None:
        pytest.skip("PostgreSQL, Redis or nginx is not installed: make packages")
    with tempfile.TemporaryDirectory(prefix="run-cluster-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


async def started(folder: Path, port: int = 0) -> asyncio.subprocess.Process:
    known = ("PATH", "LANG", "HOME")
    return await asyncio.create_subprocess_exec(
        PYTHON,
        *("-m", "bench.cluster"),
        cwd=ROOT,
        env={
            **{name: os.environ[name] for name in known if name in os.environ},
            "VAR_DIR": str(folder),
            "PORT": str(port),
            "CHAT_LEASE_SECONDS": "3",
            "CHAT_SWEEP_SECONDS": "0.5",
            "CHAT_DRAIN_SECONDS": "1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def said(process: asyncio.subprocess.Process, wanted: str) -> tuple[str, "re.Match[str]"]:
    """What it printed until this, and this."""
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(PATIENCE):
        while (found := re.search(wanted, seen)) is None:
            line = await process.stdout.readline()
            assert line, f"it ended: {seen}"
            seen += line.decode()
    return seen, found


async def signed_in(url: str) -> tuple[str, str]:
    """A new conversation's address and Alice's session."""
    async with httpx2.AsyncClient(base_url=url, trust_env=False, follow_redirects=True) as client:
        await client.get("/login/")
        form = {"username": "alice", "password": DEMO_ACCOUNTS["alice"]}
        headers = {"X-CSRFToken": client.cookies["csrftoken"], "Referer": url}
        assert (await client.post("/login/", data=form, headers=headers)).status_code == 200
        headers["X-CSRFToken"] = client.cookies["csrftoken"]
        made = await client.post("/conversations/", headers=headers)
        assert "/conversations/" in str(made.url), made.text[:500]
        return str(made.url), client.cookies["sessionid"]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def mentioning(folder: Path) -> list[str]:
    """The command lines and environments of all processes that have to do with this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text and int(process.name) != os.getpid():
            found.append(text.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


async def test_any_of_it_may_be_killed_and_all_of_it_ends_when_told(folder: Path) -> None:
    cluster = await started(folder)
    try:
        shown, found = await said(cluster, r"Serving on (http://127\.0\.0\.1:\d+)/")
        assert ADMIN[0] in shown
        url = found[1]
        pids = {name: int(pid) for name, pid in re.findall(r"((?:web|worker)-\d|nginx|postgresql|redis) (\d+)", shown)}
        assert len(pids) == 7
        page, session = await signed_in(url)
        async with connect(page, session=session) as talk:

            async def answered(text: str) -> str:
                ack = await talk.send(f"/rate 0 /echo {text}")
                async with asyncio.timeout(PATIENCE):
                    async for event in talk:
                        if isinstance(event, events.RunEnded) and event.run == ack.run:
                            assert event.reason == "completed"
                            return talk.text_of(event.message)
                return "it ended"

            assert await answered("One.") == "One."
            for name in ("web-1", "worker-1", "web-2", "worker-2", "redis", "nginx"):
                os.kill(pids[name], signal.SIGKILL)
                assert await answered(f"Without {name}.") == f"Without {name}."
                _, back = await said(cluster, rf"{name} (\d+) is back")
                assert int(back[1]) != pids[name]
        cluster.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert cluster.stdout is not None
            rest = (await cluster.stdout.read()).decode()
            assert await cluster.wait() == 0, rest
        assert "killed" not in rest
        assert [name for name, pid in pids.items() if alive(pid)] == []
        await until(lambda: mentioning(folder) == [], "the end of all")
        assert (folder / "cluster" / "postgresql" / "PG_VERSION").exists()
        assert not (folder / "cluster" / "postgresql" / "postmaster.pid").exists()
    finally:
        if cluster.returncode is None:
            cluster.kill()
            await cluster.wait()


async def test_an_address_that_is_taken_is_said_at_once(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        cluster = await started(folder, other.getsockname()[1])
        assert cluster.stdout is not None
        rest = (await cluster.stdout.read()).decode()
        assert await cluster.wait() == 1
    assert "make run-cluster PORT=8001" in rest
    assert "Traceback" not in rest
    assert not (folder / "cluster" / "postgresql").exists()
