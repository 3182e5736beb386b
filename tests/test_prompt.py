"""The prompt is valid, complete and stable, whatever happened before. Of tools: test_prompt_tools.py."""

import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from chat import group_commit
from chat.agent.prompt import MARKS, SUMMARISED, Said, build_prompt, history_of, prompt_of
from chat.agent.provider import PromptMessage
from chat.agent.room import _look
from chat.batches import Delta
from chat.models import Conversation, Message, Participant, Run, Summary
from chat.models.parts import text_in, text_parts
from chat.models.state import ENDED, State
from tests.histories import call, problems, result, text, thought

ANSWERS = st.text(max_size=8) | st.sampled_from(["", " ", "\n\n", "words", "ends with space \n", " begins"])
ASKED = st.text(max_size=8).filter(str.strip) | st.sampled_from(["x", " padded ", "two\nlines"])
SAID = st.builds(
    lambda asked, answer, ended: Said(text_parts(asked), text_parts(answer), ended),
    ASKED,
    ANSWERS,
    st.sampled_from([None, *(state.value for state in ENDED)]),
)
HISTORY = st.lists(SAID, max_size=8)


def flat(messages: list[PromptMessage]) -> list[tuple[str, str]]:
    """Every block with its role: what a prompt cache compares from the front."""
    return [(message["role"], block["text"]) for message in messages for block in message["content"]]


def words(parts: Sequence[Mapping[str, Any]]) -> str:
    return text_in([dict(part) for part in parts])


@given(HISTORY, ASKED)
def test_the_prompt_obeys_the_rules_of_the_messages_api(history: list[Said], asked: str) -> None:
    messages = build_prompt(history, text_parts(asked))
    roles = [message["role"] for message in messages]
    assert roles[0] == roles[-1] == "user"
    assert all(one != other for one, other in itertools.pairwise(roles))
    assert all(message["content"] for message in messages)
    for message in messages:
        for block in message["content"]:
            assert set(block) == {"type", "text"}
            assert block["type"] == "text"
            assert block["text"].strip()


@given(HISTORY, ASKED)
def test_everything_asked_and_answered_is_there_once_and_in_order(history: list[Said], asked: str) -> None:
    expected = []
    for said in history:
        expected.append(("user", words(said.prompt)))
        if (answer := words(said.answer)).strip():
            mark = MARKS.get(State(said.ended), "") if said.ended else ""
            expected.append(("assistant", answer.rstrip() + mark))
    assert flat(build_prompt(history, text_parts(asked))) == [*expected, ("user", asked)]


@given(HISTORY, ASKED)
def test_no_answer_ends_with_white_space(history: list[Said], asked: str) -> None:
    for role, told in flat(build_prompt(history, text_parts(asked))):
        assert role == "user" or told == told.rstrip()


@given(HISTORY, ASKED)
def test_the_same_history_gives_the_same_bytes(history: list[Said], asked: str) -> None:
    assert json.dumps(build_prompt(history, text_parts(asked))) == json.dumps(
        build_prompt(list(history), text_parts(asked))
    )


@given(HISTORY, SAID, ASKED)
def test_s17_a_longer_history_begins_with_the_shorter_one(history: list[Said], said: Said, asked: str) -> None:
    before = flat(build_prompt(history, said.prompt))
    after = flat(build_prompt([*history, said], text_parts(asked)))
    assert after[: len(before)] == before


@pytest.mark.parametrize("state", sorted(set(ENDED)))
def test_every_way_to_end_but_completion_is_marked(state: State) -> None:
    [_, (_, told), _] = flat(build_prompt([Said(text_parts("a"), text_parts("partial"), state)], text_parts("b")))
    assert told == "partial" + MARKS.get(state, "")
    assert (told == "partial") == (state == State.COMPLETED)


# --- as read from the database ----------------------------------------------------------------------------------


@pytest.fixture
def owner(alice: User, conversation: Conversation) -> Participant:
    return Participant.objects.select_related("conversation", "user").get(conversation=conversation)


def send(owner: Participant, text: str, when_busy: str = "queue") -> Run:
    ack = owner.conversation.send(by=owner, text=text, client_id=uuid.uuid4(), when_busy=when_busy)
    return Run.objects.get(pk=ack["run"])


def claimed(owner: Participant) -> list[Run]:
    return Run.claim(owner.conversation, "a worker")


def says(run: Run, text: str, offset: int = 0) -> None:
    assert run.answer_id is not None
    refused = group_commit.commit([Delta(run.conversation_id, run.pk, run.attempt, run.answer_id, offset, text)])
    assert not refused


def answered(owner: Participant, asked: str, text: str, state: State = State.COMPLETED) -> Run:
    send(owner, asked)
    [run] = claimed(owner)
    if text:
        says(run, text)
    assert run.end(state, run.attempt)
    return run


def test_a_stopped_answer_is_told_once_and_marked(owner: Participant) -> None:
    answered(owner, "one", "first")
    answered(owner, "two", "sec", State.CANCELLED)
    answered(owner, "three", "", State.FAILED)
    send(owner, "four")
    [run] = claimed(owner)
    assert flat(prompt_of(run)) == [
        ("user", "one"),
        ("assistant", "first"),
        ("user", "two"),
        ("assistant", "sec" + MARKS[State.CANCELLED]),
        ("user", "three"),
        ("user", "four"),
    ]


def test_what_is_being_answered_beside_it_is_left_out_until_it_has_ended(owner: Participant) -> None:
    first = send(owner, "first")
    [first] = claimed(owner)
    says(first, "half of it")
    beside = send(owner, "beside", "alongside")
    [beside] = claimed(owner)
    assert flat(prompt_of(beside)) == [("user", "beside")]
    first.end(State.COMPLETED, first.attempt)
    assert flat(prompt_of(beside)) == [("user", "first"), ("assistant", "half of it"), ("user", "beside")]


def test_a_retry_sees_what_came_before_its_prompt_and_later_turns_see_the_good_answer(owner: Participant) -> None:
    answered(owner, "one", "first")
    failed = answered(owner, "two", "bro", State.INTERRUPTED)
    answered(owner, "three", "third")
    owner.conversation.retry(by=owner, run=failed, device=None, client_id=uuid.uuid4())
    [again] = claimed(owner)
    assert flat(prompt_of(again)) == [("user", "one"), ("assistant", "first"), ("user", "two")]
    says(again, "second")
    again.end(State.COMPLETED, again.attempt)
    send(owner, "four")
    [run] = claimed(owner)
    assert flat(prompt_of(run))[2:6] == [
        ("user", "two"),
        ("assistant", "second"),
        ("user", "three"),
        ("assistant", "third"),
    ]


def test_removed_messages_are_not_told_and_edited_ones_as_they_are_now(owner: Participant) -> None:
    send(owner, "one")
    [running] = claimed(owner)
    removed, edited = send(owner, "never mind"), send(owner, "two")
    owner.conversation.queue.remove(by=owner, device=None, message=removed.prompt_id)
    owner.conversation.queue.edit(by=owner, device=None, message=edited.prompt_id, text="2")
    running.end(State.COMPLETED, running.attempt)
    [run] = claimed(owner)
    assert flat(prompt_of(run)) == [("user", "one"), ("user", "2")]


def test_queued_messages_are_answered_in_the_order_people_gave_them(owner: Participant) -> None:
    send(owner, "one")
    [running] = claimed(owner)
    two, three = send(owner, "two"), send(owner, "three")
    owner.conversation.queue.move(by=owner, device=None, message=three.prompt_id, before=two.prompt_id)
    running.end(State.COMPLETED, running.attempt)
    [run] = claimed(owner)
    assert flat(prompt_of(run)) == [("user", "one"), ("user", "three")]
    run.end(State.COMPLETED, run.attempt)
    [run] = claimed(owner)
    assert flat(prompt_of(run)) == [("user", "one"), ("user", "three"), ("user", "two")]


# --- with tools ---------------------------------------------------------------------------------------------------


def leaves(run: Run, *parts: dict[str, Any]) -> None:
    """What the run has done is stored in its answer."""
    assert run.answer_id is not None
    Message.objects.filter(pk=run.answer_id).update(parts=list(parts))


def test_a_run_that_goes_on_is_given_what_it_has_done(owner: Participant) -> None:
    answered(owner, "one", "first")
    send(owner, "two")
    [run] = claimed(owner)
    leaves(run, thought("Hm."), call("clock", 1), result(1, "noon"))
    prompt = prompt_of(Run.objects.get(pk=run.pk))
    assert problems(prompt) == []
    assert [block["type"] for block in prompt[-2]["content"]] == ["thinking", "tool_use"]
    assert [block["content"] for block in prompt[-1]["content"]] == ["noon"]


def test_x21_a_call_that_was_left_dangling_never_spoils_a_later_request(owner: Participant) -> None:
    for ending in ENDED:
        leaves(answered(owner, ending.value, "", ending), text("I look."), call("clock", 1))
    send(owner, "and now?")
    [run] = claimed(owner)
    prompt = prompt_of(run)
    assert problems(prompt) == []
    assert sum(block["type"] == "tool_use" for message in prompt for block in message["content"]) == len(ENDED)


def test_of_several_answers_the_completed_one_is_told_and_no_call_of_the_others(owner: Participant) -> None:
    failed = answered(owner, "one", "", State.FAILED)
    leaves(failed, call("clock", 1))
    owner.conversation.retry(by=owner, run=failed, device=None, client_id=uuid.uuid4())
    [again] = claimed(owner)
    assert again.end(State.COMPLETED, again.attempt)
    leaves(again, text("Noon."))
    send(owner, "two")
    [run] = claimed(owner)
    assert flat(prompt_of(run)) == [("user", "one"), ("assistant", "Noon."), ("user", "two")]


def test_reasoning_is_told_to_the_provider_that_signed_it(owner: Participant) -> None:
    leaves(answered(owner, "one", ""), thought("Hm."), text("first"))
    send(owner, "two")
    [run] = claimed(owner)
    assert [block["type"] for block in prompt_of(run)[1]["content"]] == ["thinking", "text"]
    run.provider = "another"
    assert [block["type"] for block in prompt_of(run)[1]["content"]] == ["text"]


def test_the_history_is_one_query_and_what_stands_for_the_rest_another(
    owner: Participant, django_assert_num_queries: Any
) -> None:
    for number in range(3):
        leaves(answered(owner, str(number), ""), call("clock", 1), result(1))
    send(owner, "now")
    [run] = claimed(owner)
    with django_assert_num_queries(2):
        prompt_of(run)


def test_what_was_summarised_is_not_read_again_however_old_the_conversation_is(owner: Participant) -> None:
    runs = [answered(owner, f"question {number}", f"answer {number}") for number in range(40)]
    places = [run.prompt.place or 0 for run in runs]
    send(owner, "now")
    [run] = claimed(owner)
    Summary.objects.create(conversation=owner.conversation, until=places[4], text="the first five")
    Summary.objects.create(conversation=owner.conversation, until=places[36], text="all but three")
    with CaptureQueriesContext(connection) as captured:
        told = flat(prompt_of(run))
    assert len(captured) == 2
    assert len(history_of(run, places[36])) == 3
    assert told[0] == ("user", f"{SUMMARISED}all but three")
    assert [text for role, text in told[1:] if role == "user"] == ["question 37", "question 38", "question 39", "now"]


def test_who_is_asked_again_is_not_told_what_came_later(owner: Participant) -> None:
    failed = answered(owner, "one", "", State.FAILED)
    later = answered(owner, "two", "second")
    Summary.objects.create(conversation=owner.conversation, until=later.prompt.place or 0, text="one and two")
    owner.conversation.retry(by=owner, run=failed, device=None, client_id=uuid.uuid4())
    [again] = claimed(owner)
    assert flat(prompt_of(again)) == [("user", "one")]


def test_no_summary_stands_for_a_turn_that_is_still_being_answered(owner: Participant) -> None:
    answered(owner, "one", "first")
    send(owner, "still running")
    [running] = claimed(owner)
    send(owner, "beside it", "alongside")
    [beside] = claimed(owner)
    assert beside.end(State.COMPLETED, beside.attempt)
    send(owner, "now", "alongside")
    [run] = claimed(owner)
    past, _ = _look(run)
    assert (len(past.history), past.ended) == (2, 1)
    assert running.end(State.COMPLETED, running.attempt)
    past, _ = _look(run)
    assert (len(past.history), past.ended) == (3, 3)
