"""Every metric is moved by what it is about, by as much as really happened; and not everybody may read them."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone
from prometheus_client import REGISTRY
from pytest_django import Settings

from chat import census, metrics, prices
from chat.agent.claude import Claude
from chat.agent.trouble import ADVICE
from chat.host import Host
from chat.models import Conversation, Participant, Run
from chat.transport.scrape import may_read
from tests.conftest import with_settings
from tests.device import DEADLINE, Device
from tests.doors import DOORS, exchange
from tests.figures import Figures
from tests.layers import layer
from tests.messages_server import MessagesServer, Script
from tests.providers import Call
from tests.server import Server

ROOT = Path(__file__).resolve().parent.parent
Make = Callable[..., Device]
TOKEN = "metrics-token-of-the-tests"


async def scrape() -> Figures:
    asked = exchange("GET", "/metrics", {}, {"host": "localhost:8000"})
    body = await asked.whole()
    await asked.end()
    assert asked.status == 200, body
    return Figures(body.decode())


async def scraped(condition: Callable[[Figures], bool], what: str) -> Figures:
    """Scrape until the condition holds: what is counted is counted a moment after it is seen."""
    end = time.monotonic() + 3 * DEADLINE
    while not condition(now := await scrape()):
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)
    return now


async def connected(device: Device) -> Device:
    return await (await device.connect()).synced()


@pytest.fixture
async def laptop(device: Make, alice: User, conversation: Conversation) -> Device:
    return await connected(device(alice, conversation))


def frames(device: Device, kind: str) -> int:
    return sum(frame["type"] == kind for frame in device.frames)


async def test_devices_are_counted_by_the_door_they_came_by(
    device: Make, alice: User, conversation: Conversation
) -> None:
    made = [await connected(device(alice, conversation, door=door)) for door in (*DOORS, "websocket")]
    now = await scrape()
    shown = {door: now["chat_devices", f"transport={door}"] for door in metrics.TRANSPORTS}
    assert shown == {"websocket": 2, "sse": 1, "long_poll": 1}
    for one in made:
        await one.disconnect()
    await scraped(lambda now: now["chat_devices"] == 0, "the devices gone")


async def test_an_answer_is_counted_in_commits_and_its_delay_is_measured(laptop: Device) -> None:
    before = await scrape()
    ack = await laptop.ask("/rate 200 /long 60")
    await laptop.ended(ack["run"])
    after = await scraped(lambda now: now["chat_run_seconds_count"] > before["chat_run_seconds_count"], "the end")
    told = {name: after[name] - before[name] for name in after.names()}
    assert told["chat_commit_events_sum"] == frames(laptop, "message.delta") > 1
    assert told["chat_commit_events_count"] == told["chat_commit_seconds_count"] == told["chat_commit_events_sum"]
    assert 0 < told["chat_token_delay_seconds_count"] <= told["chat_commit_events_count"]
    assert 0 < told["chat_commit_seconds_sum"] < told["chat_run_seconds_sum"]


@with_settings(CHANNEL_LAYERS=layer("Late"), CHAT_POSITION_SECONDS=60)
async def test_the_delay_of_a_token_is_that_of_its_whole_way(laptop: Device) -> None:
    """A layer that takes 0.3 s is in it, and no delay is found that is shorter."""
    before = await scrape()
    ack = await laptop.ask("/rate 0 /echo Hello.")
    await laptop.ended(ack["run"])
    after = await scraped(
        lambda now: now["chat_token_delay_seconds_count"] > before["chat_token_delay_seconds_count"], "a delay"
    )
    quick = ("chat_token_delay_seconds_bucket", "le=0.25")
    assert after[quick] == before[quick]
    assert after["chat_token_delay_seconds_sum"] - before["chat_token_delay_seconds_sum"] >= 0.3


async def test_a_database_that_holds_a_commit_up_is_in_both_times(
    laptop: Device, host: Host, conversation: Conversation
) -> None:
    def hold() -> None:
        with conversation.locked():
            time.sleep(0.6)

    before = await scrape()
    ack = await laptop.ask("/rate 100 /long 300")
    await laptop.writes(ack["run"], 20)
    await host.database.run(hold)
    await laptop.ended(ack["run"])
    after = await scrape()
    for name in ("chat_token_delay_seconds", "chat_commit_seconds"):
        counts = [now[f"{name}_count"] - now[f"{name}_bucket", "le=0.25"] for now in (before, after)]
        assert counts[1] > counts[0], name


async def test_how_runs_end_is_counted_and_how_long_a_cancel_took(laptop: Device, calls: list[Call]) -> None:
    before = await scrape()
    for text in ("/rate 0 /echo Fine.", "/fail overloaded", "/fail never_heard_of", "/rate 0 /lost"):
        await laptop.ended((await laptop.ask(text))["run"])
    running = await laptop.ask("/rate 100 /long 5000")
    await laptop.writes(running["run"])
    waiting = await laptop.ask("/rate 0 /echo Never said.")
    for ack in (waiting, running):
        await laptop.say("run.cancel", run=ack["run"])
        assert (await laptop.ended(ack["run"]))["state"] == "cancelled"

    def moved(now: Figures, *wanted: str) -> float:
        return now[wanted] - before[wanted]

    after = await scraped(lambda now: moved(now, "chat_runs_ended_total") >= 6, "six ends")
    ends = {
        key: moved(after, "chat_runs_ended_total", f"state={key[0]}", f"code={key[1]}")
        for key in [
            ("completed", ""),
            ("failed", "overloaded"),
            ("failed", "other"),
            ("interrupted", "connection_lost"),
            ("cancelled", ""),
        ]
    }
    assert list(ends.values()) == [1, 1, 1, 1, 2], ends
    assert moved(after, "chat_runs_ended_total") == 6
    assert moved(after, "chat_cancel_seconds_count") == 1, "who only waited is stopped by nobody"
    assert moved(after, "chat_cancel_seconds_sum") < moved(after, "chat_run_seconds_sum")
    for code in ("overloaded", "other", "connection_lost"):
        labels = ("provider=recording", f"code={code}", "retried=no")
        assert moved(after, "chat_provider_errors_total", *labels) == 1, code
    assert "never_heard_of" not in after.page


PRICES = {"claude-of-the-tests": {"input": 3, "output": 15, "cache_write": 3.75, "cache_read": 0.3}}
USAGE = {"input_tokens": 1000, "cache_creation_input_tokens": 400, "cache_read_input_tokens": 20_000}


@with_settings(
    CHAT_PROVIDER="claude",
    CHAT_PROVIDERS={"claude": f"{Claude.__module__}.Claude"},
    CHAT_CLAUDE_MODEL="claude-of-the-tests",
    CHAT_PRICES=json.dumps(PRICES),
    ANTHROPIC_API_KEY="key-of-the-tests",
)
async def test_tokens_cost_and_retries_are_those_that_the_service_counted(
    host: Host, laptop: Device, settings: Settings
) -> None:
    async with MessagesServer(Script(usage=USAGE)) as server:
        settings.ANTHROPIC_BASE_URL = server.url
        server.script(Script(status=529, headers={"retry-after": "0"}))
        before = await scrape()
        run = (await laptop.ask("Hello?"))["run"]
        await laptop.ended(run)
    usage = next(frame["usage"] for frame in laptop.frames if frame["type"] == "run.ended")
    after = await scrape()
    labels = ("provider=claude", "model=claude-of-the-tests")
    counted = {
        name: after["chat_tokens_total", *labels, f"kind={kind}"] - before["chat_tokens_total", *labels, f"kind={kind}"]
        for name, kind in prices.KINDS.items()
    }
    assert counted == usage
    assert usage["input_tokens"] == 1000
    assert usage["output_tokens"] > 0
    price = (1000 * 3 + usage["output_tokens"] * 15 + 400 * 3.75 + 20_000 * 0.3) / 1_000_000
    assert after["chat_cost_total", *labels] - before["chat_cost_total", *labels] == pytest.approx(price)
    retried = ("chat_provider_errors_total", "provider=claude", "code=overloaded", "retried=yes")
    assert after[retried] - before[retried] == 1


@with_settings(CHAT_PRICES="")
async def test_without_a_price_there_are_tokens_and_no_cost(laptop: Device) -> None:
    before = await scrape()
    await laptop.ended((await laptop.ask("/rate 0 /echo Hello."))["run"])
    after = await scrape()
    labels = ("provider=scripted", "model=scripted")
    assert after["chat_tokens_total", *labels] > before["chat_tokens_total", *labels]
    assert after["chat_cost_total", *labels] == before["chat_cost_total", *labels]


@pytest.mark.parametrize("number", [-1, 10**400], ids=["negative", "huge"])
def test_what_cannot_be_a_number_of_tokens_is_none(number: int) -> None:
    """Whatever a provider says, its run must end."""
    metrics.spent("odd", "odd", {"input_tokens": number, "output_tokens": 7}, '{"odd": {"input": 1, "output": 2}}')
    labels = {"provider": "odd", "model": "odd"}
    assert REGISTRY.get_sample_value("chat_tokens_total", {**labels, "kind": "input"}) is None
    spent = REGISTRY.get_sample_value("chat_tokens_total", {**labels, "kind": "output"})
    assert spent is not None
    assert REGISTRY.get_sample_value("chat_cost_total", labels) == pytest.approx(spent * 2 / 1_000_000)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"m": 3}',
        '{"m": {"in": 3}}',
        '{"m": {"input": "3"}}',
        '{"m": {"input": -1}}',
        '{"m": {"input": NaN}}',
    ],
)
def test_prices_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is|has"):
        prices.read(text)


@with_settings(CHANNEL_LAYERS=layer("Silent"), CHAT_POSITION_SECONDS=0.05)
async def test_what_was_lost_on_the_way_and_read_again_is_counted(laptop: Device) -> None:
    before = await scrape()
    await laptop.ended((await laptop.ask("/rate 0 /echo Hello."))["run"])
    after = await scrape()
    gaps = ("chat_gaps_repaired_total", "where=news")
    assert after[gaps] > before[gaps]
    assert after["chat_token_delay_seconds_count"] == before["chat_token_delay_seconds_count"]


async def test_a_device_that_does_not_keep_up_is_counted(laptop: Device) -> None:
    gaps = ("chat_gaps_repaired_total", "where=device")
    before = (await scrape())[gaps]
    laptop.acknowledges = False
    await laptop.say("message.send", text="/rate 0 /long 60000")
    await scraped(lambda now: now[gaps] > before, "a device that is behind")


async def test_what_runs_and_what_waits_is_counted(laptop: Device, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "LOOK_SECONDS", 0.05)
    counting = census.Census(host)
    await counting.start()
    try:
        running = await laptop.ask("/rate 100 /long 100000")
        waiting = await laptop.ask("/rate 0 /echo Later.")

        def states(now: Figures) -> list[float]:
            found = [now["chat_runs", f"state={state}"] for state in ("running", "queued", "waiting")]
            return [*found, now["chat_queue_depth"], now["chat_runs_here"]]

        # What waits for its turn waits for nobody's capacity.
        await scraped(lambda now: states(now) == [1, 1, 0, 0, 1], "one running and one waiting")
        for ack in (waiting, running):
            await laptop.say("run.cancel", run=ack["run"])
        await scraped(lambda now: states(now) == [0, 0, 0, 0, 0], "nothing running")
    finally:
        await counting.close()


@pytest.mark.django_db(transaction=True)
def test_what_could_start_and_does_not_is_the_depth_of_the_queue(alice: User, conversation: Conversation) -> None:
    owner = Participant.objects.select_related("conversation", "user").get(conversation=conversation)
    for _ in range(2):
        owner.conversation.send(by=owner, text="?", client_id=uuid.uuid4(), when_busy="queue")
    assert census.look() == ({"queued": 2}, 1)
    with transaction.atomic():
        Run.claim(owner.conversation, "worker")
    assert census.look() == ({"queued": 1, "running": 1}, 0)


@pytest.mark.django_db(transaction=True)
def test_a_process_that_was_lost_is_counted(alice: User, conversation: Conversation) -> None:
    owner = Participant.objects.select_related("conversation", "user").get(conversation=conversation)
    owner.conversation.send(by=owner, text="?", client_id=uuid.uuid4(), when_busy="queue")
    [run] = Run.claim(owner.conversation, "worker")
    before = REGISTRY.get_sample_value("chat_leases_lapsed_total") or 0
    run.recover()
    assert REGISTRY.get_sample_value("chat_leases_lapsed_total") == before, "it is alive"
    Run.objects.filter(pk=run.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    run.recover()
    assert REGISTRY.get_sample_value("chat_leases_lapsed_total") == before + 1


# --- who may read -----------------------------------------------------------------------------------------------


def asked(client: Any = ("127.0.0.1", 4000), **headers: str) -> dict[str, Any]:
    sent = {"host": "localhost:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {"client": client, "headers": [(name.encode(), value.encode()) for name, value in sent.items()]}


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        (asked(), True),
        (asked(("::1", 4000), host="[::1]:8000"), True),
        (asked(host="localhost"), True),
        (asked(("10.1.2.3", 4000)), False),
        (asked(None), False),
        (asked(("", 0)), False),
        (asked(host="chat.example.org"), False),
        (asked(host="chat.example.org:8000"), False),
        (asked(host=""), False),
        (asked(x_forwarded_for="10.1.2.3"), False),
        (asked(forwarded="for=10.1.2.3"), False),
        (asked(x_forwarded_proto="https"), False),
        (asked(via="1.1 proxy"), False),
        (asked(authorization=f"Bearer {TOKEN}"), True),
    ],
)
def test_without_a_token_only_this_machine_itself_may_read(
    settings: Settings, scope: dict[str, Any], may: bool
) -> None:
    settings.METRICS_TOKEN = ""
    assert may_read(scope) is may
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert may_read(scope) is False, "behind a proxy everybody comes from this machine"


@pytest.mark.parametrize(
    ("authorization", "may"),
    [(f"Bearer {TOKEN}", True), (f"bearer {TOKEN}", True), ("Bearer other", False), (TOKEN, False), ("", False)],
)
def test_with_a_token_only_who_brings_it_may_read(settings: Settings, authorization: str, may: bool) -> None:
    settings.METRICS_TOKEN = TOKEN
    assert may_read(asked(authorization=authorization)) is may
    far = asked(("10.1.2.3", 4000), authorization=authorization, host="chat.example.org", x_forwarded_for="10.9.9.9")
    assert may_read(far) is may


@pytest.mark.process
async def test_a_server_shows_its_metrics_to_who_may_see_them(tmp_path: Path) -> None:
    production = {"DEBUG": "0", "SECRET_KEY": "k" * 60, "HTTPS": "1", "ALLOWED_HOSTS": "chat.example.org"}
    async with (
        Server(tmp_path, **production, METRICS_TOKEN=TOKEN) as server,
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        refused = await client.get("/metrics")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert "chat_" not in refused.text
        shown = await client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        assert shown.status_code == 200
        assert shown.headers["content-type"].startswith("text/plain")
        assert "chat_devices" in shown.text
        assert "process_resident_memory_bytes" in shown.text


# --- the page ---------------------------------------------------------------------------------------------------


def test_the_page_names_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    named = set(re.findall(r"^\| `(chat_\w+)` \|", page, re.MULTILINE))
    ours = [family for family in REGISTRY.collect() if family.name.startswith("chat_")]
    assert named == {f"{family.name}_total" if family.type == "counter" else family.name for family in ours}


def test_every_code_of_a_provider_is_known_by_name() -> None:
    assert ADVICE.keys() <= metrics.CODES
