"""A real nginx of our own in front of a server, with its usual settings or with those that make trouble."""

import asyncio
import contextlib
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from tests.backends import free_port

NGINX = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
CONFIGURATION = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1; {as_user}
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  server {{
    listen 127.0.0.1:{port} {tls};
    location / {{
      proxy_pass {upstream};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Proto $scheme;
      {more}
    }}
  }}
}}
"""
UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
# What a proxy that nobody has told of WebSockets does: the upgrade does not reach the server.
BLOCKED = 'proxy_set_header Connection "";'


class Front:
    """Has `port`, `url` and `tls` as a server does: devices connect to it instead."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self.port = port
        self.tls = tls

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstream: str, more: str = UPGRADE, *, tls: bool = False) -> AsyncIterator[Front]:
    """Start it, and end it. `more`: directives for the location."""
    assert NGINX is not None, "nginx is not installed"
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    port, context, listen = free_port(), None, ""
    if tls:
        await _certificate(folder)
        context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
        listen = f"ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem"
    configuration = CONFIGURATION.format(
        folder=folder,
        port=port,
        tls=listen,
        upstream=upstream,
        more=more,
        as_user="user root;" if os.geteuid() == 0 else "",
    )
    (folder / "nginx.conf").write_text(configuration)
    process = await asyncio.create_subprocess_exec(NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log")
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionError:
                    assert process.returncode is None, (folder / "error.log").read_text()
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield Front(port, context)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _certificate(folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
        *(
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(folder / "key.pem"),
            "-out",
            str(folder / "cert.pem"),
        ),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
