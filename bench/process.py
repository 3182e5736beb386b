"""Processes of a bench: started on a free loopback port, watched through /proc, ended by id."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
# What somebody has in their shell must not decide a figure.
_NOT_PASSED_ON = ("ANTHROPIC_", "CHAT_", "DJANGO_", "DATABASE_URL", "REDIS_URL", "ALLOWED_", "HTTPS", "DEBUG")
_TROUBLE = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback", "never awaited", "Unhandled")
_TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A program that says in its first line that it is ready, and where: `Serving on http://127.0.0.1:4321/`."""

    def __init__(self, *command: str, env: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("a") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        line = self.read_line()
        if not line:
            self.stop()
            raise RuntimeError(f"{' '.join(command)} did not start:\n{log.read_text()[-3000:]}")
        self.url = next((word for word in line.split() if word.startswith("http://")), "").rstrip("/")
        self.port = int(self.url.rpartition(":")[2] or 0)  # a worker has none

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def read_line(self) -> str:
        """The next line it prints, or nothing at its end."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline()

    def ask(self, question: str) -> Any:
        """Write a line, read a line of JSON."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(question + "\n")
        self.popen.stdin.flush()
        return json.loads(self.read_line())

    def cpu(self) -> float:
        """Seconds of processor time so far, all threads, user and system. Resolution: 10 ms."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident(self) -> int:
        """Bytes of memory held now."""
        lines = Path(f"/proc/{self.popen.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

    def complaints(self) -> list[str]:
        """What it wrote to stderr."""
        return self._log.read_text().splitlines()

    def troubles(self) -> list[str]:
        """Those of its complaints that it should not have had: logged while it served, or tracebacks."""
        return [line for line in self.complaints() if any(mark in line for mark in _TROUBLE)]

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()


class Site:
    """A private installation: its own directory, database and secret. `with Site() as site: site.serve()`."""

    def __init__(self, **settings: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-"))
        passed_on = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
        self.env = {
            **passed_on,
            "DJANGO_SETTINGS_MODULE": "bench.settings",
            "DEBUG": "0",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "ALLOWED_HOSTS": "127.0.0.1",
            "VAR_DIR": str(self.directory),
            "LOG_LEVEL": "WARNING",
            "CHAT_PROVIDER": "bench",
            "CHAT_DRAIN_SECONDS": "0.1",
            **settings,
        }
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def prepare(self, **what: Any) -> dict[str, Any]:
        """Make or read rows with Django, in a process of its own: see bench/prepare.py."""
        done = subprocess.run(
            [sys.executable, "-m", "bench.prepare"],
            cwd=ROOT,
            env=self.env,
            input=json.dumps(what),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"bench.prepare failed:\n{done.stderr[-3000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def start(self, *command: str) -> Process:
        """Start one more process of this installation; it ends with the site at the latest."""
        log = self.directory / f"log-{len(self._processes)}.txt"
        self._processes.append(Process(*command, env=self.env, log=log))
        return self._processes[-1]

    def serve(self) -> Process:
        """The server everybody runs."""
        return self.start("manage.py", "serve", "--port", "0")

    def serve_plain(self) -> Process:
        """The server to compare with."""
        return self.start("-m", "bench.plain_app")


class Meter:
    """Processor time of a server and of this process between two moments, as shares of one core."""

    def __init__(self, server: Process) -> None:
        self._server = server
        self.began = self._now()

    def _now(self) -> tuple[float, float, float]:
        return time.monotonic(), self._server.cpu(), time.process_time()

    def read(self) -> tuple[float, float, float]:
        """(seconds, the server's share, this process's share) since this meter was made."""
        at, server, client = (now - then for now, then in zip(self._now(), self.began, strict=True))
        return at, server / at, client / at
