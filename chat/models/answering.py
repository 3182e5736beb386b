"""What a run writes besides streamed text: parts that begin and end, calls of tools with their results, waiting.

All of it is in the answer's `parts`, which change under the conversation's lock and in one transaction with the
events that tell of it. So a call is started at most once.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import QuerySet
from django.db.models.functions import Now

from chat import bulletin
from chat.errors import Lost
from chat.models.event import Kind
from chat.models.parts import OUTCOMES, PENDING, STARTABLE, Part, calls_in, unanswered
from chat.models.run import Run
from chat.models.sheet import Sheet
from chat.models.spending import Spending
from chat.models.state import State
from chat.models.steer import take
from chat.models.summary import Summary

T = TypeVar("T")
CUT_OFF = "Not run: the answer reached its length limit in the middle of this call."


class Answering:
    """For whoever executes an attempt of a run. Every verb raises Lost if the run is no longer this attempt's."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @contextmanager
    def _sheet(self) -> Iterator[Sheet]:
        with self._run.conversation.locked() as conversation:
            # Only what may have changed: to read all of the run and its answer took half of what this takes.
            sheet = Sheet(conversation, self._run, _first_or_lost(self._mine.values_list("answer__parts", flat=True)))
            yield sheet
            sheet.keep()

    @property
    def _mine(self) -> QuerySet[Run]:
        """The run, as long as it is this attempt's."""
        return Run.objects.filter(
            pk=self._run.pk, state=State.RUNNING, attempt=self._run.attempt, cancel_requested_at=None
        )

    def turn(self, *, closing: Part | None, opening: Part | None) -> int | None:
        """End the part that is open, with what more is known of it, and begin another, whose number is returned."""
        with self._sheet() as sheet:
            if closing is not None:
                sheet.end(**closing)
            return None if opening is None else sheet.begin(opening)

    def parts(self) -> list[Part]:
        """What is there now."""
        return _first_or_lost(self._mine.values_list("answer__parts", flat=True))

    def take_steers(self, step: int) -> list[str]:
        """What was added since the last step is told at this one."""
        if not _first_or_lost(self._mine.values_list("steered", flat=True)):
            return []
        with self._sheet() as sheet:
            return take(sheet, step)

    def is_steered(self) -> bool:
        """Whether somebody has added something that was not told yet."""
        return Run.objects.filter(pk=self._run.pk, steered=True).exists()

    def ask(self, approvals: Mapping[str, dict[str, Any]], seconds: float) -> None:
        """Let people decide about these calls: call → what its `approval` says, the hash among it."""
        with self._sheet() as sheet:
            until = _until(sheet, seconds)
            for number, part in calls_in(sheet.parts):
                if part["call"] in approvals and part["status"] == "asked":
                    part |= {"status": "waiting", "approval": approvals[part["call"]], "until": until}
                    told = {"call": part["call"], "name": part["name"], **part["approval"], "until": until}
                    sheet.say(Kind.APPROVAL_REQUESTED, part=number, **told)

    def offer(self, call: str, offer: dict[str, Any], seconds: float) -> None:
        """Let a device do this call. `offer`: its `arguments`, and the `user` whose devices may."""
        with self._sheet() as sheet:
            until = _until(sheet, seconds)
            for number, part in calls_in(sheet.parts):
                if part["call"] == call and part["status"] in STARTABLE:
                    part |= {"status": "offered", "offer": offer, "until": until}
                    sheet.say(Kind.TOOL_OFFERED, part=number, call=call, name=part["name"], **offer, until=until)

    def start(self, call: str) -> bool:
        """Begin to execute a call. False: it was begun before, or may not be. At most once in its life True."""
        with self._sheet() as sheet:
            for number, part in calls_in(sheet.parts):
                if part["call"] == call and part["status"] in STARTABLE:
                    part["status"] = "running"
                    sheet.say(Kind.TOOL_CALLED, part=number, call=call, name=part["name"])
                    return True
            return False

    def finish(self, call: str, outcome: str, text: str) -> None:
        """What the call came to."""
        with self._sheet() as sheet:
            for part in unanswered(sheet.parts):
                if part["call"] == call:
                    sheet.answer_call(part, outcome, text)

    def cut_off(self) -> None:
        """The model reached its limit in the middle of the last part. A call that it was writing is not to be run."""
        with self._sheet() as sheet:
            last = next((part for part in reversed(sheet.parts) if part["type"] != "citation"), None)
            if last is not None:
                last["cut"] = True
                if last["type"] == "tool_use" and last.get("status") not in OUTCOMES:
                    last["input"] = None  # also if what has come of it can be read: it is not all of it
                    sheet.answer_call(last, "cancelled", CUT_OFF)

    def shorten(self, told: Mapping[int, int]) -> None:
        """Tell the model less of what tools have found: part → how many characters."""
        with self._sheet() as sheet:
            for number, characters in told.items():
                sheet.parts[number]["told"] = characters
                sheet.say(Kind.PART_SHORTENED, part=number, told=characters)

    def summarise(self, *, base: UUID | None, until: int, text: str, model: str, usage: dict[str, int]) -> None:
        """Let a summary stand for the turns up to a place. Of two made after the same `base`, the first is kept."""
        with self._sheet() as sheet:
            place = sheet.run.prompt.place
            assert place is not None
            known = Summary.before(sheet.conversation.pk, place)
            if (known.pk if known is not None else None) == base:
                made = {"run": sheet.run, "model": model, "usage": usage}
                summary = Summary.objects.create(conversation=sheet.conversation, until=until, text=text, **made)
                told = {"until": until, "text": text, "model": model}
                sheet.say(Kind.CONVERSATION_SUMMARISED, summary=str(summary.pk), **told)

    def wait(self, spent: Spending) -> bool:
        """Give the run back until somebody has decided or answered; `spent` is settled. False: nothing is to be waited
        for any more.
        """
        with self._sheet() as sheet:
            if not pending(sheet):
                return False
            Run.objects.filter(pk=sheet.run.pk).update(state=State.WAITING, lease_until=None, worker="")
            set_deadline(sheet)  # now: of what was asked, some may be decided
            spent.settle()
            sheet.say(Kind.RUN_WAITING)
            bulletin.waits(sheet.run)
            return True


def _first_or_lost(found: Iterable[T]) -> T:
    for one in found:
        return one
    raise Lost


def written(at: datetime) -> str:
    """As parts have it: two of them compare as the times do."""
    return at.isoformat(timespec="microseconds")


def _until(sheet: Sheet, seconds: float) -> str:
    """So many seconds from now, by the database's clock: it is the one that ends the wait."""
    row = Run.objects.filter(pk=sheet.run.pk)
    row.update(waits_until=Now() + timedelta(seconds=seconds))
    until = row.values_list("waits_until", flat=True).get()
    assert until is not None
    return written(until)


def set_deadline(sheet: Sheet) -> None:
    """The run is due when the first of what it waits for is."""
    due = min((part["until"] for part in pending(sheet)), default=None)
    Run.objects.filter(pk=sheet.run.pk).update(waits_until=due and datetime.fromisoformat(due))


def pending(sheet: Sheet) -> list[Part]:
    """The calls that wait for somebody."""
    return [part for part in unanswered(sheet.parts) if part.get("status") in PENDING]
