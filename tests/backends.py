"""Run a command with a private PostgreSQL and a private Redis: `python -m tests.backends pytest …`.

Both are started on free ports of the loopback, with data in a temporary folder, and are ended with the command.
PostgreSQL refuses to run as root; as root it is run as `nobody`.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def free_port() -> int:
    """Not of those that the system gives to whoever asks for any: one of them may be taken before it is used."""
    chance = random.SystemRandom()  # the usual one is seeded alike in every process that runs tests
    while True:
        port = chance.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def postgresql_folder() -> Path | None:
    """Where Debian, or PATH, has PostgreSQL's server programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    on_path = shutil.which("initdb")
    return found[0].parent if found else Path(on_path).parent if on_path else None


def as_nobody() -> list[str]:
    """What PostgreSQL must be started with by root, which it refuses to run as."""
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A private PostgreSQL; yields its DATABASE_URL."""
    programs, data, port = postgresql_folder(), folder / "postgresql", free_port()
    assert programs is not None, "PostgreSQL is not installed"
    as_user = as_nobody()
    data.mkdir()
    if as_user:
        folder.chmod(0o755)
        shutil.chown(data, "nobody", "nogroup")
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "chat", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run([*as_user, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": str(data),
        "max_connections": 200,
    }
    server = [str(programs / "postgres"), "-D", str(data)]
    for name, value in options.items():
        server += ["-c", f"{name}={value}"]
    with (folder / "postgresql.log").open("w") as log, running([*as_user, *server], log.fileno(), port):
        create = [str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "chat", "chat"]
        # It listens before it has started up.
        deadline = time.monotonic() + 60
        while subprocess.run(create, check=False, stderr=subprocess.DEVNULL).returncode != 0:
            assert time.monotonic() < deadline, "PostgreSQL does not start up"
            time.sleep(0.1)
        yield f"postgres://chat@127.0.0.1:{port}/chat"


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A private Redis; yields its URL."""
    port = free_port()
    server = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "redis.log").open("w") as log, running(server, log.fileno(), port):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def running(command: list[str], log: int, port: int) -> Iterator[None]:
    """A server process that listens on a port; ended by its id."""
    process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} ended"
                assert time.monotonic() < deadline, f"{command[0]} does not listen"
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(60)


def main() -> int:
    """Start both, run the command, end both, and return the command's exit code."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="backends-")))
        database = stack.enter_context(postgresql(folder))
        layer = stack.enter_context(redis(folder))
        environment = {**os.environ, "DATABASE_URL": database, "REDIS_URL": layer}
        return subprocess.run([sys.executable, "-m", *sys.argv[1:]], env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
