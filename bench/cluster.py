"""A whole installation on this machine, to try and to break: `make run-cluster`.

Two web servers and two workers on a PostgreSQL and a Redis of their own, behind nginx; all on the loopback, but for
nginx's address. Whatever of it ends, killed or not, is started again a second later: conversations go on meanwhile.
What was said is kept in `VAR_DIR`/cluster and is there the next time.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx2

from tests.backends import as_nobody, free_port, postgresql_folder

ROOT = Path(__file__).resolve().parent.parent
NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
WEBS = WORKERS = 2
AGAIN_SECONDS = 1.0
START_SECONDS = 120.0
STOP_SECONDS = 40.0  # a process has CHAT_DRAIN_SECONDS, and some to spare


class Trouble(Exception):
    """Why there is no cluster, for whoever asked for one."""


class Member:
    """One process, which is started again whenever it ends by itself."""

    def __init__(
        self, name: str, command: list[str], env: Mapping[str, str], folder: Path, *, as_user: Sequence[str] = ()
    ) -> None:
        self.name = name
        self._command, self._env, self._as_user = command, env, as_user
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._log.unlink(missing_ok=True)
        await self._start()
        self._keeping = asyncio.create_task(self._keep(), name=self.name)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it for good, politely and then not."""
        if self._keeping is None or self._process is None:
            return
        self._keeping.cancel()
        await asyncio.wait([self._keeping])
        if self._process.returncode is None:
            self._process.send_signal(number)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            except TimeoutError:
                say(f"{self.name} does not end; it is killed")
                self._process.kill()
                await self._process.wait()

    def check(self) -> None:
        """Raises Trouble if it does not run."""
        if self._process is None or self._process.returncode is not None:
            raise Trouble(f"{self.name} does not start:\n{self._log.read_text()[-2000:]}")

    def __str__(self) -> str:
        return f"{self.name} {self._process.pid if self._process else '-'}"

    async def _start(self) -> None:
        # If this process is killed, they end as well, and do not stay in the way of the next cluster. Ctrl-C is for
        # this process alone, which ends the others in an order: hence a session of its own for each.
        dying = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._as_user,  # first: who becomes somebody else forgets what is to happen then
                *dying,
                *self._command,
                cwd=ROOT,
                env=dict(self._env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            code = await self._process.wait()
            say(f"{self.name} ended ({_how(code)}); it is started again")
            await asyncio.sleep(AGAIN_SECONDS)
            await self._start()
            say(f"{self} is back")


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def site(address: str, servers: Sequence[str]) -> str:
    """deploy/nginx.conf for other addresses than docker's."""
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    here = " ".join(f"server {server} max_fails=1 fail_timeout=1s;" for server in servers)
    for known, other in (
        ("listen 8080;", f"listen {address};"),
        ("server web:8000 resolve max_fails=1 fail_timeout=2s;", here),
        ("resolver 127.0.0.11 valid=2s;", ""),
    ):
        assert text.count(known) == 1, known
        text = text.replace(known, other)
    return text


def say(line: str) -> None:
    print(line, flush=True)


class Cluster:
    """`start()` brings everything up, in the order in which it is needed; `stop()` takes it down the other way."""

    def __init__(self, host: str, port: int, folder: Path) -> None:
        self._host, self._port, self._folder = host, port or free_port(), folder
        self._servers: list[Member] = []
        self._processes: list[Member] = []
        self._fronts: list[Member] = []
        self._ports = [free_port() for _ in range(WEBS)]

    @property
    def url(self) -> str:
        shown = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{shown}:{self._port}"

    async def start(self) -> None:
        self._must_be_free()
        database, layer = await self._backends()
        env = {
            **os.environ,
            "DATABASE_URL": database,
            "REDIS_URL": layer,
            "CHAT_ENGINE": "procrastinate",
            "BEHIND_PROXY": "1",
            "PYTHONUNBUFFERED": "1",
            "DEBUG": os.environ.get("DEBUG", "1"),  # the demo's accounts have passwords that everybody knows
        }
        say("Making tables and the demo")
        await self._run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], env=env)
        await self._run([sys.executable, "manage.py", "seed_demo"], env=env, show=True)
        for number, port in enumerate(self._ports, 1):
            serve = ["manage.py", "serve", "--host", "127.0.0.1", "--port", str(port)]
            self._processes.append(Member(f"web-{number}", [sys.executable, *serve], env, self._folder))
        for number in range(1, WORKERS + 1):
            self._processes.append(Member(f"worker-{number}", [sys.executable, "manage.py", "work"], env, self._folder))
        for member in self._processes:
            await member.start()
        for port in self._ports:
            await self._ready(f"http://127.0.0.1:{port}/readyz")
        self._fronts.append(self._nginx())
        await self._fronts[0].start()
        await self._ready(f"http://{self._reached_at()}:{self._port}/readyz")
        say("Any of these may be killed, and comes back:")
        say("  " + ", ".join(map(str, [*self._processes, *self._fronts, *self._servers])))
        say(f"Their logs, and what is said, are in {self._folder}")
        say(f"Serving on {self.url}/  (stop with Ctrl-C)")

    async def stop(self) -> None:
        """Who has devices and runs first, then what is before and behind them."""
        await asyncio.gather(*(member.stop() for member in self._processes))
        await asyncio.gather(*(member.stop() for member in self._fronts))
        for member in reversed(self._servers):
            await member.stop(signal.SIGINT)  # of PostgreSQL: without waiting for those who are connected

    def _must_be_free(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
                probe.listen()
            except OSError as error:
                raise Trouble(
                    f"Cannot listen on {self._host}:{self._port} ({error.strerror}). "
                    "Choose another port: make run-cluster PORT=8001"
                ) from None

    def _reached_at(self) -> str:
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - told to, nobody is reached there
        return everywhere.get(self._host, self.url.removeprefix("http://").rpartition(":")[0])

    async def _backends(self) -> tuple[str, str]:
        programs = postgresql_folder()
        if programs is None or shutil.which("redis-server") is None or NGINX is None:
            raise Trouble("PostgreSQL, Redis or nginx is not installed: make run-cluster installs them on Debian.")
        password = await self._password()
        data, port = self._folder / "postgresql", free_port()
        if not (data / "PG_VERSION").exists():
            say("Making a PostgreSQL")
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir(mode=0o700)
            _give_away(data)
            options = ["-U", "chat", "-A", "scram-sha-256", "--pwfile", str(self._folder / "password"), "-E", "UTF8"]
            await self._run([*as_nobody(), str(programs / "initdb"), "-D", str(data), *options], env=os.environ)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "max_connections": 100,
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(programs / "postgres"), "-D", str(data), *given]
        self._servers.append(Member("postgresql", command, os.environ, self._folder, as_user=as_nobody()))
        layer = free_port()
        conf = self._folder / "redis.conf"
        conf.touch(mode=0o600)
        conf.write_text(f'bind 127.0.0.1\nport {layer}\nsave ""\ndir {self._folder}\nrequirepass {password}\n')
        self._servers.append(Member("redis", ["redis-server", str(conf)], os.environ, self._folder))
        for member in self._servers:
            await member.start()
        # It listens before it has started up.
        known = {**os.environ, "PGPASSWORD": password}
        at = ["-h", "127.0.0.1", "-p", str(port), "-U", "chat"]
        psql = [str(programs / "psql"), *at, "-c", "SELECT 1"]
        while not await self._succeeds([*psql, "postgres"], known):
            self._servers[0].check()
            await asyncio.sleep(0.2)
        if not await self._succeeds([*psql, "chat"], known):
            await self._run([str(programs / "createdb"), *at, "chat"], env=known)
        return f"postgres://chat:{password}@127.0.0.1:{port}/chat", f"redis://:{password}@127.0.0.1:{layer}/0"

    async def _password(self) -> str:
        """Others on this machine can reach the loopback, too. Made once, and kept with the data."""
        file = self._folder / "password"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(24))
            _give_away(file)
        return file.read_text()

    def _nginx(self) -> Member:
        folder = self._folder / "nginx"
        folder.mkdir(exist_ok=True)
        shown = f"[{self._host}]" if ":" in self._host else self._host
        servers = [f"127.0.0.1:{port}" for port in self._ports]
        (folder / "site.conf").write_text(site(f"{shown}:{self._port}", servers))
        temporary = " ".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
            f"events {{ worker_connections 4096; }}\n"
            f"http {{ access_log off; {temporary}\ninclude {folder}/site.conf; }}\n"
        )
        assert NGINX is not None
        command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
        return Member("nginx", command, os.environ, self._folder)

    async def _ready(self, url: str) -> None:
        end = asyncio.get_running_loop().time() + START_SECONDS
        async with httpx2.AsyncClient(trust_env=False) as client:
            while asyncio.get_running_loop().time() < end:
                with contextlib.suppress(httpx2.HTTPError):
                    if (await client.get(url)).status_code == 200:
                        return
                for member in [*self._servers, *self._processes, *self._fronts]:
                    member.check()
                await asyncio.sleep(0.1)
        raise Trouble(f"{url} is not ready after {START_SECONDS:g} s. The logs are in {self._folder}")

    async def _run(self, command: list[str], *, env: Mapping[str, str], show: bool = False) -> None:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT if env is not os.environ else "/",
            env=dict(env),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise Trouble(f"{' '.join(command[-4:])} failed:\n{output.decode()[-2000:]}")
        if show:
            say(output.decode().rstrip())

    async def _succeeds(self, command: list[str], env: Mapping[str, str]) -> bool:
        try:
            await self._run(command, env=env)
        except Trouble:
            return False
        return True


def _give_away(path: Path) -> None:
    """To who runs PostgreSQL, which root may not."""
    if as_nobody():
        shutil.chown(path, "nobody", "nogroup")


@contextlib.contextmanager
def _kept() -> Iterator[Path]:
    """The folder of the cluster, which nobody else uses meanwhile. Raises Trouble."""
    folder = Path(os.environ.get("VAR_DIR", ROOT / "var")).resolve() / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((folder / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Trouble(f"Another cluster uses {folder}. End it, or give this one its own VAR_DIR.") from None
        if not _reachable(folder):
            say(f"PostgreSQL does not run as root, and nobody else may enter {folder}: what is said will not be kept.")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-")))
            folder.chmod(0o755)
        yield folder


def _reachable(folder: Path) -> bool:
    return subprocess.run([*as_nobody(), "test", "-x", str(folder)], check=False).returncode == 0


async def main() -> int:
    """Until somebody asks it to end."""
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    with _kept() as folder:
        cluster = Cluster(os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000")), folder)
        starting, ending = asyncio.create_task(cluster.start()), asyncio.create_task(asked.wait())
        try:
            await asyncio.wait([starting, ending], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                await ending
        finally:
            say("Stopping")
            starting.cancel()
            await asyncio.wait([starting])
            await cluster.stop()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except Trouble as trouble:
        sys.exit(str(trouble))
