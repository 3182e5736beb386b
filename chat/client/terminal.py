"""A conversation as lines on a terminal: who says what, answers as they are written, and nothing that commands it."""

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TextIO

from chat.client import acts, events, frames
from chat.client.conversation import Conversation
from chat.client.facts import Budget, Ending, Part
from chat.client.machine import State
from chat.client.reader import Delivered
from chat.client.view import Answer, Turn, View

# CSI, OSC and other strings, then any other escape; each also by its eight-bit name.
_ESCAPE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x9c|\x1b\\\\)"
    "|\x1b[ -/]*[0-OQ-WYZ`-~]"
)
_BEGUN = re.compile(
    "(?:(?:\x1b\\[|\x9b)[0-?]*[ -/]*|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*\x1b?|\x1b[ -/]*)$"
)
_LONGEST = 1024  # code points of a sequence that has begun; a longer one is text that only looks like it
BULLET = "* "
ASK = "ask_user"  # the tool that is a question to a person


class Plain:
    """Text without escape sequences and control characters, also when a sequence comes in pieces."""

    def __init__(self) -> None:
        self._held = ""

    def __call__(self, text: str) -> str:
        text = _ESCAPE.sub("", self._held + text)
        begun = _BEGUN.search(text)
        self._held = begun[0] if begun is not None and len(begun[0]) <= _LONGEST else ""
        text = text[: len(text) - len(self._held)]
        return "".join(one for one in text if one in "\n\t" or unicodedata.category(one) != "Cc")


def plain(text: str) -> str:
    """A whole text, or a name. What ends in the middle of a sequence ends there."""
    return Plain()(text)


def how_it_ended(ending: Ending) -> str:
    """In brackets, for a person; empty if it is the usual."""
    if ending.reason == "completed":
        unusual = ending.stop_reason not in {"", "end_turn", "stop_sequence"}
        return f"[ended: {plain(ending.stop_reason)}]" if unusual else ""
    why = f": {plain(ending.error.message)}" if ending.error is not None else ""
    if ending.reason == "cancelled":
        return f"[stopped by {plain(ending.by.user)}]" if ending.by is not None else f"[stopped{why}]"
    return f"[{plain(ending.reason)}{why}]"


def what_it_used(ending: Ending, currency: str) -> str:
    """In brackets, tokens and money; empty if nothing."""
    if not ending.usage:
        return ""
    tokens_out = ending.usage.get("output_tokens", 0)
    tokens_in = sum(count for name, count in ending.usage.items() if name.endswith("input_tokens"))
    cost = "cost unknown" if ending.cost is None else f"about {money(ending.cost, currency)}"
    said = f"{'about ' if ending.estimated else ''}{tokens_out:,}"
    if ending.estimated and not tokens_in:  # nobody has counted
        return f"[{said} tokens out, {cost}]"
    return f"[{tokens_in:,} tokens in, {said} out, {cost}]"


def to_decide(call: Part) -> list[str]:
    """What a person is asked to allow: the tool, what exactly it would be given, and how to say it."""
    shown = plain(call.approval.shown if call.approval is not None else "")
    return [f"? {plain(call.name)} will run with exactly this:", shown, "[/approve, or /deny and why]"]


def how_it_was_decided(decided: acts.ApprovalDecided) -> str:
    """In brackets, who allowed a call, or did not, and why."""
    if decided.by is None:
        return "[nobody decided in time: it does not run]"
    why = f": {plain(decided.reason)}" if decided.reason.strip() else ""
    return f"[{plain(decided.decision)} by {plain(decided.by.user)}{why}]"


def nearly_used_up(budget: Budget) -> str:
    """A warning, in brackets."""
    whose = "your budget for this month" if budget.of == "user" else "this conversation's budget"
    percent = budget.used * 100 // max(1, budget.limit)
    used, limit = money(budget.used, ""), money(budget.limit, budget.currency)
    return f"[{whose} is used to {percent} %: {used} of {limit}]"


def money(millionths: int, currency: str) -> str:
    """As people write it."""
    places = 2 if millionths >= 1_000_000 or millionths % 10_000 == 0 else 4
    return f"{millionths / 1_000_000:,.{places}f} {plain(currency)}".rstrip()


@dataclass
class _Shown:
    """How much of an answer is on the screen."""

    length: int = 0
    plain: Plain = field(default_factory=Plain)
    ended: bool = False


class Screen:
    """`show` what the conversation yields. One answer is written at a time; others wait until it has ended.

    With `only`, the answers of these runs and nothing else, in their order: for programs that read us.
    """

    def __init__(self, out: TextIO, view: View, *, last: int = 5, only: list[str] | None = None) -> None:
        self.currency = ""  # of costs, once the server has said it
        self.mine: set[str] = set()  # ids of what was typed here, which is on the screen already
        self._out = out
        self._view = view
        self._last = last
        self._only = only
        self._shown: dict[str, _Shown] = {}
        self._writing: str | None = None
        self._open = False  # the cursor stands in the middle of a line
        self._busy_with = ""  # as it was last told
        self._bullet = True  # what is written next does not continue what stands above it

    def show(self, frame: Delivered) -> None:
        if self._only is None:
            self._tell(frame)
        self.refresh()

    def refresh(self) -> None:
        """Write what there is of answers and not yet on the screen."""
        while (answer := self._next()) is not None:
            self._more(answer)
            if not self._shown[answer.run].ended:
                break
        self._out.flush()

    def line(self, text: str) -> None:
        """A line of its own. An answer that was being written goes on after it."""
        self.end_line()
        self._out.write(f"{text}\n")
        self._out.flush()

    def end_line(self) -> None:
        """Somebody else writes on this terminal. An answer that was being written goes on after that."""
        self._break()
        self._bullet = True
        self._out.flush()

    def _tell(self, frame: Delivered) -> None:
        match frame:
            case frames.Hello():
                self.currency = frame.currency
            case frames.Snapshot():
                self._begin()
            case frames.Reset():
                self.line("-- from here on afresh --")
            case events.MessageCreated() if frame.client_id not in self.mine:
                waits = " (waits)" if frame.place is None else ""
                self.line(f"{plain(frame.by.user)}{waits}: {plain(self._view.text_of(frame.message))}")
            case events.MessageEdited():
                self.line(f"[{plain(frame.by.user)} changed a waiting message: {plain(_said(frame))}]")
            case events.MessageRemoved():
                self.line(f"[{plain(frame.by.user)} took a waiting message back]")
            case events.RunCancelling():
                self.line(f"[{plain(frame.by.user)} asked to stop it]")
            case events.ParticipantJoined() | events.ParticipantLeft():
                what = "is here now" if isinstance(frame, events.ParticipantJoined) else "has left"
                self.line(f"[{plain(frame.user)} {what}]")
            case events.ConversationRenamed():
                self.line(f"[the title is now: {plain(frame.title)}]")
            case acts.ToolOffered() if frame.name == ASK:
                self.line(f"[the agent asks {plain(frame.user)}: {plain(str(frame.arguments.get('question', '')))}]")
            case acts.ToolResult() if frame.name == ASK and frame.by is not None:
                text = plain(frame.text).replace("\n", "; ")
                said = f"answered: {text}" if frame.outcome == "done" else "did not want to answer"
                self.line(f"[{plain(frame.by.user)} {said}]")
            case acts.ApprovalDecided():
                self.line(how_it_was_decided(frame))
            case acts.ConversationSummarised():
                what = "were summarised for" if frame.text else "no longer fit: they are left out for"
                self.line(f"[earlier messages {what} the model]")
            case frames.Progress():
                if frame.text and frame.text != self._busy_with:
                    self.line(f"[{plain(frame.text)}]")
                self._busy_with = frame.text
            case _:
                pass

    def _begin(self) -> None:
        self._writing = None
        self.line(f"== {plain(self._view.title) or 'A conversation'} ==")
        turns = self._view.turns
        if self._view.older is not None or len(turns) > self._last:
            self.line("[there is more before this]")
        for turn in turns[: -self._last] if self._last else turns:
            for answer in turn.answers:
                self._shown[answer.run] = _Shown(ended=True)
        for turn in turns[-self._last :] if self._last else []:
            self._turn(turn)
        for waiting in self._view.queue:
            self.line(f"(waits): {plain(waiting.text)}")

    def _turn(self, turn: Turn) -> None:
        self.line(f"{plain(turn.user) or 'somebody'}: {plain(turn.text)}")
        for answer in turn.answers:
            self._shown[answer.run] = _Shown()
            if not answer.is_live:
                self._writing = answer.run
                self._more(answer)

    # --- answers --------------------------------------------------------------------------------------------

    def _next(self) -> Answer | None:
        """The one being written, or else the one to be written next."""
        if self._writing is not None and (writing := self._view.answer_of(self._writing)) is not None:
            return writing
        if self._only is not None:
            due = next((run for run in self._only if not self._has_ended(run)), None)
            found = self._view.answer_of(due) if due is not None else None
            ready = [found] if found is not None and (found.text or not found.is_live) else []
        else:
            answers = (answer for turn in self._view.turns for answer in turn.answers)
            ready = [answer for answer in answers if not self._has_ended(answer.run) and (answer.text or answer.ending)]
        if not ready:
            return None
        self._writing = ready[0].run
        return ready[0]

    def _has_ended(self, run: str) -> bool:
        return run in self._shown and self._shown[run].ended

    def _more(self, answer: Answer) -> None:
        shown = self._shown.setdefault(answer.run, _Shown())
        text = shown.plain(answer.text[shown.length :])
        shown.length = len(answer.text)
        if text:
            self._text(text)
        if answer.is_live:
            return
        shown.ended, self._writing, self._bullet = True, None, True
        self._break()
        if answer.ending is not None and self._only is None and (end := how_it_ended(answer.ending)):
            self.line(end)
        if answer.ending is not None and self._only is None and (used := what_it_used(answer.ending, self.currency)):
            self.line(used)

    def _text(self, text: str) -> None:
        if self._bullet and self._only is None:
            self._out.write(BULLET)
        self._bullet = False
        self._out.write(text)
        self._open = not text.endswith("\n")

    def _break(self) -> None:
        if self._open:
            self._out.write("\n")
            self._open = False


class Status:
    """The connection's state, a line for each change that a person wants to know of."""

    def __init__(self, err: TextIO) -> None:
        self.screen: Screen | None = None  # on the same terminal
        self._err = err
        self._told = State.CONNECTING

    def __call__(self, conversation: Conversation) -> None:
        state = conversation.state
        if state in {self._told, State.STOPPED, State.CONNECTING}:
            return
        self._told = state
        why = f": {plain(conversation.trouble)}" if conversation.trouble and state is not State.LIVE else ""
        by = f" by {conversation.transport}" if state is State.LIVE else ""
        self.end_line()
        self._err.write(f"-- {state}{by}{why} --\n")
        self._err.flush()

    def end_line(self) -> None:
        """What is said next is no part of an answer."""
        if self.screen is not None:
            self.screen.end_line()


def _said(frame: events.MessageEdited) -> str:
    return "".join(part.text for part in frame.parts)
