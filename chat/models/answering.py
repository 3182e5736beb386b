"""What a run writes besides streamed text: parts that begin and end, calls of tools with their results, waiting.

All of it is in the answer's `parts`, which change under the conversation's lock and in one transaction with the
events that tell of it. So a call is started at most once, and of two people who decide, or two devices that answer,
the first wins.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import QuerySet
from django.db.models.functions import Now

from chat import bulletin
from chat.errors import Code, Lost, Refused
from chat.models.device import Device
from chat.models.event import Kind
from chat.models.participant import Participant
from chat.models.parts import OUTCOMES, PENDING, RESULTS, STARTABLE, UNANSWERED, Part, calls_in, unanswered
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
            sheet = Sheet(conversation, _or_lost(self._mine.select_related("answer").first()))
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
        return _or_lost(self._mine.values_list("answer__parts", flat=True).first())

    def take_steers(self, step: int) -> list[str]:
        """What was added since the last step is told at this one."""
        if not _or_lost(self._mine.values("steered").first())["steered"]:
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
            if not _pending(sheet):
                return False
            Run.objects.filter(pk=sheet.run.pk).update(state=State.WAITING, lease_until=None, worker="")
            _set_deadline(sheet)  # now: of what was asked, some may be decided
            spent.settle()
            sheet.say(Kind.RUN_WAITING)
            bulletin.waits(sheet.run)
            return True


def _or_lost(found: T | None) -> T:
    if found is None:
        raise Lost
    return found


def decide(
    run: Run, *, by: Participant, device: Device | None, call: str, approve: bool, reason: str, arguments_hash: str
) -> dict[str, Any]:
    """Approve or deny a call that waits, and return the decision that stands: the first one, whoever made it."""
    with run.conversation.locked() as conversation:
        by.now().may_decide()
        now = Run.objects.select_related("prompt", "answer").get(pk=run.pk)
        sheet = Sheet(conversation, now) if now.answer is not None else None
        _end_late(sheet)
        for number, part in calls_in(sheet.parts) if sheet is not None else ():
            if part["call"] != call or "approval" not in part:
                continue
            assert sheet is not None
            if part["approval"]["hash"] != arguments_hash:
                raise Refused(Code.STALE, "This is not what would be run. Look at it again.")
            if part["status"] == "waiting":
                _check_goes_on(now)
                _decide(sheet, number, "approved" if approve else "denied", by=by.identity(device), reason=reason)
                _go_on(sheet)
            approval = part["approval"]
            decision = approval.get("decision", part["status"])
            return {"call": call, "decision": decision, "by": approval.get("by"), "run": str(run.pk)}
        raise Refused(Code.UNKNOWN_CALL, "Nothing of this run waits, or waited, for a decision by that name.")


def answer(
    run: Run, *, by: Participant, device: Device | None, call: str, text: str, failed: bool = False
) -> dict[str, Any]:
    """Say what a call came to on a device, and return the answer that stands: the first one, whichever device's.

    Only a device of the person for whom the run acts may: what a tool does there, it does as them.
    """
    with run.conversation.locked() as conversation:
        by.now().may_speak()
        if device is not None and not Device.objects.filter(pk=device.pk, revoked_at=None).exists():
            raise Refused(Code.REVOKED, "This device was revoked.")
        now = Run.objects.select_related("prompt", "answer").get(pk=run.pk)
        sheet = Sheet(conversation, now) if now.answer is not None else None
        _end_late(sheet)
        for _, part in calls_in(sheet.parts) if sheet is not None else ():
            if part["call"] != call or "offer" not in part:
                continue
            assert sheet is not None
            if now.requested_by_id != by.user_id:
                raise Refused(Code.FORBIDDEN, f"Only {part['offer']['user']} can answer this.")
            if part["status"] == "offered":
                _check_goes_on(now)
                part["offer"] = {**part["offer"], "by": by.identity(device)}
                part["answer"] = text
                sheet.answer_call(part, "error" if failed else "done", text, by=part["offer"]["by"])
                _go_on(sheet)
            return {"call": call, "run": str(run.pk), **_standing(sheet, part)}
        raise Refused(Code.UNKNOWN_CALL, "Nothing of this run was offered to devices by that name.")


def _check_goes_on(run: Run) -> None:
    if run.cancel_requested_at is not None:
        raise Refused(Code.STALE, "This is being stopped.")


def _standing(sheet: Sheet, call: Part) -> dict[str, Any]:
    [text] = [one["text"] for one in sheet.parts if one["type"] == "tool_result" and one["call"] == call["call"]]
    return {"outcome": call["status"], "text": text, "by": call["offer"].get("by")}


def overdue() -> list[Run]:
    """Those that wait for what nobody has done in time: to `expire`, the longest waiting first."""
    late = Run.objects.filter(state=State.WAITING, waits_until__lt=Now())
    return list(late.select_related("conversation").order_by("waits_until")[:500])


def expire(run: Run) -> None:
    """End what was due first and nobody has done. What is due later is looked at again."""
    with run.conversation.locked() as conversation:
        late = Run.objects.filter(pk=run.pk, state=State.WAITING, waits_until__lt=Now())
        found = late.select_related("prompt", "answer").first()
        if found is not None:
            sheet = Sheet(conversation, found)
            _end_due(sheet, min((part["until"] for part in _pending(sheet)), default=""))
            _go_on(sheet)


def _end_late(sheet: Sheet | None) -> None:
    """Before somebody decides or answers: no sweep may have come by yet, or the run still executes something."""
    if sheet is None or not sheet.run.is_live or sheet.run.cancel_requested_at is not None or not _pending(sheet):
        return
    now = Run.objects.filter(pk=sheet.run.pk).values_list(Now(), flat=True).get()
    if _end_due(sheet, _written(now)):
        _go_on(sheet)


def _end_due(sheet: Sheet, until: str) -> bool:
    """End what was to be done by then. Whether there was something."""
    calls = [(number, part) for number, part in calls_in(sheet.parts) if part.get("status") in PENDING]
    due = [(number, part) for number, part in calls if part["until"] <= until]
    for number, part in due:
        if part["status"] == "waiting":
            _decide(sheet, number, "expired", by=None, reason="")
        else:
            sheet.answer_call(part, "expired", UNANSWERED.format(user=part["offer"]["user"]))
    return bool(due)


def _written(at: datetime) -> str:
    """As parts have it: two of them compare as the times do."""
    return at.isoformat(timespec="microseconds")


def _until(sheet: Sheet, seconds: float) -> str:
    """So many seconds from now, by the database's clock: it is the one that ends the wait."""
    row = Run.objects.filter(pk=sheet.run.pk)
    row.update(waits_until=Now() + timedelta(seconds=seconds))
    until = row.values_list("waits_until", flat=True).get()
    assert until is not None
    return _written(until)


def _set_deadline(sheet: Sheet) -> None:
    """The run is due when the first of what it waits for is."""
    due = min((part["until"] for part in _pending(sheet)), default=None)
    Run.objects.filter(pk=sheet.run.pk).update(waits_until=due and datetime.fromisoformat(due))


def _pending(sheet: Sheet) -> list[Part]:
    return [part for part in unanswered(sheet.parts) if part.get("status") in PENDING]


def _decide(sheet: Sheet, number: int, decision: str, *, by: dict[str, Any] | None, reason: str) -> None:
    part = sheet.parts[number]
    part["status"] = decision
    part["approval"] = {**part["approval"], "decision": decision, "by": by, "reason": reason}
    told = {"call": part["call"], "decision": decision, "by": by, "reason": reason}
    sheet.say(Kind.APPROVAL_DECIDED, part=number, **told)
    if decision != "approved":
        why = f" Reason: {reason.strip()}" if reason.strip() else ""
        text = RESULTS[decision].format(by=by["user"] if by else "") + why
        sheet.answer_call(part, decision, text, **({"by": by, "reason": reason} if by else {}))


def _go_on(sheet: Sheet) -> None:
    """With the last of it a run that waits is to be executed again. One that is still executed sees it itself."""
    sheet.keep()
    if sheet.run.state != State.WAITING:
        return
    if _pending(sheet):
        _set_deadline(sheet)
    else:
        sheet.run.queue_again_locked(sheet.conversation)
