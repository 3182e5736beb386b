"""What staff see: fast whatever the tables hold, nothing to edit by hand, and verbs that do what they say."""

import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import timedelta
from html import unescape
from io import StringIO
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.conf import LazySettings
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from chat import host as hosts
from chat.admin.lists import COUNTED, id_range
from chat.admin.runs import NEAR
from chat.agent.engine import Engine
from chat.agent.provider import ProviderEvent, Turn
from chat.agent.scripted import Scripted
from chat.batches import Delta
from chat.group_commit import commit
from chat.management.commands import seed_demo
from chat.models import Conversation, Event, File, Message, Participant, Role, Run, Spending, Summary, Worker
from chat.models import Device as DeviceRow
from chat.models.state import LIVE, State
from chat.models.worker import FORGOTTEN
from chat.transport.close import Close
from tests.attaching import Hand, picture
from tests.device import Device, until

pytestmark = pytest.mark.usefixtures("no_recheck")

Make = Callable[..., Device]
MODELS: dict[str, type[Model]] = {
    "conversation": Conversation,
    "participant": Participant,
    "device": DeviceRow,
    "message": Message,
    "run": Run,
    "event": Event,
    "worker": Worker,
    "summary": Summary,
    "file": File,
}
LISTS = list(MODELS)


@pytest.fixture
def staff(transactional_db: None) -> Client:
    """Who may do everything, as far as anybody may."""
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="root-says-hello"))
    return client


@pytest.fixture
def talk(conversation: Conversation, alice: User, bob: User) -> Conversation:
    """Alice's conversation with Bob in it, one run running and one waiting."""
    by = Participant.objects.get(user=alice)
    conversation.add(by=by, user=bob, role=Role.EDITOR)
    laptop = DeviceRow.first_seen(alice, uuid4(), "Laptop")
    conversation.send(by=by, text="First <b>question</b>", client_id=uuid4(), device=laptop)
    assert len(Run.claim(conversation, "worker:1")) == 1
    File.objects.create(conversation=conversation, uploaded_by=alice, name="a.txt", stored="a", size=1)
    conversation.send(by=by, text="Second question", client_id=uuid4(), device=laptop)
    Summary.objects.create(conversation=conversation, until=1, text="They met.", model="scripted")
    return conversation


def page(client: Client, model: str, **query: str) -> str:
    answer = client.get(reverse(f"admin:chat_{model}_changelist"), query)
    assert answer.status_code == 200
    return answer.content.decode()


def rows_of(html: str) -> int:
    body = re.search(r"<tbody>(.*?)</tbody>", html, re.DOTALL)
    return body[1].count("<tr") if body else 0


def seen_in(html: str) -> list[list[str]]:
    """The cells of each row, as words, without the one to select it by."""
    body = re.search(r"<tbody>(.*?)</tbody>", html, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", body[1], re.DOTALL) if body else []
    cells = (re.findall(r'<t[hd] class="field-.*?</t[hd]>', row, re.DOTALL) for row in rows)
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in cells]


def act(client: Client, model: str, action: str, *ids: Any) -> list[str]:
    """Run an action on rows and return what it said."""
    data = {"action": action, "_selected_action": [str(pk) for pk in ids]}
    answer = client.post(reverse(f"admin:chat_{model}_changelist"), data, follow=True)
    assert answer.status_code == 200
    return [str(message) for message in answer.context["messages"]]


class Counting(Scripted):
    """The scripted provider, counting its open replies."""

    open: ClassVar[int] = 0
    calls: ClassVar[int] = 0

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        Counting.open += 1
        Counting.calls += 1
        try:
            async for event in super().reply(turn):
                yield event
        finally:
            Counting.open -= 1


@pytest.fixture
def counting(settings: LazySettings) -> Iterator[type[Counting]]:
    settings.CHAT_PROVIDERS = {**settings.CHAT_PROVIDERS, "scripted": "tests.test_admin.Counting"}
    Counting.open = Counting.calls = 0
    yield Counting
    assert Counting.open == 0


# --- lists --------------------------------------------------------------------------------------------------


def fill(count: int, *, people: int = 0) -> None:
    """So many more of everything, each in a conversation of its own and of another user (or of so many users)."""
    now = timezone.now()
    new = User.objects.bulk_create(User(username=f"user-{uuid4().hex[:12]}") for _ in range(people or count))
    users = [new[n % len(new)] for n in range(count)]
    made = Conversation.objects.bulk_create(Conversation(title=f"Talk {n}", head=1) for n in range(count))
    Participant.objects.bulk_create(
        Participant(conversation=c, user=u, role=Role.OWNER) for c, u in zip(made, users, strict=True)
    )
    DeviceRow.objects.bulk_create(DeviceRow(user=user, name="Phone") for user in users)
    parts = [{"type": "text", "text": "Hello " * 50, "state": "done"}]
    said = Message.objects.bulk_create(
        Message(conversation=c, role="user", author=u, parts=parts, place=1, created_serial=1)
        for c, u in zip(made, users, strict=True)
    )
    Run.objects.bulk_create(
        Run(conversation=m.conversation, prompt=m, position=1, provider="scripted", requested_by=m.author) for m in said
    )
    File.objects.bulk_create(
        File(conversation=m.conversation, message=m, uploaded_by=m.author, name="a.txt", stored="a", size=1)
        for m in said
    )
    Event.objects.bulk_create(Event(conversation=c, serial=1, kind="message.created", created_at=now) for c in made)
    Summary.objects.bulk_create(Summary(conversation=c, until=1, text="They met.", model="scripted") for c in made)
    Worker.objects.bulk_create(Worker(name=f"host:{uuid4().hex}", engine="in-process") for _ in range(count))


@pytest.mark.parametrize("model", LISTS)
def test_a_list_asks_as_much_of_the_database_for_25_rows_as_for_50(staff: Client, model: str) -> None:
    counts = []
    for _ in range(2):
        fill(25)
        with CaptureQueriesContext(
            connection,
        ) as captured:
            shown = rows_of(page(staff, model))
        counts.append((shown, len(captured)))
    assert [shown for shown, _ in counts] == [25, 50]
    assert counts[0][1] == counts[1][1]
    # The session, the user, the count, the page; two prefetches of conversations, two counts of runs.
    assert counts[0][1] == 4 + {"conversation": 2, "run": 2}.get(model, 0)


def test_a_long_table_is_never_counted_to_its_end(staff: Client) -> None:
    fill(1)
    with CaptureQueriesContext(connection) as captured:
        page(staff, "event")
    counting = [query["sql"] for query in captured if "COUNT(" in query["sql"]]
    assert len(counting) == 1
    assert f"LIMIT {COUNTED}" in counting[0]
    assert "_facets" not in page(staff, "event")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_lists_of_more_than_20_000_rows_open_at_once(staff: Client) -> None:
    fill(20_100, people=1)
    for model in LISTS:
        began = time.thread_time()  # of ours alone, however busy the machine is
        html = page(staff, model)
        assert time.thread_time() - began < 1.5, model
        assert rows_of(html) == 50
        assert f"the first {COUNTED}" in html


def test_everything_is_found_by_its_id_or_the_first_digits_of_it(staff: Client, talk: Conversation) -> None:
    fill(3)
    run = Run.objects.get(conversation=talk, state=State.RUNNING)
    for term in (str(talk.pk), talk.pk.hex, talk.pk.hex[:8], str(talk.pk)[:11], f" {talk.pk.hex[:8].upper()} "):
        assert rows_of(page(staff, "conversation", q=term)) == 1
        assert rows_of(page(staff, "run", q=term)) == 2
        assert rows_of(page(staff, "message", q=term)) == 3
        assert rows_of(page(staff, "participant", q=term)) == 2
        assert rows_of(page(staff, "event", q=term)) == talk_head(talk)
    assert rows_of(page(staff, "run", q=run.pk.hex[:12])) == 1
    assert rows_of(page(staff, "device", q=str(DeviceRow.objects.filter(name="Laptop").get().pk))) == 1


def talk_head(conversation: Conversation) -> int:
    return Event.objects.filter(conversation=conversation).count()


def test_what_is_no_id_is_searched_as_words(staff: Client, talk: Conversation) -> None:
    assert rows_of(page(staff, "conversation", q="first")) == 1
    assert rows_of(page(staff, "conversation", q="question")) == 0
    assert rows_of(page(staff, "participant", q="ali")) == 1
    assert rows_of(page(staff, "message", q="alice")) == 2
    for term in ("zz", "abc", "g" * 32, "a" * 33, "--------", "\0", "'; --"):
        assert id_range(term) is None
        page(staff, "conversation", q=term)


def test_every_page_opens_for_every_row(staff: Client, talk: Conversation) -> None:
    for model, rows in MODELS.items():
        for row in rows._default_manager.all():
            answer = staff.get(reverse(f"admin:chat_{model}_change", args=[row.pk]))
            assert answer.status_code == 200
            assert 'name="_save"' not in answer.content.decode()
    html = staff.get(reverse("admin:chat_conversation_change", args=[talk.pk])).content.decode()
    for model in ("message", "run", "event", "file"):
        link = f"{reverse(f'admin:chat_{model}_changelist')}?conversation__exact={talk.pk}"
        assert link in html
        assert rows_of(staff.get(link).content.decode()) > 0


# --- nothing by hand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", LISTS)
def test_nothing_is_added_or_edited_by_hand(staff: Client, talk: Conversation, model: str) -> None:
    Worker.seen("worker:1", 1, draining=False)
    assert staff.get(reverse(f"admin:chat_{model}_add")).status_code == 403
    assert staff.post(reverse(f"admin:chat_{model}_add"), {}).status_code == 403
    manager: Any = MODELS[model]._default_manager
    pk = manager.first().pk
    before = manager.filter(pk=pk).values().get()
    answer = staff.post(reverse(f"admin:chat_{model}_change", args=[pk]), {"title": "x", "role": "viewer", "kind": "x"})
    assert answer.status_code == 403
    assert manager.filter(pk=pk).values().get() == before


@pytest.mark.parametrize("model", ["participant", "device", "message", "run", "event"])
def test_nothing_but_a_whole_conversation_is_deleted(staff: Client, talk: Conversation, model: str) -> None:
    manager: Any = MODELS[model]._default_manager
    ids = list(manager.values_list("pk", flat=True))
    assert staff.post(reverse(f"admin:chat_{model}_delete", args=[ids[0]]), {"post": "yes"}).status_code == 403
    data = {"action": "delete_selected", "_selected_action": [str(pk) for pk in ids], "post": "yes"}
    staff.post(reverse(f"admin:chat_{model}_changelist"), data)
    assert manager.count() == len(ids)


def test_a_user_with_conversations_is_not_deleted_but_can_be_deactivated(
    staff: Client, talk: Conversation, bob: User
) -> None:
    url = reverse("admin:auth_user_delete", args=[bob.pk])
    assert "participant" in staff.get(url).content.decode()
    assert staff.post(url, {"post": "yes"}).status_code == 403
    data = {"action": "delete_selected", "_selected_action": [str(bob.pk)], "post": "yes"}
    staff.post(reverse("admin:auth_user_changelist"), data)
    assert User.objects.filter(pk=bob.pk).exists()
    assert talk.participants.count() == 2


def test_who_may_only_look_is_offered_no_action(talk: Conversation) -> None:
    viewer = User.objects.create_user("viewer", password="viewer-says-hello", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client()
    client.force_login(viewer)
    run = Run.objects.get(state=State.RUNNING)
    for model in LISTS:
        assert '<select name="action"' not in page(client, model)
    act(client, "run", "cancel", run.pk)
    run.refresh_from_db()
    assert run.cancel_requested_at is None
    assert client.post(reverse("admin:chat_conversation_delete", args=[talk.pk]), {"post": "yes"}).status_code == 403


def test_people_who_are_not_staff_see_nothing(talk: Conversation, alice: User) -> None:
    client = Client()
    client.force_login(alice)
    for model in LISTS:
        assert client.get(reverse(f"admin:chat_{model}_changelist")).status_code == 302


# --- the policy of the browser ------------------------------------------------------------------------------


def test_no_page_has_a_script_or_style_that_the_policy_forbids(staff: Client, talk: Conversation) -> None:
    urls = [reverse("admin:index"), reverse("admin:chat_conversation_delete", args=[talk.pk])]
    urls += [reverse(f"admin:chat_{model}_changelist") for model in LISTS]
    urls += [reverse("admin:chat_conversation_change", args=[talk.pk])]
    urls += [reverse("admin:auth_user_changelist"), reverse("admin:auth_user_add")]
    for url in urls:
        answer = staff.get(url)
        html = answer.content.decode()
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html), url
        for script in re.findall(r"<script[^>]*>", html):
            assert " src=" in script, (url, script)


def test_the_style_sheet_of_the_status_labels_is_there(staff: Client) -> None:
    assert "chat/admin.css" in page(staff, "run")
    assert finders.find("chat/admin.css")


# --- runs ---------------------------------------------------------------------------------------------------


def test_what_is_live_and_what_is_stuck_is_seen_at_a_glance(staff: Client, talk: Conversation) -> None:
    running = Run.objects.get(state=State.RUNNING)
    html = page(staff, "run")
    assert "2 live</a>" in html
    assert "0 stuck</a>" in html
    seen = {row[1]: row for row in seen_in(html)}
    assert re.fullmatch(r"(8|9|10) s left", seen["running"][2])
    assert re.fullmatch(r"last event \d s ago", seen["running"][3])
    assert seen["running"][4:6] == ["1", "worker:1"]
    assert seen["queued"][2] == "-"
    assert re.fullmatch(r"queued \d s ago", seen["queued"][3])
    assert (rows_of(page(staff, "run", now="live")), rows_of(page(staff, "run", now="stuck"))) == (2, 0)

    Run.objects.filter(pk=running.pk).update(lease_until=timezone.now() - timedelta(seconds=42))
    Event.objects.filter(run_id=running.pk).update(created_at=timezone.now() - timedelta(hours=3))
    html = page(staff, "run", now="stuck")
    assert "1 stuck</a>" in html
    [row] = seen_in(html)
    assert row[1] == "stuck"
    assert re.fullmatch(r"lapsed 4\d s ago", row[2])
    assert row[3] == "last event 3 h ago"


def test_selected_runs_are_cancelled_by_name_and_each_outcome_is_told(staff: Client, talk: Conversation) -> None:
    running, queued = Run.objects.get(state=State.RUNNING), Run.objects.get(state=State.QUEUED)
    said = act(staff, "run", "cancel", running.pk, queued.pk)
    assert sorted(said) == ["1 run: cancelled", "1 run: cancelling"]
    by = {"user": "root", "device": None, "device_name": "admin"}
    for run in (running, queued):
        run.refresh_from_db()
        assert run.cancelled_by == by
    assert rows_of(page(staff, "run", now="stopping")) == 1
    assert running.end(State.COMPLETED, running.attempt)
    said = act(staff, "run", "cancel", running.pk, queued.pk)
    assert said == ["2 runs: already ended"]
    last = Event.objects.filter(run_id=running.pk, kind="run.ended").get()
    assert last.payload["by"] == by


async def test_a_run_cancelled_here_ends_on_the_devices(
    staff: Client, device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await (await device(alice, conversation).connect()).synced()
    ack = await laptop.ask("/rate 200 /long 100000")
    await until(lambda: laptop.view.runs[ack["run"]]["answer"])
    await sync_to_async(act)(staff, "run", "cancel", ack["run"])
    ended = await laptop.ended(ack["run"])
    assert (ended["state"], ended["by"]["user"], ended["by"]["device_name"]) == ("cancelled", "root", "admin")


def test_a_run_that_is_silent_among_many_that_speak_is_not_looked_for_for_ever(
    staff: Client, talk: Conversation
) -> None:
    running = Run.objects.get(state=State.RUNNING)
    now = timezone.now()
    Conversation.objects.filter(pk=talk.pk).update(head=1000)
    Event.objects.create(conversation=talk, serial=1000 - NEAR, kind="message.delta", run_id=running.pk, created_at=now)
    [row] = seen_in(page(staff, "run", state__exact="running"))
    assert row[3] == f"last event over {NEAR} events ago"
    Event.objects.create(conversation=talk, serial=1001 - NEAR, kind="message.delta", run_id=running.pk, created_at=now)
    [row] = seen_in(page(staff, "run", state__exact="running"))
    assert re.fullmatch(r"last event \d s ago", row[3])


def test_a_requeued_run_is_taken_from_its_worker_which_can_write_no_more(staff: Client, talk: Conversation) -> None:
    running, queued = Run.objects.get(state=State.RUNNING), Run.objects.get(state=State.QUEUED)
    said = act(staff, "run", "requeue", running.pk, queued.pk)
    assert sorted(said) == [
        "1 run: queued already, and no worker's to give back",
        "1 run: taken away and queued again",
    ]
    running.refresh_from_db()
    assert (running.state, running.worker, running.losses) == (State.QUEUED, "", 0)
    assert says(running, "late") == {(running.pk, 1)}
    assert Run.renew("worker:1", [running.pk]) == set()
    assert running.end(State.COMPLETED, 1) is False
    assert [run.attempt for run in Run.claim(talk, "worker:2")] == [2]


def test_a_run_that_waits_for_a_person_is_nobodys_to_be_taken_from(staff: Client, talk: Conversation) -> None:
    running = Run.objects.filter(state=State.RUNNING)
    pk = running.get().pk
    running.update(state=State.WAITING, worker="", lease_until=None)
    said = act(staff, "run", "requeue", pk)
    assert said == ["1 run: no worker's to give back: it waits for a person or a device"]


def test_a_run_whose_lease_has_lapsed_is_requeued_as_the_sweep_does_it(staff: Client, talk: Conversation) -> None:
    running = Run.objects.get(state=State.RUNNING)
    long_ago = timezone.now() - timedelta(seconds=42)
    Run.objects.filter(pk=running.pk).update(lease_until=long_ago)
    assert act(staff, "run", "requeue", running.pk) == ["1 run: taken away and queued again"]
    running.refresh_from_db()
    assert running.losses == 1
    Run.claim(talk, "worker:2")
    Run.objects.filter(pk=running.pk).update(lease_until=long_ago, losses=2)
    assert act(staff, "run", "requeue", running.pk) == ["1 run: ended as failed, after too many lost workers"]


def test_a_requeued_run_that_has_said_something_ends_with_it(staff: Client, talk: Conversation) -> None:
    running = Run.objects.get(state=State.RUNNING)
    assert says(running, "half of") == set()
    text = "1 run: ended as interrupted, with the text so far"
    assert act(staff, "run", "requeue", running.pk) == [text]
    assert act(staff, "run", "requeue", running.pk) == ["1 run: already ended"]
    running.refresh_from_db()
    assert running.answer is not None
    assert (running.state, running.answer.text) == (State.INTERRUPTED, "half of")


def test_a_requeued_run_that_was_to_stop_stops(staff: Client, talk: Conversation) -> None:
    running = Run.objects.get(state=State.RUNNING)
    act(staff, "run", "cancel", running.pk)
    text = "1 run: ended as cancelled, as somebody had asked before"
    assert act(staff, "run", "requeue", running.pk) == [text]


async def test_a_run_requeued_here_is_answered_by_a_second_call_and_the_first_is_closed(
    counting: type[Counting], staff: Client, device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await (await device(alice, conversation).connect()).synced()
    ack = await laptop.ask("/slow 600 /echo Never.")
    await until(lambda: Counting.calls == 1, "the first call")
    said = await sync_to_async(act)(staff, "run", "requeue", ack["run"])
    assert said == ["1 run: taken away and queued again"]
    await until(lambda: Counting.calls == 2, "the second call")
    await until(lambda: Counting.open == 1, "the end of the first call")
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"


def says(run: Run, text: str) -> set[tuple[UUID, int]]:
    assert run.answer_id is not None
    return commit([Delta(run.conversation_id, run.pk, 1, run.answer_id, 0, text)])


# --- workers ------------------------------------------------------------------------------------------------


def test_workers_are_seen_at_work_leaving_and_silent_until_they_are_forgotten(
    staff: Client, transactional_db: None
) -> None:
    Worker.seen("host:1", 7, draining=False)
    Worker.seen("host:2", 0, draining=False)
    Worker.seen("host:2", 3, draining=True)
    Worker.seen("host:3", 1, draining=False)
    Worker.objects.filter(pk="host:3").update(seen_at=timezone.now() - timedelta(minutes=7))
    rows = {row[0]: row[1:5] for row in seen_in(page(staff, "worker"))}
    assert rows["host:1"] == ["working", rows["host:1"][1], "7", "in-process"]
    assert re.fullmatch(r"\d s ago", rows["host:1"][1])
    assert (rows["host:2"][0], rows["host:2"][2]) == ("draining", "3")
    assert rows["host:3"][:2] == ["silent", "7 min ago"]

    Worker.objects.filter(pk="host:3").update(seen_at=timezone.now() - FORGOTTEN - timedelta(seconds=1))
    Worker.seen("host:1", 7, draining=False)
    assert sorted(Worker.objects.values_list("name", flat=True)) == ["host:1", "host:2"]


def test_a_worker_leads_to_its_runs(staff: Client, talk: Conversation) -> None:
    Worker.seen("worker:1", 1, draining=False)
    link = re.search(r'href="([^"]*worker=[^"]*)"', page(staff, "worker"))
    assert link
    [row] = seen_in(staff.get(unescape(link[1])).content.decode())
    assert (row[1], row[5]) == ("running", "worker:1")


async def test_a_process_tells_of_itself_until_it_ends(host: hosts.Host) -> None:
    engine = next(one for one in host._beside if isinstance(one, Engine))
    deadline = time.monotonic() + 20
    while not await Worker.objects.filter(pk=engine.worker, engine="in-process", draining=False).aexists():
        assert time.monotonic() < deadline
    await hosts.stop()
    assert not await Worker.objects.aexists()


# --- devices and people -------------------------------------------------------------------------------------


async def test_a_device_revoked_here_is_sent_away(
    staff: Client, device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await (await device(alice, conversation).connect()).synced()
    phone = await (await device(alice, conversation).connect()).synced()
    assert await sync_to_async(act)(staff, "device", "revoke", phone.id) == ["Devices revoked: 1"]
    await until(lambda: phone.closed == Close.REVOKED)
    assert laptop.closed is None
    assert await sync_to_async(act)(staff, "device", "revoke", phone.id) == ["Devices revoked: 0"]


async def test_who_is_removed_here_is_sent_away_and_the_log_says_so(
    staff: Client, device: Make, alice: User, bob: User, talk: Conversation
) -> None:
    his, hers = await (await device(bob, talk).connect()).synced(), await (await device(alice, talk).connect()).synced()
    ids = await sync_to_async(lambda: dict(talk.participants.values_list("user__username", "pk")))()
    said = await sync_to_async(act)(staff, "participant", "remove", *ids.values())
    assert any("The owner cannot leave" in text for text in said)
    assert "Removed from their conversations: 1" in said
    await until(lambda: his.closed == Close.FORBIDDEN)
    await until(lambda: hers.view.people == {"alice": "owner"})


# --- deleting a conversation --------------------------------------------------------------------------------


def delete(client: Client, conversation: UUID) -> None:
    url = reverse("admin:chat_conversation_delete", args=[conversation])
    assert "with all that was said in it" in client.get(url).content.decode()
    answer = client.post(url, {"post": "yes"})
    assert answer.headers["Location"] == reverse("admin:index")


async def delete_while_it_runs(staff: Client, make: Make, alice: User, conversation: Conversation) -> Device:
    """Two answers (one silent by now), three messages waiting, one device watching; then all of it is deleted."""
    laptop = await (await make(alice, conversation).connect()).synced()
    await Hand(laptop).part(picture())
    running = (await laptop.ask("/rate 200 /long 100000"))["run"]
    alongside = (await laptop.ask("/rate 200 /long 3 /hang", when_busy="alongside"))["run"]
    for number in range(3):
        await laptop.ask(f"Waiting {number}")
    runs = laptop.view.runs
    await until(lambda: runs[running]["answer"] and runs[alongside]["answer"], "both answers")
    await until(lambda: laptop.view.text_of(running) and laptop.view.text_of(alongside).endswith("word3"), "some text")
    assert Counting.open == 2
    await sync_to_async(delete)(staff, conversation.pk)
    return laptop


async def test_w5_a_deleted_conversation_leaves_nothing_running_and_nobody_listening(
    no_renewal: None,
    counting: type[Counting],
    staff: Client,
    host: hosts.Host,
    device: Make,
    alice: User,
    conversation: Conversation,
) -> None:
    laptop = await delete_while_it_runs(staff, device, alice, conversation)
    engine = next(one for one in host._beside if isinstance(one, Engine))
    await until(lambda: engine.running == 0 and counting.open == 0, "the end of the runs")
    await until(lambda: laptop.closed == Close.FORBIDDEN)
    for model in (Conversation, Participant, Message, Run, Event, File):
        assert not await sync_to_async(model.objects.exists)()

    after = await sync_to_async(Conversation.begin)(alice)
    phone = await (await device(alice, after).connect()).synced()
    ack = await phone.ask("/echo Still here.")
    assert (await phone.ended(ack["run"]))["state"] == "completed"


async def test_w5_deleting_a_conversation_is_no_error(
    counting: type[Counting],
    caplog: pytest.LogCaptureFixture,
    staff: Client,
    host: hosts.Host,
    device: Make,
    alice: User,
    conversation: Conversation,
) -> None:
    await delete_while_it_runs(staff, device, alice, conversation)
    engine = next(one for one in host._beside if isinstance(one, Engine))
    await until(lambda: engine.running == 0, "the end of the runs")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_several_conversations_are_deleted_at_once_whatever_their_runs_do(
    staff: Client, talk: Conversation, alice: User
) -> None:
    other = Conversation.begin(alice)
    kept = Conversation.begin(alice, "Kept")
    assert Run.objects.filter(state__in=LIVE).count() == 2
    data = {"action": "delete_selected", "_selected_action": [str(talk.pk), str(other.pk)], "post": "yes"}
    answer = staff.post(reverse("admin:chat_conversation_changelist"), data, follow=True)
    assert "Successfully deleted 2" in answer.content.decode()
    assert list(Conversation.objects.all()) == [kept]
    assert not Run.objects.exists()


# --- what an agent did --------------------------------------------------------------------------------------


def test_what_an_agent_did_is_read_part_by_part(
    staff: Client, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = True
    monkeypatch.setattr(seed_demo, "ARCHIVE_TURNS", 12)
    call_command("seed_demo", stdout=StringIO())
    run = Run.objects.get(conversation__title="An agent at work", prompt__parts__0__text__startswith="Give this")
    for model, pk in (("run", run.pk), ("message", run.answer_id)):
        html = unescape(staff.get(reverse(f"admin:chat_{model}_change", args=[pk])).content.decode())
        assert "rename_conversation" in html
        assert "was denied" in html
        assert "Denied by bob, Bob's phone: “Say what it shows instead.”" in html
        assert '{"title": "Percentages and Tokyo"}' in html
        assert "Bob would rather have a title" in html
        assert "<style" not in html
    html = staff.get(reverse("admin:chat_run_change", args=[run.pk])).content.decode()
    assert html.count("<label>Cost:</label>") == 1, "in money, not in millionths of it as well"
    spending = Spending.objects.filter(run=run.pk).latest("pk")
    html = staff.get(reverse("admin:chat_spending_change", args=[spending.pk])).content.decode()
    assert "<label>Cost:</label>" not in html
    waiting = Run.objects.get(conversation=run.conversation, state=State.WAITING)
    assert str(waiting.answer) == "assistant: …", "it has called a tool and said nothing"


def test_what_is_being_written_is_read_too(staff: Client, talk: Conversation) -> None:
    run = talk.runs.get(state=State.RUNNING)
    assert run.answer_id is not None
    assert not commit([Delta(talk.pk, run.pk, run.attempt, run.answer_id, 0, "So far <b>\u202e")])
    for model, pk in (("run", run.pk), ("message", run.answer_id)):
        html = staff.get(reverse(f"admin:chat_{model}_change", args=[pk])).content.decode()
        assert "So far &lt;b&gt;⟨U+202E⟩" in html
