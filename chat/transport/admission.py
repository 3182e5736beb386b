"""Lets many devices in at once: when everybody comes back, a query per device would be a thousand queries."""

import threading
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.db import DatabaseError
from django.utils import timezone

from chat.allowance import Remembered
from chat.database import AWAY
from chat.errors import Code, Refused
from chat.models import AccessToken, Device, Participant
from chat.transport.access import NO_TOKEN, Access, Credential, user_of

REMEMBERED = 10_000  # sessions, about 8 MB


@dataclass(frozen=True, slots=True)
class Standing:
    """The credentials among some that let somebody in."""

    users: dict[str, Any]  # session key → user's id
    tokens: dict[str, AccessToken]  # by key

    def owner(self, credential: Credential) -> Any:
        """The id of the user it speaks for, or None."""
        if credential.token is None:
            return self.users.get(credential.session or "")
        token = self.tokens.get(credential.token)
        return token and token.user_id


class Credentials:
    """Looks into many at a time, and remembers sessions: one that is as it was is not looked into again.

    A session is as it was as long as its row, its user's password and whether they are active are.
    """

    def __init__(self) -> None:
        self._good: Remembered[str, tuple[Any, ...]] = Remembered(REMEMBERED)  # → user, row, password, is active
        self._lock = threading.Lock()  # several database threads ask

    def look(self, credentials: Collection[Credential]) -> Standing:
        """Three queries at most, and two more for each session that is new here or has changed."""
        sessions = {one.session for one in credentials if one.session and one.token is None}
        tokens = AccessToken.by_keys({one.token for one in credentials if one.token})
        return Standing(self._owners(sessions) if sessions else {}, {token.key: token for token in tokens})

    def _owners(self, keys: set[str]) -> dict[str, Any]:
        found = Session.objects.filter(session_key__in=keys, expire_date__gt=timezone.now())
        rows = dict(found.values_list("session_key", "session_data"))
        with self._lock:
            good = {key: self._good.pop(key) for key in keys & self._good.keys()}
        users = get_user_model().objects.filter(pk__in={user for user, *_ in good.values()})
        states = {user: state for user, *state in users.values_list("pk", "password", "is_active")}
        standing = {}
        for key, row in rows.items():
            user, *state = good.get(key, (None,))
            if user is None or state != [row, *states.get(user, ())]:
                owner = user_of(Credential(session=key))
                if owner is None:
                    continue
                user, state = owner.pk, [row, owner.password, owner.is_active]
            standing[key] = (user, *state)
        with self._lock:
            for key, value in standing.items():
                self._good[key] = value
        return {key: user for key, (user, *_) in standing.items()}


class Wish(NamedTuple):
    """What a device says of itself when it comes."""

    credential: Credential
    conversation: uuid.UUID
    device: uuid.UUID
    name: str  # for people, of a device that comes for the first time


def enter_all(wishes: Sequence[Wish], credentials: Credentials) -> list[Access | Exception]:
    """Open a connection for each, in the order of the wishes: the user's place and the device, made if it is new.

    Refused is `signed_out`, `forbidden` for whoever is not in the conversation, or `revoked`. While nothing can be
    written a device that is known may come and read, and a new one gets a DatabaseError.
    """
    standing = credentials.look({wish.credential for wish in wishes})
    users = [standing.owner(wish.credential) for wish in wishes]
    places = {
        (place.user_id, place.conversation_id): place
        for place in Participant.objects.filter(
            user__in=set(users) - {None}, conversation__in={wish.conversation for wish in wishes}
        ).select_related("conversation", "user")
    }
    known = {
        (device.user_id, device.pk): device
        for device in Device.objects.filter(pk__in={wish.device for wish in wishes}, revoked_at=None)
    }
    answers: list[Access | Exception] = []
    unwritable: DatabaseError | None = None
    for wish, user in zip(wishes, users, strict=True):
        place, device = places.get((user, wish.conversation)), known.get((user, wish.device))
        token = standing.tokens.get(wish.credential.token or "")
        try:
            if user is None:
                raise Refused(Code.SIGNED_OUT, "Please sign in." if wish.credential.token is None else NO_TOKEN)
            if place is None:
                raise Refused(Code.FORBIDDEN, "There is no such conversation, or you are not in it.")
            if unwritable is None:
                device = _noted(wish, place, device, token)
        except Refused as refusal:
            answers.append(refusal)
            continue
        except AWAY as error:  # not tried again for the others: each would wait as long
            unwritable = error
        if place is not None and device is not None:
            answers.append(Access(place, device))
        elif unwritable is not None:
            answers.append(unwritable)
    return answers


def _noted(wish: Wish, place: Participant, device: Device | None, token: AccessToken | None) -> Device:
    """Write down that it is here, as precisely as it is kept. Usually that is nothing."""
    session = wish.credential.session or ""
    if device is None:
        device = Device.first_seen(place.user, wish.device, _presentable(wish.name), session)
    else:
        device.seen(session)
    if token is not None:
        token.use()
    return device


def _presentable(name: str) -> str:
    """A device's name without what no list can show and no database need take."""
    return "".join(one for one in name if one.isprintable()).strip()
