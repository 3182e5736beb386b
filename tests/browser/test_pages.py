"""The pages' views, without a browser: who sees what, what is kept, and how many queries it takes."""

import uuid

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from chat.models import Conversation, Participant

SESSION_AND_USER = 2


@pytest.fixture
def browser_of_alice(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client


def ask(conversation: Conversation, user: User, text: str, when_busy: str = "alongside") -> None:
    by = Participant.objects.select_related("user", "conversation").get(conversation=conversation, user=user)
    conversation.send(by=by, text=text, client_id=uuid.uuid4(), when_busy=when_busy)


def test_the_list_costs_the_same_however_long_it_is(
    alice: User, browser_of_alice: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for count in (1, 25):
        for number in range(count):
            ask(Conversation.begin(alice, f"Number {number}"), alice, "Hello")
        with django_assert_num_queries(SESSION_AND_USER + 2):  # how many there are; the rows with what runs in each
            page = browser_of_alice.get("/")
    assert b"Number 24" in page.content
    assert page.content.count(b"waiting</span>") == 26


def test_the_list_has_pages(alice: User, browser_of_alice: Client) -> None:
    for number in range(31):
        Conversation.begin(alice, f"Number {number}")
    assert b"Number 30<" in browser_of_alice.get("/").content
    assert b"Number 0<" not in browser_of_alice.get("/").content
    assert b"Number 0<" in browser_of_alice.get("/?page=2").content


def test_a_conversation_costs_the_same_however_long_it_is(
    alice: User,
    browser_of_alice: Client,
    conversation: Conversation,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    # participant; conversation; prompts; their runs; waiting; who asked those; whether it moved on meanwhile; people;
    # the list beside; what runs; what was spent; whether there is a budget; what was added; what was summarised
    queries = SESSION_AND_USER + 14
    ask(conversation, alice, "One")
    ask(conversation, alice, "Waits", "queue")
    with django_assert_num_queries(queries):
        browser_of_alice.get(f"/conversations/{conversation.pk}/")
    for number in range(22):
        ask(conversation, alice, f"Number {number}")
    for number in range(8):
        ask(conversation, alice, f"Waits {number}", "queue")
    with django_assert_num_queries(queries):
        page = browser_of_alice.get(f"/conversations/{conversation.pk}/")
    assert page.content.count(b'class="turn"') == 20
    assert page.content.count(b'id="waiting-') == 9


def test_an_older_page_costs_the_same_however_long_it_is(
    alice: User,
    browser_of_alice: Client,
    conversation: Conversation,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    for number in range(30):
        ask(conversation, alice, f"Number {number}")
    # participant; conversation; prompts; their runs; what was added to those; summaries
    with django_assert_num_queries(SESSION_AND_USER + 6):
        page = browser_of_alice.get(f"/conversations/{conversation.pk}/older/?before={conversation.head + 100}")
    assert page.content.count(b'class="turn"') == 20
    assert b'id="older"' in page.content


@pytest.mark.parametrize("path", ["", "older/?before=5"])
def test_a_stranger_finds_nothing(charlie: User, conversation: Conversation, path: str) -> None:
    client = Client()
    client.force_login(charlie)
    assert client.get(f"/conversations/{conversation.pk}/{path}").status_code == 404
    assert (
        client.post(f"/conversations/{conversation.pk}/people/", {"user": "charlie", "role": "editor"}).status_code
        == 404
    )
    assert client.post(f"/conversations/{conversation.pk}/leave/").status_code == 404


@pytest.mark.parametrize("path", ["/", "/conversations/{}/"])
def test_whoever_is_signed_out_is_asked_to_sign_in(conversation: Conversation, path: str) -> None:
    page = Client().get(path.format(conversation.pk))
    assert page.status_code == 302
    assert page.headers["Location"].startswith("/login/?next=")


@pytest.mark.parametrize("path", ["/conversations/sidebar/", "/conversations/{}/older/?before=5"])
def test_a_piece_of_a_page_never_becomes_a_sign_in_page(conversation: Conversation, path: str) -> None:
    assert Client().get(path.format(conversation.pk)).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/conversations/sidebar/", "/conversations/{}/", "/conversations/{}/older/?before=5"]
)
def test_nothing_of_it_is_kept_by_a_browser_or_a_proxy(
    browser_of_alice: Client, conversation: Conversation, path: str
) -> None:
    kept = browser_of_alice.get(path.format(conversation.pk)).headers["Cache-Control"]
    assert {"private", "no-store"} <= {word.strip() for word in kept.split(",")}


@pytest.mark.parametrize("before", ["", "x", "-1", "9" * 30, "٣"])
def test_a_place_that_is_none_is_not_found(browser_of_alice: Client, conversation: Conversation, before: str) -> None:
    assert browser_of_alice.get(f"/conversations/{conversation.pk}/older/", {"before": before}).status_code == 404


def test_only_the_owner_manages_people(alice: User, bob: User, charlie: User, conversation: Conversation) -> None:
    owner = Participant.objects.select_related("user").get(conversation=conversation, user=alice)
    conversation.add(by=owner, user=bob, role="editor")
    client = Client()
    client.force_login(bob)
    people = f"/conversations/{conversation.pk}/people/"
    tries = [
        (people, {"user": "charlie", "role": "editor"}),
        (f"{people}{bob.pk}/", {"role": "viewer"}),
        (f"{people}{alice.pk}/remove/", {}),
        (f"{people}{bob.pk}/remove/", {}),
    ]
    for path, fields in tries:
        answer = client.post(path, fields)
        assert answer.status_code == 422
        assert b"Only the owner of this conversation can do that." in answer.content
    assert conversation.participants.count() == 2


def test_a_role_that_is_none_and_a_name_that_is_nobodys_are_refused(
    browser_of_alice: Client, bob: User, conversation: Conversation
) -> None:
    people = f"/conversations/{conversation.pk}/people/"
    assert b"Choose editor or viewer." in browser_of_alice.post(people, {"user": "bob", "role": "owner"}).content
    assert b"There is nobody of that name." in browser_of_alice.post(people, {"user": "x", "role": "editor"}).content
    assert conversation.participants.count() == 1


def test_no_page_has_a_script_or_a_style_of_its_own(browser_of_alice: Client, conversation: Conversation) -> None:
    for path in ("/", f"/conversations/{conversation.pk}/", "/login/"):
        page = browser_of_alice.get(path).content.decode()
        assert "<style" not in page
        assert "style=" not in page
        assert page.count("<script") == page.count("<script src=") + page.count('<script type="module" src=')
        assert " onclick" not in page
