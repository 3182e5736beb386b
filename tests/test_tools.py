"""Tools: what the model is told of a function, what reaches the function, and what comes back."""

import asyncio
import functools
import json
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import AfterValidator, BaseModel, Field

from chat.agent.saying import MAX_PROGRESS_CHARS, MAX_RESULT_CHARS
from chat.agent.tool import (
    MAX_ERROR_CHARS,
    Context,
    NotATool,
    Tool,
    ToolFailed,
    ToolRefused,
    tool,
    tool_of,
)
from chat.errors import Code, Refused
from tests.contexts import context


class Place(BaseModel):
    """Somewhere."""

    name: str
    floors: list[int] = []


async def look(
    context: Context,
    place: Place,
    when: date,
    how: Annotated[Literal["far", "near"], Field(description="from how far")] = "near",
    copy: Annotated[int, Field(ge=1, le=9)] = 1,
    title: str | None = None,
) -> Any:
    """Look at a place.

    Note: it may be dark.

    place: where to look,
        and on which floors
    when: the day
    title: what to call it
    """
    return {"place": place, "when": when, "how": how, "copy": copy, "title": title}


LOOKING = tool_of(look)
LOOK = {"place": {"name": "attic"}, "when": "2026-11-20"}


# --- what the model is told ---------------------------------------------------------------------------------


def test_the_schema_says_what_the_types_and_the_docstring_say() -> None:
    schema = tool_of(look).input_schema
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["place", "when"]
    assert "context" not in schema["properties"]
    assert schema["properties"]["place"]["description"] == "where to look, and on which floors"
    assert schema["properties"]["when"] == {"type": "string", "format": "date", "description": "the day"}
    assert schema["properties"]["how"]["enum"] == ["far", "near"]
    assert schema["properties"]["how"]["description"] == "from how far"
    assert schema["properties"]["copy"] == {"type": "integer", "minimum": 1, "maximum": 9, "default": 1}
    assert schema["properties"]["title"]["default"] is None
    assert "title" not in schema
    assert json.loads(json.dumps(schema)) == schema


def test_the_description_is_the_docstring_without_its_arguments() -> None:
    assert tool_of(look).definition == {
        "name": "look",
        "description": "Look at a place.\n\nNote: it may be dark.",
        "input_schema": tool_of(look).input_schema,
    }


def test_a_tool_without_arguments_takes_an_empty_object() -> None:
    async def ping(context: Context) -> str:
        """Answer."""
        return "pong"

    assert tool_of(ping).input_schema == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }
    assert tool_of(ping).check({}) == {}


def test_the_decorator_marks_and_changes_nothing_else() -> None:
    async def act(context: Context) -> str:
        """Act."""
        return "done"

    assert (tool_of(act).needs_approval, tool_of(act).timeout_seconds) == (False, 30.0)
    assert tool(approval=True, seconds=3)(act) is act
    assert (tool_of(act).needs_approval, tool_of(act).timeout_seconds) == (True, 3)


def test_a_tool_that_is_wrapped_is_the_same_tool() -> None:
    def counted(function: Any) -> Any:
        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return call

    assert tool_of(counted(tool(approval=True)(look))).definition == tool_of(look).definition
    assert tool_of(counted(look)).needs_approval


# --- what is not a tool -------------------------------------------------------------------------------------


def synchronous(context: Context) -> str:
    """Block."""
    return ""


async def untyped(context: Context, place) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Guess."""
    return str(place)


async def without_context(place: str) -> str:
    """Know nobody."""
    return place


async def without_anything() -> str:
    """Know nothing."""
    return ""


async def with_the_context_last(place: str, context: Context) -> str:
    """Mix up."""
    return place


async def with_more(context: Context, *places: str) -> str:
    """Take any number."""
    return "".join(places)


async def with_any_name(context: Context, **places: str) -> str:
    """Take any name."""
    return "".join(places)


async def undocumented(context: Context, place: str) -> str:
    return place


async def unknown(context: Context, place: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Go there."""
    return str(place)


async def unchecked(context: Context, connection: asyncio.Event) -> str:
    """Wait."""
    return str(connection)


async def unspoken(context: Context, then: Callable[[], None]) -> str:
    """Call it."""
    return str(then)


@tool(seconds=0)
async def timeless(context: Context) -> str:
    """Take no time."""
    return ""


async def misnamed(context: Context) -> str:
    """Have a name that the API refuses."""
    return ""


misnamed.__name__ = "größe"


NOT_TOOLS = [synchronous, untyped, without_context, without_anything, with_the_context_last, with_more, with_any_name]
NOT_TOOLS += [undocumented, unknown, unchecked, unspoken, timeless, misnamed]


@pytest.mark.parametrize("function", NOT_TOOLS, ids=lambda function: function.__name__)
def test_what_is_not_a_tool_says_what_it_lacks(function: Any) -> None:
    with pytest.raises(NotATool, match=function.__name__) as refusal:
        tool_of(function)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("thing", [Context, 5, None, "look", functools.partial(look, how="far")])
def test_what_is_not_a_function_is_not_a_tool(thing: Any) -> None:
    with pytest.raises(NotATool):
        tool_of(thing)


# --- what reaches the function ------------------------------------------------------------------------------


async def test_the_function_is_called_with_checked_values_and_its_defaults() -> None:
    assert tool_of(look).check(LOOK) == {
        "place": Place(name="attic"),
        "when": date(2026, 11, 20),
        "how": "near",
        "copy": 1,
        "title": None,
    }
    told = await tool_of(look).call(context(), {**LOOK, "copy": 2, "title": "ä"})
    assert told == '{"place":{"name":"attic","floors":[]},"when":"2026-11-20","how":"near","copy":2,"title":"ä"}'


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "place: Field required"),
        ({**LOOK, "copy": 0}, "copy: "),
        ({**LOOK, "how": "sideways"}, "how: "),
        ({**LOOK, "place": {"name": "attic", "floors": [1, "cellar"]}}, r"place\.floors\.1: "),
        ({**LOOK, "other": 1}, "other: "),
        ({**LOOK, "argument_0": {"name": "attic"}}, "argument_0: "),
        ({**LOOK, "title": "a\0b"}, r"title: .*U\+0000"),
        ({**LOOK, "title": "\ud83d"}, "title: .*half"),
        ({**LOOK, "place": {"name": "attic", "\udfff": 1}}, "place: .*half"),
        ([], "one JSON object"),
        (None, "one JSON object"),
        ("{}", "one JSON object"),
    ],
)
def test_wrong_arguments_are_refused_by_name(given: Any, named: str) -> None:
    with pytest.raises(ToolRefused, match=named) as refusal:
        tool_of(look).check(given)
    assert "Traceback" not in refusal.value.message
    assert "http" not in refusal.value.message


def test_all_that_is_wrong_is_said_at_once_and_shortly() -> None:
    with pytest.raises(ToolRefused) as refusal:
        tool_of(look).check({"copy": "x", **{f"{'long' * 100}{number}": 1 for number in range(1000)}})
    assert "place: " in refusal.value.message
    assert "copy: " in refusal.value.message
    assert len(refusal.value.message) <= MAX_ERROR_CHARS


def test_arguments_nested_beyond_reason_are_refused_or_taken_and_nothing_else() -> None:
    async def keep(context: Context, what: Any) -> str:
        """Keep it."""
        return ""

    nested: Any = "\0"
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(ToolRefused):
        tool_of(keep).check({"what": nested})


def test_a_check_that_breaks_is_the_tools_fault(caplog: pytest.LogCaptureFixture) -> None:
    def broken(value: str) -> str:
        raise KeyError("secret")

    async def keep(context: Context, what: Annotated[str, AfterValidator(broken)]) -> str:
        """Keep it."""
        return ""

    with pytest.raises(ToolFailed, match=r"^keep failed: KeyError\.$"):
        tool_of(keep).check({"what": "x"})
    assert caplog.records[-1].exc_info


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_no_input_does_anything_but_pass_or_be_refused(given_input: Any) -> None:
    for given_one in (given_input, {**LOOK, "title": given_input}, {**LOOK, "place": given_input}):
        try:
            LOOKING.check(given_one)
        except ToolRefused as refusal:
            refusal.message.encode()


# --- what comes back ----------------------------------------------------------------------------------------


def saying(result: Any) -> Tool:
    """A tool with this result, or that raises it."""

    async def say(context: Context) -> Any:
        """Say it."""
        if isinstance(result, BaseException):
            raise result
        return result

    return tool_of(say)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("", ""),
        ("as it is\n", "as it is\n"),
        (None, "null"),
        ({"b": [1, 2.5, True], "ä": "ö"}, '{"b":[1,2.5,true],"ä":"ö"}'),
        ([Place(name="x"), Decimal("1.10"), datetime(2026, 1, 2, tzinfo=UTC)], None),
        ("a\0b\ud800c\ud83d\ude00", "a\ufffdb\ufffdc😀"),
        ({"k": "\ud800"}, '{"k":"\ufffd"}'),
    ],
)
async def test_a_result_is_storable_text(result: Any, text: str | None) -> None:
    said = await saying(result).call(context(), {})
    assert text is None or said == text
    assert "\0" not in said
    said.encode()


@pytest.mark.parametrize("result", ["x" * 100_000, ["ü" * 100_000], "\ud800" * 32_769])
async def test_a_long_result_is_cut_and_says_so(result: Any) -> None:
    said = await saying(result).call(context(), {})
    assert len(said) == MAX_RESULT_CHARS
    assert "characters and was cut here." in said[-60:]


async def test_a_result_that_just_fits_is_whole() -> None:
    assert await saying("x" * MAX_RESULT_CHARS).call(context(), {}) == "x" * MAX_RESULT_CHARS


async def test_a_tool_that_breaks_is_logged_and_the_model_hears_only_of_what_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = context()
    with pytest.raises(ToolFailed) as failure:
        await saying(ValueError("password=hunter2")).call(here, {})
    assert failure.value.message == "say failed: ValueError."
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info
    assert record.__dict__["run"] == str(here.run)


CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize("result", [object(), CIRCULAR, ExceptionGroup("two", [OSError(), OSError()])])
async def test_a_result_that_is_none_is_a_failure(result: Any) -> None:
    with pytest.raises(ToolFailed, match=r"^say failed: "):
        await saying(result).call(context(), {})


class Odd(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize("broken", [SystemExit(3), Odd()])
async def test_a_tool_ends_neither_the_process_nor_what_runs_beside_it(broken: BaseException) -> None:
    with pytest.raises(ToolFailed, match=rf"^say failed: {type(broken).__name__}\.$"):
        await saying(broken).call(context(), {})


@pytest.mark.parametrize("catches", [True, False])
async def test_a_task_group_that_fails_in_a_tool_is_no_cancel(catches: bool) -> None:
    async def many(context: Context) -> str:
        """Do much at once."""

        async def one() -> None:
            raise ValueError

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(one())
        except* ValueError:
            if not catches:
                raise
        return "some of it"

    if catches:
        assert await tool_of(many).call(context(), {}) == "some of it"
    else:
        with pytest.raises(ToolFailed, match=r"^many failed: ExceptionGroup\.$"):
            await tool_of(many).call(context(), {})


async def test_what_a_tool_refuses_passes_and_so_does_a_refusal_of_a_verb(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ToolRefused, match=r"^not there$"):
        await saying(ToolRefused("not there")).call(context(), {})
    with pytest.raises(ToolRefused, match=r"^Only the owner$"):
        await saying(Refused(Code.FORBIDDEN, "Only the owner")).call(context(), {})
    assert not caplog.records


def test_an_errors_message_is_storable_and_short() -> None:
    error = ToolRefused("\0\ud800" + "x" * 10_000)
    assert error.message.startswith("\ufffd\ufffdx")
    assert len(error.message) <= MAX_ERROR_CHARS


async def test_progress_is_storable_and_short() -> None:
    said: list[str] = []

    async def show(text: str) -> None:
        said.append(text)

    await context(show=show).progress("\0" + "x" * 1000)
    assert said == ["\ufffd" + "x" * (MAX_PROGRESS_CHARS - 1)]


# --- time and cancelling ------------------------------------------------------------------------------------


async def test_a_tool_out_of_time_is_stopped_and_says_that_it_may_have_acted() -> None:
    ended = asyncio.Event()

    async def slow(context: Context) -> str:
        """Wait."""
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return ""

    with pytest.raises(ToolFailed, match=r"longer than 0\.05 seconds.*may have taken effect"):
        await tool_of(tool(seconds=0.05)(slow)).call(context(), {})
    assert ended.is_set()


async def test_a_time_out_of_the_tools_own_is_its_failure() -> None:
    with pytest.raises(ToolFailed, match=r"^say failed: TimeoutError"):
        await saying(TimeoutError()).call(context(), {})


@pytest.mark.parametrize("manner", ["passes", "swallows", "breaks", "refuses"])
async def test_a_cancel_passes_whatever_the_tool_makes_of_it(manner: str) -> None:
    begun = asyncio.Event()

    async def stubborn(context: Context) -> str:
        """Hold on."""
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if manner == "breaks":
                raise ValueError from None
            if manner == "refuses":
                raise ToolRefused("no") from None
            if manner == "passes":
                raise
        return "done nevertheless"

    task = asyncio.create_task(tool_of(stubborn).call(context(), {}))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_cancel_at_the_moment_of_the_result_is_not_lost() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(context: Context) -> str:
        """Ask."""
        return await answer

    task = asyncio.create_task(tool_of(ask).call(context(), {}))
    await asyncio.sleep(0)
    answer.set_result("now")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_time_limit_around_the_call_is_not_taken_for_the_tools() -> None:
    async def slow(context: Context) -> str:
        """Wait."""
        await asyncio.sleep(60)
        return ""

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await tool_of(slow).call(context(), {})
