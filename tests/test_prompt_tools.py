"""Prompts of agents: whatever a run left behind, the next request is taken, says what happened and keeps its prefix."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat.agent.blocks import TOLD, told
from chat.agent.prompt import LEFT_OUT, MARKS, NOTHING, SUMMARISED, Said, build_prompt
from chat.agent.provider import GO_ON, STOPPED_MARK, PromptMessage, asked_in
from chat.models.state import ENDED, State
from tests.histories import (
    ENDS,
    HISTORY,
    OWN,
    PROMPTS,
    SAID,
    SUMMARIES,
    THINKING,
    call,
    found,
    problems,
    redacted,
    result,
    search,
    steer,
    steps,
    text,
    thought,
)

Block = dict[str, Any]
STOPPED = STOPPED_MARK.strip()
DENIED = told("denied", by="bob")
FEWER = settings(max_examples=100)


def flat(messages: list[PromptMessage]) -> list[tuple[str, Block]]:
    """Every block with its role: what a prompt cache compares from the front."""
    return [(message["role"], block) for message in messages for block in message["content"]]


def after(parts: list[Block], ended: str = "cancelled") -> list[PromptMessage]:
    """The prompt of the next turn, behind an answer of these parts."""
    prompt = build_prompt([Said([text("do it")], parts, ended)], [text("and now?")])
    assert problems(prompt) == []
    return prompt


def results_in(prompt: list[PromptMessage]) -> dict[str, str]:
    return {b["tool_use_id"]: b["content"] for _, b in flat(prompt) if b["type"] == "tool_result"}


def kinds(message: PromptMessage) -> list[str]:
    return [block["type"] for block in message["content"]]


# --- whatever is stored -----------------------------------------------------------------------------------------


@settings(max_examples=500)
@given(HISTORY, SAID, PROMPTS, OWN)
def test_s14_s17_any_history_makes_a_request_that_is_taken_and_begins_as_the_one_before(
    history: list[Said], said: Said, prompt: list[Block], own: list[Block]
) -> None:
    stored = repr((history, said, prompt, own))
    before = build_prompt(history, said.prompt, own)
    after = build_prompt([*history, said], prompt, own)
    assert problems(before) == problems(after) == []
    assert before[-1]["role"] == after[-1]["role"] == "user"
    asked = flat(build_prompt(history, said.prompt))
    assert flat(before)[: len(asked)] == flat(after)[: len(asked)] == asked
    assert json.dumps(build_prompt([*history, said], prompt, own)) == json.dumps(after)
    assert repr((history, said, prompt, own)) == stored


@settings(max_examples=300)
@given(HISTORY, SAID, PROMPTS, OWN, SUMMARIES)
def test_s14_s17_the_same_after_a_summary_of_any_of_the_turns_before(
    history: list[Said], said: Said, prompt: list[Block], own: list[Block], summary: str
) -> None:
    for cut in range(len(history) + 1):
        before = build_prompt(history[cut:], said.prompt, own, summary=summary)
        after = build_prompt([*history[cut:], said], prompt, own, summary=summary)
        assert problems(before) == problems(after) == []
        asked = flat(build_prompt(history[cut:], said.prompt, summary=summary))
        assert flat(before)[: len(asked)] == flat(after)[: len(asked)] == asked
        first = after[0]["content"][0]["text"]
        assert first == (f"{SUMMARISED}{summary}" if summary.strip() else LEFT_OUT)


@FEWER
@given(HISTORY, PROMPTS, steps(), ENDS, PROMPTS, st.data())
def test_s17_what_was_shortened_stays_so_and_changes_nothing_else(
    history: list[Said], prompt: list[Block], made: list[list[Block]], ended: str, later: list[Block], data: Any
) -> None:
    own = [part for step in made for part in step]
    whole = flat(build_prompt(history, prompt, own))
    for part in own:
        if part["type"] == "tool_result" and data.draw(st.booleans()):
            part["told"] = data.draw(st.integers(0, 4))
    short = build_prompt(history, prompt, own)
    assert problems(short) == []
    assert [(role, {**block, "content": ""}) for role, block in flat(short)] == [
        (role, {**block, "content": ""}) for role, block in whole
    ]
    later_told = flat(build_prompt([*history, Said(prompt, own, ended)], later))
    results = [block for _, block in flat(short) if block["type"] == "tool_result"]
    assert [block for _, block in later_told if block["type"] == "tool_result"] == results


@FEWER
@given(HISTORY, PROMPTS, steps(), ENDS, PROMPTS)
def test_s17_each_request_of_a_run_begins_with_the_one_before_and_becomes_history_as_it_is(
    history: list[Said], prompt: list[Block], made: list[list[Block]], ended: str, later: list[Block]
) -> None:
    before: list[tuple[str, Block]] = []
    own: list[Block] = []
    for step in made:
        now = flat(build_prompt(history, prompt, own))
        assert now[: len(before)] == before
        before, own = now, [*own, *step]
    assert flat(build_prompt([*history, Said(prompt, own, ended)], later))[: len(before)] == before


@FEWER
@given(HISTORY, PROMPTS, steps(thinks=True))
def test_what_goes_on_keeps_its_reasoning_where_it_must_stand(
    history: list[Said], prompt: list[Block], made: list[list[Block]]
) -> None:
    own: list[Block] = []
    for step in made[:-1]:
        own += step
        messages = build_prompt(history, prompt, own)
        assert problems(messages, thinking=THINKING) == []
        assert messages[-2]["content"][0]["type"] in ("thinking", "redacted_thinking")
        assert set(kinds(messages[-1])) == {"tool_result"}


@FEWER
@given(steps(), ENDS)
def test_every_call_is_answered_at_once_in_the_order_of_the_calls(made: list[list[Block]], ended: str) -> None:
    prompt = build_prompt([Said([text("a")], [part for step in made for part in step], ended)], [text("b")])
    for message, answer in pairwise(prompt):
        calls = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        assert [block["tool_use_id"] for block in answer["content"][: len(calls)] if calls] == calls


# --- S14: stopped at each place ---------------------------------------------------------------------------------

CUT: Block = {"state": "cancelled"}
STOPS = {
    "thinking": [{"type": "reasoning", "text": "Let me", "state": "cancelled", "step": 0}],
    "signed thinking": [thought("Let me see.")],
    "text": [thought("?"), {**text("I will lo"), **CUT}],
    "tool input": [thought("?"), text("I look."), call("clock", 1, input=None, **CUT)],
    "tool input alone": [thought("?"), {**call("clock", 1, **CUT), "input": None}],
    "tool running": [text("I look."), call("clock", 1)],
    "between two parallel tools": [call("clock", 1), call("clock", 2), result(2, "noon")],
    "between two calls": [call("clock", 1), call("read", 2, input=None, **CUT)],
    "after the results": [call("clock", 1), result(1, "noon")],
    "the next step's thinking": [call("clock", 1), result(1), {**thought("So", 1), "signature": "", **CUT}],
    "a search": [text("I search."), search(1)],
    "after a search": [search(1), found(1)],
    "a result": [call("clock", 1), result(1, "half of", outcome="", **CUT)],
}


@pytest.mark.parametrize("ended", sorted(set(ENDED)))
@pytest.mark.parametrize("where", STOPS)
def test_s14_after_a_stop_anywhere_the_next_request_is_taken_and_says_so(where: str, ended: State) -> None:
    prompt = after(STOPS[where], ended)
    told_so = [block for _, block in flat(prompt) if MARKS.get(ended, "").strip() in block.get("text", "")]
    nothing_left = where in ("thinking", "signed thinking")  # as of an answer without a word
    assert bool(told_so) == (not nothing_left or ended == State.COMPLETED)
    assert asked_in(prompt) == "and now?"


def test_a_cut_answer_says_where_it_was_cut() -> None:
    assert after(STOPS["text"])[1]["content"][1] == {"type": "text", "text": "I will lo" + STOPPED_MARK}
    note = "[a call of clock was cut off here]"
    assert after(STOPS["tool input"])[1]["content"][1]["text"] == f"I look.\n\n{note}{STOPPED_MARK}"
    assert after(STOPS["tool input alone"])[1]["content"] == [{"type": "text", "text": note + STOPPED_MARK}]
    assert after(STOPS["between two calls"])[1]["content"][0]["text"] == "[a call of read was cut off here]"
    assert after(STOPS["tool input"], "completed")[1]["content"][1]["text"].endswith(note)  # max_tokens


def test_results_come_first_then_the_mark_then_the_next_prompt() -> None:
    prompt = after(STOPS["after the results"])
    assert [message["role"] for message in prompt] == ["user", "assistant", "user"]
    [answer, mark, asked] = prompt[-1]["content"]
    assert (answer["content"], mark["text"], asked["text"]) == ("noon", STOPPED, "and now?")
    assert "is_error" not in answer


# --- what a result says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "ended", "says"),
    [
        (STOPS["between two calls"], "cancelled", TOLD["stopped"]),
        (STOPS["between two calls"], "interrupted", TOLD["cut"]),
        ([call("clock", 1)], "cancelled", "Stopped by the user. " + TOLD["unknown"]),
        ([call("clock", 1)], "interrupted", TOLD["unknown"]),
        ([call("clock", 1), result(1, "", outcome="denied", by={"user": "bob"})], "completed", DENIED),
        ([call("clock", 1), result(1, "", outcome="denied", by="bob", reason="no")], "failed", f"{DENIED} Reason: no"),
        ([call("clock", 1), result(1, "why?", outcome="denied", by="bob")], "completed", f"{DENIED}\n\nwhy?"),
        ([call("clock", 1), result(1, f"{DENIED} No!", outcome="denied", by="bob")], "completed", f"{DENIED} No!"),
        ([call("clock", 1), result(1, "", outcome="expired")], "completed", TOLD["expired"]),
        ([call("clock", 1), result(1, "so far", outcome="cancelled")], "cancelled", f"{TOLD['cancelled']}\n\nso far"),
        ([call("clock", 1), result(1, "half", outcome="", state="failed")], "failed", f"{TOLD['unknown']}\n\nhalf"),
        ([call("clock", 1), result(1, " \n")], "completed", TOLD["done"]),
        ([call("clock", 1), result(1, "boom", error=True)], "completed", "boom"),
        ([call("clock", 1), result(1, "", error=True)], "completed", TOLD["error"]),
        ([call("clock", 1), result(1, "first"), result(1, "second")], "completed", "first"),
        ([call("clock", 1), result(1, "half", state="failed"), result(1, "whole")], "completed", "whole"),
        ([result(1, "early"), call("clock", 1)], "completed", "early"),
    ],
)  # fmt: skip
def test_what_became_of_a_call_is_said_in_words(parts: list[Block], ended: str, says: str) -> None:
    prompt = after(parts, ended)
    assert results_in(prompt) == {"toolu_1": says}
    [block] = [block for _, block in flat(prompt) if block["type"] == "tool_result"]
    assert block.get("is_error", False) == (says not in (TOLD["done"], "first", "whole", "early"))


def test_an_earlier_step_says_the_same_however_the_run_ends() -> None:
    parts = [call("clock", 1), text("It is late.", 1)]
    assert {ended: results_in(after(parts, ended))["toolu_1"] for ended in ENDED} == dict.fromkeys(
        ENDED, TOLD["unknown"]
    )


def test_a_result_without_its_call_is_not_told() -> None:
    prompt = after([result(7), text("Hm.")], "completed")
    assert kinds(prompt[1]) == ["text"]
    assert not results_in(prompt)


# --- ids, names, order ------------------------------------------------------------------------------------------


def test_ids_that_clash_are_renamed_and_their_results_with_them() -> None:
    turn = Said([text("a")], [call("clock", 1), result(1, "noon"), text("Noon.", 1)], "completed")
    prompt = build_prompt([turn, turn, turn], [text("b")])
    assert problems(prompt) == []
    assert list(results_in(prompt)) == ["toolu_1", "toolu_1-2", "toolu_1-3"]


def test_ids_and_names_the_api_refuses_are_mended() -> None:
    [use] = after([call("a tool.of ours", 1, id="id with ünd")])[1]["content"]
    assert (use["id"], use["name"]) == ("id-with--nd", "a_tool_of_ours")
    [use] = after([call("", 1, id="")])[1]["content"]
    assert (use["id"], use["name"]) == ("call", "unknown")


def test_results_stand_in_the_order_of_the_calls_not_as_they_finished() -> None:
    prompt = after([call("a", 1), call("b", 2), call("c", 3), result(3), result(1), result(2)], "completed")
    assert list(results_in(prompt)) == ["toolu_1", "toolu_2", "toolu_3"]


def test_calls_come_last_in_their_message() -> None:
    assert kinds(after([call("a", 1), text("while it runs"), result(1)])[1]) == ["text", "tool_use"]


def test_a_call_that_is_stored_twice_is_told_once() -> None:
    prompt = after([call("a", 1), result(1), call("a", 1, step=1), text("So.", 1)], "completed")
    assert list(results_in(prompt)) == ["toolu_1"]


def test_steps_without_numbers_end_at_their_results() -> None:
    parts = [text("one"), call("a", 1), result(1), text("two"), call("b", 2), result(2), text("three")]
    for part in parts:
        del part["step"]
    roles = [(message["role"], kinds(message)) for message in after(parts, "completed")]
    assert roles[1:-1] == [
        ("assistant", ["text", "tool_use"]),
        ("user", ["tool_result"]),
        ("assistant", ["text", "tool_use"]),
        ("user", ["tool_result"]),
        ("assistant", ["text"]),
    ]


# --- reasoning --------------------------------------------------------------------------------------------------


def test_reasoning_is_told_unchanged_if_it_is_signed_and_leads_to_something() -> None:
    unsigned = {**thought("cut"), "signature": ""}
    said = after([thought(" a \n"), redacted(), unsigned, text("So."), call("a", 1)])[1]["content"]
    assert said[0] == {"type": "thinking", "thinking": " a \n", "signature": "c2ln"}
    assert said[1] == {"type": "redacted_thinking", "data": "ZGF0YQ=="}
    assert [block["type"] for block in said[2:]] == ["text", "tool_use"]
    assert [message["role"] for message in after([thought("a"), redacted()])] == ["user"]
    assert kinds(after([text("So."), thought("a"), text(" \n")])[1]) == ["text"]


def test_reasoning_that_another_provider_signed_is_left_out() -> None:
    said = Said([text("a")], [thought("?"), call("clock", 1), result(1), text("Noon.", 1)], "completed", signed=False)
    assert "thinking" not in {block["type"] for _, block in flat(build_prompt([said], [text("b")]))}


# --- a run that goes on -----------------------------------------------------------------------------------------


def test_x24_a_run_that_goes_on_ends_with_its_results() -> None:
    own = [thought("?"), text("I look."), call("clock", 1), call("clock", 2), result(2, "two"), result(1, "one")]
    prompt = build_prompt([], [text("do it")], own)
    assert kinds(prompt[1]) == ["thinking", "text", "tool_use", "tool_use"]
    assert [block["content"] for block in prompt[2]["content"]] == ["one", "two"]
    assert len(prompt) == 3
    assert asked_in(prompt) == "do it"


def test_a_call_nobody_knows_the_end_of_is_told_as_that_when_the_run_goes_on() -> None:
    assert results_in(build_prompt([], [text("a")], [call("clock", 1)])) == {"toolu_1": TOLD["unknown"]}


@pytest.mark.parametrize("dead", ["thinking", "text", "tool input", "tool input alone", "between two calls"])
def test_x50_what_a_dead_attempt_had_begun_is_no_prefill(dead: str) -> None:
    before = build_prompt([], [text("do it")])
    assert build_prompt([], [text("do it")], STOPS[dead]) == before
    step = [call("clock", 9), result(9)]
    again = [{**part, "step": 1} for part in STOPS[dead]]
    assert build_prompt([], [text("do it")], [*step, *again]) == build_prompt([], [text("do it")], step)


def test_a_turn_that_paused_is_told_to_go_on() -> None:
    own = [search(1), found(1)]
    prompt = build_prompt([], [text("do it")], own)
    assert problems(prompt) == []
    assert (kinds(prompt[1]), prompt[2]["content"]) == (
        ["server_tool_use", "web_search_tool_result"],
        [{"type": "text", "text": GO_ON}],
    )
    assert asked_in(prompt) == "do it"
    later = after([*own, text("Found.", 1)], "completed")
    assert flat(later)[: len(flat(prompt))] == flat(prompt)
    assert later[3]["content"][0]["text"] == "Found."


def test_a_search_beside_a_call_waits_for_the_calls_result_and_may_be_answered_a_step_later() -> None:
    own = [search(1), call("clock", 1), result(1, "noon")]
    waiting = build_prompt([], [text("do it")], own)
    assert problems(waiting) == []
    assert kinds(waiting[1]) == ["server_tool_use", "tool_use"]
    later = after([*own, found(1, 1), text("Found.", 1)], "completed")
    assert flat(later)[: len(flat(waiting))] == flat(waiting)
    assert kinds(later[3]) == ["web_search_tool_result", "text"]
    assert kinds(after(own)[1]) == ["tool_use"]  # stopped: it would be refused for ever


def test_a_search_whose_result_comes_too_late_is_left_out_with_it() -> None:
    prompt = after([text("I search."), search(1), found(1, 1), text("Found.", 1)], "completed")
    assert [kinds(message) for message in prompt[1:4]] == [["text"], ["text"], ["text"]]


# --- what people send -------------------------------------------------------------------------------------------


def test_files_are_named_before_the_text() -> None:
    parts = [text("What is "), {"type": "image", "name": "cat.png", "state": "done"}, text("this?")]
    [message] = build_prompt([], [*parts, {"type": "file"}])
    assert [block["text"] for block in message["content"]] == [
        "[image: cat.png]",
        "[file: without a name]",
        "What is this?",
    ]


def test_citations_and_what_is_unknown_are_no_part_of_the_prompt() -> None:
    cited = [text("It is "), {"type": "citation", "url": "https://a.example"}, {"type": "new"}, {}, text("noon.")]
    assert after(cited, "completed")[1]["content"] == [{"type": "text", "text": "It is noon."}]


def test_a_message_without_anything_to_tell_keeps_its_place() -> None:
    prompt = build_prompt([Said([], [text("an answer")], "completed")], [{"type": "new"}])
    assert problems(prompt) == []
    assert [block["text"] for _, block in flat(prompt)] == [NOTHING, "an answer", NOTHING]


@FEWER
@given(st.lists(st.sampled_from(["one", " two ", "\n"]), max_size=4))
def test_old_answers_of_text_alone_are_told_as_they_always_were(words: list[str]) -> None:
    old = [{"type": "text", "text": word, "state": "cancelled"} for word in words]
    joined = "".join(words)
    told_before = [("assistant", joined.rstrip() + STOPPED_MARK)] if joined.strip() else []
    blocks = [(role, block["text"]) for role, block in flat(after(old))]
    assert blocks == [("user", "do it"), *told_before, ("user", "and now?")]


# --- what is added while it answers -----------------------------------------------------------------------------


def test_what_was_added_is_told_where_it_was_heard_and_for_ever() -> None:
    parts = [text("I look."), call("clock", 1), result(1), steer("only flights", 1), text("Flights.", 1)]
    prompt = after(parts, "completed")
    assert [kinds(message) for message in prompt] == [
        ["text"],
        ["text", "tool_use"],
        ["tool_result", "text"],
        ["text"],
        ["text"],
    ]
    assert prompt[2]["content"][1]["text"] == "only flights"
    asked = build_prompt([], [text("do it")], parts[:4])
    assert problems(asked) == []
    assert flat(prompt)[: len(flat(asked))] == flat(asked), "the later prompt begins with the earlier one"
    assert GO_ON not in str(prompt)


def test_what_was_missed_is_not_told_twice() -> None:
    prompt = after([text("I look."), steer("only flights", 1, "missed")])
    assert "only flights" not in str(prompt)
    assert STOPPED in str(prompt)
    assert "only flights" in str(after([steer("only flights", 0), text("Yes.")], "completed")[0])
