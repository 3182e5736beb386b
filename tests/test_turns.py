"""Who writes next, where the database lets one write at a time."""

import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from django.db import connection, transaction

from chat import turns

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.sqlite]


def begun(write: Callable[[], None]) -> threading.Thread:
    """A thread of its own for this, which has come to where it waits for its turn."""
    thread = threading.Thread(target=write)
    thread.start()
    end = time.monotonic() + 10
    while not waits(thread):
        assert time.monotonic() < end, "it does not wait"
        time.sleep(0.001)
    return thread


def waits(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == "writing"


def test_what_a_person_waits_for_goes_before_those_who_came_earlier() -> None:
    order: list[str] = []

    def write(name: str) -> None:
        if name == "stop":
            turns.go_first()
        with turns.writing():
            order.append(name)
        connection.close()

    with turns.writing():
        threads = [begun(partial(write, name)) for name in ("a", "b", "c", "d", "stop")]
    for thread in threads:
        thread.join(10)
    assert sorted(order) == ["a", "b", "c", "d", "stop"]
    assert order.index("stop") <= 1, "behind no more than one of them"


def test_what_runs_on_commit_may_write_and_others_wait_until_it_has() -> None:
    order: list[str] = []

    def other() -> None:
        with turns.writing():
            order.append("other")
        connection.close()

    def follow() -> None:
        with turns.writing():
            order.append("on commit")

    with turns.writing():
        order.append("first")
        thread = begun(other)
        transaction.on_commit(follow)
    thread.join(10)
    assert order == ["first", "on commit", "other"]
