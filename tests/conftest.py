"""What every test shares: the cast, and a host as a server process has it."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import hypothesis
import pytest
from asgiref.sync import SyncToAsync
from django.contrib.auth.models import User
from django.core.management.color import no_style
from django.db import connection, connections
from django.test import TransactionTestCase
from pytest_django import Settings

from chat import host as hosts
from chat.agent import engine as engines
from chat.models import Conversation
from project import asgi
from tests import acting, under
from tests.acting import Acting
from tests.device import Device
from tests.doors import DOORS
from tests.providers import PROVIDERS, Call, Recording
from tests.remote import RemoteDevice

pytest_plugins = ["tests.strict"]

# What an example says does not depend on how busy the machine is.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--under", choices=list(under.SERVERS), help="run the stories, and only them, through a server")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A story is what has devices, or somebody who polls by hand, in this process."""
    if config.getoption("under") is None:
        return
    stories: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        here = item.get_closest_marker("in_process") is not None
        told = not {"device", "poller"}.isdisjoint(getattr(item, "fixturenames", ()))
        (stories if told and not here else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = stories


@pytest.fixture(scope="session", autouse=True)
def no_connection_left(django_db_setup: None) -> Iterator[None]:
    """`sync_to_async` has a thread of its own, whose connection would keep the test database from being dropped."""
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()
    options = connection.settings_dict["OPTIONS"]
    if "options" in options:  # a busy disk may take longer to drop a database than any statement of ours may
        options["options"] += " -c statement_timeout=0"


@pytest.fixture(scope="session", autouse=True)
def quick_to_empty(django_db_setup: None) -> Iterator[None]:
    """What migrations left stays from test to test: to make every permission anew takes longer than most tests do."""
    left = {"django_content_type", "auth_permission"}

    def empty(_: TransactionTestCase) -> None:
        tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
        flush = connection.ops.sql_flush(no_style(), [table for table in tables if table not in left])
        connection.ops.execute_sql_flush(flush)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", empty)
        yield


@pytest.fixture(scope="session", autouse=True)
def only_new_garbage(django_db_setup: None) -> None:
    """All that is loaded now stays: `gc.collect` after each test need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def alice(transactional_db: None) -> User:
    """The owner."""
    return User.objects.create_user("alice", password="alice-says-hello")


@pytest.fixture
def bob(transactional_db: None) -> User:
    """Her guest."""
    return User.objects.create_user("bob", password="bob-says-hello")


@pytest.fixture
def charlie(transactional_db: None) -> User:
    """The stranger."""
    return User.objects.create_user("charlie", password="charlie-says-hello")


@pytest.fixture
def tuned(request: pytest.FixtureRequest, settings: Settings) -> None:
    """Settings that must stand before the host starts: see `with_settings`."""
    changes: dict[str, Any] = getattr(request, "param", {})
    for name, value in {"CHAT_DRAIN_SECONDS": 0.2, **changes}.items():
        setattr(settings, name, value)


def with_settings(**changes: Any) -> pytest.MarkDecorator:
    """Mark a test whose host, engine and conversation need other settings than the usual."""
    return pytest.mark.parametrize("tuned", [changes], indirect=True, ids=[""])


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The test must not log an error, nor leave a task whose exception nobody has looked at."""
    yield
    gc.collect()
    errors = [record for when in ("setup", "call") for record in caplog.get_records(when)]
    told = [record.getMessage() for record in errors if record.levelno >= logging.ERROR]
    assert told == []


@pytest.fixture
def impatient(request: pytest.FixtureRequest, settings: Settings, transactional_db: None) -> Iterator[None]:
    """Connections opened from now on give up on the lock soon, so that a test need not wait 20 seconds."""
    if connection.vendor != "sqlite":
        pytest.skip("about SQLite's lock")
    options = connection.settings_dict["OPTIONS"]
    before, options["timeout"] = options["timeout"], getattr(request, "param", 0.2)
    yield
    options["timeout"] = before


@pytest.fixture
def no_recheck(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer: who is sent away was sent away by an announcement. Before the host starts."""
    monkeypatch.setattr(hosts, "RECHECK_SECONDS", 3600.0)


@pytest.fixture
def no_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer here either: an answer ends because its worker was told so. Before the host starts."""
    monkeypatch.setattr(engines, "RENEW_SECONDS", 3600.0)


@pytest.fixture
def calls(tuned: None, settings: Settings) -> list[Call]:
    """What the provider is asked, of every conversation this test begins."""
    settings.CHAT_PROVIDERS = PROVIDERS
    settings.CHAT_PROVIDER = "recording"
    Recording.calls.clear()
    return Recording.calls


@pytest.fixture
def conversation(tuned: None, alice: User) -> Conversation:
    """Alice's."""
    return Conversation.begin(alice)


@pytest.fixture
async def host(request: pytest.FixtureRequest, tuned: None, transactional_db: None) -> AsyncIterator[hosts.Host]:
    """The host of this process, engine and all, on the test's event loop."""
    hosts.provide(asgi.start_host)
    started = await hosts.running()
    async with under.serving(request.config.getoption("under")):
        yield started
        await hosts.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a module that says OVER_EVERY_DOOR run over each, unless they are about the socket itself."""
    if "door" in metafunc.fixturenames and getattr(metafunc.module, "OVER_EVERY_DOOR", False):
        only = metafunc.definition.get_closest_marker("over_websocket")
        others = [] if only else [pytest.param(door, marks=pytest.mark.over_http) for door in DOORS[1:]]
        metafunc.parametrize("door", [DOORS[0], *others], indirect=True)


@pytest.fixture
def door(request: pytest.FixtureRequest) -> str:
    """How the devices of a test come in."""
    return str(getattr(request, "param", DOORS[0]))


@pytest.fixture
async def device(host: hosts.Host, door: str) -> AsyncIterator[Callable[..., Device]]:
    """Make devices; they are disconnected when the test ends."""
    made: list[Device] = []

    def make(user: User, conversation: Conversation, **options: str) -> Device:
        made.append(Device(user, conversation, **{"door": door, **options}))
        return made[-1]

    yield make
    for one in made:
        await one.disconnect()


@pytest.fixture
async def devices() -> AsyncIterator[list[RemoteDevice]]:
    """Of other processes. Put those you make here: they are disconnected when the test ends."""
    made: list[RemoteDevice] = []
    yield made
    for one in made:
        await one.disconnect()


# --- agents that act (tests/acting.py) -------------------------------------------------------------------------------


@pytest.fixture
def agent(tuned: None, settings: Settings) -> type[Acting]:
    """What answers, of every conversation this test begins."""
    settings.CHAT_PROVIDERS = {"acting": "tests.acting.Acting"}
    settings.CHAT_PROVIDER = "acting"
    settings.CHAT_TOOLS = ["tests.acting.note", "tests.acting.wait_long", "tests.acting.fail", "tests.acting.delete"]
    settings.CHAT_TOOLS += ["tests.acting.give_up", "tests.acting.hold"]
    Acting.steps, Acting.turns = [], []
    acting.ran.clear()
    acting.Held.until = asyncio.Event()
    acting.told_to_stop.clear()
    return Acting


@pytest.fixture
async def laptop(agent: type[Acting], device: Callable[..., Device], alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


@pytest.fixture
async def phone(laptop: Device, device: Callable[..., Device], alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()
