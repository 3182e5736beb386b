"""Each system check speaks when it should, with a hint, and is silent about what works."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.checks import run_checks

from project.asgi import lifespan
from tests.server import Server

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


@pytest.mark.parametrize("name", ["CHAT_APPROVAL_SECONDS", "CHAT_DEVICE_SECONDS"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_run_waits_for_people_and_devices_for_some_time(settings: LazySettings, name: str, seconds: float) -> None:
    assert ids(settings, PRODUCTION, **{name: seconds}) == ["chat.E008"]


@pytest.mark.parametrize("key", ["", "insecure-development-key"])
def test_production_needs_a_key_of_its_own(settings: LazySettings, key: str) -> None:
    assert ids(settings, PRODUCTION, SECRET_KEY=key) == ["chat.E001"]


@pytest.mark.parametrize(
    "signs",
    [
        {"HTTPS": True},
        {"ALLOWED_HOSTS": ["127.0.0.1", "chat.example.org"]},
        {"ALLOWED_HOSTS": [".example.org"]},
        {"ALLOWED_HOSTS": ["8.8.8.8"]},
    ],
)
def test_debug_is_not_for_everybody(settings: LazySettings, signs: dict[str, Any]) -> None:
    assert ids(settings, DEVELOPMENT, **signs) == ["chat.E016"]
    assert ids(settings, PRODUCTION, **signs) == []


@pytest.mark.parametrize("name", ["192.168.1.5", "[::1]", "laptop", "laptop.local", "chat.localhost", "testserver"])
def test_debug_is_for_this_network(settings: LazySettings, name: str) -> None:
    assert ids(settings, DEVELOPMENT, ALLOWED_HOSTS=[name]) == []


def test_nobody_allows_every_host(settings: LazySettings) -> None:
    assert ids(settings, DEVELOPMENT, ALLOWED_HOSTS=["*"]) == ["chat.E002"]


async def told(*command: str, **environment: str) -> str:
    """What a command says that does not start."""
    known = {"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "project.settings", "DEBUG": "1", **environment}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "manage.py",
        *command,
        cwd=Path(__file__).parent.parent,
        env=known,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode != 0
    assert b"Traceback" not in output
    return output.decode()


@pytest.mark.parametrize(
    ("command", "address"),
    [
        ("migrate", "postgres://chat:hunter/2@database:5432/chat"),
        ("serve", "postgres://chat:hunter[2@database:5432/chat"),
        ("check", "postgres://chat:hunter2@database"),
        ("check", "mysql://chat:hunter2@database/chat"),
        ("check", "hunter2"),
        ("check", ""),
    ],
)
async def test_an_address_that_is_no_databases_is_said_in_a_sentence(
    tmp_path: Path, command: str, address: str
) -> None:
    said = await told(command, DATABASE_URL=address, VAR_DIR=str(tmp_path))
    assert "chat.E017" in said
    assert "chat.E014" not in said
    assert "hunter" not in said


@pytest.mark.parametrize(
    "address",
    [
        "localhost:6379",
        "http://redis:6379",
        "redis://",
        "redis://:hunter/2@redis:6379/0",
        "redis://redis/one",
        "unix://",
    ],
)
def test_an_address_that_is_no_redis(settings: LazySettings, address: str) -> None:
    assert ids(settings, PRODUCTION, REDIS_URL=address) == ["chat.E018"]


@pytest.mark.parametrize(
    "address",
    ["redis://redis:6379/0", "rediss://:hunter%2F2@redis", "redis://user:pw@[::1]:6379", "unix:///run/redis.sock?db=1"],
)
def test_an_address_of_a_redis(settings: LazySettings, address: str) -> None:
    assert ids(settings, PRODUCTION, REDIS_URL=address) == []


async def test_a_port_that_is_no_number_is_said_in_a_sentence(tmp_path: Path) -> None:
    assert "invalid int value" in await told("serve", PORT="http", VAR_DIR=str(tmp_path))


async def test_a_worker_does_not_start_where_servers_execute_the_runs(tmp_path: Path) -> None:
    assert "CHAT_ENGINE=procrastinate there and here" in await told("work", VAR_DIR=str(tmp_path))


@pytest.mark.process
async def test_one_process_alone_serves_with_a_layer_in_memory(tmp_path: Path) -> None:
    async with Server(tmp_path) as first:
        known = {"VAR_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "tests.settings"}
        said = await told("serve", "--port", "0", **known)
        assert "Set REDIS_URL" in said
        second = Server(tmp_path, kind="uvicorn")
        with pytest.raises(AssertionError, match="Set REDIS_URL"):
            await second.start()
        await first.kill()
        await first.start()


def test_an_engine_is_one_there_is(settings: LazySettings) -> None:
    assert ids(settings, PRODUCTION, CHAT_ENGINE="celery") == ["chat.E013"]


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"CHAT_FILE_TYPES": ["image/png", "image/svg+xml"]}, ["chat.E043"]),
        ({"CHAT_FILE_TYPES": [], "CHAT_FILES_PER_MESSAGE": 0}, []),
        ({"CHAT_FILES_PER_MESSAGE": 101}, ["chat.E044"]),
        ({"CHAT_FILES_UNSENT": -1}, ["chat.E044"]),
        ({"CHAT_FILE_BYTES": 0}, ["chat.E045"]),
        ({"CHAT_FILE_BYTES": 3000, "CHAT_FILES_PROMPT_BYTES": 2000}, ["chat.E045"]),
        ({"CHAT_FILES_PROMPT_BYTES": 32_000_000}, ["chat.E045"]),
    ],
)
def test_limits_of_files_fit_together(settings: LazySettings, changed: dict[str, Any], wrong: list[str]) -> None:
    assert ids(settings, PRODUCTION, **changed) == wrong


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
        "CHAT_WORKER_RUNS",
        "DATABASE_POOL",
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


@pytest.mark.parametrize("windows", ["{", "[]", '{"a-model": 0}', '{"a-model": "200k"}', '{"a-model": true}'])
def test_windows_can_be_read(settings: LazySettings, windows: str) -> None:
    assert ids(settings, PRODUCTION, CHAT_WINDOWS=windows) == ["chat.E027"]
    assert ids(settings, PRODUCTION, CHAT_WINDOWS='{"a-model": 200000}') == []


def test_a_window_has_room_and_an_answer_ends(settings: LazySettings) -> None:
    assert ids(settings, PRODUCTION, CHAT_WINDOW_TOKENS=0) == ["chat.E028"]
    assert ids(settings, PRODUCTION, CHAT_WINDOW_TOKENS=1, CHAT_CONTINUATIONS=-1) == ["chat.E028"]
    assert ids(settings, PRODUCTION, CHAT_CONTINUATIONS=0) == []


@pytest.mark.parametrize(("keep", "at"), [(0.7, 0.7), (0.3, 1.1), (-0.1, 0.5), (float("nan"), 0.7)])
def test_a_summary_makes_room(settings: LazySettings, keep: float, at: float) -> None:
    assert ids(settings, PRODUCTION, CHAT_SUMMARY_KEEP=keep, CHAT_SUMMARY_AT=at) == ["chat.E029"]


def test_traces_need_what_sends_them(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids(settings, PRODUCTION, TRACES=True) == []
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)  # as where it is not installed
    assert ids(settings, PRODUCTION, TRACES=True) == ["chat.E032"]
    assert ids(settings, PRODUCTION, TRACES=False) == []


@pytest.mark.parametrize("roles", [[], ["owner", "boss"]])
def test_somebody_can_approve(settings: LazySettings, roles: list[str]) -> None:
    assert ids(settings, PRODUCTION, CHAT_APPROVERS=roles) == ["chat.E033"]
    assert ids(settings, PRODUCTION, CHAT_APPROVERS=["owner"]) == []


@pytest.mark.parametrize("tokens", [-1, 1, 1023, 4096, 5000])
def test_thinking_has_room_in_the_answer(settings: LazySettings, tokens: int) -> None:
    settings.CHAT_CLAUDE_MAX_TOKENS = 4096
    assert ids(settings, PRODUCTION, CHAT_CLAUDE_THINKING_TOKENS=tokens) == ["chat.E034"]
    assert ids(settings, PRODUCTION, CHAT_CLAUDE_THINKING_TOKENS=1024) == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("examples.plain.reply", []),
        ("tests.providers.Recording", []),
        ("tests.own_agents.no_generator", ["chat.E042"]),
        ("tests.own_agents.Half", ["chat.E042"]),
        ("nowhere.at.all", ["chat.E042"]),
        ("", ["chat.E042"]),
    ],
)
def test_every_agent_of_ones_own_can_answer(settings: LazySettings, entry: str, expected: list[str]) -> None:
    providers = {**settings.CHAT_PROVIDERS, "mine": entry}
    assert ids(settings, DEVELOPMENT, CHAT_PROVIDERS=providers) == expected


def test_one_that_is_chosen_and_cannot_be_imported_is_told_once(settings: LazySettings) -> None:
    providers = {**settings.CHAT_PROVIDERS, "mine": "nowhere.at.all"}
    assert ids(settings, DEVELOPMENT, CHAT_PROVIDERS=providers, CHAT_PROVIDER="mine") == ["chat.E005"]


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ('{"toy": {"command": ["/nowhere/at-all"]}}', []),
        ('{"toy": {}}', ["chat.E040"]),
        ("{", ["chat.E040"]),
    ],
)
def test_servers_of_tools_can_be_read_and_none_is_started(
    settings: LazySettings, servers: str, expected: list[str]
) -> None:
    assert ids(settings, DEVELOPMENT, CHAT_MCP_SERVERS=servers) == expected


def test_servers_of_tools_need_what_talks_to_them(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chat.checks_agents.find_spec", lambda name: None)
    assert ids(settings, DEVELOPMENT, CHAT_MCP_SERVERS='{"toy": {"command": ["x"]}}') == ["chat.E041"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CHAT_MAX_STEPS", "many", "CHAT_MAX_STEPS is 'many', which is not a whole number.\n"),
        ("CHAT_FILE_BYTES", "10MB", "CHAT_FILE_BYTES is '10MB', which is not a whole number.\n"),
        ("CHAT_USER_BUDGET", "ten", "CHAT_USER_BUDGET is 'ten', which is not a number.\n"),
        ("CHAT_LEASE_SECONDS", "nan", "CHAT_LEASE_SECONDS is 'nan', which is not a number.\n"),
    ],
)
def test_a_setting_that_is_no_number_is_named_in_one_line(name: str, value: str, said: str) -> None:
    environment = {**os.environ, "DEBUG": "1", "DJANGO_SETTINGS_MODULE": "project.settings", name: value}
    command = [sys.executable, "manage.py", "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, said)


def test_a_misspelt_setting_is_noticed(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_TOOL", "rivers")
    monkeypatch.setenv("CHAT_PORT_8000_TCP", "tcp://10.0.0.1:8000")  # what others put there is not ours to judge
    monkeypatch.setenv("CHAT_MAX_STEPS", "25")
    assert ids(settings, DEVELOPMENT) == ["chat.W004"]
    (said,) = [message for message in run_checks() if message.id == "chat.W004"]
    assert "CHAT_TOOL" in said.msg
    assert "CHAT_TOOLS" in str(said.hint)
