"""What the bytes of a file are, whatever its name says: images by Pillow, PDF by PDFium, text by being UTF-8.

Also what the model and small screens are shown of an image that is larger than they can use. Pure, and slow: never
call it on an event loop.
"""

import io
import re
import threading
from dataclasses import dataclass

import pypdfium2
from PIL import Image, ImageOps

from chat.errors import Code, Refused

IMAGES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
PDF, TEXT = "application/pdf", "text/plain"
KNOWN = {
    **{kind: f"{name.replace('WEBP', 'WebP')} images" for name, kind in IMAGES.items()},
    PDF: "PDF",
    TEXT: "plain text",
}

MOST_PIXELS = (
    40_000_000  # decoded, 160 MB; a phone's photo has 12 million, a bomb of some kilobytes ten thousand million
)
MOST_PAGES = 100  # what the Messages API takes in one request to a model with 200,000 tokens
# A model sees no more than this of an image, and a screen needs no more in a conversation.
VIEW_SIDE = 1568
VIEW_BYTES = 3_500_000  # the Messages API takes 5 MB in base64
_ORIENTATION = 0x0112  # the tag of EXIF
_HTML = re.compile(
    rb"\s*(?:<\?xml|<!--|<!doctype\s|<(?:html|head|title|body|script|style|iframe|svg|object|embed|meta|link|base)\b)",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_pdfium = threading.Lock()  # it knows nothing of threads


@dataclass(frozen=True, slots=True)
class View:
    """Of an image, upright and no larger than is of use. Says nothing of where and with what it was taken."""

    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Content:
    """`width` and `height` of an image as it is shown, `pages` of a PDF. `view`: where the file itself will not do."""

    content_type: str
    width: int | None = None
    height: int | None = None
    pages: int = 0
    view: View | None = None


def allowed_in_words(types: list[str]) -> str:
    """For a person whose file was refused."""
    words = [KNOWN[kind] for kind in KNOWN if kind in types]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def inspect(data: bytes, types: list[str]) -> Content:
    """What it is. Raises Refused: `invalid` if empty, `unsupported`, or `too_large` in pixels or pages."""
    if not data:
        raise Refused(Code.INVALID, "This file is empty.")
    found = _image(data, types) or _pdf(data) or _text(data)
    if found is None or found.content_type not in types:
        raise Refused(Code.UNSUPPORTED, f"This type of file is not taken. What is: {allowed_in_words(types)}.")
    return found


def _image(data: bytes, types: list[str]) -> Content | None:
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(IMAGES))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels() from None
    except Exception:  # noqa: BLE001 - not an image; Pillow's readers raise whatever they stumble over
        return None
    with image:
        content_type = IMAGES[str(image.format)]
        if content_type not in types:
            return Content(content_type)
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise _too_many_pixels()
        try:
            upright = int(image.getexif().get(_ORIENTATION, 1) or 1)
            image.load()
            view = None
            if max(width, height) > VIEW_SIDE or len(data) > VIEW_BYTES or upright != 1:
                view = _view(image)
        except Exception:  # noqa: BLE001 - the same
            raise Refused(Code.UNSUPPORTED, "This image is broken: it cannot be read to its end.") from None
    if upright in (5, 6, 7, 8):  # it lies on its side
        width, height = height, width
    return Content(content_type, width, height, view=view)


def _view(image: Image.Image) -> View:
    shown = ImageOps.exif_transpose(image)
    see_through = shown.mode in ("RGBA", "LA", "PA") or "transparency" in shown.info
    shown = shown.convert("RGBA" if see_through else "RGB")
    shown.thumbnail((VIEW_SIDE, VIEW_SIDE))
    into = io.BytesIO()
    if see_through:
        shown.save(into, "WEBP", quality=85)
        return View("image/webp", into.getvalue())
    shown.save(into, "JPEG", quality=85)
    return View("image/jpeg", into.getvalue())


def _too_many_pixels() -> Refused:
    return Refused(Code.TOO_LARGE, f"This image is too large: it may have {MOST_PIXELS // 1_000_000} million pixels.")


def _pdf(data: bytes) -> Content | None:
    if b"%PDF-" not in data[:1024]:
        return None
    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(data)
            try:
                pages = len(document)
            finally:
                document.close()
        except pypdfium2.PdfiumError:
            raise Refused(Code.UNSUPPORTED, "This PDF cannot be opened: it is broken or has a password.") from None
    if not pages:
        raise Refused(Code.UNSUPPORTED, "This PDF has no pages.")
    if pages > MOST_PAGES:
        raise Refused(Code.TOO_LARGE, f"This PDF has {pages} pages. It may have {MOST_PAGES}.")
    return Content(PDF, pages=pages)


def _text(data: bytes) -> Content | None:
    """Not what a browser could take for a page, under whatever type it is served."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    if _CONTROL.search(text) or _HTML.match(data.removeprefix(b"\xef\xbb\xbf")):
        return None
    return Content(TEXT)
