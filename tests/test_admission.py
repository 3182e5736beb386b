"""Many devices at the door at once: each is answered as if it had come alone, and together they cost little."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import DatabaseError, OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from chat.errors import Code, Refused
from chat.host import Host
from chat.models import AccessToken, Conversation, Device
from chat.transport import doorkeeper
from chat.transport.access import Access, Credential
from chat.transport.admission import Credentials, Wish, enter_all
from tests.device import sign_in
from tests.locked import write_lock


def session_of(user: User) -> Credential:
    return Credential(session=sign_in(user))


def token_of(user: User) -> Credential:
    return Credential(token=AccessToken.issue(user, "A program")[0].key)


def a_wish(credential: Credential, conversation: Conversation, device: uuid.UUID | None = None) -> Wish:
    return Wish(credential, conversation.pk, device or uuid.uuid4(), "A browser")


def answers(wishes: list[Wish], credentials: Credentials) -> list[Any]:
    """For each wish (user, conversation, device), or the code of the refusal."""
    return [
        (one.participant.user, one.participant.conversation_id, one.device.pk)
        if isinstance(one, Access)
        else getattr(one, "code", one)
        for one in enter_all(wishes, credentials)
    ]


def test_each_is_answered_as_if_it_had_come_alone(alice: User, bob: User, charlie: User) -> None:
    hers, shared = Conversation.begin(alice), Conversation.begin(alice)
    shared.participants.create(user=bob, role="viewer")
    browser, program, guest, stranger = session_of(alice), token_of(alice), session_of(bob), session_of(charlie)
    laptop, phone, gone, fresh = (uuid.uuid4() for _ in range(4))
    credentials = Credentials()
    enter_all([a_wish(browser, hers, laptop), a_wish(guest, shared, phone), a_wish(browser, hers, gone)], credentials)
    Device.objects.get(pk=gone).revoke()  # and the session, with which it came
    browser = session_of(alice)
    assert answers(
        [
            a_wish(browser, hers, laptop),
            a_wish(program, shared, laptop),
            a_wish(guest, shared, phone),
            a_wish(guest, hers, phone),
            a_wish(stranger, shared),
            a_wish(Credential(session="made-up"), hers),
            a_wish(Credential(session=""), hers),
            a_wish(Credential(), hers),
            a_wish(Credential(token="f" * 64), hers),
            a_wish(Credential(token=""), hers),
            a_wish(browser, hers, gone),
            a_wish(browser, hers, phone),
            a_wish(browser, hers, fresh),
            a_wish(program, hers, fresh),
            Wish(browser, uuid.uuid4(), laptop, ""),
        ],
        credentials,
    ) == [
        (alice, hers.pk, laptop),
        (alice, shared.pk, laptop),
        (bob, shared.pk, phone),
        Code.FORBIDDEN,
        Code.FORBIDDEN,
        Code.SIGNED_OUT,
        Code.SIGNED_OUT,
        Code.SIGNED_OUT,
        Code.SIGNED_OUT,
        Code.SIGNED_OUT,
        Code.REVOKED,
        Code.REVOKED,
        (alice, hers.pk, fresh),
        (alice, hers.pk, fresh),
        Code.FORBIDDEN,
    ]
    assert Device.objects.filter(pk=fresh, user=alice).count() == 1


def test_what_a_return_costs_is_shared_by_all_who_return(alice: User) -> None:
    conversations = [Conversation.begin(alice) for _ in range(5)]
    credentials = Credentials()
    wishes = [
        a_wish(session_of(alice) if number % 2 else token_of(alice), conversations[number % 5]) for number in range(20)
    ]
    assert all(isinstance(one, Access) for one in enter_all(wishes, credentials))
    with CaptureQueriesContext(connection) as captured:
        assert all(isinstance(one, Access) for one in enter_all(wishes, credentials))
    assert len(captured) <= 5, [query["sql"] for query in captured]


def log_out(user: User, credential: Credential) -> None:
    Session.objects.filter(session_key=credential.session).delete()


def expire(user: User, credential: Credential) -> None:
    Session.objects.filter(session_key=credential.session).update(expire_date=timezone.now() - timedelta(seconds=1))


def change_password(user: User, credential: Credential) -> None:
    user.set_password("alice-says-something-else")
    user.save()


def deactivate(user: User, credential: Credential) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def delete(user: User, credential: Credential) -> None:
    user.delete()


@pytest.mark.parametrize("end", [log_out, expire, change_password, deactivate, delete])
def test_a_session_that_is_remembered_ends_all_the_same(alice: User, end: Callable[[User, Credential], None]) -> None:
    wish, credentials = a_wish(session_of(alice), Conversation.begin(alice)), Credentials()
    for _ in range(2):
        assert isinstance(enter_all([wish], credentials)[0], Access)
    end(alice, wish.credential)
    for _ in range(2):
        assert answers([wish], credentials) == [Code.SIGNED_OUT]


def test_a_session_that_becomes_somebody_elses_is_not_remembered_as_the_firsts(alice: User, bob: User) -> None:
    hers, his = Conversation.begin(alice), Conversation.begin(bob)
    credential, others, credentials = session_of(alice), session_of(bob), Credentials()
    assert isinstance(enter_all([a_wish(credential, hers)], credentials)[0], Access)
    theirs = Session.objects.get(session_key=others.session).session_data
    Session.objects.filter(session_key=credential.session).update(session_data=theirs)
    assert answers([a_wish(credential, hers)], credentials) == [Code.FORBIDDEN]
    assert isinstance(enter_all([a_wish(credential, his)], credentials)[0], Access)


async def test_what_one_brings_keeps_nobody_else_out(host: Host, alice: User, conversation: Conversation) -> None:
    credential = await sync_to_async(session_of)(alice)
    wishes = [a_wish(credential, conversation) for _ in range(3)]
    wishes[1] = wishes[1]._replace(conversation="nothing a door lets through")  # type: ignore[arg-type]
    came = await asyncio.gather(*(host.doorkeeper.let_in(wish) for wish in wishes), return_exceptions=True)
    assert [type(one) for one in came[::2]] == [Access, Access]
    assert isinstance(came[1], Exception)
    assert not isinstance(came[1], Refused)


async def test_who_leaves_while_waiting_is_missed_by_nobody(
    host: Host, alice: User, conversation: Conversation
) -> None:
    credential = await sync_to_async(session_of)(alice)
    waiting = [
        asyncio.create_task(host.doorkeeper.let_in(a_wish(credential, conversation))) for _ in range(120)
    ]  # more than go in together
    await asyncio.sleep(0)
    for one in waiting[::2]:
        one.cancel()
    came = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in came[::2]} == {asyncio.CancelledError}
    assert {type(one) for one in came[1::2]} == {Access}
    assert isinstance(await host.doorkeeper.let_in(a_wish(credential, conversation)), Access)


@pytest.mark.sqlite
@pytest.mark.parametrize("impatient", [2.0], indirect=True)  # long enough for the known to come in meanwhile
async def test_while_nothing_can_be_written_the_known_come_in_and_the_new_do_not_hold_them_up(
    impatient: None, host: Host, alice: User, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "PATIENCE", 0.01)
    known = a_wish(await sync_to_async(session_of)(alice), conversation)
    await host.doorkeeper.let_in(known)
    fresh = [a_wish(known.credential, conversation) for _ in range(doorkeeper.MOST_AT_ONCE)]
    with write_lock():
        new = [asyncio.create_task(host.doorkeeper.let_in(wish)) for wish in fresh]
        await asyncio.sleep(0)
        assert isinstance(await host.doorkeeper.let_in(known), Access)
        assert not any(one.done() for one in new)
        async with asyncio.timeout(30):  # the lock is waited for once, not by each
            came = await asyncio.gather(*new, return_exceptions=True)
        assert {type(one) for one in came} == {OperationalError}
        await asyncio.sleep(0)
    assert isinstance(await host.doorkeeper.let_in(fresh[0]), Access)


def test_on_a_database_that_is_to_be_read_only_the_known_come_in_and_the_new_do_not(alice: User) -> None:
    """A standby after a failover: each database has its own kind of error for that."""
    known = a_wish(session_of(alice), Conversation.begin(alice))
    credentials = Credentials()
    enter_all([known], credentials)
    Device.objects.update(last_seen_at=timezone.now() - timedelta(hours=1))
    setting = "PRAGMA query_only =" if connection.vendor == "sqlite" else "SET default_transaction_read_only ="
    with connection.cursor() as cursor:
        cursor.execute(f"{setting} ON")
        try:
            came = enter_all([known, a_wish(known.credential, Conversation(pk=known.conversation)), known], credentials)
        finally:
            cursor.execute(f"{setting} OFF")
    assert isinstance(came[0], Access)
    assert isinstance(came[1], DatabaseError)
    assert isinstance(came[2], Access)


@pytest.mark.sqlite
def test_that_a_device_is_here_need_not_be_noted(impatient: None, alice: User) -> None:
    wishes = [a_wish(credential, Conversation.begin(alice)) for credential in (session_of(alice), token_of(alice))]
    credentials = Credentials()
    enter_all(wishes, credentials)
    an_hour_ago = timezone.now() - timedelta(hours=1)
    Device.objects.update(last_seen_at=an_hour_ago)
    AccessToken.objects.update(last_used_at=an_hour_ago)
    connection.close()  # for one that is impatient
    with write_lock():
        assert [type(one) for one in enter_all(wishes, credentials)] == [Access, Access]
