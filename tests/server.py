"""A real server process with a database of its own, to be killed, frozen and started again by tests and benches."""

import asyncio
import atexit
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
DATABASE = "conversations.sqlite3"


def migrate(folder: str, **environment: str) -> None:
    """Make the tables: in a SQLite database in this folder, unless the environment names another one."""
    known = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    known |= {"VAR_DIR": folder, "DJANGO_SETTINGS_MODULE": "tests.settings", **environment}
    subprocess.run([PYTHON, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, env=known, check=True)


@cache
def migrated() -> Path:
    """A database as `migrate` leaves it, made once: every server starts with a copy."""
    template = tempfile.TemporaryDirectory(prefix="migrated-")
    atexit.register(template.cleanup)
    migrate(template.name)
    (found,) = Path(template.name).glob("*.sqlite3")
    return found


class Shell:
    """Runs Python on the databases of servers that have the same environment: to start takes longer than to run it."""

    MOST = 3  # processes at a time
    _all: "dict[tuple[tuple[str, str], ...], Shell]" = {}

    def __init__(self, environment: dict[str, str]) -> None:
        self._asking = threading.Lock()
        self.has_ended = False
        self._process = subprocess.Popen(
            [PYTHON, "-m", "tests.shell"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @classmethod
    def of(cls, environment: dict[str, str]) -> "Shell":
        """The one there is, or a new one."""
        key = tuple(sorted((name, value) for name, value in environment.items() if name not in {"VAR_DIR", "HOME"}))
        found = cls._all.pop(key, None)
        if found is not None and found.has_ended:
            found.end()
            found = None
        cls._all[key] = found = found or cls(environment)  # as the newest
        if len(cls._all) > cls.MOST:
            cls._all.pop(next(iter(cls._all))).end()
        return found

    @classmethod
    def end_all(cls) -> None:
        while cls._all:
            cls._all.popitem()[1].end()

    def run(self, code: str, file: Path) -> str:
        """What it prints. In one go, so that a test that gives up leaves no answer for the next one."""
        with self._asking:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self.has_ended = True  # unless it answers
            self._process.stdin.write(json.dumps({"code": code, "file": str(file)}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            self.has_ended = not answer
        assert answer, "it ended: what it said is among what was captured"
        output: str = json.loads(answer)
        return output

    def end(self) -> None:
        with self._asking, self._process:  # which closes its stdin and waits
            pass


atexit.register(Shell.end_all)


class Server:
    """`async with Server(folder) as server`; then `kill()`, `terminate()`, and `start()` again on the same port."""

    ready = re.compile(rb"(?:Serving on|Uvicorn running on) http://[^:]+:(\d+)")  # says that it listens

    def __init__(self, folder: Path, *, kind: str = "daphne", **environment: str) -> None:
        self.folder = folder
        self.kind = kind
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self.output = ""
        self.process: asyncio.subprocess.Process | None = None
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "VAR_DIR": str(folder),
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "DEBUG": "1",
            **environment,
        }
        self._draining: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def resident(self) -> int:
        """Bytes of memory the process holds now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))

    async def __aenter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        if "DATABASE_URL" not in self.environment:  # of a shared one somebody else takes care
            shutil.copy(await asyncio.to_thread(migrated), self.folder)
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def manage(self, *arguments: str, stdin: str = "") -> str:
        """Run a management command on the server's database and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            PYTHON,
            "manage.py",
            *arguments,
            cwd=ROOT,
            env=self.environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate(stdin.encode())
        assert process.returncode == 0, output.decode()
        return output.decode()

    async def python(self, code: str) -> str:
        """Run Python with the app set up, on the server's database, and return what it prints."""
        return await asyncio.to_thread(Shell.of(self.environment).run, code, self.folder / DATABASE)

    async def start(self) -> None:
        """Start, on the port of the last start if there was one, and wait until it listens."""
        self.process = await asyncio.create_subprocess_exec(
            PYTHON,
            *self._command(),
            cwd=ROOT,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            while (found := self.ready.search(line := await self.process.stdout.readline())) is None:
                assert line, f"the server ended: {self.output}"
                self.output += line.decode()
        if found.groups():
            self.port = int(found[1])
        self._draining = asyncio.create_task(self._collect(self.process.stdout))

    def _command(self) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        if self.kind == "uvicorn":
            # It closes what is open at its end only after this long; the doors are to be faster.
            options = ["--timeout-graceful-shutdown", "30", "--no-access-log"]
            return ["-m", "uvicorn", "project.asgi:application", *options, *address]
        return ["manage.py", "serve", *address]

    async def _collect(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.output += line.decode()

    async def kill(self) -> None:
        """SIGKILL: nothing is said, nothing is cleaned up."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM, as a deploy does; returns the exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        code = await self.process.wait()
        if self._draining is not None:
            await self._draining
            self._draining = None
        return code
