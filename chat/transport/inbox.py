"""A checked signal → a verb on a model → what the ack says. The same for every door.

Adding a signal: its class in `spoken.py`, its verb on a noun, a case here, its line in docs/protocol.md.
"""

import time
from typing import Any, assert_never
from uuid import UUID

from chat import tracing
from chat.errors import Code, Refused
from chat.models import File, Run
from chat.models.deciding import answer, decide
from chat.models.steer import steer
from chat.spoken import (
    Answer,
    Cancel,
    Decide,
    FileRemove,
    QueueEdit,
    QueueMove,
    QueueRemove,
    Read,
    Rename,
    Retry,
    Send,
    Spoken,
    Steer,
)
from chat.transport.access import Access


def carry_out(signal: Spoken, access: Access) -> dict[str, Any]:
    """Do what the signal asks for and return the ack's fields. Raises Refused; then nothing was changed."""
    began = time.time_ns()
    ack = _carry_out(signal, access)
    if isinstance(signal, Send | Retry) and "steer" not in ack:
        tracing.accepted(UUID(ack["run"]), access.participant.conversation_id, began)
    return ack


def _carry_out(signal: Spoken, access: Access) -> dict[str, Any]:
    by, device = access.participant, access.device
    conversation = by.conversation
    match signal:
        case Send():
            return conversation.send(
                by=by,
                device=device,
                text=signal.text,
                client_id=signal.id,
                when_busy=signal.when_busy,
                parent=signal.parent,
                steer=signal.steer,
                files=signal.files,
            )
        case Cancel():
            return _cancel(signal, access)
        case Retry():
            run = _run(access, signal.run)
            return conversation.retry(by=by, run=run, device=device, client_id=signal.id)
        case Steer():
            return steer(_run(access, signal.run), by=by, device=device, text=signal.text, client_id=signal.id)
        case Decide():
            return decide(
                _run(access, signal.run),
                by=by,
                device=device,
                call=str(signal.call),
                approve=signal.decision == "approve",
                reason=signal.reason,
                arguments_hash=signal.arguments_hash,
            )
        case Answer():
            return _answer(signal, access)
        case QueueEdit():
            return conversation.queue.edit(by=by, device=device, message=signal.message, text=signal.text)
        case QueueRemove():
            return conversation.queue.remove(by=by, device=device, message=signal.message)
        case QueueMove():
            return conversation.queue.move(by=by, device=device, message=signal.message, before=signal.before)
        case FileRemove():
            return File.remove(by, signal.file)
        case Rename():
            conversation.rename(by=by, title=signal.title)
            return {}
        case Read():
            by.has_read(min(signal.serial, conversation.head))
            return {}
        case _:
            assert_never(signal)


def _cancel(signal: Cancel, access: Access) -> dict[str, Any]:
    by, device = access.participant, access.device
    named = [name for name in ("run", "send", "scope") if getattr(signal, name) is not None]
    if len(named) != 1:
        raise Refused(Code.INVALID, "Say what to stop: exactly one of run, send and scope.")
    if signal.scope is not None:
        return by.conversation.cancel(by=by, device=device, only_mine=signal.scope == "mine", until=signal.until)
    if signal.send is not None:
        return by.conversation.cancel_send(by=by, device=device, client_id=signal.send)
    assert signal.run is not None
    by.may_speak()
    return _run(access, signal.run).cancel(by.identity(device))


def _answer(signal: Answer, access: Access) -> dict[str, Any]:
    if (signal.result is None) == (signal.error is None):
        raise Refused(Code.INVALID, "Say what came of it: exactly one of result and error.")
    return answer(
        _run(access, signal.run),
        by=access.participant,
        device=access.device,
        call=str(signal.call),
        text=signal.error if signal.result is None else signal.result,  # type: ignore[arg-type]
        failed=signal.error is not None,
    )


def _run(access: Access, run: Any) -> Run:
    conversation = access.participant.conversation
    found = Run.objects.filter(pk=run, conversation=conversation).select_related("conversation", "prompt").first()
    if found is None:
        raise Refused(Code.UNKNOWN_RUN, "There is no such run in this conversation.")
    return found
