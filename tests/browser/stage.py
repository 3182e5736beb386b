"""What happened before the curtain: users, sessions and histories, made in a site's own database.

A process of its own, so that the tests never share a database connection with the server they look at. One JSON
call per line on stdin, one JSON result per line on stdout.
"""

import json
import os
import sys
from typing import Any
from uuid import UUID, uuid4

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django.setup()

from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.db import transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from chat import log  # noqa: E402
from chat.models import Budget, Conversation, Device, Kind, Message, Run  # noqa: E402
from chat.models.parts import text_parts  # noqa: E402
from chat.models.state import State  # noqa: E402


def sign_in(name: str) -> str:
    """A session of this user's, who is made on first sight."""
    user, _ = User.objects.get_or_create(username=name)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    assert session.session_key
    return session.session_key


def promote(name: str) -> None:
    User.objects.filter(username=name).update(is_staff=True, is_superuser=True)


def sign_out(session: str) -> None:
    SessionStore(session).delete()


def begin(owner: str, title: str = "") -> str:
    """A conversation of this user's."""
    return str(Conversation.begin(User.objects.get(username=owner), title).pk)


def add(conversation: str, name: str, role: str) -> None:
    found = Conversation.objects.get(pk=conversation)
    owner = found.participants.select_related("user").get(role="owner")
    found.add(by=owner, user=User.objects.get(username=name), role=role)


def budget(name: str, limit: str) -> None:
    Budget.objects.update_or_create(user=User.objects.get(username=name), defaults={"limit": limit})


def rename_device(name: str, device_name: str) -> None:
    Device.objects.filter(user__username=name).update(name=device_name)


def texts(conversation: str) -> list[str]:
    """What people have said, in order; what was removed is left out."""
    said = Message.objects.filter(conversation=UUID(conversation), role="user", removed_at=None).order_by(
        "created_serial"
    )
    return [message.text for message in said]


def runs(conversation: str) -> list[dict[str, Any]]:
    """Every run, oldest first, with the text it left."""
    found = Run.objects.filter(conversation=UUID(conversation)).select_related("answer").order_by("created_at")
    return [
        {
            "run": str(run.pk),
            "state": run.state,
            "answer": str(run.answer_id),
            "text": run.answer.text if run.answer else "",
        }
        for run in found
    ]


def history(conversation: str, turns: int, answer: str) -> None:
    """So many questions with their answers, as if they had been asked and answered one after the other."""
    found = Conversation.objects.get(pk=conversation)
    owner = User.objects.get(participations__conversation=found, participations__role="owner")
    with transaction.atomic():
        messages, made, events = [], [], []
        for number in range(turns):
            serial = found.head + 1 + 5 * number
            said = text_parts(f"Question {number + 1}")
            prompt = Message(
                conversation=found, role="user", author=owner, client_id=uuid4(), parts=said, place=serial,
                created_serial=serial,
            )  # fmt: skip
            reply = Message(
                conversation=found, parent=prompt, role="assistant", parts=text_parts(f"Answer {number + 1}. {answer}"),
                place=serial, created_serial=serial + 2,
            )  # fmt: skip
            run = Run(
                conversation=found, prompt=prompt, answer=reply, state=State.COMPLETED, position=serial,
                provider="scripted", requested_by=owner, attempt=1, started_serial=serial + 2, ended_at=timezone.now(),
                stop_reason="end_turn", usage={"input_tokens": 4, "output_tokens": 40},
            )  # fmt: skip
            messages += [prompt, reply]
            made.append(run)
            events += _events(run, prompt, reply, serial)
        Message.objects.bulk_create(messages)
        Run.objects.bulk_create(made)
        log.insert(found.pk, events, timezone.now())
        Conversation.objects.filter(pk=found.pk).update(head=found.head + 5 * turns)


def _events(run: Run, prompt: Message, reply: Message, serial: int) -> list[log.Logged]:
    created = {"role": "user", "client_id": str(prompt.client_id), "by": {}, "parts": prompt.parts, "place": serial}
    started = {"prompt": str(prompt.pk), "place": serial, "attempt": 1}
    text = {"part": 0, "offset": 0, "text": reply.text}
    return [
        log.Logged(serial, Kind.MESSAGE_CREATED, created, run.pk, prompt.pk),
        log.Logged(serial + 1, Kind.RUN_QUEUED, run.queueing(), run.pk, prompt.pk),
        log.Logged(serial + 2, Kind.RUN_STARTED, started, run.pk, reply.pk),
        log.Logged(serial + 3, Kind.MESSAGE_SNAPSHOT, text, run.pk, reply.pk),
        log.Logged(serial + 4, Kind.RUN_ENDED, run.ending(), run.pk, reply.pk),
    ]


def acted(conversation: str, parts: list[dict[str, Any]]) -> None:
    """One answer that is made of these parts."""
    history(conversation, 1, "")
    Message.objects.filter(conversation=UUID(conversation), role="assistant").update(parts=parts)


def head(conversation: str) -> int:
    return Conversation.objects.get(pk=UUID(conversation)).head


def main() -> None:
    calls = {
        f.__name__: f
        for f in (sign_in, promote, sign_out, begin, add, budget, rename_device, texts, runs, history, acted, head)
    }
    for line in sys.stdin:
        name, fields = json.loads(line)
        sys.stdout.write(json.dumps(calls[name](**fields)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
