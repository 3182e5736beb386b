"""A conversation as it reads at one serial: turns with their answers, the queue, the people.

What a page shows on first load, what a device without a cursor is given, and what a reload must equal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db.models import prefetch_related_objects

from chat.compaction import text_of
from chat.models import Conversation, Event, Message, Participant, Run, Spending, Steer, Summary
from chat.models.event import TEXT_KINDS
from chat.models.parts import OPEN, Part, goes_on, shown, text_in

PAGE_TURNS = 20
PAGE_TEXT = 120_000  # code points of a page with more than one turn
TRIES = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """One run of a prompt and what it has said and done so far. `message` is None until the run starts."""

    run: Run
    message: Message | None
    parts: list[Part]
    steers: list[Steer] = field(default_factory=list)  # those that are no part of it, and not sent otherwise

    @property
    def shown(self) -> list[Part]:
        """With a place for the first words where there is nothing yet."""
        return self.parts or ([{"type": "text", "state": OPEN, "text": ""}] if self.run.is_live else [])

    @property
    def joined(self) -> list[tuple[int, Part]]:
        """Its parts with their numbers; text that was cut off and went on is one, as it reads."""
        found: list[tuple[int, Part]] = []
        for number, part in enumerate(self.parts):
            if found and goes_on(self.parts, number):
                first, begun = found[-1]
                found[-1] = (first, {**begun, "text": begun["text"] + part["text"]})
            else:
                found.append((number, part))
        return found

    @property
    def text(self) -> str:
        """What was said, without what was thought and done."""
        return text_in(self.parts)


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt and every answer to it, oldest first. `summary`: of all up to here, which the model was given."""

    prompt: Message
    answers: list[Answer]
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """`serial` is the log position all of it stands at; `older` is the place to page back from, if any."""

    conversation: Conversation
    serial: int
    turns: list[Turn]
    queue: list[Run]
    older: int | None


def read_transcript(conversation: UUID, before: int | None = None, size: int = PAGE_TURNS) -> Transcript:
    """The newest page of turns, or the page before place `before`, oldest turn first, as it was at `serial`.

    Its rows are read one after the other while others write: a message that leaves the queue meanwhile would be
    in neither. So they are read again if anything but text was logged since, and at last with the lock held.
    """
    if before is not None:  # nobody goes on from there
        return _read_transcript(conversation, before, size)
    for _ in range(TRIES):
        transcript = _read_transcript(conversation, before, size)
        since = Event.objects.filter(conversation_id=conversation, serial__gt=transcript.serial)
        if not since.exclude(kind__in=TEXT_KINDS).exists():
            return transcript
    with Conversation(pk=conversation).locked():
        return _read_transcript(conversation, before, size)


def _read_transcript(conversation: UUID, before: int | None, size: int) -> Transcript:
    # The serial comes first: it bounds the text of answers being written.
    found = Conversation.objects.get(pk=conversation)
    serial = found.head
    prompts = found.messages.filter(role=Message.Speaker.USER, removed_at=None, place__lte=serial)
    if before is not None:
        prompts = prompts.filter(place__lt=before)
    page = list(prompts.select_related("author", "device").order_by("-place")[: size + 1])
    turns = _newest(read_turns(reversed(page[:size]), serial))
    older = turns[0].prompt.place if len(page) > len(turns) else None
    return Transcript(found, serial, turns, queue_of(found) if before is None else [], older)


def _newest(turns: list[Turn]) -> list[Turn]:
    """As many of the last turns as a page has room for, and always one: a frame has its limits, and so has patience."""
    room = PAGE_TEXT
    for number, turn in enumerate(reversed(turns), 1):
        room -= len(turn.prompt.text) + sum(len(part["text"]) for answer in turn.answers for part in answer.parts)
        if room < 0:
            return turns[-max(1, number - 1) :]
    return turns


def read_turns(prompts: Iterable[Message], until: int) -> list[Turn]:
    """These prompts with their answers, whose text is as it was at serial `until` while it is being written."""
    ordered = list(prompts)
    runs: dict[UUID, list[Run]] = {prompt.pk: [] for prompt in ordered}
    found = Run.objects.filter(prompt__in=ordered).select_related("answer", "requested_by", "requested_from")
    for run in found.order_by("position"):
        runs[run.prompt_id].append(run)
    steers = steers_of(run for found in runs.values() for run in found)
    summaries = summaries_at(ordered)
    return [
        Turn(
            prompt,
            [answer_of(run, until, steers.get(run.pk, [])) for run in runs[prompt.pk]],
            summaries.get(prompt.place or 0),
        )
        for prompt in ordered
    ]


def summaries_at(prompts: Sequence[Message]) -> dict[int, Summary]:
    """Place → the summary of all up to there, for those of these prompts that are such a cut."""
    if not prompts:
        return {}
    places = [prompt.place or 0 for prompt in prompts]
    found = Summary.objects.filter(conversation=prompts[0].conversation_id, until__in=places)
    return {summary.until: summary for summary in found}


def answer_of(run: Run, until: int, steers: Iterable[Steer] = ()) -> Answer:
    """A run with its parts: of the one that is being written, the text is in the log."""
    if run.answer is None or run.started_serial is None:
        return Answer(run, None, [], list(steers))
    if run.is_live:
        return Answer(run, run.answer, _written(run, run.answer, until), list(steers))
    return Answer(run, run.answer, run.answer.parts, list(steers))


def steers_of(runs: Iterable[Run]) -> dict[UUID, list[Steer]]:
    """Run → what was added to it and waits, or was missed and is nowhere else."""
    found = Steer.objects.filter(run__in=list(runs), part=None, state__in=(Steer.State.PENDING, Steer.State.MISSED))
    steers: dict[UUID, list[Steer]] = {}
    for one in found:
        steers.setdefault(one.run_id, []).append(one)
    return steers


def _written(run: Run, answer: Message, until: int) -> list[Part]:
    """The parts with the text of the one that is open, or of part 0, which nothing announces if it is text."""
    parts: list[Part] = answer.parts or [{"type": "text", "state": OPEN, "since": run.started_serial}]
    if parts[-1]["state"] != OPEN:
        return parts
    text = text_of(run.conversation_id, answer.pk, parts[-1]["since"], until, part=len(parts) - 1)
    if not answer.parts and not text:
        return []
    return [*parts[:-1], {**parts[-1], "text": text}]


def queue_of(conversation: Conversation) -> list[Run]:
    """The waiting runs, next first, with who asked."""
    waiting = conversation.queue.waiting()
    prefetch_related_objects(waiting, "prompt__author")
    return waiting


def people_of(conversation: UUID) -> list[Participant]:
    """Everybody in the conversation, the owner first."""
    people = Participant.objects.filter(conversation_id=conversation).select_related("user")
    return sorted(people, key=lambda person: (person.role != "owner", person.user.get_username()))


def as_json(transcript: Transcript) -> dict[str, Any]:
    """The transcript for programs. Texts are whole; the caller cuts what is too long for one frame."""
    return {
        "title": transcript.conversation.title,
        "turns": [turn_as_json(turn) for turn in transcript.turns],
        "queue": [
            {"message": str(run.prompt_id), "run": str(run.pk), "parts": run.prompt.parts} for run in transcript.queue
        ],
        "people": [
            {"user": person.user.get_username(), "role": person.role}
            for person in people_of(transcript.conversation.pk)
        ],
        "spent": Spending.total(transcript.conversation.pk),
        "older": transcript.older,
    }


def turn_as_json(turn: Turn) -> dict[str, Any]:
    """One turn for programs."""
    prompt = turn.prompt
    summary = {"summary": summary_as_json(turn.summary)} if turn.summary is not None else {}
    return {
        **summary,
        "message": str(prompt.pk),
        "place": prompt.place,
        "client_id": str(prompt.client_id),
        "user": prompt.author.get_username() if prompt.author else None,
        "parts": prompt.parts,
        "answers": [
            {
                "run": str(answer.run.pk),
                "message": str(answer.message.pk) if answer.message else None,
                "state": answer.run.state,
                "cancelling": answer.run.is_live and answer.run.cancel_requested_at is not None,
                "parts": shown(answer.parts),
                "steers": [one.told() for one in answer.steers],
                "ending": None if answer.run.is_live else answer.run.ending(),
            }
            for answer in turn.answers
        ],
    }


def summary_as_json(summary: Summary) -> dict[str, Any]:
    """What the model was told, for programs."""
    told = {"until": summary.until, "text": summary.text, "model": summary.model}
    return {"summary": str(summary.pk), **told}
