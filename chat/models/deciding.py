"""What people and devices say of the calls that wait for them, and what becomes of those nobody says anything of.

It changes the answer's parts under the conversation's lock: of two people who decide, or two devices that answer, the
first wins.
"""

from typing import Any, Literal

from django.db.models.functions import Now

from chat.errors import Code, Refused
from chat.models.answering import pending, set_deadline, written
from chat.models.conversation import Conversation
from chat.models.device import Device
from chat.models.event import Kind
from chat.models.participant import Participant
from chat.models.parts import PENDING, RESULTS, UNANSWERED, Part, calls_in
from chat.models.run import Run
from chat.models.sheet import Sheet
from chat.models.state import State

_UNKNOWN = {
    "approval": "Nothing of this run waits, or waited, for a decision by that name.",
    "offer": "Nothing of this run was offered to devices by that name.",
}


def decide(
    run: Run, *, by: Participant, device: Device | None, call: str, approve: bool, reason: str, arguments_hash: str
) -> dict[str, Any]:
    """Approve or deny a call that waits, and return the decision that stands: the first one, whoever made it."""
    with run.conversation.locked() as conversation:
        by.now().may_decide()
        sheet, number, part = _asked(conversation, run, call, "approval")
        if part["approval"]["hash"] != arguments_hash:
            raise Refused(Code.STALE, "This is not what would be run. Look at it again.")
        if part["status"] == "waiting":
            _check_goes_on(sheet.run)
            _decide(sheet, number, "approved" if approve else "denied", by=by.identity(device), reason=reason)
            _go_on(sheet)
        approval = part["approval"]
        decision = approval.get("decision", part["status"])
        return {"call": call, "decision": decision, "by": approval.get("by"), "run": str(run.pk)}


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
        sheet, _, part = _asked(conversation, run, call, "offer")
        if sheet.run.requested_by_id != by.user_id:
            raise Refused(Code.FORBIDDEN, f"Only {part['offer']['user']} can answer this.")
        if part["status"] == "offered":
            _check_goes_on(sheet.run)
            part["offer"] = {**part["offer"], "by": by.identity(device)}
            part["answer"] = text
            sheet.answer_call(part, "error" if failed else "done", text, by=part["offer"]["by"])
            _go_on(sheet)
        return {"call": call, "run": str(run.pk), **_standing(sheet, part)}


def _asked(
    conversation: Conversation, run: Run, call: str, of: Literal["approval", "offer"]
) -> tuple[Sheet, int, Part]:
    """The call by this name that people, or devices, were asked about, as it stands now; with its part's number."""
    now = Run.objects.select_related("prompt", "answer").get(pk=run.pk)
    if now.answer is not None:
        sheet = Sheet(conversation, now, now.answer.parts)
        _end_late(sheet)
        for number, part in calls_in(sheet.parts):
            if part["call"] == call and of in part:
                return sheet, number, part
    raise Refused(Code.UNKNOWN_CALL, _UNKNOWN[of])


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
            assert found.answer is not None
            sheet = Sheet(conversation, found, found.answer.parts)
            _end_due(sheet, min((part["until"] for part in pending(sheet)), default=""))
            _go_on(sheet)


def _end_late(sheet: Sheet) -> None:
    """Before somebody decides or answers: no sweep may have come by yet, or the run still executes something."""
    if not sheet.run.is_live or sheet.run.cancel_requested_at is not None or not pending(sheet):
        return
    now = Run.objects.filter(pk=sheet.run.pk).values_list(Now(), flat=True).get()
    if _end_due(sheet, written(now)):
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
    if pending(sheet):
        set_deadline(sheet)
    else:
        sheet.run.queue_again_locked(sheet.conversation)
