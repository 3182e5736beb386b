"""Each system check speaks when it should, with a hint, and is silent about what works."""

import sys
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.checks import run_checks

from project.asgi import lifespan

PRODUCTION: dict[str, Any] = {
    "DEBUG": False,
    "SECRET_KEY": "k" * 60,
    "ALLOWED_HOSTS": ["chat.example.org"],
    "ALLOWED_ORIGINS": ["https://chat.example.org"],
    "CHAT_PROVIDER": "claude",
    "ANTHROPIC_API_KEY": "looked-at-but-never-sent",
    "CHANNEL_LAYERS": {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}},
}
DEVELOPMENT: dict[str, Any] = {
    "DEBUG": True,
    "SECRET_KEY": "insecure-development-key",
    "ALLOWED_HOSTS": [],
    "ALLOWED_ORIGINS": [],
    "CHAT_PROVIDER": "scripted",
    "ANTHROPIC_API_KEY": "",
}


@pytest.fixture(autouse=True)
def no_key_of_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def ids(settings: LazySettings, base: dict[str, Any], **changed: Any) -> list[str]:
    """The ids of what our checks say of these settings."""
    for name, value in {**base, **changed}.items():
        setattr(settings, name, value)
    ours = [message for message in run_checks() if str(message.id).startswith("chat.")]
    assert all(message.hint for message in ours)
    return sorted(str(message.id) for message in ours)


@pytest.mark.parametrize("base", [PRODUCTION, DEVELOPMENT], ids=["production", "development"])
def test_settings_that_work_are_not_remarked_on(settings: LazySettings, base: dict[str, Any]) -> None:
    assert ids(settings, base) == []


@pytest.mark.parametrize("key", ["", "insecure-development-key"])
def test_production_needs_a_key_of_its_own(settings: LazySettings, key: str) -> None:
    assert ids(settings, PRODUCTION, SECRET_KEY=key) == ["chat.E001"]


def test_an_engine_is_one_there_is(settings: LazySettings) -> None:
    assert ids(settings, PRODUCTION, CHAT_ENGINE="celery") == ["chat.E013"]


def test_workers_need_postgresql_and_redis(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = {**PRODUCTION, "CHAT_ENGINE": "procrastinate"}
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    monkeypatch.setitem(settings.DATABASES["default"], "OPTIONS", {"transaction_mode": "IMMEDIATE"})
    assert ids(settings, workers) == ["chat.E014"]
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.postgresql")
    assert ids(settings, workers) == []
    memory = {"default": {"BACKEND": "chat.layer.OneProcessLayer"}}
    assert ids(settings, workers, CHANNEL_LAYERS=memory) == ["chat.E015"]
    assert ids(settings, workers, CHAT_WORKER_RUNS=0) == ["chat.E008"]


async def test_a_server_that_looks_at_nothing_itself_does_not_start_with_settings_that_cannot_work(
    settings: LazySettings,
) -> None:
    settings.CHAT_ENGINE = "celery"
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await lifespan({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in said] == ["lifespan.startup.failed"]
    assert "chat.E013" in said[0]["message"]


@pytest.mark.parametrize("hosts", [[], ["*"], ["chat.example.org", "*"]])
def test_production_names_its_hosts(settings: LazySettings, hosts: list[str]) -> None:
    assert ids(settings, PRODUCTION, ALLOWED_HOSTS=hosts) == ["chat.E002"]


@pytest.mark.parametrize("base", [PRODUCTION, DEVELOPMENT], ids=["production", "development"])
@pytest.mark.parametrize(
    "origin",
    [
        "chat.example.org",
        "*",
        "https://*",
        "https://*.example.org",
        "https://chat.example.org/",
        "https://chat.example.org/chat",
        "https://user@chat.example.org",
        "https://chat.example.org:",
        "ftp://chat.example.org",
        "https://",
        "//chat.example.org",
        "https://chat.example.org\n",
        "https://chat example.org",
    ],
)
def test_origins_are_whole_and_nothing_but_origins(settings: LazySettings, base: dict[str, Any], origin: str) -> None:
    assert ids(settings, base, ALLOWED_ORIGINS=["https://a.example.org", origin]) == ["chat.E003"]


@pytest.mark.parametrize(
    "origin", ["https://chat.example.org", "http://localhost:8000", "http://127.0.0.1:80", "http://[::1]:8000"]
)
def test_an_origin_has_scheme_host_and_perhaps_a_port(settings: LazySettings, origin: str) -> None:
    assert ids(settings, PRODUCTION, ALLOWED_ORIGINS=[origin]) == []


def test_the_provider_is_one_there_is(settings: LazySettings) -> None:
    assert ids(settings, DEVELOPMENT, CHAT_PROVIDER="oracle") == ["chat.E004"]


@pytest.mark.parametrize("path", ["chat.agent.oracle.Oracle", "chat.agent.scripted.Oracle", "oracle"])
def test_the_provider_can_be_imported(settings: LazySettings, path: str) -> None:
    providers = {**settings.CHAT_PROVIDERS, "oracle": path}
    assert ids(settings, DEVELOPMENT, CHAT_PROVIDER="oracle", CHAT_PROVIDERS=providers) == ["chat.E005"]


@pytest.mark.parametrize("base", [PRODUCTION, DEVELOPMENT], ids=["production", "development"])
def test_claude_needs_a_key(settings: LazySettings, base: dict[str, Any]) -> None:
    assert ids(settings, base, CHAT_PROVIDER="claude", ANTHROPIC_API_KEY="") == ["chat.E006"]


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_a_key_that_the_sdk_finds_by_itself_is_a_key(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "looked-at-but-never-sent")
    assert ids(settings, PRODUCTION, ANTHROPIC_API_KEY="") == []


def test_production_is_told_that_its_answers_are_scripted(settings: LazySettings) -> None:
    assert ids(settings, PRODUCTION, CHAT_PROVIDER="scripted", ANTHROPIC_API_KEY="") == ["chat.W001"]


@pytest.mark.parametrize("options", [{}, {"transaction_mode": "DEFERRED"}, {"timeout": 20}])
def test_sqlite_begins_its_transactions_with_immediate(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    # In place: Django itself does not allow that setting to be replaced.
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.sqlite3")
    monkeypatch.setitem(settings.DATABASES["default"], "OPTIONS", options)
    assert ids(settings, PRODUCTION) == ["chat.E007"]
    monkeypatch.setitem(settings.DATABASES["default"], "ENGINE", "django.db.backends.postgresql")
    assert ids(settings, PRODUCTION) == []


def test_a_layer_in_memory_is_for_one_process(settings: LazySettings) -> None:
    memory = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    assert ids(settings, DEVELOPMENT, CHANNEL_LAYERS=memory) == []
    assert ids(settings, PRODUCTION, CHANNEL_LAYERS=memory) == ["chat.W002"]
    assert ids(settings, PRODUCTION, CHANNEL_LAYERS={}) == ["chat.E012"]


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["CHAT_COMMIT_SECONDS", "CHAT_DRAIN_SECONDS", "CHAT_SIGNALS_PER_SECOND"])
def test_numbers_are_numbers_and_not_negative(settings: LazySettings, name: str, value: float) -> None:
    assert ids(settings, PRODUCTION, **{name: value}) == ["chat.E008"]


@pytest.mark.parametrize(
    "name",
    [
        "CHAT_CLAUDE_MAX_TOKENS",
        "CHAT_CLAUDE_IDLE_SECONDS",
        "CHAT_MAX_ATTEMPTS",
        "CHAT_POSITION_SECONDS",
        "CHAT_SWEEP_SECONDS",
        "CHAT_HEARTBEAT_SECONDS",
    ],
)
def test_a_zero_that_would_stop_everything_is_refused(settings: LazySettings, name: str) -> None:
    assert ids(settings, PRODUCTION, **{name: 0}) == ["chat.E008"]


@pytest.mark.parametrize("name", ["CHAT_CLAUDE_RETRIES", "CHAT_DRAIN_SECONDS", "CHAT_COMMIT_SECONDS"])
def test_a_zero_that_means_not_at_all_is_fine(settings: LazySettings, name: str) -> None:
    assert ids(settings, PRODUCTION, **{name: 0}) == []


def test_a_lease_outlasts_a_late_renewal(settings: LazySettings) -> None:
    assert ids(settings, PRODUCTION, CHAT_LEASE_SECONDS=2.9, CHAT_SWEEP_SECONDS=1) == ["chat.E009"]
    assert ids(settings, PRODUCTION, CHAT_LEASE_SECONDS=3, CHAT_SWEEP_SECONDS=1) == []


@pytest.mark.parametrize("sweep", [10, 11])
def test_leases_are_swept_while_they_last(settings: LazySettings, sweep: float) -> None:
    assert ids(settings, PRODUCTION, CHAT_LEASE_SECONDS=10, CHAT_SWEEP_SECONDS=sweep) == ["chat.E010"]


def test_heartbeats_are_quicker_than_balancers(settings: LazySettings) -> None:
    assert ids(settings, PRODUCTION, CHAT_HEARTBEAT_SECONDS=60) == ["chat.E011"]
    assert ids(settings, PRODUCTION, CHAT_HEARTBEAT_SECONDS=59) == []


def test_logs_have_one_of_two_formats(settings: LazySettings) -> None:
    assert ids(settings, PRODUCTION, LOG_FORMAT="xml") == ["chat.E030"]


def test_prices_can_be_read(settings: LazySettings) -> None:
    assert ids(settings, PRODUCTION, CHAT_PRICES='{"a-model": {"input": "3"}}') == ["chat.E031"]
    assert ids(settings, PRODUCTION, CHAT_PRICES='{"a-model": {"input": 3}}') == []


def test_traces_need_what_sends_them(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids(settings, PRODUCTION, TRACES=True) == []
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)  # as where it is not installed
    assert ids(settings, PRODUCTION, TRACES=True) == ["chat.E032"]
    assert ids(settings, PRODUCTION, TRACES=False) == []
