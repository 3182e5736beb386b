"""An answer's parts while the conversation is locked, and what devices are told of each change."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from chat import log
from chat.compaction import text_of
from chat.models.event import TEXT_KINDS, Event, Kind
from chat.models.message import Message
from chat.models.parts import OPEN, RESULTS, Part, is_between_steps, text_parts, unanswered

if TYPE_CHECKING:
    from chat.models.conversation import Conversation
    from chat.models.run import Run


class Sheet:
    """For a caller that holds the conversation's lock and has just read the `parts` of the run's answer."""

    def __init__(self, conversation: "Conversation", run: "Run", parts: list[Part]) -> None:
        assert run.answer_id is not None
        self.conversation, self.run, self.parts = conversation, run, parts
        self._answer: UUID = run.answer_id
        self._entries: list[log.Entry] = []

    def say(self, kind: Kind, /, **payload: Any) -> None:
        """An event of this run, logged by `keep`."""
        self._entries.append(log.Entry(kind, payload, self.run.pk, self._answer))

    def begin(self, part: Part) -> int:
        """A part that will be written; its number."""
        self.parts.append({**part, "state": OPEN, "since": self.conversation.head + len(self._entries) + 1})
        number = len(self.parts) - 1
        told = {name: part[name] for name in ("step", "call", "name") if name in part}
        self.say(Kind.PART_STARTED, part=number, kind=part["type"], **told)
        return number

    def add(self, part: Part) -> int:
        """A part that is whole; its number."""
        self.parts.append({**part, "state": "done"})
        return len(self.parts) - 1

    def end(self, state: str = "done", citations: Iterable[Part] = (), **fields: Any) -> None:
        """The part that is open has all its text, which rests on these."""
        if not self.parts:  # what was never announced: part 0, text
            self.parts.append({"type": "text", "state": OPEN, "since": self.run.started_serial})
        number, part = len(self.parts) - 1, self.parts[-1]
        self._close(number, text_of(self.conversation.pk, self._answer, part["since"], part=number), state)
        part |= fields
        if part["type"] == "tool_use":
            # Of a call whose arguments never came to their end, they cannot be read.
            part |= {"input": part.get("input"), "status": part.get("status", "asked")}
        for cited in citations:
            told = {**cited, "of": number, "step": part.get("step", 0)}
            self.say(Kind.CITATION_ADDED, part=self.add({"type": "citation", **told}), **told)

    def answer_call(self, call: Part, outcome: str, text: str, **why: Any) -> None:
        """The result of a call, whatever became of it. `why` is for the model alone."""
        call["status"] = outcome
        told = {
            "call": call["call"],
            "name": call["name"],
            "text": text,
            "outcome": outcome,
            "error": outcome != "done",
        }
        told["step"] = call.get("step", 0)
        self.parts.append({"type": "tool_result", **told, **why, "state": "done"})
        by = call.get("offer", {}).get("by")
        self.say(Kind.TOOL_RESULT, part=len(self.parts) - 1, **told, **({"by": by} if by else {}))

    def end_all(self, texts: dict[int, str], state: str) -> None:
        """The run ends: so does everything that is open, asked or running. `texts`: part → what the log has of it."""
        if not self.parts:
            self.parts.extend(text_parts(texts.get(0, ""), state))
            return
        for number, part in enumerate(self.parts):
            if part["state"] == OPEN:
                self._close(number, texts.get(number, ""), state)
                if part["type"] == "tool_use":
                    part["status"] = "cancelled"  # and nobody will ever know what it should have done
        for part in unanswered(self.parts):
            outcome = "unknown" if part["status"] == "running" else "cancelled"
            self.answer_call(part, outcome, RESULTS[outcome])

    def keep(self) -> None:
        """Write it."""
        Message.objects.filter(pk=self._answer).update(parts=self.parts)
        if self._entries:
            log.record(self.conversation, *self._entries)
        self._entries = []

    def _close(self, number: int, text: str, state: str) -> None:
        part = self.parts[number]
        del part["since"]
        part |= {"text": text, "state": state}
        self.say(Kind.PART_ENDED, part=number, state=state, length=len(text))


def has_words(run: "Run") -> bool:
    """Whether anybody has seen something of its answer."""
    if any(part["type"] != "steer" for part in _parts_of(run)):
        return True
    return Event.objects.filter(
        conversation_id=run.conversation_id,
        serial__gte=run.started_serial,
        message_id=run.answer_id,
        kind__in=TEXT_KINDS,
    ).exists()


def can_go_on(run: "Run") -> bool:
    """Whether whoever takes it over can go on where it stands."""
    return is_between_steps(_parts_of(run))


def _parts_of(run: "Run") -> list[Part]:
    return next(iter(Message.objects.filter(pk__in=[run.answer_id]).values_list("parts", flat=True)), [])
