"""The prompt as a pure function of what is stored: what the model is told of a conversation.

Whatever happened before, the result obeys the Messages API: it begins and ends with the user, roles alternate,
and no text is empty. The same history gives the same bytes, so the provider's prompt cache keeps working.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

from chat.agent.provider import STOPPED_MARK, PromptMessage
from chat.models import Run
from chat.models.message import text_in
from chat.models.run import ENDED, State

MARKS = {
    State.CANCELLED: STOPPED_MARK,
    State.INTERRUPTED: "\n\n[the connection was lost here]",
    State.FAILED: "\n\n[the answer failed here]",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A past turn: what was asked and how far the answer came. `ended` is None if nobody has answered."""

    prompt: str
    answer: str = ""
    ended: str | None = None


def build_prompt(history: Sequence[Said], prompt: str) -> list[PromptMessage]:
    """Past turns in order, then the prompt to answer. A partial answer is included once and marked."""
    messages: list[PromptMessage] = []
    for said in history:
        _say(messages, "user", said.prompt)
        if said.answer.strip():
            mark = MARKS.get(State(said.ended), "") if said.ended else ""
            _say(messages, "assistant", said.answer.rstrip() + mark)
    _say(messages, "user", prompt)
    return messages


def _say(messages: list[PromptMessage], role: str, text: str) -> None:
    if not text.strip():
        return
    block = {"type": "text", "text": text}
    if messages and messages[-1]["role"] == role:
        messages[-1]["content"].append(block)
    else:
        messages.append({"role": "user" if role == "user" else "assistant", "content": [block]})


def history_of(run: Run) -> list[Said]:
    """The turns before this run's prompt, by their place in the transcript.

    A turn that is still being answered is left out, prompt and all: its answer is not known yet. Of several
    answers to one prompt the completed one counts, else the last. One query and no model instances: a run that
    begins after 10,000 messages waits for this.
    """
    ended = Run.objects.filter(
        conversation_id=run.conversation_id,
        state__in=ENDED,
        prompt__place__lt=run.prompt.place,
        prompt__removed_at=None,
    ).order_by("prompt__place", "position")
    answered = groupby(ended.values_list("prompt__parts", "answer__parts", "state", "prompt_id"), key=itemgetter(3))
    return [_said(list(answers)) for _, answers in answered]


def _said(answers: Sequence[tuple[Any, Any, str, UUID]]) -> Said:
    """(prompt's parts, answer's parts, how it ended, prompt) of each answer to one prompt."""
    completed = (answer for answer in answers if answer[2] == State.COMPLETED)
    asked, said, state, _ = next(completed, answers[-1])
    return Said(text_in(asked), text_in(said or []), state)


def prompt_of(run: Run) -> list[PromptMessage]:
    """What the model is given for this run, read from the database."""
    return build_prompt(history_of(run), run.prompt.text)
