"""A process that does nothing but group commits: `python -m bench.writer RUNS SECONDS`, JSON on its first line."""

# ruff: noqa: E402 - importing `bench.prepare` sets Django up

import json
import sys
import time
import uuid

from bench import prepare

assert prepare

from django.contrib.auth.models import User
from django.db import connection

from chat.batches import Delta, append
from chat.models import Conversation, Run


def begun(user: User) -> Run:
    """A run that is being answered, by nobody."""
    conversation = Conversation.begin(user)
    conversation.send(by=conversation.participants.get(user=user), text="Hello", client_id=uuid.uuid4())
    return Run.claim(conversation, "bench")[0]


def main(runs: int, seconds: float) -> None:
    """One token of every run per commit, one commit after the other."""
    user, _ = User.objects.get_or_create(username="alice")
    writing = [(run, run.answer_id) for run in (begun(user) for _ in range(runs)) if run.answer_id is not None]
    print("Writing", flush=True)
    sys.stdin.readline()
    rows, took, offset = 0, [], 0
    began, busy = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        deltas = [Delta(run.conversation_id, run.pk, run.attempt, answer, offset, "token ") for run, answer in writing]
        at = time.monotonic()
        serials = append(deltas)
        took.append(time.monotonic() - at)
        assert None not in serials
        rows, offset = rows + len(deltas), offset + 6
    took.sort()
    spent = time.monotonic() - began
    found = {
        "rows": rows / spent,
        "median": took[len(took) // 2],
        "p99": took[int(len(took) * 0.99)],
        "commits": len(took),
        "cpu": (time.process_time() - busy) / spent,
    }
    print(json.dumps(found), flush=True)
    connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
