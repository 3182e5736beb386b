"""The conversation as it reads: a small reducer over what the client delivers. Text is there ready-made."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from chat.client import acts, facts, frames
from chat.client import events as log
from chat.client.frames import Snapshot, SnapshotTurn
from chat.client.reader import Delivered

LIVE = frozenset({"queued", "running", "waiting"})


@dataclass(slots=True)
class Answer:
    """One run of a prompt. `state` is live (`queued`, `running`, `waiting`) or how it ended."""

    run: str
    message: str = ""  # its id; empty until the run starts
    parts: list[facts.Part] = field(default_factory=list)
    state: str = "queued"
    cancelling: bool = False
    ending: facts.Ending | None = None
    steers: dict[str, facts.Steer] = field(default_factory=dict)  # that wait, or were missed

    @property
    def text(self) -> str:
        """What it says, without what was thought and done."""
        return said(self.parts)

    def write(self, part: int, offset: int, text: str) -> None:
        """From `offset` on the text of this part is this. Of what came before we were there is nothing here."""
        while part >= len(self.parts):
            self.parts.append(facts.Part("text", "", "open"))
        known = self.parts[part]
        self.parts[part] = replace(known, text=known.text[:offset] + text)

    def change(self, part: int, **fields: Any) -> None:
        """Something else about it."""
        if part >= len(self.parts):
            self.write(part, 0, "")
        self.parts[part] = replace(self.parts[part], **fields)

    def settle(self, steer: str, state: str) -> None:
        """It was missed, or is a message now: as a part, or before it was one."""
        known = self.steers.pop(steer, None)
        if known is not None and state == "missed":
            self.steers[steer] = replace(known, state=state)
        for number, part in enumerate(self.parts):
            if part.steer == steer:
                self.change(number, state=state)

    @property
    def is_live(self) -> bool:
        return self.state in LIVE


@dataclass(slots=True)
class Turn:
    """What somebody said, and every answer to it, oldest first. `place` is None while it waits."""

    message: str
    user: str
    text: str
    place: int | None
    client_id: str = ""
    files: list[facts.Part] = field(default_factory=list)  # images and other files that came with it
    answers: list[Answer] = field(default_factory=list)
    summary: facts.Summary | None = None  # of all up to this turn, for the model


@dataclass(slots=True)
class View:
    """`apply` what the conversation yields. Events of turns that we were not given are left out.

    After a resume from a stored cursor it holds only what came since: an answer that was half written then has no
    beginning here. Whoever wants whole texts begins with a snapshot.
    """

    title: str = ""
    people: dict[str, str] = field(default_factory=dict)  # user → role
    order: list[str] = field(default_factory=list)  # the waiting messages, next first
    older: int | None = None  # there are turns before these
    _turns: dict[str, Turn] = field(default_factory=dict)
    _answers: dict[str, tuple[Turn, Answer]] = field(default_factory=dict)  # by run
    _written: dict[str, Answer] = field(default_factory=dict)  # by the answer's message

    @property
    def turns(self) -> list[Turn]:
        """What was asked and has its place, oldest first."""
        return sorted(
            (turn for turn in self._turns.values() if turn.place is not None), key=lambda turn: turn.place or 0
        )

    @property
    def queue(self) -> list[Turn]:
        """What waits, next first."""
        return [self._turns[message] for message in self.order if message in self._turns]

    def text_of(self, message: str) -> str:
        """What a message says, somebody's or an answer's; empty if it is not known."""
        if message in self._turns:
            return self._turns[message].text
        return self._written[message].text if message in self._written else ""

    def answer_of(self, run: str) -> Answer | None:
        found = self._answers.get(run)
        return found[1] if found is not None else None

    def turn_of(self, run: str) -> Turn | None:
        found = self._answers.get(run)
        return found[0] if found is not None else None

    @property
    def live(self) -> list[Answer]:
        """The answers that have not ended."""
        return [answer for _, answer in self._answers.values() if answer.is_live]

    @property
    def undecided(self) -> tuple[str, facts.Part] | None:
        """The run and the call that waits for a decision, the oldest of them."""
        parts = ((answer.run, part) for answer in self.live for part in answer.parts)
        return next(((run, part) for run, part in parts if part.status == "waiting"), None)

    def apply(self, frame: Delivered) -> None:
        match frame:
            case Snapshot():
                self._snapshot(frame)
            case frames.SnapshotText() | log.MessageDelta() | log.MessageSnapshot():
                self._text(frame.message, frame.part, frame.offset, frame.text)
            case log.MessageCreated():
                self._created(frame)
            case log.MessageEdited():
                if frame.message in self._turns:
                    turn = self._turns[frame.message]
                    turn.text, turn.files = said(frame.parts), attached(frame.parts)
            case log.MessageRemoved():
                self._removed(frame.message)
            case log.QueueChanged():
                self.order = list(frame.order)
            case log.ParticipantJoined() | log.ParticipantChanged():
                self.people[frame.user] = frame.role
            case log.ParticipantLeft():
                self.people.pop(frame.user, None)
            case log.ConversationRenamed():
                self.title = frame.title
            case acts.ConversationSummarised():
                for turn in self._turns.values():
                    if turn.place == frame.until:
                        turn.summary = facts.Summary(frame.summary, frame.until, frame.text, frame.model)
            case _:
                self._run(frame)

    def _run(self, frame: Delivered) -> None:
        match frame:
            case log.RunQueued() if frame.message in self._turns:
                answer = self._answer(self._turns[frame.message], frame.run)
                answer.state, answer.ending, answer.cancelling = "queued", None, False
            case log.RunStarted() if frame.prompt in self._turns:
                turn = self._turns[frame.prompt]
                self._place(turn, frame.place)
                answer = self._answer(turn, frame.run)
                answer.state, answer.message = "running", frame.message
                self._written[frame.message] = answer
            case acts.RunWaiting() if frame.run in self._answers:
                self._answers[frame.run][1].state = "waiting"
            case acts.RunSteered() if frame.run in self._answers:
                told = facts.Steer(frame.steer, frame.text, frame.by, "pending")
                self._answers[frame.run][1].steers[frame.steer] = told
            case acts.SteerMissed() | acts.SteerSent() if frame.run in self._answers:
                self._answers[frame.run][1].settle(frame.steer, frame.type.removeprefix("steer."))
            case log.RunCancelling() if frame.run in self._answers:
                self._answers[frame.run][1].cancelling = True
            case log.RunEnded() if frame.run in self._answers:
                turn, answer = self._answers[frame.run]
                self._place(turn, frame.place)
                for number, part in enumerate(answer.parts):
                    if part.state == "open":  # of an answer that was only text nothing else was said
                        answer.change(number, state="done" if frame.reason == "completed" else frame.reason)
                answer.state, answer.ending, answer.cancelling = frame.reason, frame.ending, False
            case _:
                self._part(frame)

    def _snapshot(self, frame: Snapshot) -> None:
        self.title, self.older = frame.title, frame.older
        self.people = {person.user: person.role for person in frame.people}
        self._turns, self._answers, self._written = {}, {}, {}
        for turn in frame.turns:
            self._snapshot_turn(turn)
        self.order = [waiting.message for waiting in frame.queue]
        for waiting in frame.queue:
            new = self._turns[waiting.message] = Turn(
                waiting.message, "", said(waiting.parts), None, files=attached(waiting.parts)
            )
            self._answer(new, waiting.run)

    def _snapshot_turn(self, turn: SnapshotTurn) -> None:
        files = attached(turn.parts)
        new = Turn(turn.message, turn.user or "", said(turn.parts), turn.place, turn.client_id, files)
        new.summary = turn.summary
        self._turns[turn.message] = new
        for given in turn.answers:
            answer = self._answer(new, given.run)
            answer.message, answer.parts, answer.state = given.message or "", list(given.parts), given.state
            answer.cancelling, answer.ending = given.cancelling, given.ending
            answer.steers = {one.steer: one for one in given.steers}
            if answer.message:
                self._written[answer.message] = answer

    def _created(self, frame: log.MessageCreated) -> None:
        files = attached(frame.parts)
        turn = Turn(frame.message, frame.by.user, said(frame.parts), frame.place, frame.client_id, files)
        self._turns[frame.message] = turn
        self._answer(turn, frame.run)
        if frame.place is None and frame.message not in self.order:
            self.order.append(frame.message)

    def _text(self, message: str, part: int, offset: int, text: str) -> None:
        if message in self._turns:
            turn = self._turns[message]
            turn.text = turn.text[:offset] + text
        elif message in self._written:
            self._written[message].write(part, offset, text)

    def _part(self, frame: Delivered) -> None:
        """What an answer is made of besides streamed text."""
        answer = self._written.get(getattr(frame, "message", ""))
        if answer is None:
            return
        match frame:
            case acts.PartStarted():
                told = {"type": frame.kind, "state": "open", "step": frame.step, "call": frame.call, "name": frame.name}
                answer.change(frame.part, **told)
            case acts.PartEnded():
                answer.change(frame.part, state=frame.state)
                if answer.parts[frame.part].type == "tool_use":
                    answer.change(frame.part, status="asked" if frame.state == "done" else "cancelled")
            case acts.ToolCalled():
                answer.change(frame.part, status="running")
            case acts.ToolResult():
                told = {"call": frame.call, "name": frame.name, "outcome": frame.outcome, "error": frame.error}
                answer.change(frame.part, type="tool_result", text=frame.text, state="done", step=frame.step, **told)
                for number, part in enumerate(answer.parts):
                    if part.type == "tool_use" and part.call == frame.call:
                        offer = replace(part.offer, by=frame.by) if part.offer and frame.by else part.offer
                        answer.change(number, status=frame.outcome, offer=offer)
            case acts.ToolOffered():
                offer = facts.Offer(frame.arguments, frame.user)
                answer.change(frame.part, status="offered", offer=offer, until=frame.until)
            case acts.CitationAdded():
                told = {"title": frame.title, "url": frame.url, "of": frame.of, "at": frame.at, "step": frame.step}
                answer.change(frame.part, type="citation", text=frame.text, state="done", **told)
            case acts.SteerConsumed():
                answer.steers.pop(frame.steer, None)
                told = {"steer": frame.steer, "who": frame.who, "step": frame.step}
                answer.change(frame.part, type="steer", text=frame.text, state="done", **told)
            case acts.PartShortened():
                answer.change(frame.part, told=frame.told)
            case acts.ApprovalRequested():
                asked = facts.Approval(frame.hash, frame.shown)
                answer.change(frame.part, status="waiting", approval=asked, until=frame.until)
            case acts.ApprovalDecided():
                known = answer.parts[frame.part].approval if frame.part < len(answer.parts) else None
                decided = replace(
                    known or facts.Approval("", ""), decision=frame.decision, by=frame.by, reason=frame.reason
                )
                answer.change(frame.part, status=frame.decision, approval=decided)

    def _removed(self, message: str) -> None:
        turn = self._turns.pop(message, None)
        self.order = [other for other in self.order if other != message]
        for answer in turn.answers if turn is not None else ():
            self._answers.pop(answer.run, None)

    def _answer(self, turn: Turn, run: str) -> Answer:
        """The turn's answer by this run, made if it is not there."""
        if run not in self._answers:
            answer = Answer(run)
            turn.answers.append(answer)
            self._answers[run] = turn, answer
        return self._answers[run][1]

    def _place(self, turn: Turn, place: int | None) -> None:
        turn.place = place
        if place is not None and turn.message in self.order:
            self.order.remove(turn.message)


def said(parts: Iterable[facts.Part]) -> str:
    return "".join(part.text for part in parts if part.type == "text")


def attached(parts: Iterable[facts.Part]) -> list[facts.Part]:
    return [part for part in parts if part.type in ("image", "file")]
