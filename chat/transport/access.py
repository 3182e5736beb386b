"""Who a connection speaks for, checked when it opens and again for each signal."""

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
    return _owner(credential)[0]


def _owner(credential: Credential) -> tuple[Any, AccessToken | None]:
    """The same with the token, if that is what it is."""
    if credential.token is not None:
        token = AccessToken.by_key(credential.token)
        return token and token.user, token
    if not credential.session:
        return None, None
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(credential.session)
    user = get_user(request)
    return (user if user.is_authenticated and user.is_active else None), None


def enter(credential: Credential, conversation: uuid.UUID, device: uuid.UUID, name: str) -> Access:
    """Open a connection. Raises Refused: `signed_out`, or `forbidden` for whoever is not in the conversation."""
    participant, known, token = _find(
        credential, conversation, device, "Please sign in.", "There is no such conversation, or you are not in it."
    )
    if token is not None:
        token.use()
    session = credential.session or ""
    if known is None:
        known = Device.first_seen(participant.user, device, _presentable(name), session)
    else:
        known.seen(session)
    return Access(participant, known)


def check(credential: Credential, conversation: uuid.UUID, device: uuid.UUID) -> Access:
    """The same again, before a signal is carried out, without making anything."""
    participant, known, _ = _find(
        credential,
        conversation,
        device,
        "You are signed out. Please sign in again.",
        "You are no longer in this conversation.",
    )
    if known is None:
        raise Refused(Code.REVOKED, "This device was revoked.")
    return Access(participant, known)


def _find(
    credential: Credential, conversation: uuid.UUID, device: uuid.UUID, signed_out: str, outside: str
) -> tuple[Participant, Device | None, AccessToken | None]:
    """The device is None if the user has none of that id that is not revoked."""
    user, token = _owner(credential)
    if user is None:
        raise Refused(Code.SIGNED_OUT, signed_out if credential.token is None else NO_TOKEN)
    # One query: when everybody comes back at once, each query counts a thousand times.
    here = FilteredRelation("user__devices", condition=Q(user__devices__pk=device, user__devices__revoked_at=None))
    found = Participant.objects.annotate(here=here).select_related(
        "conversation",
        "user",
        "here",  # type: ignore[misc]  # a relation made by annotate, which the plugin does not know
    )
    participant = found.filter(conversation_id=conversation, user=user).first()
    if participant is None:
        raise Refused(Code.FORBIDDEN, outside)
    known: Device | None = getattr(participant, "here", None)
    return participant, known, token


def _presentable(name: str) -> str:
    """A device's name without what no list can show and no database need take."""
    return "".join(one for one in name if one.isprintable()).strip()
