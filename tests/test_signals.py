"""Every signal of wire.py over a socket: its ack, each way it is refused, and everything that is no signal at all."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any, get_args

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from chat import host as hosts
from chat import spoken, wire
from chat.errors import Code, Refused
from chat.models import Conversation, Message, Participant, Run
from chat.models.saying import ALONGSIDE_LIMIT, QUEUE_LIMIT
from chat.transport.connection import TYPING_SECONDS
from tests import under
from tests.conftest import with_settings
from tests.device import Device, until

pytestmark = pytest.mark.usefixtures("quiet")
OVER_EVERY_DOOR = True

Make = Callable[..., Device]
NOBODY = str(uuid.uuid4())
MANY_SIGNALS = with_settings(CHAT_SIGNALS_PER_SECOND=1e6)


async def connected(device: Device) -> Device:
    return await (await device.connect()).synced()


async def refused(device: Device, kind: str, **fields: Any) -> Code:
    nack = await device.say(kind, **fields)
    assert nack["type"] == "nack", nack
    assert nack["message"]
    assert nack["retryable"] == (nack["code"] in {"busy", "rate", "storage"})
    return Code(nack["code"])


async def busy(device: Device) -> str:
    """Start an answer that does not end by itself, and return its run."""
    run: str = (await device.ask("/echo Thinking.\n/hang"))["run"]
    await device.writes(run)
    return run


# --- each signal ------------------------------------------------------------------------------------------------


async def test_send_is_acknowledged_with_every_id_a_stop_needs(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/rate 0 /echo Hello.")
    assert set(ack) == {"type", "id", "message", "run", "serial", "state"}
    assert ack["state"] == "starting"
    created = next(frame for frame in laptop.frames if frame["type"] == "message.created")
    assert (created["serial"], created["message"], created["run"]) == (ack["serial"], ack["message"], ack["run"])
    assert (created["client_id"], created["by"]["device"]) == (ack["id"], laptop.id)


async def test_i6_the_same_send_again_is_the_same_message_whatever_device_repeats_it(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    first = await laptop.ask("/rate 0 /echo Once.")
    await laptop.ended(first["run"])
    for one in (laptop, phone, laptop):
        again = await one.say("message.send", signal_id=first["id"], text="other words")
        assert again == {**first, "duplicate": True}
    assert await Message.objects.filter(conversation=conversation, role="user").acount() == 1
    assert await Run.objects.filter(conversation=conversation).acount() == 1


SENSELESS: list[tuple[dict[str, Any], str]] = [
    ({}, "invalid"),
    ({"text": ""}, "invalid"),
    ({"text": " \n\t"}, "invalid"),
    ({"text": None}, "invalid"),
    ({"text": 5}, "invalid"),
    ({"text": ["a"]}, "invalid"),
    ({"text": "a\x00b"}, "invalid"),
    ({"text": "a\ud800b"}, "invalid"),
    ({"text": "a" * (spoken.MAX_TEXT + 1)}, "too_large"),
    ({"text": "a" * wire.MAX_SIGNAL_BYTES}, "too_large"),
    ({"text": "a", "when_busy": "sometimes"}, "invalid"),
    ({"text": "a", "when_busy": {}}, "invalid"),
    ({"text": "a", "parent": "first"}, "invalid"),
    ({"text": "a", "parent": NOBODY}, "stale"),
]


async def test_a_send_that_makes_no_sense_stores_nothing(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await connected(device(alice, conversation))
    for fields, code in SENSELESS:
        signal = {"type": "message.send", "id": str(uuid.uuid4()), **fields}
        [nack] = await laptop.answers_to({"text": json.dumps(signal)})
        assert (nack["type"], nack["code"]) == ("nack", code), fields
    assert not await Message.objects.aexists()


async def test_a_message_of_the_greatest_length_is_taken_and_arrives_whole(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    text = "/fail-before " + "é" * (spoken.MAX_TEXT - 13)
    signal = {"type": "message.send", "id": NOBODY, "text": text}
    [ack] = await laptop.answers_to({"text": json.dumps(signal, ensure_ascii=False)})
    await phone.ended(ack["run"])
    assert phone.view.messages[ack["message"]]["text"] == text


async def test_send_is_refused_as_busy_where_the_sender_wants_no_waiting(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    run = await busy(laptop)
    nack = await laptop.say("message.send", text="Now?", when_busy="reject")
    assert (nack["code"], nack["retryable"], nack["retry_after"] > 0) == ("busy", True, True)
    await laptop.say("run.cancel", run=run)
    await laptop.ended(run)
    again = await laptop.say("message.send", signal_id=nack["id"], text="/echo Now!", when_busy="reject")
    assert again["type"] == "ack", "what was refused as retryable is accepted later, under the same id"


@MANY_SIGNALS
async def test_too_many_waiting_messages_and_too_many_answers_at_once_are_refused(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    await busy(laptop)
    for _ in range(QUEUE_LIMIT):
        assert (await laptop.say("message.send", text="wait"))["state"] == "waiting"
    assert await refused(laptop, "message.send", text="wait") == Code.BUSY
    for _ in range(ALONGSIDE_LIMIT - 1):  # what waits is not what runs
        assert (await laptop.say("message.send", text="/hang", when_busy="alongside"))["state"] == "starting"
    assert await refused(laptop, "message.send", text="now", when_busy="alongside") == Code.BUSY
    assert (await laptop.say("run.cancel", scope="all"))["outcome"] == "cancelling"


async def test_a_signal_said_twice_is_carried_out_once(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await connected(device(alice, conversation))
    first = await laptop.ask("/hang")
    stop = str(uuid.uuid4())
    answer = await laptop.say("run.cancel", scope="all", signal_id=stop)
    await laptop.ended(first["run"])
    second = await laptop.ask("/hang")
    assert await laptop.say("run.cancel", scope="all", signal_id=stop) == answer
    assert laptop.view.state_of(second["run"]) != "cancelled"
    assert (await laptop.say("run.cancel", run=second["run"]))["type"] == "ack"


async def test_a_stop_that_comes_late_does_not_hit_a_later_question(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/hang")
    late = await laptop.say("run.cancel", scope="all", until=ack["serial"] - 1)
    assert (late["outcome"], late["runs"]) == ("already_ended", [])
    in_time = await laptop.say("run.cancel", scope="all", until=ack["serial"])
    assert in_time["runs"] == [ack["run"]]


def test_who_was_sent_away_while_their_signal_waited_is_refused(
    conversation: Conversation, alice: User, bob: User
) -> None:
    owner = conversation.participants.select_related("user").get(user=alice)
    loaded = conversation.add(by=owner, user=bob, role="editor")
    conversation.remove(by=owner, user=bob)
    with pytest.raises(Refused) as refusal:
        conversation.send(by=loaded, text="Still there?", client_id=uuid.uuid4())
    assert refusal.value.code == Code.FORBIDDEN
    with pytest.raises(Refused):
        conversation.rename(by=loaded, title="Mine now")


async def test_a_signal_that_is_too_large_to_be_read_is_answered_by_its_id(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    assert await refused(laptop, "message.send", text="x" * wire.MAX_SIGNAL_BYTES) == Code.TOO_LARGE
    longest = await laptop.say("message.send", text="/rate 0 /echo " + "😀" * (spoken.MAX_TEXT - 14))
    assert longest["type"] == "ack", "what is within the limit of the text is within the limit of the signal"


async def test_a_text_that_only_looks_empty_is_refused(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await connected(device(alice, conversation))
    assert await refused(laptop, "message.send", text="\u200b\u2060 \n") == Code.INVALID


async def test_send_to_an_older_state_of_the_conversation_is_stale(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    first = await laptop.ask("/rate 0 /echo One.")
    await laptop.ended(first["run"])
    assert await refused(laptop, "message.send", text="Two?", parent=first["message"]) == Code.STALE
    answer = laptop.view.runs[first["run"]]["answer"]
    assert (await laptop.say("message.send", text="/echo Two.", parent=answer))["type"] == "ack"


async def test_cancel_names_exactly_one_thing(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await connected(device(alice, conversation))
    assert await refused(laptop, "run.cancel") == Code.INVALID
    assert await refused(laptop, "run.cancel", run=NOBODY, send=NOBODY) == Code.INVALID
    assert await refused(laptop, "run.cancel", run=NOBODY, scope="all") == Code.INVALID
    assert await refused(laptop, "run.cancel", scope="others") == Code.INVALID
    assert await refused(laptop, "run.cancel", run="1") == Code.INVALID
    assert await refused(laptop, "run.cancel", run=NOBODY) == Code.UNKNOWN_RUN


async def test_cancel_says_what_became_of_it(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await connected(device(alice, conversation))
    run = await busy(laptop)
    waiting = await laptop.ask("Later.")
    assert (await laptop.say("run.cancel", run=waiting["run"]))["outcome"] == "cancelled"
    assert (await laptop.say("run.cancel", run=run))["outcome"] == "cancelling"
    await laptop.ended(run)
    ack = await laptop.say("run.cancel", run=run)
    assert (ack["outcome"], ack["reason"]) == ("already_ended", "cancelled")
    ack = await laptop.say("run.cancel", scope="all")
    assert (ack["outcome"], ack["runs"]) == ("already_ended", [])


async def test_a_run_of_another_conversation_is_unknown_here(
    device: Make, alice: User, conversation: Conversation
) -> None:
    other = await sync_to_async(Conversation.begin)(alice)
    here, there = await connected(device(alice, conversation)), await connected(device(alice, other))
    run = await busy(there)
    message = (await there.ask("Later."))["message"]
    assert await refused(here, "run.cancel", run=run) == Code.UNKNOWN_RUN
    assert await refused(here, "run.retry", run=run) == Code.UNKNOWN_RUN
    assert await refused(here, "queue.edit", message=message, text="x") == Code.UNKNOWN_MESSAGE
    assert await refused(here, "queue.remove", message=message) == Code.UNKNOWN_MESSAGE
    assert await refused(here, "queue.move", message=message) == Code.UNKNOWN_MESSAGE
    assert (await here.say("run.cancel", scope="all"))["runs"] == []
    assert there.view.runs[run]["state"] == "running"


async def test_retry_answers_again_once_and_only_what_has_no_answer(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    failed = await laptop.ask("/rate 0 /echo So far\n/fail overloaded")
    await laptop.ended(failed["run"])
    retry = await laptop.say("run.retry", run=failed["run"])
    assert (retry["type"], retry["message"], retry["run"]) == ("ack", failed["message"], retry["id"])
    again = await laptop.say("run.retry", signal_id=retry["id"], run=failed["run"])
    assert again["run"] == retry["run"]
    assert again["duplicate"] is True
    await laptop.ended(retry["run"])
    completed = await laptop.ask("/rate 0 /echo Good.")
    assert await refused(laptop, "run.retry", run=completed["run"]) == Code.STALE
    await laptop.ended(completed["run"])
    assert await refused(laptop, "run.retry", run=completed["run"]) == Code.STALE
    assert await refused(laptop, "run.retry", run=NOBODY) == Code.UNKNOWN_RUN
    assert await refused(laptop, "run.retry") == Code.INVALID


async def test_a_retry_under_an_id_that_is_taken_elsewhere_is_refused_and_nothing_breaks(
    device: Make, alice: User, conversation: Conversation
) -> None:
    other = await sync_to_async(Conversation.begin)(alice)
    here, there = await connected(device(alice, conversation)), await connected(device(alice, other))
    taken = (await there.ask("/rate 0 /echo There."))["run"]
    failed = await here.ask("/fail-before")
    await here.ended(failed["run"])
    nack = await here.say("run.retry", signal_id=taken, run=failed["run"])
    assert (nack["type"], nack["code"], nack["retryable"]) == ("nack", "invalid", False)


async def test_a_removed_message_is_not_brought_back_by_a_retry(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    await busy(laptop)
    removed = await laptop.ask("Forget this.")
    await laptop.say("queue.remove", message=removed["message"])
    assert await refused(laptop, "run.retry", run=removed["run"]) == Code.STALE
    fresh = await connected(device(alice, conversation))
    await until(lambda: fresh.view.comparable() == laptop.view.comparable(), "both know the same")


async def test_the_queue_is_edited_moved_and_emptied_by_signals(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    running = await busy(laptop)
    started = next(run for run in laptop.view.runs.values() if run["state"] == "running")["prompt"]
    one, two, three = [(await laptop.ask(text))["message"] for text in ("one", "two", "three")]
    assert (await laptop.say("queue.move", message=three, before=one))["order"] == [three, one, two]
    assert (await laptop.say("queue.move", message=three))["order"] == [one, two, three]
    assert (await laptop.say("queue.move", message=one, before=one))["order"] == [two, three, one]
    assert (await laptop.say("queue.edit", message=two, text="zwei"))["order"] == [two, three, one]
    assert (await laptop.say("queue.remove", message=three))["order"] == [two, one]
    await until(lambda: laptop.view.order == [two, one])
    assert laptop.view.messages[two]["text"] == "zwei"
    assert three not in laptop.view.messages
    for kind in ("queue.edit", "queue.remove", "queue.move"):
        extra = {"text": "x"} if kind == "queue.edit" else {}
        assert await refused(laptop, kind, message=started, **extra) == Code.STALE
        assert await refused(laptop, kind, message=three, **extra) == Code.STALE
        assert await refused(laptop, kind, message=NOBODY, **extra) == Code.UNKNOWN_MESSAGE
        assert await refused(laptop, kind, message="x", **extra) == Code.INVALID
        assert await refused(laptop, kind, **extra) == Code.INVALID
    assert await refused(laptop, "queue.move", message=one, before=NOBODY) == Code.UNKNOWN_MESSAGE
    assert await refused(laptop, "queue.move", message=one, before=started) == Code.STALE
    assert await refused(laptop, "queue.edit", message=one, text=" ") == Code.INVALID
    assert await refused(laptop, "queue.edit", message=one, text="a" * (spoken.MAX_TEXT + 1)) == Code.TOO_LARGE
    assert laptop.view.runs[running]["state"] == "running"


async def test_rename_reaches_every_device(device: Make, alice: User, conversation: Conversation) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    assert (await laptop.say("conversation.rename", title="Über alles"))["type"] == "ack"
    await until(lambda: phone.view.title == "Über alles")
    assert await refused(laptop, "conversation.rename", title="") == Code.INVALID
    assert await refused(laptop, "conversation.rename", title="x" * 81) == Code.TOO_LARGE
    assert await refused(laptop, "conversation.rename", title="a\x00") == Code.INVALID
    assert await refused(laptop, "conversation.rename") == Code.INVALID


async def test_read_moves_forward_only_and_never_past_the_head(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/rate 0 /echo Hello.")
    await laptop.ended(ack["run"])

    async def position() -> int:
        return (await Participant.objects.aget(conversation=conversation, user=alice)).read_serial

    await laptop.say("read", serial=2)
    assert await position() == 2
    await laptop.say("read", serial=1)
    assert await position() == 2
    await laptop.say("read", serial=2**53)
    assert await position() == laptop.view.cursor
    nonsense: tuple[Any, ...] = (-1, 2**53 + 1, 10**400, 1.5, "x", None, [], {})
    for serial in nonsense:
        assert await refused(laptop, "read", serial=serial) == Code.INVALID, serial


async def test_ping_is_answered_and_flow_and_typing_are_not(
    device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    owner = await Participant.objects.select_related("conversation").aget(conversation=conversation, user=alice)
    await sync_to_async(conversation.add)(by=owner, user=bob, role="viewer")
    laptop, guest = await connected(device(alice, conversation)), await connected(device(bob, conversation))
    for quietly in ('{"type": "flow", "serial": 3}', '{"type": "typing"}', '{"type": "ping"}'):
        assert await laptop.answers_to({"text": quietly}) == []
    await until(lambda: any(frame["type"] == "typing" and frame["user"] == "alice" for frame in guest.frames))
    assert not any(frame["type"] == "typing" for frame in laptop.frames), "nobody is told of their own typing"


async def test_a_flood_of_typing_is_not_passed_on(device: Make, alice: User, conversation: Conversation) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    began = time.monotonic()
    for _ in range(300):
        await laptop.say_raw('{"type": "typing"}')
    await laptop.say("conversation.rename", title="After the flood")
    await until(lambda: phone.view.title == "After the flood")
    passed = time.monotonic() - began
    assert 1 <= sum(frame["type"] == "typing" for frame in phone.frames) <= 1 + passed / (TYPING_SECONDS / 4)


@with_settings(CHAT_SIGNALS_PER_SECOND=2.0)
async def test_too_many_signals_are_refused_with_when_to_try_again(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    answers = [await laptop.say("read", serial=1)]
    while len(answers) < 100 and answers[-1]["type"] == "ack":  # on a slow machine more fit into the burst
        answers.append(await laptop.say("read", serial=1))
    nacks = [answer for answer in answers if answer["type"] == "nack"]
    assert len(answers) - len(nacks) >= 10, "a burst is fine"
    assert nacks
    assert {(nack["code"], nack["retryable"]) for nack in nacks} == {("rate", True)}
    assert 0 < nacks[-1]["retry_after"] <= 0.5
    assert (await laptop.answers_to({"text": '{"type": "ping"}'})) == []


# --- who may ----------------------------------------------------------------------------------------------------


async def test_a_viewer_watches_and_may_change_nothing(
    device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    owner = await Participant.objects.select_related("conversation").aget(conversation=conversation, user=alice)
    await sync_to_async(conversation.add)(by=owner, user=bob, role="viewer")
    laptop, guest = await connected(device(alice, conversation)), await connected(device(bob, conversation))
    run = await busy(laptop)
    waiting = (await laptop.ask("Later."))["message"]
    await guest.writes(run)
    for kind, fields in (
        ("message.send", {"text": "me too"}),
        ("run.cancel", {"run": run}),
        ("run.cancel", {"scope": "all"}),
        ("run.cancel", {"scope": "mine"}),
        ("run.cancel", {"send": NOBODY}),
        ("run.retry", {"run": run}),
        ("queue.edit", {"message": waiting, "text": "x"}),
        ("queue.remove", {"message": waiting}),
        ("queue.move", {"message": waiting}),
        ("conversation.rename", {"title": "Mine"}),
    ):
        assert await refused(guest, kind, **fields) == Code.FORBIDDEN, kind
    assert (await guest.say("read", serial=1))["type"] == "ack"
    assert laptop.view.runs[run]["state"] == "running"


@pytest.mark.usefixtures("no_recheck")
async def test_what_is_said_after_signing_out_is_refused(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await connected(device(alice, conversation))

    def sign_out() -> None:
        client = Client()
        client.cookies["sessionid"] = laptop.session
        client.session.flush()

    await sync_to_async(sign_out)()
    assert await refused(laptop, "message.send", text="still me") == Code.SIGNED_OUT


@pytest.mark.usefixtures("no_recheck")
async def test_what_is_said_from_a_revoked_device_is_refused(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    await sync_to_async((await alice.devices.aget(pk=phone.id)).revoke)()
    assert await refused(phone, "message.send", text="still me") in {Code.SIGNED_OUT, Code.FORBIDDEN}
    assert (await laptop.say("message.send", text="/echo me"))["type"] == "ack"


async def test_a_signal_sent_before_the_hello_waits_until_the_device_is_let_in(
    device: Make, alice: User, conversation: Conversation
) -> None:
    for _ in range(10):
        laptop = await device(alice, conversation).connect()
        ack = await laptop.say("message.send", text="/rate 0 /echo Early.")
        assert ack["type"] == "ack", ack
        await laptop.ended(ack["run"])


@pytest.mark.over_websocket  # a POST is not said on the connection that has ended
async def test_after_the_goodbye_a_signal_is_neither_answered_nor_carried_out(
    device: Make, host: hosts.Host, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    await hosts.stop()
    await until(lambda: laptop.closed == 4000)
    assert laptop.frames[-1]["type"] == "bye"
    await laptop.say_raw(json.dumps({"type": "message.send", "id": NOBODY, "text": "too late"}))
    await laptop.disconnect()
    assert not await Message.objects.aexists()


async def test_who_comes_while_the_process_ends_is_sent_away_to_come_back(
    device: Make, host: hosts.Host, alice: User, conversation: Conversation
) -> None:
    host.draining = True
    laptop = await device(alice, conversation).connect()
    await until(lambda: laptop.closed == 4000)
    host.draining = False
    await connected(laptop)


# --- no signal at all -------------------------------------------------------------------------------------------

NONSENSE: list[tuple[str, dict[str, Any], str]] = [
    ("empty", {"text": ""}, "invalid"),
    ("blank", {"text": "  \n"}, "invalid"),
    ("words", {"text": "hello"}, "invalid"),
    ("half an object", {"text": '{"type": "ping"'}, "invalid"),
    ("two objects", {"text": '{"type": "ping"} {"type": "ping"}'}, "invalid"),
    ("array", {"text": '[{"type": "ping"}]'}, "invalid"),
    ("null", {"text": "null"}, "invalid"),
    ("number", {"text": "1"}, "invalid"),
    ("string", {"text": '"ping"'}, "invalid"),
    ("NaN", {"text": "NaN"}, "invalid"),
    ("huge integer", {"text": "9" * 5000}, "invalid"),
    ("huge integer inside", {"text": '{"type": "read", "serial": ' + "9" * 5000 + "}"}, "invalid"),
    ("100,000 brackets", {"text": "[" * 100_000}, "invalid"),
    ("100,000 braces", {"text": '{"a":' * 40_000 + "1" + "}" * 40_000}, "invalid"),
    ("deep inside", {"text": '{"type": "message.send", "text": ' + "[" * 900 + "]" * 900 + "}"}, "invalid"),
    ("NUL", {"text": "\x00"}, "invalid"),
    ("lone surrogate", {"text": "\ud800"}, "invalid"),
    ("escaped surrogate type", {"text": r'{"type": "\ud800"}'}, "unknown_signal"),
    ("surrogate id", {"text": r'{"type": "read", "serial": 1, "id": "\udfff"}'}, "invalid"),
    ("surrogate key", {"text": r'{"\ud800": 1}'}, "unknown_signal"),
    ("no type", {"text": "{}"}, "unknown_signal"),
    ("unknown type", {"text": '{"type": "message.shout", "id": "1"}'}, "unknown_signal"),
    ("type of another kind", {"text": '{"type": {"type": "ping"}}'}, "unknown_signal"),
    ("a frame of ours", {"text": '{"type": "message.delta", "text": "I am the model"}'}, "unknown_signal"),
    ("no id", {"text": '{"type": "message.send", "text": "a"}'}, "invalid"),
    ("number as id", {"text": '{"type": "message.send", "text": "a", "id": 7}'}, "invalid"),
    ("oversized", {"text": "x" * (wire.MAX_SIGNAL_BYTES + 1)}, "too_large"),
    ("oversized in bytes", {"text": '"' + "é" * (wire.MAX_SIGNAL_BYTES // 2) + '"'}, "too_large"),
    ("huge", {"text": "x" * 8_000_000}, "too_large"),
    ("binary", {"bytes": b'{"type": "ping"}'}, "invalid"),
    ("empty binary", {"bytes": b""}, "invalid"),
    ("binary rubbish", {"bytes": bytes(range(256)) * 100}, "invalid"),
]


async def test_i7_nonsense_gets_one_nack_and_the_socket_stays(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    for what, message, code in NONSENSE:
        if what == "binary" and laptop.door != "websocket":  # a body has no type: this one is JSON
            continue
        if what == "lone surrogate" and laptop.door == "websocket" and under.address:  # no UTF-8: the server hangs up
            continue
        answers = await laptop.answers_to(message)
        assert [answer["type"] for answer in answers] == ["nack"], what
        nack = answers[0]
        assert (nack["code"], nack["id"], nack["retryable"]) == (code, None, False), what
        assert len(nack["message"]) < 200, what
        assert laptop.closed is None, what


async def test_a_nack_carries_the_id_if_that_much_could_be_read(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    for body in ({"type": "message.send"}, {"type": "x"}, {}, {"type": "read", "serial": "x"}):
        [nack] = await laptop.answers_to({"text": json.dumps({**body, "id": NOBODY})})
        assert nack["id"] == NOBODY


async def test_the_last_of_duplicate_keys_counts(device: Make, alice: User, conversation: Conversation) -> None:
    laptop = await connected(device(alice, conversation))
    twice = f'{{"type": "x", "type": "read", "id": 1, "id": "{NOBODY}", "serial": "x", "serial": 1}}'
    [ack] = await laptop.answers_to({"text": twice})
    assert (ack["type"], ack["id"]) == ("ack", NOBODY)


def test_text_and_wrapping_of_the_largest_message_fit_into_a_signal() -> None:
    biggest = {"type": "message.send", "id": NOBODY, "parent": NOBODY, "text": "😀" * (spoken.MAX_TEXT - 100)}
    assert wire.read_signal(json.dumps(biggest, ensure_ascii=False))


TYPES = [get_args(model.model_fields["type"].annotation)[0] for model in get_args(spoken.Spoken)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.uuids().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["text", "run", "send", "scope", "message", "before", "title", "serial", "when_busy", "parent"])
LIKELY = st.sampled_from(["all", "mine", "queue", "alongside", "interrupt", "reject", "/rate 0 /echo x", 0, 1, NOBODY])
SIGNALS = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | JSON, "id": st.uuids().map(str) | JSON},
).flatmap(lambda base: st.dictionaries(NAMES, LIKELY | JSON, max_size=5).map(lambda more: {**more, **base}))


@MANY_SIGNALS
@examples(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(signal=SIGNALS | JSON)
async def test_i7_whatever_is_said_gets_exactly_one_answer(
    device: Make, alice: User, conversation: Conversation, signal: Any
) -> None:
    laptop = device(alice, conversation)
    laptop.id = FUZZER
    await connected(laptop)
    answers = await laptop.answers_to({"text": json.dumps(signal)})
    assert len(answers) == 1 or (isinstance(signal, dict) and signal.get("type") in {"flow", "typing", "ping"})
    for answer in answers:
        assert answer["type"] == "ack" or Code(answer["code"]) is not Code.STORAGE
    await laptop.disconnect()


FUZZER = str(uuid.uuid4())
