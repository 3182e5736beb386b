"""What people have attached, for those who are in the conversation. Nothing of it is ever run as a page of ours."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.cache import get_conditional_response, patch_cache_control
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe

from chat.contents import TEXT
from chat.models import AccessToken, File, Participant

PIECE = 256 * 1024  # bytes read at a time
POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"


@require_safe
def file(request: HttpRequest, pk: UUID, file: UUID) -> HttpResponseBase:
    """A file as it was uploaded."""
    found = _found(request, pk, file)
    return _served(request, found, found.content_type, found.stored)


@require_safe
def view(request: HttpRequest, pk: UUID, file: UUID) -> HttpResponseBase:
    """An image, no larger than a screen needs."""
    found = _found(request, pk, file)
    if not found.is_image:
        raise Http404
    return _served(request, found, found.view_type or found.content_type, found.view or found.stored)


def _found(request: HttpRequest, pk: UUID, file: UUID) -> File:
    user = _user(request)
    if user is None:
        raise Http404
    return get_object_or_404(File.seen_by(get_object_or_404(Participant, conversation=pk, user=user)), pk=file)


def _user(request: HttpRequest) -> Any:
    """A program's, by its access token, or the browser's; None for nobody."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        for token in AccessToken.by_keys({AccessToken.key_of(secret.strip())}):
            token.use()
            return token.user
        return None
    return request.user if request.user.is_authenticated else None


def _served(request: HttpRequest, found: File, content_type: str, stored: Any) -> HttpResponseBase:
    """Kept by this person's browser, which asks each time whether it still may show it."""
    etag = f'"{found.pk.hex}-{"view" if stored == found.view else "file"}"'
    answer: HttpResponseBase | None = get_conditional_response(request, etag=etag)
    if answer is None:
        answer = _content(request, stored)
    text = content_type == TEXT
    answer["Content-Type"] = f"{content_type}; charset=utf-8" if text else content_type
    disposition = content_disposition_header(not (found.is_image or text), found.name)
    answer["Content-Disposition"] = disposition or "attachment"
    answer["ETag"] = etag
    answer["Content-Security-Policy"] = POLICY
    answer["X-Content-Type-Options"] = "nosniff"
    answer["Cross-Origin-Resource-Policy"] = "same-origin"
    patch_cache_control(answer, private=True, no_cache=True)
    return answer


def _content(request: HttpRequest, stored: Any) -> HttpResponseBase:
    try:
        told = {"Content-Length": str(stored.size)}
        if request.method == "HEAD":
            return HttpResponse(headers=told)
        return StreamingHttpResponse(_pieces(stored), headers=told)
    except FileNotFoundError:
        raise Http404 from None


async def _pieces(stored: Any) -> AsyncIterator[bytes]:
    """Opened only when somebody begins to take them: a device that has left before that would leave it open."""
    opened = await sync_to_async(stored.storage.open, thread_sensitive=False)(stored.name, "rb")
    read = sync_to_async(opened.read, thread_sensitive=False)
    try:
        while piece := await read(PIECE):
            yield piece
    finally:
        opened.close()
