"""Signing in, up and out; devices; and that leaving ends what is live, on the page and on the wire."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import sync_to_async
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from chat import host as hosts
from chat import news
from chat.models import Conversation, Participant, Role
from chat.models import Device as DeviceRow
from chat.pages.accounts import DEMO_ACCOUNTS
from chat.transport.access import Credential
from chat.transport.close import Close
from tests.device import Device, until

pytestmark = pytest.mark.usefixtures("no_recheck")

Make = Callable[..., Device]
PASSWORD = "a-long-enough-one"
SOON = 10.0  # seconds; usually a few milliseconds, and where no timer runs there is nothing else to wait for


def signed_in(user: User, session: str = "") -> Client:
    client = Client()
    if session:
        client.cookies["sessionid"] = session
    else:
        client.force_login(user)
    return client


# --- signing in and up --------------------------------------------------------------------------------------


def test_signing_in_leads_to_where_one_was_going(alice: User) -> None:
    client = Client()
    answer = client.get(reverse("devices"))
    assert answer.headers["Location"] == f"{reverse('login')}?next={reverse('devices')}"
    page = client.get(answer.headers["Location"])
    assert f'name="next" value="{reverse("devices")}"' in page.content.decode()
    form = {"username": "alice", "password": "alice-says-hello", "next": reverse("devices")}
    assert client.post(reverse("login"), form).headers["Location"] == reverse("devices")
    assert client.get(reverse("devices")).status_code == 200


@pytest.mark.parametrize("where", ["login", "signup"])
@pytest.mark.parametrize("onward", ["https://evil.example.org/", "//evil.example.org", "javascript:alert(1)", "self"])
def test_nobody_is_sent_to_another_site_or_in_circles(alice: User, where: str, onward: str) -> None:
    onward = reverse(where) if onward == "self" else onward
    home = reverse("conversations")
    assert signed_in(alice).get(reverse(where), {"next": onward}).headers["Location"] == home
    page = Client().get(reverse(where), {"next": onward}).content.decode()
    assert 'name="next"' not in page
    form = {
        "login": {"username": "alice", "password": "alice-says-hello", "next": onward},
        "signup": {"username": "dora", "password1": PASSWORD, "password2": PASSWORD, "next": onward},
    }[where]
    assert Client().post(reverse(where), form).headers["Location"] == home


def test_a_wrong_password_is_refused_in_words(alice: User) -> None:
    answer = Client().post(reverse("login"), {"username": "alice", "password": "wrong"})
    assert answer.status_code == 200
    assert '<ul class="errors" role="alert"><li>Please enter a correct username' in answer.content.decode()


def test_demo_accounts_are_shown_in_development_while_they_have_the_demo_password(
    transactional_db: None, settings: LazySettings
) -> None:
    settings.DEBUG = True
    assert "demo-accounts" not in login_page()
    for name, password in DEMO_ACCOUNTS.items():
        User.objects.create_user(name, password=password)
    for name, password in DEMO_ACCOUNTS.items():
        assert f"<dt>{name}</dt><dd><code>{password}</code></dd>" in login_page()
    bob = User.objects.get(username="bob")
    bob.set_password("of-my-own-now")
    bob.save()
    assert "alice-demo" in login_page()
    assert "bob" not in login_page()
    User.objects.filter(username="alice").update(is_active=False)
    assert "demo-accounts" not in login_page()


def test_demo_accounts_are_never_shown_in_production(transactional_db: None, settings: LazySettings) -> None:
    settings.DEBUG = False
    User.objects.create_user("alice", password="alice-demo")
    assert "alice" not in login_page()


def login_page() -> str:
    return Client().get(reverse("login")).content.decode()


def test_signing_up_makes_an_account_and_signs_it_in(transactional_db: None) -> None:
    client = Client()
    answer = client.post(reverse("signup"), new("Dora.the-2nd", next=reverse("devices")))
    assert answer.headers["Location"] == reverse("devices")
    assert client.get(reverse("devices")).context["user"].username == "Dora.the-2nd"


@pytest.mark.parametrize(
    "name", ["", "d" * 31, "do ra", "do\nra", "-dora", "dora.", "<b>dora</b>", "dora@home", "d\u043era", "d\0ra"]
)
def test_a_name_that_is_too_long_or_reads_badly_is_refused(transactional_db: None, name: str) -> None:
    answer = Client().post(reverse("signup"), new(name))
    assert answer.status_code == 200, "signed up"
    assert answer.context["form"].errors["username"]
    assert not User.objects.exists()


def test_a_name_is_taken_in_any_case_of_letters(alice: User) -> None:
    answer = Client().post(reverse("signup"), new("ALICE"))
    assert answer.context["form"].errors["username"] == ["A user with that username already exists."]


@pytest.mark.parametrize("password", ["short", "password123", "dora-dora"])
def test_a_password_that_is_easily_guessed_is_refused(transactional_db: None, password: str) -> None:
    answer = Client().post(reverse("signup"), {**new("dora-dora"), "password1": password, "password2": password})
    assert answer.context["form"].errors["password2"]
    assert not User.objects.exists()


def new(name: str, **more: str) -> dict[str, str]:
    return {"username": name, "password1": PASSWORD, "password2": PASSWORD, **more}


# --- the devices page ---------------------------------------------------------------------------------------


@pytest.fixture
def laptop(alice: User) -> DeviceRow:
    return DeviceRow.first_seen(alice, uuid4(), "Laptop")


def post(client: Client, view: str, device: DeviceRow, *, htmx: bool = True, **fields: str) -> Any:
    headers = {"HX-Request": "true"} if htmx else {}
    return client.post(reverse(view, args=[device.pk]), fields, headers=headers)


def test_everybody_sees_their_own_devices_only(laptop: DeviceRow, alice: User, bob: User) -> None:
    assert "Laptop" in signed_in(alice).get(reverse("devices")).content.decode()
    assert "Laptop" not in signed_in(bob).get(reverse("devices")).content.decode()


def test_a_device_is_renamed_in_its_row(laptop: DeviceRow, alice: User) -> None:
    answer = post(signed_in(alice), "device-rename", laptop, name="  Kitchen <laptop> ")
    assert answer.content.decode().startswith(f'<li class="device" id="device-{laptop.pk}"')
    assert 'value="Kitchen &lt;laptop&gt;"' in answer.content.decode()
    laptop.refresh_from_db()
    assert laptop.name == "Kitchen <laptop>"


@pytest.mark.parametrize("name", ["", "   ", "n" * 81])
def test_a_device_keeps_its_name_if_the_new_one_cannot_be(laptop: DeviceRow, alice: User, name: str) -> None:
    answer = post(signed_in(alice), "device-rename", laptop, name=name)
    assert answer.status_code == 422
    assert '<ul class="errors"' in answer.content.decode()
    assert 'value="Laptop"' in answer.content.decode()
    laptop.refresh_from_db()
    assert laptop.name == "Laptop"


def test_a_revoked_device_says_so_and_can_no_longer_be_renamed(laptop: DeviceRow, alice: User) -> None:
    client = signed_in(alice)
    first = post(client, "device-revoke", laptop)
    assert "revoked" in first.content.decode()
    assert "<form" not in first.content.decode()
    assert post(client, "device-revoke", laptop).content == first.content
    assert post(client, "device-rename", laptop, name="Back again").status_code == 404
    assert first.content.decode().strip() in client.get(reverse("devices")).content.decode()


def test_devices_can_be_managed_without_scripts(laptop: DeviceRow, alice: User) -> None:
    client = signed_in(alice)
    answer = post(client, "device-rename", laptop, htmx=False, name="Desk")
    assert answer.headers["Location"] == reverse("devices")
    assert post(client, "device-revoke", laptop, htmx=False).headers["Location"] == reverse("devices")
    laptop.refresh_from_db()
    assert laptop.name == "Desk"
    assert laptop.revoked_at


@pytest.mark.parametrize("name", ["device-rename", "device-revoke"])
def test_nobody_touches_a_device_of_somebody_else(laptop: DeviceRow, bob: User, name: str) -> None:
    assert post(signed_in(bob), name, laptop, name="Mine").status_code == 404
    assert post(Client(), name, laptop, name="Mine").status_code == 302
    laptop.refresh_from_db()
    assert (laptop.name, laptop.revoked_at) == ("Laptop", None)


@pytest.mark.parametrize("name", ["device-rename", "device-revoke"])
def test_a_link_changes_no_device(laptop: DeviceRow, alice: User, name: str) -> None:
    assert signed_in(alice).get(reverse(name, args=[laptop.pk])).status_code == 405


def test_a_form_of_another_site_changes_nothing(laptop: DeviceRow, alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    for url in (reverse("logout"), reverse("device-revoke", args=[laptop.pk])):
        assert client.post(url).status_code == 403


# --- what is live -------------------------------------------------------------------------------------------


Leave = Callable[[Device, Conversation], HttpResponse | None]


def sign_out(device: Device, conversation: Conversation) -> None:
    assert signed_in(device.user, device.session).post(reverse("logout")).status_code == 302


def revoke(device: Device, conversation: Conversation) -> None:
    client = signed_in(device.user, device.session)
    assert client.post(reverse("device-revoke", args=[device.id])).status_code == 302


def be_removed(device: Device, conversation: Conversation) -> None:
    owner = Participant.objects.get(conversation=conversation, role=Role.OWNER)
    conversation.remove(by=owner, user=device.user)


def change_password(device: Device, conversation: Conversation) -> None:
    device.user.set_password("another-one-now")
    device.user.save(update_fields=["password"])


def be_deactivated(device: Device, conversation: Conversation) -> None:
    User.objects.filter(pk=device.user.pk).update(is_active=False)


@pytest.fixture
def quick_recheck(no_recheck: None, monkeypatch: pytest.MonkeyPatch) -> float:
    """The recheck timer, often enough for a test. Before the host starts."""
    monkeypatch.setattr(hosts, "RECHECK_SECONDS", 1.0)
    return 1.0


async def watching(make: Make, user: User, conversation: Conversation, **options: str) -> Device:
    return await (await make(user, conversation, **options).connect()).synced()


@pytest.fixture
async def shared(conversation: Conversation, alice: User, bob: User) -> Conversation:
    """Alice's conversation, with Bob in it."""
    owner = await Participant.objects.select_related("user").aget(conversation=conversation, user=alice)
    await sync_to_async(conversation.add)(by=owner, user=bob, role=Role.EDITOR)
    return conversation


async def leaves(gone: Device, stays: Device, act: Callable[[], Awaitable[Any]], code: Close, within: float) -> None:
    """While an answer is being written: `gone` is sent away with `code` in time, and hears no more of it."""
    ack = await stays.ask("/rate 200 /long 100000")
    await until(lambda: len(gone.view.runs.get(ack["run"], {}).get("answer") or "") > 0)
    await until(lambda: len(gone.view.text_of(ack["run"])) > 100, "text before leaving")
    await act()
    await until(lambda: gone.closed, "a close", deadline=within)
    assert gone.closed == code
    assert [frame["type"] for frame in gone.frames if frame["type"] == "bye"] == ["bye"]
    assert (gone.frames[-1]["type"], gone.frames[-1]["code"]) == ("bye", code.name.lower())
    said = len(stays.view.text_of(ack["run"]))
    await until(lambda: len(stays.view.text_of(ack["run"])) > said + 1000, "the answer going on for the others")
    assert stays.closed is None
    await stays.say("run.cancel", run=ack["run"])
    await stays.ended(ack["run"])


@pytest.mark.parametrize(("leave", "code"), [(sign_out, Close.SIGNED_OUT), (revoke, Close.REVOKED)])
async def test_who_signs_out_or_is_revoked_hears_nothing_more_and_other_sessions_stay(
    device: Make, alice: User, conversation: Conversation, leave: Leave, code: Close
) -> None:
    phone = await watching(device, alice, conversation)
    laptop = await watching(device, alice, conversation)
    await leaves(phone, laptop, lambda: sync_to_async(leave)(phone, conversation), code, within=SOON)


async def test_nothing_is_sent_after_the_close(device: Make, alice: User, conversation: Conversation) -> None:
    phone = await watching(device, alice, conversation)
    laptop = await watching(device, alice, conversation)
    await leaves(phone, laptop, lambda: sync_to_async(sign_out)(phone, conversation), Close.SIGNED_OUT, within=SOON)
    assert phone._socket is not None
    assert phone._socket.output_queue.empty()


async def test_two_tabs_of_a_session_that_ends_both_end(device: Make, alice: User, conversation: Conversation) -> None:
    one = await watching(device, alice, conversation)
    two = await watching(device, alice, conversation, session=one.session)
    other = await watching(device, alice, conversation)
    await sync_to_async(sign_out)(one, conversation)
    await until(lambda: one.closed == two.closed == Close.SIGNED_OUT, deadline=SOON)
    assert other.closed is None


async def test_who_is_removed_hears_nothing_more(device: Make, alice: User, bob: User, shared: Conversation) -> None:
    his, hers = await watching(device, bob, shared), await watching(device, alice, shared)
    await leaves(his, hers, lambda: sync_to_async(be_removed)(his, shared), Close.FORBIDDEN, within=SOON)
    await until(lambda: hers.view.people == {"alice": "owner"})


@pytest.mark.parametrize("leave", [change_password, be_deactivated])
async def test_who_may_no_longer_sign_in_hears_nothing_more_though_nobody_says_so(
    quick_recheck: float, device: Make, alice: User, bob: User, shared: Conversation, leave: Leave
) -> None:
    his, hers = await watching(device, bob, shared), await watching(device, alice, shared)
    within = quick_recheck + SOON
    await leaves(his, hers, lambda: sync_to_async(leave)(his, shared), Close.SIGNED_OUT, within=within)


async def test_a_sign_out_whose_announcement_was_lost_is_found_by_timer(
    quick_recheck: float, device: Make, alice: User, conversation: Conversation
) -> None:
    phone, laptop = await watching(device, alice, conversation), await watching(device, alice, conversation)
    session = await sync_to_async(lambda: signed_in(alice, phone.session).session)()
    await sync_to_async(session.flush)()  # as another process would, while the layer is away
    await until(lambda: phone.closed == Close.SIGNED_OUT, deadline=quick_recheck + SOON)
    assert laptop.closed is None


async def test_a_signal_sent_in_the_moment_of_leaving_is_refused(
    device: Make, alice: User, conversation: Conversation
) -> None:
    phone = await watching(device, alice, conversation)
    session = await sync_to_async(lambda: signed_in(alice, phone.session).session)()
    await sync_to_async(session.flush)()
    answer = await phone.say("message.send", text="Am I still here?")
    assert (answer["type"], answer["code"]) == ("nack", "signed_out")


async def test_who_was_sent_away_is_not_let_in_again(device: Make, alice: User, conversation: Conversation) -> None:
    phone = await watching(device, alice, conversation)
    await sync_to_async(revoke)(phone, conversation)
    await until(lambda: phone.closed)
    await phone.disconnect()
    for device_id in (phone.id, str(uuid4())):  # nor as another device: its session ended with it
        phone.id = device_id
        await phone.connect()
        await until(lambda: phone.closed)
        assert phone.closed == Close.SIGNED_OUT
        await phone.disconnect()


def test_news_of_people_concerns_only_who_it_names(conversation: Conversation) -> None:
    class Somebody:
        credential = Credential()
        user = "alice"

        def __init__(self) -> None:
            self.conversation, self.device = conversation.pk, uuid4()

    somebody: Any = Somebody()
    concerns = hosts._concerns
    assert concerns({"device": str(somebody.device)}, somebody)
    assert concerns({"conversation": conversation.pk.hex, "user": "alice"}, somebody)
    for other in (
        {"type": "people"},
        {"session": None},
        {"session": "another"},
        {"token": "another"},
        {"token": None},
        {"device": str(uuid4())},
        {"conversation": conversation.pk.hex},
        {"conversation": conversation.pk.hex, "user": "bob"},
        {"conversation": uuid4().hex, "user": "alice"},
        {"user": "alice"},
    ):
        assert not concerns(other, somebody), other


def test_where_no_host_runs_signing_out_is_just_that(alice: User) -> None:
    client = signed_in(alice)
    assert client.post(reverse("logout")).headers["Location"] == reverse("login")
    assert client.get(reverse("devices")).status_code == 302
    assert Client().post(reverse("logout")).status_code == 302
    assert client.get(reverse("logout")).status_code == 405


def test_what_is_not_there_looks_the_same_in_development(transactional_db: None, alice: User, settings: Any) -> None:
    for settings.DEBUG in (True, False):
        answer = signed_in(alice).get(reverse("conversation", args=[uuid4()]))
        assert answer.status_code == 404
        assert b"There is no such page, or it is not yours to see." in answer.content
        assert b"<style" not in answer.content


def test_where_sign_up_is_closed_nobody_makes_an_account(client: Client, transactional_db: None, settings: Any) -> None:
    settings.SIGNUP = False
    assert client.get("/signup/").status_code == 404
    assert client.post("/signup/", {"username": "dora"}).status_code == 404
    assert b"Make an account" not in client.get("/login/").content
    settings.SIGNUP = True
    assert b"Make an account" in client.get("/login/").content


def test_people_are_told_of_what_is_committed_and_of_nothing_else(transactional_db: None) -> None:
    told: list[dict[str, Any]] = []

    class Desk:
        tell_people = told.append

    news.set_desk(Desk())  # type: ignore[arg-type]
    try:
        with transaction.atomic():
            news.tell_people({"user": "alice"})
            assert told == [], "whoever looks now sees what was"
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            news.tell_people({"user": "bob"})
            raise ZeroDivisionError
        assert told == [{"type": "people", "user": "alice"}]
    finally:
        news.set_desk(None)
