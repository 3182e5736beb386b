"""Runs inside a bench's installation: makes users, sessions, conversations and history; reads the end state.

One JSON object comes in on stdin (the keyword arguments of `Site.prepare`), one goes out as the last line.
"""

# ruff: noqa: E402 - Django is set up before anything of it is imported

import json
import os
import sys
import uuid
from datetime import timedelta
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.settings")

import django

django.setup()

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from django.utils import timezone

from chat import log
from chat.agent.scripted import long_text
from chat.models import AccessToken, Conversation, Event, Kind, Message, Run
from chat.models.parts import text_parts
from chat.models.state import State


def session_of(user: User) -> str:
    """A signed-in browser's cookie value."""
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def describe(conversation: Conversation) -> dict[str, Any]:
    """What a device needs to know to come back to it."""
    conversation.refresh_from_db()
    return {
        "id": str(conversation.pk),
        "epoch": str(conversation.epoch),
        "head": conversation.head,
    }


def make_history(conversation: Conversation, messages: int) -> None:
    """`messages` of them, half prompts, half finished answers of about 40 words, with their events."""
    head, now, answer_text = conversation.head, timezone.now(), long_text(40)
    spoken: list[Message] = []
    runs: list[Run] = []
    events: list[log.Logged] = []
    for number in range(messages // 2):
        serial = head + 1
        text = f"Question {number}"
        prompt = Message(
            conversation=conversation,
            role="user",
            client_id=uuid.uuid4(),
            parts=text_parts(text),
            place=serial,
            created_serial=serial,
        )
        answer = Message(
            conversation=conversation,
            parent=prompt,
            role="assistant",
            parts=text_parts(answer_text),
            place=serial,
            created_serial=serial + 2,
        )
        run = Run(
            conversation=conversation,
            prompt=prompt,
            answer=answer,
            state=State.COMPLETED,
            position=serial,
            provider=conversation.provider,
            attempt=1,
            stop_reason="end_turn",
            started_serial=serial + 2,
            started_at=now,
            ended_at=now,
        )
        created = {
            "role": "user",
            "client_id": str(prompt.client_id),
            "by": None,
            "parts": prompt.parts,
            "place": serial,
        }
        started = {"prompt": str(prompt.pk), "place": serial, "attempt": 1}
        said = {"part": 0, "offset": 0, "text": answer_text}
        events += [
            log.Logged(serial, Kind.MESSAGE_CREATED, created, run.pk, prompt.pk),
            log.Logged(serial + 1, Kind.RUN_QUEUED, run.queueing(), run.pk, prompt.pk),
            log.Logged(serial + 2, Kind.RUN_STARTED, started, run.pk, answer.pk),
            log.Logged(serial + 3, Kind.MESSAGE_SNAPSHOT, said, run.pk, answer.pk),
            log.Logged(serial + 4, Kind.RUN_ENDED, run.ending(), run.pk, answer.pk),
        ]
        head = serial + 4
        spoken += [prompt, answer]
        runs.append(run)
    with transaction.atomic():
        Message.objects.bulk_create(spoken, batch_size=500)
        Run.objects.bulk_create(runs, batch_size=500)
        log.insert(conversation.pk, events, now)
        Conversation.objects.filter(pk=conversation.pk).update(head=head)


def make_long_answer(conversation: Conversation, user: User, tokens: int, *, finished: bool) -> int:
    """One answer of `tokens` tokens, one event each, as slow streaming leaves it. Returns its text's bytes."""
    by = conversation.participants.get(user=user)
    conversation.send(by=by, text="Tell me everything", client_id=uuid.uuid4())
    run = Run.claim(conversation, "bench")[0]
    words = (f"word{n}" if n == 1 else f" word{n}" for n in range(1, tokens + 1))
    conversation.refresh_from_db()
    events, offset, head = [], 0, conversation.head
    for word in words:
        head += 1
        payload = {"part": 0, "offset": offset, "text": word}
        events.append(log.Logged(head, Kind.MESSAGE_DELTA, payload, run.pk, run.answer_id))
        offset += len(word)
    with transaction.atomic():
        log.insert(conversation.pk, events, timezone.now())
        Conversation.objects.filter(pk=conversation.pk).update(head=head)
        # Nobody writes it any more, and nobody may find that out: it is to look alive.
        Run.objects.filter(pk=run.pk).update(lease_until=timezone.now() + timedelta(days=1))
    if finished:
        run.end(State.COMPLETED, run.attempt, stop_reason="end_turn")
    return offset


def end_state(conversation: Conversation) -> dict[str, Any]:
    """The runs with what the database says they said."""
    conversation.refresh_from_db()
    runs = conversation.runs.select_related("prompt", "answer").order_by("created_at")
    return {
        "head": conversation.head,
        "runs": {
            str(run.pk): {
                "state": run.state,
                "prompt": run.prompt.text,
                "client_id": str(run.prompt.client_id),
                "text": run.answer.text if run.answer else "",
            }
            for run in runs
        },
        "rows": Event.objects.filter(conversation=conversation).count(),
    }


def main(
    conversations: int = 0,
    provider: str = "",
    history: int = 0,
    long_answer: int = 0,
    finished: bool = False,
    sessions: int = 1,
    end_states: list[str] | None = None,
) -> dict[str, Any]:
    """Make what is asked for, for the one user of the bench."""
    if end_states is not None:
        return {key: end_state(Conversation.objects.get(pk=key)) for key in end_states}
    call_command("migrate", verbosity=0)
    user, _ = User.objects.get_or_create(username="alice")
    keys = [session_of(user) for _ in range(sessions)]
    made, text_bytes = [], 0
    for _ in range(conversations):
        conversation = Conversation.begin(user)
        if provider:
            conversation.provider = provider
            conversation.save(update_fields=["provider"])
        if history:
            make_history(conversation, history)
        if long_answer:
            text_bytes = make_long_answer(conversation, user, long_answer, finished=finished)
        made.append(describe(conversation))
    return {
        "session": keys[0],
        "sessions": keys,
        "token": AccessToken.issue(user, "Bench")[1],
        "conversations": made,
        "text_bytes": text_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(main(**json.load(sys.stdin))))
