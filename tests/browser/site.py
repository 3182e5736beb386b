"""A site as it is served: a process with a port, a database file and a directory of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.server import migrated

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "DATABASE_URL", "REDIS_URL", "CHAT_PROVIDER")
# Short, so that a story about a killed server need not wait.
SETTINGS = {
    "DEBUG": "1",
    "CHAT_PROVIDER": "scripted",
    "CHAT_TOOLS": "tests.browser.tools,chat.agent.tools.ask_user,chat.agent.tools.this_device",
    "CHAT_LEASE_SECONDS": "3",
    "CHAT_SWEEP_SECONDS": "0.3",
}
DEADLINE = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """`start`, `kill`, `stop` and again: the database and the port stay the same."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        environment.pop("DJANGO_SETTINGS_MODULE", None)
        self.environment = {**environment, **SETTINGS, "VAR_DIR": str(directory), **settings}
        self.directory = directory
        self.log = directory / "server.log"
        self._server: subprocess.Popen[bytes] | None = None
        shutil.copy(migrated(), directory)
        # Started here, so that copies of this site, which have another address, share it.
        self._stage = subprocess.Popen(
            [sys.executable, "-m", "tests.browser.stage"],
            cwd=ROOT, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def call(self, name: str, /, **fields: Any) -> Any:
        """Do something of `stage.py` in this site's database."""
        assert self._stage.stdin
        assert self._stage.stdout
        self._stage.stdin.write(json.dumps([name, fields]) + "\n")
        self._stage.stdin.flush()
        return json.loads(self._stage.stdout.readline())

    def let_go(self, name: str) -> None:
        """A tool that works until it is let go (tests/browser/tools.py) comes to its end."""
        (self.directory / f"gate-{name}").touch()

    def start(self) -> "Site":
        with self.log.open("ab") as output:
            self._server = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--port", str(self.port)],
                cwd=ROOT, env=self.environment, stdout=output, stderr=output,
            )  # fmt: skip
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._server.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.02)
        raise AssertionError("the server did not start: " + self.log.read_text()[-2000:])

    def kill(self) -> None:
        """As a power cut."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As a deploy."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        self.kill()
        with self._stage:  # which closes what it reads, and waits
            pass

    def _end(self, how: signal.Signals) -> None:
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(DEADLINE)
            self._server = None
