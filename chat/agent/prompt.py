"""The prompt as a pure function of what is stored: what the model is told of a conversation.

Whatever happened before, the result obeys the Messages API: it begins and ends with the user, roles alternate, no
text is empty, and each call of a tool is answered in the very next message, however its run ended. The same history
gives the same bytes, and what is added to it changes none before, so the provider's prompt cache keeps working.

Reasoning that is signed is told for ever: the API wants it back while a turn goes on, ignores it later where it has
no use for it, and to leave it out later would change the prefix. Citations are no part of the prompt. Of files there
are references, which `chat/agent/attachments.py` resolves in front of the provider.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from chat.agent.blocks import Block, Part, Step, asked, steps_of
from chat.agent.provider import CONTINUE, GO_ON, STOPPED_MARK, PromptMessage
from chat.models import Run, Summary
from chat.models.state import ENDED, State

MARKS = {
    State.CANCELLED: STOPPED_MARK,
    State.INTERRUPTED: "\n\n[the connection was lost here]",
    State.FAILED: "\n\n[the answer failed here]",
}
SUMMARISED = "[What was said before no longer fits. This is a summary of it:]\n\n"
LEFT_OUT = "[What was said before no longer fits and was left out.]"
ACTED = ("done", "error", "unknown")  # what became of a call that was begun
NOTHING = "[an empty message]"  # a prompt of which nothing can be told must still stand between two answers


@dataclass(frozen=True, slots=True)
class Said:
    """A past turn: the parts of what was asked and of how far the answer came. `ended` is None if nobody answered.

    `signed`: its reasoning was signed for who reads it now. Another provider's signature is refused.
    """

    prompt: Sequence[Part]
    answer: Sequence[Part] = ()
    ended: str | None = None
    signed: bool = True
    place: int = 0  # in the transcript


def build_prompt(
    history: Sequence[Said], prompt: Sequence[Part], own: Sequence[Part] = (), *, summary: str | None = None
) -> list[PromptMessage]:
    """Past turns in order, then the prompt to answer, then what this run has done already: its parts are `own`.

    A partial answer is included once and marked. `summary`: of the turns before these, which have no room; it may be
    empty.
    """
    messages: list[PromptMessage] = []
    if summary is not None:
        _say(messages, "user", _text(f"{SUMMARISED}{summary}" if summary.strip() else LEFT_OUT))
    taken: set[str] = set()
    for said in history:
        _say(messages, "user", asked(said.prompt) or _text(NOTHING))
        steps = steps_of(said.answer, said.ended, taken, signed=said.signed, going_on=False)
        _tell(messages, steps)
        if steps and (mark := MARKS.get(State(said.ended), "") if said.ended else ""):
            _mark(messages, mark)
    _say(messages, "user", asked(prompt) or _text(NOTHING))
    going_on = _without_the_dead_attempt(steps_of(own, None, taken, signed=True, going_on=True))
    _tell(messages, going_on)
    if going_on and messages[-1]["role"] == "assistant":
        _say(messages, "user", _go_on(going_on[-1]))
    return messages


def _tell(messages: list[PromptMessage], steps: Sequence[Step]) -> None:
    for number, step in enumerate(steps):
        if step.added:
            _say(messages, "user", step.added)
        elif number and not steps[number - 1].results:
            _say(messages, "user", _go_on(steps[number - 1]))
        _say(messages, "assistant", [*step.said, *step.calls])
        _say(messages, "user", step.results)


def _go_on(step: Step) -> list[Block]:
    return _text(CONTINUE if step.unfinished else GO_ON)


def _without_the_dead_attempt(steps: list[Step]) -> list[Step]:
    """A last step that never came to its end is made again: told, it would be a prefill, and its tools a promise."""
    return [*steps[:-1], Step(added=steps[-1].added)] if steps and steps[-1].cut else steps


def _mark(messages: list[PromptMessage], mark: str) -> None:
    """Says how an answer ended, where it did: behind its words, or behind the results nobody answered any more."""
    block = messages[-1]["content"][-1]
    if messages[-1]["role"] == "assistant" and block["type"] == "text":
        block["text"] += mark
    else:
        messages[-1]["content"].append({"type": "text", "text": mark.strip()})


def _say(messages: list[PromptMessage], role: Literal["user", "assistant"], blocks: Sequence[Block]) -> None:
    if blocks and messages and messages[-1]["role"] == role:
        messages[-1]["content"].extend(blocks)
    elif blocks:
        messages.append({"role": role, "content": list(blocks)})


def _text(text: str) -> list[Block]:
    return [{"type": "text", "text": text}]


def history_of(run: Run, after: int = 0) -> list[Said]:
    """The turns before this run's prompt and after a place, by their place in the transcript.

    A turn that is still being answered is left out, prompt and all: its answer is not known yet. Of several
    answers to one prompt the completed one counts, else the last. Of those to this run's own, which it makes anew,
    each that has begun to call a tool: what was done once must not be done again unknowingly. One query and no model
    instances: a run that begins after 10,000 messages waits for this.
    """
    ended = Run.objects.filter(
        prompt__conversation=run.conversation_id,  # and its index with places: what lies before costs nothing
        state__in=ENDED,
        prompt__place__gt=after,
        prompt__place__lte=run.prompt.place,
        prompt__removed_at=None,
    ).order_by("prompt__place", "position")
    rows = ended.values_list("prompt__parts", "answer__parts", "state", "provider", "prompt__place", "position")
    history = []
    for place, found in groupby(rows, key=itemgetter(4)):
        if place != run.prompt.place:
            history.append(_said(list(found), run.provider))
        else:
            before = (one for one in found if one[5] < run.position and _has_acted(one[1] or []))
            history += [_said([one], run.provider) for one in before]
    return history


def _said(answers: Sequence[tuple[Any, Any, str, str, int | None, int]], reader: str) -> Said:
    """(prompt's parts, answer's parts, how it ended, its provider, place, position) of each answer to one prompt."""
    completed = (answer for answer in answers if answer[2] == State.COMPLETED)
    prompt, answer, state, provider, place, _ = next(completed, answers[-1])
    return Said(prompt, answer or [], state, signed=provider == reader, place=place or 0)


def _has_acted(parts: Sequence[Part]) -> bool:
    return any(part["type"] == "tool_result" and part.get("outcome") in ACTED for part in parts)


def prompt_of(run: Run) -> list[PromptMessage]:
    """What the model is given for this run, read from the database: with what it has done before it was suspended."""
    summary = Summary.before(run.conversation_id, run.prompt.place or 0)
    history = history_of(run, summary.until if summary is not None else 0)
    own = run.answer.parts if run.answer else []
    return build_prompt(history, run.prompt.parts, own, summary=summary.text if summary is not None else None)
