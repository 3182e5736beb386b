"""Files for tests, made on the spot, and a hand that uploads them."""

import asyncio
import io
import json
import uuid
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from chat.models import Conversation
from tests.device import Device
from tests.doors import exchange

BOUNDARY = "----between-the-parts"


def picture(width: int = 64, height: int = 48, kind: str = "PNG", *, color: Any = "teal", **options: Any) -> bytes:
    """An image."""
    mode = "RGBA" if isinstance(color, tuple) and len(color) == 4 else "RGB"
    into = io.BytesIO()
    Image.new(mode, (width, height), color).save(into, kind, **options)
    return into.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of some kilobytes that would be side × side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return len(data).to_bytes(4, "big") + checked + zlib.crc32(checked).to_bytes(4, "big")

    size = side.to_bytes(4, "big") * 2
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x01\0\0\0\0") + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def pdf(pages: int = 1) -> bytes:
    """A PDF of empty pages."""
    kids = " ".join(f"{number + 3} 0 R" for number in range(pages))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {pages} >>"]
    objects += ["<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>"] * pages
    body, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{one}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
    )
    return body + f"{end}startxref\n{len(body)}\n%%EOF\n".encode()


def form(name: str, data: bytes, field: str = "file") -> bytes:
    """A multipart body."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    return f"{head}Content-Type: image/png\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


class Hand:
    """Of somebody who is at a device of theirs."""

    def __init__(self, device: Device, conversation: Conversation | None = None) -> None:
        self._device = device
        self.conversation = (conversation or device.conversation).pk
        self.known = {"host": "testserver", "cookie": f"sessionid={device.session}", "origin": "http://testserver"}

    async def upload(
        self,
        data: bytes,
        name: str = "photo.png",
        *,
        file: str = "",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer."""
        asked = self.ask(data, name, file=file, body=body, headers=headers)
        async with asyncio.timeout(20):
            said = await asked.whole()
        return asked.status, json.loads(said)

    def ask(
        self,
        data: bytes,
        name: str = "photo.png",
        *,
        file: str = "",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The request, under way."""
        path = f"/api/conversations/{self.conversation}/files"
        query = {"device": self._device.id, "id": file or str(uuid.uuid4())}
        sent = {**self.known, "content-type": FORM_TYPE, **(headers or {})}
        whole = form(name, data) if body is None else body
        return exchange("POST", path, query, sent, whole)

    async def part(self, data: bytes, name: str = "photo.png", **options: Any) -> dict[str, Any]:
        """Of a file that is taken."""
        status, said = await self.upload(data, name, **options)
        assert (status, said["type"]) == (200, "ack"), said
        part: dict[str, Any] = said["part"]
        return part

    async def get(self, file: str, view: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """What the page of a file answers."""
        known = {name: value for name, value in self.known.items() if name != "origin"} | headers
        asked = exchange("GET", f"/conversations/{self.conversation}/files/{file}/{view}", {}, known)
        async with asyncio.timeout(20):
            body = await asked.whole()
        return asked.status, {name.lower(): value for name, value in asked.headers.items()}, body


def kept(media: Path) -> list[Path]:
    """The files in the storage."""
    return sorted(path for path in media.rglob("*") if path.is_file()) if media.exists() else []
