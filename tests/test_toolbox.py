"""Which tools the model has, and what those can do that come with it."""

import asyncio
import json
import sys
import time
import types
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.checks import run_checks
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from chat.agent.tool import Context, NotATool, ToolRefused
from chat.agent.toolbox import tools
from chat.agent.tools import calculator, clock, search
from chat.database import Database
from chat.models import Conversation, Event, Kind, Message, Participant, Role
from tests.contexts import context


async def look(context: Context, place: str) -> str:
    """Look at a place."""
    return place


async def untyped(context: Context, place) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Guess."""
    return str(place)


def synchronous(context: Context) -> str:
    """Block."""
    return ""


# --- which tools there are ----------------------------------------------------------------------------------


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make modules: `home("here", look=look)`."""

    def make(name: str, **members: Any) -> str:
        made = types.ModuleType(name)
        for key, member in members.items():
            if isinstance(member, types.FunctionType) and member.__module__ == __name__:
                copied = types.FunctionType(member.__code__, {**member.__globals__, "__name__": name}, key)
                copied.__doc__, copied.__annotations__ = member.__doc__, member.__annotations__
                copied.__defaults__ = member.__defaults__
                member = copied
            setattr(made, key, member)
        monkeypatch.setitem(sys.modules, name, made)
        return name

    return make


def problems(settings: LazySettings, *paths: str) -> list[str]:
    settings.CHAT_TOOLS = list(paths)
    ours = [message for message in run_checks() if str(message.id) in {"chat.E019", "chat.E020", "chat.E021"}]
    assert all(message.hint for message in ours)
    return [str(message.id) for message in ours]


def test_the_tools_that_come_with_it_are_there_in_the_order_of_the_setting() -> None:
    found = tools()
    assert list(found) == [
        "time_in",
        "calculate",
        "search_conversations",
        "rename_conversation",
        "share_conversation",
        "ask_user",
        "this_device",
    ]
    assert {name for name, one in found.items() if one.needs_approval} == {"rename_conversation", "share_conversation"}
    assert {name for name, one in found.items() if one.on_device} == {"ask_user", "this_device"}
    for one in found.values():
        Draft202012Validator.check_schema(one.input_schema)
        assert all("description" in known for known in one.input_schema["properties"].values()), one.name
    assert found["rename_conversation"].input_schema["properties"].keys() == {"title"}


def test_tools_are_made_once() -> None:
    assert tools()["calculate"] is tools()["calculate"]


def test_no_tools_are_fine(settings: LazySettings) -> None:
    assert problems(settings) == []
    assert tools() == {}


def test_a_path_is_of_a_function_or_of_a_module_whose_public_functions_are_meant(
    settings: LazySettings, home: Any
) -> None:
    path = home("here", look=look, _helper=synchronous, Helper=Conversation, asyncio=asyncio, dumps=json.dumps)
    assert problems(settings, path, "chat.agent.tools.clock.time_in") == []
    assert list(tools()) == ["look", "time_in"]


@pytest.mark.parametrize(
    "path",
    [
        "chat.agent.tools.oracle",
        "chat.agent.tools.clock.oracle",
        "oracle",
        "chat.agent.tools",
        "chat.errors",
        ".x",
        "a..b",
    ],
)
def test_a_path_leads_somewhere(settings: LazySettings, path: str) -> None:
    assert problems(settings, path) == ["chat.E019"]
    with pytest.raises(ImportError):
        tools()


def test_a_module_that_is_not_there_is_called_so(settings: LazySettings) -> None:
    settings.CHAT_TOOLS = ["rivr"]
    (said,) = [message.msg for message in run_checks() if message.id == "chat.E019"]
    assert "No module named 'rivr'" in said


def test_a_module_whose_own_import_fails_says_which(settings: LazySettings, tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "thirsty.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert problems(settings, "thirsty") == ["chat.E019"]
    with pytest.raises(ImportError, match="no_such_library"):
        tools()


@pytest.mark.parametrize("function", [synchronous, untyped], ids=lambda function: function.__name__)
def test_what_is_not_a_tool_keeps_the_site_from_starting(settings: LazySettings, home: Any, function: Any) -> None:
    assert problems(settings, home("here", other=function)) == ["chat.E020"]
    assert problems(settings, "chat.errors.Refused") == ["chat.E020"]
    with pytest.raises(NotATool):
        tools()


def test_two_tools_of_one_name_keep_the_site_from_starting(settings: LazySettings, home: Any) -> None:
    assert problems(settings, home("here", look=look), home("there", look=look)) == ["chat.E021"]
    assert problems(settings, "chat.agent.tools.clock", "chat.agent.tools.clock.time_in") == ["chat.E021"]
    with pytest.raises(NotATool, match="time_in"):
        tools()


# --- the clock ----------------------------------------------------------------------------------------------

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("Europe/Berlin", "1 July 2026, 14:00:00 (CEST, UTC+02:00). From 25 October 2026, 02:00 local time on: CET"),
        ("new york", "In America/New_York it is Wednesday, 1 July 2026, 08:00:00 (EDT, UTC-04:00)."),
        (" kathmandu ", "17:45:00 (UTC+05:45). The offset does not change"),
        ("UTC", "12:00:00 (UTC, UTC+00:00)"),
        ("gmt", "In GMT it is"),
        ("apia", "2 July 2026, 01:00:00"),
    ],
)
def test_the_clock_knows_zones_and_cities(place: str, said: str) -> None:
    assert said in clock._told(place, NOON)


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("Berlinn", "Europe/Berlin"),
        ("Tokio", "Asia/Tokyo"),
        ("west", "Australia/West, Brazil/West. Say which"),
        ("../../etc/passwd", "such as"),
        ("x" * 80, "such as"),
    ],
)
def test_an_unknown_place_is_answered_with_what_may_be_meant(place: str, hint: str) -> None:
    with pytest.raises(ToolRefused, match=hint):
        clock._told(place, NOON)


@given(st.text(max_size=80))
def test_no_place_breaks_the_clock(place: str) -> None:
    try:
        clock._told(place, NOON)
    except ToolRefused as refusal:
        assert refusal.message.startswith("place: ")  # noqa: PT017


async def test_the_clock_tells_the_time_of_now() -> None:
    assert f"{datetime.now(UTC):%Y}" in await tools()["time_in"].call(context(), {"place": "UTC"})


# --- the calculator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("123456789 * 987654321", "121932631112635269"),
        ("-2 ** 2", "-4"),
        ("2 ^ 10", "1024"),
        ("2 × 3 ÷ 4 − 1", "0.5"),
        ("-7 // 2 + -7 % 3", "-2"),
        ("1.5e3 - .5", "1499.5"),
        ("1 +\n2", "3"),
        ("(1/3) * 3", "1"),
        ("round(2.675, 2)", "2.68"),
        ("round(2.5)", "2"),
        ("max(1, 5, 3) - min(2, 1)", "4"),
        ("abs(-1) + ceil(1.1) + floor(-1.1)", "1"),
        ("sqrt(2.25) + 4 ** 0.5", "3.5"),
        ("1" + " + 1" * 240, "241"),
        ("10 ** 999", "1" + "0" * 999),
        ("2 ** -3", "0.125"),
        ("1/3", "about 0.333333333333333333333333333333 (exactly 1/3)"),
        ("2 ** 0.5", "about 1.41421356237309504880168872421"),
        ("sqrt(10 ** 999)", "about 3.16227766016837933199889354443E+499"),
        ("pi", "about 3.14159265358979323846264338328"),
        ("(-1) ** 10 ** 900", "1"),
    ],
)
async def test_the_calculator_is_right(expression: str, result: str) -> None:
    assert await tools()["calculate"].call(context(), {"expression": expression}) == result


@pytest.mark.parametrize(
    "expression",
    [
        "9 ** 9 ** 9",
        "10 ** 999 * 10",
        "1e999999999",
        "0.5 ** 99999",
        "(1/3) ** 99999",
        "1 / 0",
        "0 ** -1",
        "0 ** -0.5",
        "(-8) ** (1/3)",
        "sqrt(-1)",
        "-" * 60 + "1",
        "(" * 300 + "1" + ")" * 300,
        "-" * 999 + "1",
        "2" + "**1" * 60,
        "__import__('os')",
        "(1).real",
        "lambda: 1",
        "1 if 1 else 2",
        "1 and 2",
        "not 1",
        "~1",
        "1 << 99999999",
        "1 @ 2",
        "1, 2",
        "max(*1)",
        "max()",
        "abs(1, 2)",
        "sqrt(1, 2)",
        "sqrt",
        "pi(2)",
        "round(1, 1/2)",
        "round(1, 1e9)",
        "0x10",
        "1_000",
        "1if",
        "1j",
        "007",
        "٣ + 1",
        "5%",
        "1 = 1",
        "1; 2",
        " ",
        "1\0",
        "True",
        "(1+1)(2)",
    ],
)
async def test_the_calculator_refuses_what_is_no_arithmetic_or_too_much(expression: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ToolRefused, match=r"^expression: "):
        await tools()["calculate"].call(context(), {"expression": expression})
    assert time.perf_counter() - began < 1


PIECES = st.sampled_from(
    [
        *"0123456789+-*/%(),. ^eE",
        "**",
        "//",
        "1e999",
        "9**",
        "sqrt(",
        "round(",
        "max(",
        "pi",
        "1/3",
        "__",
        "\n",
        "½",
        "if",
    ]
)


@given(st.lists(PIECES, max_size=200).map("".join) | st.text(max_size=calculator.MAX_CHARS))
def test_no_expression_breaks_the_calculator_or_keeps_it_busy(expression: str) -> None:
    began = time.thread_time()
    try:
        calculator._calculated(expression)
    except ToolRefused as refusal:
        assert refusal.message.startswith("expression: ")  # noqa: PT017
    assert time.thread_time() - began < 1


EXPRESSIONS = st.recursive(
    st.decimals(-1000, 1000, places=2).map(lambda number: (f"({number})", Fraction(number))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda three: (
            f"({three[0][0]} {three[1]} {three[2][0]})",
            {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__}[three[1]](three[0][1], three[2][1]),
        )
    ),
    max_leaves=20,
)


@given(EXPRESSIONS)
def test_sums_and_products_are_exact(expression: tuple[str, Fraction]) -> None:
    text, value = expression
    assert Fraction(calculator._calculated(text)) == value


# --- with people --------------------------------------------------------------------------------------------


@pytest.fixture
async def database(transactional_db: None) -> AsyncIterator[Database]:
    made = Database()
    yield made
    made.close()


Act = Callable[..., Any]


@pytest.fixture
def act(database: Database) -> Act:
    """`await act("rename_conversation", alice, conversation, title="…")`"""

    async def show(text: str) -> None:
        assert "of" in text

    async def call(name: str, user: User, conversation: Conversation, **given_input: Any) -> str:
        here = replace(context(), user=user, conversation=conversation.pk, query=database.run, show=show)
        return await tools()[name].call(here, given_input)

    return call


def say(conversation: Conversation, user: User, text: str, answer: str = "") -> Message:
    by = Participant.objects.get(conversation=conversation, user=user)
    ack = conversation.send(by=by, text=text, client_id=uuid4(), when_busy="alongside")
    prompt = Message.objects.get(pk=ack["message"])
    if answer:
        Message.objects.create(
            conversation=conversation,
            role="assistant",
            parts=[{"type": "text", "text": answer}, {"type": "other", "data": "hidden"}],
            place=prompt.place,
            created_serial=Conversation.objects.get(pk=conversation.pk).head + 1,
        )
    return prompt


@sync_to_async
def talks(alice: User, bob: User) -> dict[str, Conversation]:
    """One of Alice's, one that Bob shares with her, one of Bob's alone, and where she asks."""
    hers, shared, his, here = (
        Conversation.begin(owner, title)
        for owner, title in ((alice, "Hers"), (bob, "Shared"), (bob, "His"), (alice, "Here"))
    )
    by = Participant.objects.get(conversation=shared)
    shared.add(by=by, user=alice, role=Role.VIEWER)
    say(hers, alice, "Where do the penguins winter?", "Kaiserpinguine überwintern in der ANTARKTIS, 100% of them.")
    say(shared, bob, "The penguin is a bird" + " of many words" * 100)
    say(his, bob, "My secret penguin")
    say(here, alice, "Find what we said about the penguin")
    return {"hers": hers, "shared": shared, "his": his, "here": here}


async def test_the_search_finds_what_may_be_seen_and_nothing_else(act: Act, alice: User, bob: User) -> None:
    known = await talks(alice, bob)
    found = json.loads(await act("search_conversations", alice, known["here"], words="PENGUIN"))["found"]
    assert [(hit["conversation"], hit["who"]) for hit in found] == [("Shared", "bob"), ("Hers", "alice")]
    assert found[0]["excerpt"].startswith("The penguin is a bird of many words")
    assert len(found[0]["excerpt"]) < 250
    assert datetime.fromisoformat(found[0]["when"]).tzinfo is not None


@pytest.mark.parametrize("words", ["antarktis", "ÜBERWINTERN antarktis", "100%", "u\u0308berwintern", "NTARKTI"])
async def test_the_search_is_the_same_for_every_case_and_way_to_write(
    act: Act, alice: User, bob: User, words: str
) -> None:
    known = await talks(alice, bob)
    (hit,) = json.loads(await act("search_conversations", alice, known["here"], words=words))["found"]
    assert hit["who"] == "assistant"
    assert "Kaiserpinguine überwintern" in hit["excerpt"]


@pytest.mark.parametrize("words", ["secret", "_enguin", "%", "pen.uin", "penguin volcano", "hidden", "Hers"])
async def test_the_search_does_not_find_what_was_not_said_to_them(act: Act, alice: User, bob: User, words: str) -> None:
    known = await talks(alice, bob)
    found = json.loads(await act("search_conversations", alice, known["here"], words=words))["found"]
    assert [hit for hit in found if hit["excerpt"].find("100%") < 0] == []


async def test_who_was_sent_away_or_deactivated_finds_nothing_there(act: Act, alice: User, bob: User) -> None:
    known = await talks(alice, bob)
    by = await Participant.objects.select_related("user").aget(conversation=known["shared"], user=bob)
    await sync_to_async(known["shared"].remove)(by=by, user=alice)
    found = json.loads(await act("search_conversations", alice, known["here"], words="penguin"))["found"]
    assert [hit["conversation"] for hit in found] == ["Hers"]
    await User.objects.filter(pk=alice.pk).aupdate(is_active=False)
    assert json.loads(await act("search_conversations", alice, known["here"], words="penguin")) == {"found": []}


async def test_a_page_is_empty_for_who_was_sent_away_meanwhile(alice: User, bob: User) -> None:
    known = await talks(alice, bob)
    page = await sync_to_async(search._page)(alice, known["his"].pk, 0, search._patterns("penguin"))
    assert page == (0, 0, [])


async def test_what_was_taken_back_is_not_found(act: Act, alice: User, bob: User) -> None:
    known = await talks(alice, bob)
    await Message.objects.filter(conversation=known["shared"]).aupdate(removed_at=datetime.now(UTC))
    await Message.objects.filter(conversation=known["hers"]).aupdate(place=None)
    assert json.loads(await act("search_conversations", alice, known["here"], words="penguin")) == {"found": []}


async def test_the_search_has_an_end(act: Act, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    known = await talks(alice, bob)
    one = json.loads(await act("search_conversations", alice, known["here"], words="penguin", limit=1))
    assert [hit["conversation"] for hit in one["found"]] == ["Shared"]
    monkeypatch.setattr(search, "PAGE", 1)
    everything = json.loads(await act("search_conversations", alice, known["here"], words="penguins winter"))
    assert [hit["conversation"] for hit in everything["found"]] == ["Hers"]
    for name, most in (("MAX_MESSAGES", 1), ("MAX_TEXT", 10), ("MAX_CONVERSATIONS", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(search, name, most)
            told = json.loads(await act("search_conversations", alice, known["here"], words="penguins winter"))
            assert told["found"] == []
            assert told["note"].startswith("Only the newest 1 ")


@pytest.mark.parametrize("words", ["", "  ", "w " * 11, "x" * 201])
async def test_a_search_needs_a_few_words(act: Act, alice: User, conversation: Conversation, words: str) -> None:
    with pytest.raises(ToolRefused, match=r"^words: "):
        await act("search_conversations", alice, conversation, words=words)


async def test_a_conversation_is_renamed_in_the_name_of_who_asked(
    act: Act, alice: User, conversation: Conversation
) -> None:
    told = await act("rename_conversation", alice, conversation, title=" ❤️ Penguins\n of  Alice ")
    assert told == "The conversation is now called ❤️ Penguins of Alice"
    await conversation.arefresh_from_db()
    assert conversation.title == "❤️ Penguins of Alice"
    last = await Event.objects.filter(conversation=conversation).alast()
    assert last is not None
    assert (last.kind, last.payload) == (Kind.CONVERSATION_RENAMED, {"title": "❤️ Penguins of Alice"})


@pytest.mark.parametrize("title", ["", "   ", "\u200b\u3164\u2800", "x" * 81])
async def test_a_title_can_be_seen(act: Act, alice: User, conversation: Conversation, title: str) -> None:
    with pytest.raises(ToolRefused, match=r"^title: "):
        await act("rename_conversation", alice, conversation, title=title)


async def test_a_viewer_a_stranger_and_who_was_deactivated_rename_nothing(
    act: Act, alice: User, bob: User, charlie: User, conversation: Conversation
) -> None:
    owner = await Participant.objects.select_related("user").aget(conversation=conversation)
    await sync_to_async(conversation.add)(by=owner, user=bob, role=Role.VIEWER)
    await User.objects.filter(pk=alice.pk).aupdate(is_active=False)
    for user, why in ((bob, "not change it"), (charlie, "no longer in"), (alice, "no longer in")):
        with pytest.raises(ToolRefused, match=why):
            await act("rename_conversation", user, conversation, title="Mine")
    await conversation.arefresh_from_db()
    assert conversation.title == ""


async def test_the_owner_shares_a_conversation_and_changes_what_others_may_do(
    act: Act, alice: User, bob: User, conversation: Conversation
) -> None:
    for role, told in (("viewer", "bob is now a viewer"), ("editor", "bob is now an editor")):
        assert told in await act("share_conversation", alice, conversation, username="bob", role=role)
        assert (await Participant.objects.aget(conversation=conversation, user=bob)).role == role


async def test_nobody_but_the_owner_shares_and_nobody_else_learns_which_names_there_are(
    act: Act, bob: User, charlie: User, conversation: Conversation
) -> None:
    owner = await Participant.objects.select_related("user").aget(conversation=conversation)
    await sync_to_async(conversation.add)(by=owner, user=bob, role=Role.EDITOR)
    for username in ("charlie", "nobody"):
        with pytest.raises(ToolRefused, match="Only the owner"):
            await act("share_conversation", bob, conversation, username=username, role="viewer")
    with pytest.raises(ToolRefused, match="no longer in"):
        await act("share_conversation", charlie, conversation, username="charlie", role="editor")
    assert await Participant.objects.filter(conversation=conversation).acount() == 2


@pytest.mark.parametrize(
    ("username", "role", "why"),
    [
        ("nobody", "viewer", "nobody of that name"),
        ("Bob", "viewer", "nobody of that name"),
        ("alice", "viewer", "one owner"),
        ("bob", "owner", "^role: "),
        ("", "viewer", "^username: "),
    ],
)
async def test_what_cannot_be_shared_is_refused_in_words(
    act: Act, alice: User, bob: User, conversation: Conversation, username: str, role: str, why: str
) -> None:
    with pytest.raises(ToolRefused, match=why):
        await act("share_conversation", alice, conversation, username=username, role=role)
    assert await Participant.objects.filter(conversation=conversation).acount() == 1


async def test_a_conversation_that_is_gone_is_a_refusal(act: Act, alice: User) -> None:
    gone = Conversation(pk=UUID(int=1))
    for name, given_input in (
        ("rename_conversation", {"title": "x"}),
        ("share_conversation", {"username": "x", "role": "viewer"}),
    ):
        with pytest.raises(ToolRefused, match="no longer"):
            await act(name, alice, gone, **given_input)
