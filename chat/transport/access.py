"""Who a connection speaks for, and whether they still may, looked at again for each signal."""

import uuid
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import get_user
from django.db.models import FilteredRelation, Q
from django.http import HttpRequest

from chat.errors import Code, Refused
from chat.models import AccessToken, Device, Participant

NO_TOKEN = "This access token does not let you in: it was revoked, or is none."  # noqa: S105 - words


class Credential(NamedTuple):
    """What a connection was opened with: a browser's session, or the hash of an access token. Never a secret itself."""

    session: str | None = None
    token: str | None = None


def credential_of(scope: dict[str, Any]) -> Credential:
    """What a request or a handshake brings. A token goes before a cookie: whoever sends one means it."""
    scheme, _, secret = dict(scope["headers"]).get(b"authorization", b"").decode("latin1").partition(" ")
    if scheme.lower() == "bearer":
        return Credential(token=AccessToken.key_of(secret.strip()))
    session = scope["cookies"].get(settings.SESSION_COOKIE_NAME, "")
    # What no session of ours is called does not reach the database: PostgreSQL fails on a NUL.
    return Credential(session=session if session.isascii() and session.isprintable() else None)


@dataclass(frozen=True, slots=True)
class Access:
    """A signed-in user's place in one conversation, from one device. Nothing here is kept between signals."""

    participant: Participant
    device: Device


def user_of(credential: Credential) -> Any:
    """Who it belongs to now, or None: expired, logged out, revoked, deactivated or password changed."""
    if credential.token is not None:
        return next((token.user for token in AccessToken.by_keys({credential.token})), None)
    if not credential.session:
        return None
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(credential.session)
    user = get_user(request)
    return user if user.is_authenticated and user.is_active else None


def check(credential: Credential, conversation: uuid.UUID, device: uuid.UUID) -> Access:
    """Look again, before a signal is carried out. Raises Refused: `signed_out`, `forbidden` or `revoked`."""
    user = user_of(credential)
    if user is None:
        message = "You are signed out. Please sign in again." if credential.token is None else NO_TOKEN
        raise Refused(Code.SIGNED_OUT, message)
    # One query for both, at every signal.
    here = FilteredRelation("user__devices", condition=Q(user__devices__pk=device, user__devices__revoked_at=None))
    found = Participant.objects.annotate(here=here).select_related(
        "conversation",
        "user",
        "here",  # type: ignore[misc]  # a relation made by annotate, which the plugin does not know
    )
    participant = found.filter(conversation_id=conversation, user=user).first()
    if participant is None:
        raise Refused(Code.FORBIDDEN, "You are no longer in this conversation.")
    known: Device | None = getattr(participant, "here", None)
    if known is None:
        raise Refused(Code.REVOKED, "This device was revoked.")
    return Access(participant, known)
