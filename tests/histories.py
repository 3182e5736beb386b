"""Conversations as they may be stored, by chance: agents with tools whose runs ended in every way, and worse.

`ANSWERS` are what a run leaves behind: whole steps, then a cut at any part. `RUINS` are parts no run should leave,
in any order: what a fault, an import or a later version may store. Either must make a prompt that is taken.
"""

from collections.abc import Sequence
from typing import Any, cast

from hypothesis import strategies as st

from chat.agent.claude import with_breakpoints
from chat.agent.prompt import Said
from chat.agent.provider import PromptMessage
from chat.models.state import ENDED
from tests.messages_rules import violations

Parts = list[dict[str, Any]]

# Few and chosen: drawing letters would take most of the time.
WORDS = st.sampled_from(["", " ", "\n\n", "words", "ends with space \n", " begins", "\0", "\ud83c", '"ünd"', "[go on]"])
ASKED = st.sampled_from(["x", " padded ", "two\nlines", "世界", "[stopped by the user]"])
ENDS = st.sampled_from([state.value for state in ENDED])
STATES = st.sampled_from(["open", "done", "cancelled", "failed", "interrupted"])
OUTCOMES = st.sampled_from(["done", "error", "denied", "expired", "cancelled", "unknown", "of tomorrow"])
IDS = st.sampled_from(
    ["toolu_1", "toolu_2", "toolu_2-2", "srvtoolu_1", "srvtoolu_2", *(f"toolu_a{n}" for n in range(9))]
)
NAMES = st.sampled_from(["clock", "read_file", "mcp-search"])
INPUTS = st.sampled_from([{}, {"path": ""}, {"path": "ü", "depth": 1}])

TOOLS = [{"name": "clock", "input_schema": {"type": "object"}}]
THINKING = {"type": "enabled", "budget_tokens": 1024}


def problems(prompt: Sequence[PromptMessage], **more: Any) -> list[str]:
    """What is wrong with a request that carries this prompt the way Claude's provider does."""
    messages = with_breakpoints(prompt)
    return violations({"model": "m", "max_tokens": 4096, "messages": messages, "tools": TOOLS, **more})


def text(words: str, step: int = 0) -> dict[str, Any]:
    return {"type": "text", "text": words, "state": "done", "step": step}


def thought(words: str, step: int = 0) -> dict[str, Any]:
    return {"type": "reasoning", "text": words, "signature": "c2ln", "state": "done", "step": step}


def redacted(step: int = 0) -> dict[str, Any]:
    return {"type": "reasoning", "text": "", "data": "ZGF0YQ==", "state": "done", "step": step}


def call(name: str, number: int, step: int = 0, **more: Any) -> dict[str, Any]:
    """A call as it is stored: `c1` of the tool, `toolu_1` of the provider."""
    use = {"type": "tool_use", "call": f"c{number}", "id": f"toolu_{number}", "name": name, "input": {"n": number}}
    return {**use, "state": "done", "step": step, **more}


def result(number: int, words: str = "result", step: int = 0, **more: Any) -> dict[str, Any]:
    done = {"type": "tool_result", "call": f"c{number}", "text": words, "error": False, "outcome": "done"}
    return {**done, "state": "done", "step": step, **more}


def steer(words: str, step: int = 0, state: str = "done") -> dict[str, Any]:
    """What somebody added meanwhile, where the model was told."""
    who = {"user": "alice", "device": None, "device_name": ""}
    return {"type": "steer", "steer": "s", "text": words, "who": who, "state": state, "step": step}


def search(number: int, step: int = 0) -> dict[str, Any]:
    block = {"type": "server_tool_use", "id": f"srvtoolu_{number}", "name": "web_search", "input": {"query": "q"}}
    return {"type": "block", "block": block, "state": "done", "step": step}


def found(number: int, step: int = 0) -> dict[str, Any]:
    block = {"type": "web_search_tool_result", "tool_use_id": f"srvtoolu_{number}", "content": []}
    return {"type": "block", "block": block, "state": "done", "step": step}


@st.composite
def _thinking(draw: st.DrawFn, step: int) -> Parts:
    return [thought(draw(WORDS), step) if draw(st.integers(0, 3)) else redacted(step)]


@st.composite
def _serving(draw: st.DrawFn, step: int) -> Parts:
    number = draw(st.integers(1, 9))
    return [search(number, step), found(number, step)]


@st.composite
def _calling(draw: st.DrawFn, step: int) -> Parts:
    calls, results = [], []
    for number in range(draw(st.integers(1, 3))):
        one = {"call": f"c{step}{number}", "step": step, "state": "done"}
        calls.append({"type": "tool_use", "id": draw(IDS), "name": draw(NAMES), "input": draw(INPUTS), **one})
        outcome = draw(OUTCOMES)
        told = {"text": draw(WORDS), "error": outcome == "error", "outcome": outcome}
        results.append({"type": "tool_result", **told, **one})
    return [*calls, *draw(st.permutations(results))]


@st.composite
def steps(draw: st.DrawFn, *, thinks: bool | None = None) -> list[Parts]:
    """What the steps of a run store that nothing went wrong with; the last one may call nothing.

    `thinks`: always or never, where tools are called.
    """
    made: list[Parts] = []
    calling = draw(st.integers(0, 3))
    for step in range(calling + 1):
        parts: Parts = [steer(draw(WORDS), step) for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2])))]
        if thinks or (thinks is None and draw(st.booleans())):
            parts += draw(_thinking(step))
        if draw(st.integers(0, 3)) == 0:
            parts += draw(_serving(step))
        if draw(st.booleans()) or step == calling:
            parts.append(text(draw(WORDS), step))
        if step < calling:
            parts += draw(_calling(step))
        made.append(parts)
    return made


def _shorn(part: dict[str, Any], how: str) -> dict[str, Any]:
    """A part that was cut while it arrived: what comes at its end is missing."""
    cut = {**part, "state": how}
    for late in ("signature", "input", "outcome"):
        cut.pop(late, None)
    return cut


@st.composite
def answers(draw: st.DrawFn) -> tuple[Parts, str]:
    """The parts of an answer and how it ended: completed, or cut at any part, with results that never came."""
    parts = [part for step in draw(steps()) for part in step]
    ended = draw(ENDS)
    if ended != "completed" or draw(st.integers(0, 4)) == 0:
        parts = parts[: draw(st.integers(0, len(parts)))]
        shorn = draw(st.booleans())
        if parts and shorn:
            parts[-1] = _shorn(parts[-1], draw(STATES))
    arrived = draw(st.lists(st.integers(0, 4), min_size=len(parts), max_size=len(parts)))
    return [part for part, kept in zip(parts, arrived, strict=True) if kept or part["type"] != "tool_result"], ended


_PART = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": WORDS}),
    st.fixed_dictionaries(
        {"type": st.just("reasoning"), "text": WORDS},
        optional={"signature": st.sampled_from(["", "c2ln"]), "data": st.sampled_from(["", "ZGF0YQ=="])},
    ),
    st.fixed_dictionaries(
        {"type": st.just("tool_use"), "call": st.sampled_from(["", "c1", "c2", "c3"])},
        optional={
            "id": IDS | st.sampled_from(["", "näh", "a b"]),
            "name": NAMES | st.sampled_from(["", "a.b", "x" * 300]),
            "input": INPUTS | st.none(),
            "outcome": OUTCOMES,
            "begun": st.booleans(),
            "by": st.none() | st.just("bob") | st.just({"user": "bob"}),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.just("tool_result"), "call": st.sampled_from(["", "c1", "c2", "c3", "c4"])},
        optional={"text": WORDS, "error": st.booleans(), "outcome": OUTCOMES, "reason": WORDS},
    ),
    WORDS.map(steer),
    st.sampled_from([search(1), search(2), found(1), found(2)]).map(lambda part: {**part}),
    st.fixed_dictionaries(
        {
            "type": st.just("block"),
            "block": st.sampled_from(
                [
                    None,
                    {},
                    {"type": "text", "text": ""},
                    {"type": "thinking", "thinking": "?"},
                    {"type": "tool_use"},
                    {"type": "container_upload", "file_id": "f"},
                ]
            ),
        }
    ),
    st.sampled_from([{"type": "citation", "url": "https://a.example"}, {"type": "of tomorrow"}, {}]).map(dict),
)


@st.composite
def ruins(draw: st.DrawFn) -> tuple[Parts, str]:
    parts = draw(st.lists(_PART, max_size=10))
    step = 0
    for part in parts:
        step += draw(st.sampled_from([0, 0, 0, 1]))
        if draw(st.integers(0, 2)):
            part["step"] = step
        if draw(st.booleans()):
            part["state"] = draw(STATES)
        else:
            part.pop("state", None)
    return parts, draw(ENDS)


FILES = st.fixed_dictionaries({"type": st.sampled_from(["image", "file"]), "name": WORDS})
PROMPTS = st.one_of(
    ASKED.map(lambda words: [text(words)]),
    st.tuples(st.lists(FILES, max_size=2), WORDS).map(lambda drawn: cast("Parts", [*drawn[0], text(drawn[1])])),
    st.sampled_from([[], [{"type": "of tomorrow"}]]).map(lambda parts: cast("Parts", parts)),
)
ANSWERS = answers()
RUINS = ruins()
SAID = st.builds(
    lambda prompt, answer, signed: Said(prompt, answer[0], answer[1], signed=signed),
    PROMPTS,
    ANSWERS | ANSWERS | RUINS,
    st.sampled_from([True, True, True, False]),
)
SUMMARIES = st.sampled_from(["They spoke of trains.", " padded ", "", " ", "[go on]", "two\n\nlines"])
HISTORY = st.lists(SAID, max_size=5)
OWN = st.one_of(st.just(cast("Parts", [])), ANSWERS.map(lambda drawn: drawn[0]), RUINS.map(lambda drawn: drawn[0]))
