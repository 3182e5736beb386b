"""Access tokens: which stand, what is kept of them, and who makes and revokes them, on the page and in the admin."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.contrib.auth.models import Permission, User
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from chat import news
from chat.errors import Refused
from chat.models import AccessToken, Conversation
from chat.models.token import MOST, SECRET_LENGTH
from chat.transport.access import Credential, check
from chat.transport.admission import Credentials, Wish, enter_all

Hear = Callable[[], Awaitable[Any]]
HTMX = {"HX-Request": "true"}
SOON = 10.0  # seconds


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def staff(transactional_db: None) -> Client:
    """Who may do everything, as far as anybody may."""
    return signed_in(User.objects.create_superuser("root", password="root-says-hello"))


@pytest.fixture
def issued(alice: User) -> tuple[AccessToken, str]:
    return AccessToken.issue(alice, "Nightly report")


def standing(secret: str) -> AccessToken | None:
    """What a request that brings this gets."""
    return next(iter(AccessToken.by_keys([AccessToken.key_of(secret)])), None)


# --- the token ----------------------------------------------------------------------------------------------


def test_a_token_stands_by_its_secret(issued: tuple[AccessToken, str], alice: User) -> None:
    token, secret = issued
    assert re.fullmatch(r"cvt_[A-Za-z0-9_-]{43}", secret)
    found = standing(secret)
    assert found == token
    with CaptureQueriesContext(connection) as captured:
        assert found is not None
        assert found.user == alice
    assert len(captured) == 0


def test_nothing_that_is_stored_or_shown_is_the_secret(issued: tuple[AccessToken, str]) -> None:
    token, secret = issued
    row = AccessToken.objects.values().get()
    assert secret not in repr(row)
    assert row["key"] == AccessToken.key_of(secret)
    assert token.key not in f"{token!r} {token}"
    assert str(token) == "Nightly report"
    assert standing(token.key) is None


def test_no_two_secrets_are_the_same(alice: User) -> None:
    assert len({AccessToken.issue(alice, "Same name")[1] for _ in range(MOST)}) == MOST


NO_SECRETS = [
    "",
    "cvt_",
    "cvt_" + "A" * 43,
    "\0" * SECRET_LENGTH,
    "cvt_" + "\0" * 43,
    "cvt_" + "\ud800" * 43,
    "cvt_" + "é" * 43,
    "cvt_" + "A" * 42 + "\n",
    "cvt_" + "A" * 10_000_000,
    "' OR 1=1 --",
]


@pytest.mark.parametrize("text", NO_SECRETS, ids=range(len(NO_SECRETS)))
def test_whatever_is_brought_is_refused_and_never_an_error(issued: tuple[AccessToken, str], text: str) -> None:
    assert standing(text) is None
    assert not AccessToken.by_keys([text])


def test_what_cannot_be_a_secret_costs_no_look_into_the_database(issued: tuple[AccessToken, str]) -> None:
    secret = issued[1]
    with CaptureQueriesContext(connection) as captured:
        for text in (secret[1:], secret + "A", secret.upper(), "cvt-" + secret[4:], secret * 100_000):
            assert standing(text) is None
    assert len(captured) == 0
    assert standing(secret)


def test_a_revoked_token_no_longer_stands_and_the_first_time_stays(issued: tuple[AccessToken, str]) -> None:
    token, secret = issued
    other = AccessToken.issue(token.user, "Another")[1]
    token.revoke()
    token.refresh_from_db()
    first = token.revoked_at
    assert first
    token.revoke()
    token.refresh_from_db()
    assert token.revoked_at == first
    assert standing(secret) is None
    assert not AccessToken.by_keys([token.key])
    assert standing(other)


def test_the_tokens_of_a_deactivated_user_do_not_stand_until_they_are_active_again(
    issued: tuple[AccessToken, str], alice: User
) -> None:
    token, secret = issued
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert standing(secret) is None
    assert not AccessToken.by_keys([token.key])
    User.objects.filter(pk=alice.pk).update(is_active=True)
    assert standing(secret)


def test_a_new_password_leaves_tokens_as_they_are_and_a_deleted_user_takes_theirs_along(
    issued: tuple[AccessToken, str], alice: User
) -> None:
    alice.set_password("another-one-now")
    alice.save()
    assert standing(issued[1])
    alice.delete()
    assert standing(issued[1]) is None
    assert not AccessToken.objects.exists()


def test_its_last_use_is_written_once_a_minute_at_most(issued: tuple[AccessToken, str]) -> None:
    token, secret = issued

    def used(reads_and_writes: int) -> Any:
        with CaptureQueriesContext(connection) as captured:
            found = standing(secret)
            assert found is not None
            found.use()
        assert len(captured) == reads_and_writes
        token.refresh_from_db()
        assert found.last_used_at == token.last_used_at
        return token.last_used_at

    first = used(2)
    assert timezone.now() - first < timedelta(seconds=30)
    assert used(1) == first
    long_ago = timezone.now() - timedelta(seconds=61)
    AccessToken.objects.update(last_used_at=long_ago)
    assert used(2) > long_ago


def test_to_look_by_key_is_no_use(issued: tuple[AccessToken, str]) -> None:
    assert AccessToken.by_keys([issued[0].key])
    assert AccessToken.objects.get().last_used_at is None


def test_a_connection_is_a_use_and_a_signal_is_none(issued: tuple[AccessToken, str], alice: User) -> None:
    credential = Credential(token=issued[0].key)
    conversation, device = Conversation.begin(alice).pk, uuid.uuid4()
    enter_all([Wish(credential, conversation, device, "A program")], Credentials())
    assert AccessToken.objects.get().last_used_at is not None
    AccessToken.objects.update(last_used_at=None)
    check(credential, conversation, device)
    assert AccessToken.objects.get().last_used_at is None


def test_so_many_stand_and_no_more_however_many_ask_at_once(alice: User, bob: User) -> None:
    for _ in range(MOST - 1):
        AccessToken.issue(alice, "Modest")
    together = Barrier(4)

    def ask(_: int) -> AccessToken | None:
        connection.ensure_connection()
        together.wait()
        try:
            return AccessToken.issue(alice, "Greedy")[0]
        except Refused:
            return None
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        for _ in range(12):  # one race may be won by chance
            made = [token for token in threads.map(ask, range(4)) if token]
            assert len(made) == 1
            made[0].revoke()
    assert AccessToken.objects.filter(revoked_at=None).count() == MOST - 1
    assert AccessToken.issue(alice, "The last one")
    with pytest.raises(Refused):
        AccessToken.issue(alice, "One too many")
    assert AccessToken.issue(bob, "His own")


# --- the page -----------------------------------------------------------------------------------------------


def make(client: Client, name: str, *, htmx: bool = True) -> Any:
    return client.post(reverse("token-make"), {"name": name}, headers=HTMX if htmx else {})


def revoke(client: Client, token: AccessToken, *, htmx: bool = True) -> Any:
    return client.post(reverse("token-revoke", args=[token.pk]), headers=HTMX if htmx else {})


def page(client: Client) -> str:
    return client.get(reverse("devices")).content.decode()


def secrets_in(html: str) -> list[str]:
    return re.findall(r"cvt_[\w-]{43}", html)


@pytest.mark.parametrize("htmx", [True, False])
def test_the_secret_is_shown_once_and_nothing_keeps_that_page(alice: User, htmx: bool) -> None:
    AccessToken.issue(alice, "An earlier one")
    client = signed_in(alice)
    answer = make(client, "  Nightly\t <report> ", htmx=htmx)
    html = answer.content.decode()
    (secret,) = secrets_in(html)
    token = standing(secret)
    assert token is not None
    assert (token.user, token.name) == (alice, "Nightly <report>")
    assert "no-store" in answer.headers["Cache-Control"]
    assert html.lstrip().startswith('<section class="card" id="tokens"' if htmx else "<!doctype html>")
    words = re.sub(r"<[^>]+>", "", html)
    assert "python manage.py chat &lt;address of a conversation&gt; --token …" in words
    assert "Authorization: Bearer …" in words
    assert 'value=""' in html, "the form is empty again"
    again = page(client)
    assert secrets_in(again) == []
    assert token.key not in html + again
    assert "Nightly &lt;report&gt;" in again
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)


def test_the_list_says_when_a_token_was_used(issued: tuple[AccessToken, str], alice: User) -> None:
    client = signed_in(alice)
    assert "never used" in page(client)
    issued[0].use()
    assert "never used" not in page(client)
    assert "last used" in page(client)


def test_those_that_stand_come_first_and_the_newest_of_them(alice: User) -> None:
    first, *_ = [AccessToken.issue(alice, name)[0] for name in ("One", "Two", "Three")]
    client = signed_in(alice)
    assert re.findall(r"<strong>(\w+)</strong>", page(client)) == ["Three", "Two", "One"]
    AccessToken.objects.get(name="Three").revoke()
    first.revoke()
    assert re.findall(r"<strong>(\w+)</strong>", page(client)) == ["Two", "One", "Three"]


def test_the_list_costs_the_same_however_long_it_is(alice: User) -> None:
    client, counts = signed_in(alice), set()
    for _ in range(3):
        AccessToken.issue(alice, "One more")
        with CaptureQueriesContext(connection) as captured:
            page(client)
        counts.add(len(captured))
    assert counts == {4}  # the session, the user, the devices, the tokens


@pytest.mark.parametrize("name", ["", "   ", "n" * 81, "a\0b", "\u200b\u2060", "\u00a0 \u2003"])
@pytest.mark.parametrize("htmx", [True, False])
def test_a_name_that_nobody_can_read_is_refused_where_it_was_written(alice: User, name: str, htmx: bool) -> None:
    answer = make(signed_in(alice), name, htmx=htmx)
    assert answer.status_code == 422
    assert '<ul class="errors" id="token-errors" role="alert"><li>' in answer.content.decode()
    assert answer.content.decode().count('role="alert"') == 1
    assert not AccessToken.objects.exists()


def test_one_too_many_is_refused_in_words_and_the_name_is_kept(alice: User) -> None:
    for number in range(MOST):
        AccessToken.issue(alice, f"Number {number}")
    answer = make(signed_in(alice), "One too many")
    assert answer.status_code == 422
    assert "You have 20 tokens. Revoke one that you no longer need." in answer.content.decode()
    assert 'value="One too many"' in answer.content.decode()
    assert AccessToken.objects.count() == MOST


def test_a_revoked_token_says_so_in_its_row_as_after_a_reload(issued: tuple[AccessToken, str], alice: User) -> None:
    token, secret = issued
    client = signed_in(alice)
    first = revoke(client, token)
    assert first.content.decode().startswith(f'<li class="token" id="token-{token.pk}"')
    assert "revoked" in first.content.decode()
    assert "<form" not in first.content.decode()
    assert revoke(client, token).content == first.content
    assert first.content.decode().strip() in page(client)
    assert standing(secret) is None
    assert revoke(client, token, htmx=False).headers["Location"] == reverse("devices")


def test_nobody_sees_or_revokes_a_token_of_somebody_else(issued: tuple[AccessToken, str], bob: User) -> None:
    token, secret = issued
    assert "Nightly report" not in page(signed_in(bob))
    assert revoke(signed_in(bob), token).status_code == 404
    assert standing(secret)


def test_who_is_signed_out_is_asked_to_sign_in_by_the_whole_page(issued: tuple[AccessToken, str]) -> None:
    nobody = Client()
    for answer in (make(nobody, "Mine", htmx=False), revoke(nobody, issued[0], htmx=False)):
        assert answer.headers["Location"].startswith(f"{reverse('login')}?next=")
    for answer in (make(nobody, "Mine"), revoke(nobody, issued[0])):
        assert (answer.headers["HX-Refresh"], answer.content) == ("true", b"")
    assert AccessToken.objects.filter(revoked_at=None).count() == 1


def test_a_link_or_a_form_of_another_site_changes_nothing(issued: tuple[AccessToken, str], alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    for url in (reverse("token-make"), reverse("token-revoke", args=[issued[0].pk])):
        assert client.get(url, {"name": "By a link"}).headers["Location"] == reverse("devices")
        assert client.post(url, {"name": "By a form"}).status_code == 403
    assert standing(issued[1])
    assert AccessToken.objects.count() == 1


# --- that a token ended is told -----------------------------------------------------------------------------


@pytest.fixture
async def hear() -> AsyncIterator[Hear]:
    """The next thing that hosts are told about people, over the layer."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(news.PEOPLE, channel)
    desk = news.NewsDesk()
    news.set_desk(desk)

    async def heard() -> Any:
        async with asyncio.timeout(SOON):
            return await layer.receive(channel)

    yield heard
    news.set_desk(None)
    await desk.close()
    await layer.group_discard(news.PEOPLE, channel)


async def test_revoking_on_the_page_is_told_to_every_host(
    hear: Hear, issued: tuple[AccessToken, str], alice: User
) -> None:
    await sync_to_async(lambda: revoke(signed_in(alice), issued[0]))()
    assert await hear() == {"type": "people", "token": AccessToken.key_of(issued[1])}


async def test_revoking_in_the_admin_is_told_to_every_host(
    hear: Hear, issued: tuple[AccessToken, str], staff: Client
) -> None:
    assert await sync_to_async(act)(staff, issued[0]) == ["Access tokens revoked: 1"]
    assert await hear() == {"type": "people", "token": AccessToken.key_of(issued[1])}


# --- the admin ----------------------------------------------------------------------------------------------


def act(client: Client, *tokens: AccessToken) -> list[str]:
    """Revoke in the admin's list, and return what it said."""
    data = {"action": "revoke", "_selected_action": [str(token.pk) for token in tokens]}
    answer = client.post(reverse("admin:chat_accesstoken_changelist"), data, follow=True)
    assert answer.status_code == 200
    return [str(message) for message in answer.context["messages"]]


def test_staff_revoke_what_they_select_once(issued: tuple[AccessToken, str], bob: User, staff: Client) -> None:
    his, secret = AccessToken.issue(bob, "His")
    assert act(staff, issued[0]) == ["Access tokens revoked: 1"]
    assert act(staff, issued[0], his) == ["Access tokens revoked: 1"]
    assert standing(issued[1]) is None
    assert standing(secret) is None


def test_staff_see_neither_secret_nor_key_and_edit_nothing(issued: tuple[AccessToken, str], staff: Client) -> None:
    token, secret = issued
    before = AccessToken.objects.values().get()
    change = reverse("admin:chat_accesstoken_change", args=[token.pk])
    for url in (reverse("admin:chat_accesstoken_changelist"), change):
        html = staff.get(url).content.decode()
        assert "Nightly report" in html
        assert token.key not in html
        assert secret not in html
        assert 'name="_save"' not in html
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
    assert staff.post(change, {"name": "Mine"}).status_code == 403
    assert staff.get(reverse("admin:chat_accesstoken_add")).status_code == 403
    assert staff.post(reverse("admin:chat_accesstoken_delete", args=[token.pk]), {"post": "yes"}).status_code == 403
    assert AccessToken.objects.values().get() == before


def test_staff_find_tokens_by_name_by_person_and_by_id_but_not_by_key(
    issued: tuple[AccessToken, str], bob: User, staff: Client
) -> None:
    AccessToken.issue(bob, "His")
    token = issued[0]
    listed = reverse("admin:chat_accesstoken_changelist")
    for term, found in (("night", 1), ("ALI", 1), (token.pk.hex[:12], 1), (token.key, 0), ("", 2)):
        assert staff.get(listed, {"q": term}).context["cl"].result_count == found, term


def test_who_may_only_look_revokes_nothing(issued: tuple[AccessToken, str]) -> None:
    viewer = User.objects.create_user("viewer", password="viewer-says-hello", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename="view_accesstoken"))
    act(signed_in(viewer), issued[0])
    assert standing(issued[1])
