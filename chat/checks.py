"""What would go wrong later is said at the start: settings that cannot work, with a hint for each.

Ids are stable: `chat.E…` keeps the site from starting, `chat.W…` does not. No check connects to anything.
"""

import math
import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from chat import prices
from chat.agent.tool import NotATool, tool_of
from chat.agent.toolbox import functions_at
from chat.layer import is_in_memory

SHORTEST_LEASE = 3.0  # seconds; leases are renewed every second, and one late renewal must not cost a run
LONGEST_HEARTBEAT = 60.0  # seconds; common balancers end a connection that is silent for so long
_ORIGIN = re.compile(
    r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?)(?::[0-9]{1,5})?\Z", re.IGNORECASE
)
_AT_HOME = (".localhost", ".local", ".lan", ".internal", ".home.arpa", ".test")
_ESCAPES = "In a password, write : / ? # @ % [ ] as %3A %2F %3F %23 %40 %25 %5B %5D."
_ABOVE_ZERO = (
    *("CHAT_CLAUDE_MAX_TOKENS", "CHAT_CLAUDE_IDLE_SECONDS"),
    *("CHAT_MAX_STEPS", "CHAT_APPROVAL_SECONDS", "CHAT_DEVICE_SECONDS"),
    "CHAT_LEASE_SECONDS",
    "CHAT_SWEEP_SECONDS",
    "CHAT_MAX_ATTEMPTS",
    "CHAT_WORKER_RUNS",
    "CHAT_HEARTBEAT_SECONDS",
    "CHAT_POSITION_SECONDS",
    "CHAT_SIGNALS_PER_SECOND",
    "DATABASE_POOL",
)
_FROM_ZERO = ("CHAT_CLAUDE_RETRIES", "CHAT_DRAIN_SECONDS", "CHAT_COMMIT_SECONDS")

AppConfigs = Sequence[AppConfig] | None


@register(Tags.security)
def who_may_call(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """The key that signs sessions, and the names under which the site answers."""
    if not settings.DEBUG and (_secret_key().startswith("insecure-") or not _secret_key()):
        yield Error(
            "SECRET_KEY is missing, or the one for development.",
            hint="Set it to a long random text and keep it secret: sessions and all that is signed depend on it.",
            id="chat.E001",
        )
    if "*" in settings.ALLOWED_HOSTS or not (settings.ALLOWED_HOSTS or settings.DEBUG):
        yield Error(
            "ALLOWED_HOSTS is empty or allows every host.",
            hint="List the names under which the site is reached, such as ALLOWED_HOSTS=chat.example.org.",
            id="chat.E002",
        )
    public = [name for name in settings.ALLOWED_HOSTS if _is_public(name)]
    if settings.DEBUG and (settings.HTTPS or public):
        signs = ["HTTPS=1"] * settings.HTTPS + [f"ALLOWED_HOSTS={','.join(public)}"] * bool(public)
        yield Error(
            f"DEBUG is on, and the site is set up for everybody: {' '.join(signs)}.",
            hint="Set DEBUG=0: with it the key is known, anybody may sign up, and error pages show what the code has "
            "in hand. To try a phone in your own network, allow this machine's address there instead of a name.",
            id="chat.E016",
        )
    for origin in settings.ALLOWED_ORIGINS:
        if not _ORIGIN.match(origin):
            yield Error(
                f"ALLOWED_ORIGINS has {origin!r}, which is not an origin.",
                hint="Give scheme, host and a port that is not the usual one, without a path and without "
                "wildcards: https://chat.example.org or http://localhost:8000.",
                id="chat.E003",
            )


def _is_public(name: str) -> bool:
    bare = name.strip("[].").lower()
    try:
        return ip_address(bare).is_global
    except ValueError:
        return "." in bare and not bare.endswith(_AT_HOME)


def _secret_key() -> str:
    try:
        return str(settings.SECRET_KEY)
    except ImproperlyConfigured:  # Django's way to say that it is empty
        return ""


@register()
def who_answers(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """The provider of the model's tokens."""
    name, providers = settings.CHAT_PROVIDER, settings.CHAT_PROVIDERS
    if name not in providers:
        yield Error(
            f"CHAT_PROVIDER is {name!r}, which is not in CHAT_PROVIDERS.",
            hint=f"It can be one of: {', '.join(sorted(providers))}.",
            id="chat.E004",
        )
        return
    try:
        import_string(providers[name])
    except ImportError as error:
        yield Error(
            f"The provider {name!r} cannot be imported: {error}",
            hint=f"CHAT_PROVIDERS[{name!r}] must be the dotted path of a class. Are the requirements installed?",
            id="chat.E005",
        )
    if name == "claude" and not (settings.ANTHROPIC_API_KEY or _key_of_the_sdk()):
        yield Error(
            "CHAT_PROVIDER is claude, but there is no key for it.",
            hint="Set ANTHROPIC_API_KEY, or CHAT_PROVIDER=scripted for a demonstration without a model.",
            id="chat.E006",
        )
    if name == "scripted" and not settings.DEBUG:
        yield checks.Warning(
            "The scripted provider answers: it only says what it is told.",
            hint="Set ANTHROPIC_API_KEY (and CHAT_PROVIDER=claude) to get answers from a model.",
            id="chat.W001",
        )


def _key_of_the_sdk() -> str | None:
    """What the `anthropic` package finds by itself if it is given nothing."""
    return os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN")


@register()
def what_the_model_can_do(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """The tools."""
    known: dict[str, str] = {}
    for path in settings.CHAT_TOOLS:
        try:
            functions = functions_at(path)
        except ImportError as error:
            functions = []
            hint = "Each entry is the dotted path of an async function, or of a module that has some."
            yield Error(f"CHAT_TOOLS has {path!r}, where no tool is: {error}", hint=hint, id="chat.E019")
        for function in functions:
            try:
                name = tool_of(function).name
            except NotATool as error:
                hint = "chat/agent/tool.py says how a tool is written. What else its module has begins with _."
                yield Error(f"CHAT_TOOLS has {path!r}, which is not a tool: {error}", hint=hint, id="chat.E020")
                continue
            if name in known:
                hint = "Rename one of them, or take it out: the model knows a tool by its name."
                where = f"in {known[name]!r} and in {path!r}"
                yield Error(f"CHAT_TOOLS has two tools called {name}: {where}.", hint=hint, id="chat.E021")
            known[name] = path


@register()
def who_executes_runs(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """The engine, and what it needs."""
    name = settings.CHAT_ENGINE
    if name not in settings.CHAT_ENGINES:
        yield Error(
            f"CHAT_ENGINE is {name!r}, which is not in CHAT_ENGINES.",
            hint=f"It can be one of: {', '.join(sorted(settings.CHAT_ENGINES))}.",
            id="chat.E013",
        )
    if name != "procrastinate":
        return
    if not settings.DATABASES["default"]["ENGINE"].endswith(("postgresql", "dummy")):
        yield Error(
            "CHAT_ENGINE is procrastinate, whose jobs live in PostgreSQL, and the database is another one.",
            hint="Set DATABASE_URL=postgres://user:password@host:5432/name, or CHAT_ENGINE=in-process for one process.",
            id="chat.E014",
        )
    if is_in_memory():
        yield Error(
            "Workers execute the runs, and the channel layer is in memory: nobody would hear of what they write.",
            hint="Set REDIS_URL=redis://host:6379/0 for servers and workers.",
            id="chat.E015",
        )


@register()
def where_things_are(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """The addresses of the database and of Redis. Neither is repeated: it may hold a password."""
    if settings.DATABASES["default"]["ENGINE"].endswith("dummy"):
        yield Error(
            "DATABASE_URL is not the address of a PostgreSQL or of a SQLite file.",
            hint=f"Write postgres://user:password@host:5432/name or sqlite:////path/to/file. {_ESCAPES}",
            id="chat.E017",
        )
    if settings.REDIS_URL and not _is_redis(settings.REDIS_URL):
        yield Error(
            "REDIS_URL is not the address of a Redis.",
            hint=f"Write redis://:password@host:6379/0, or rediss:// for TLS. {_ESCAPES}",
            id="chat.E018",
        )


def _is_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    number = parts.path.strip("/")
    return parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and (not number or number.isdecimal())


@register()  # not as a database check: those run only when a database is named
def what_sqlite_needs(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """How SQLite begins a transaction."""
    for alias, database in settings.DATABASES.items():
        options = database.get("OPTIONS", {})
        if database["ENGINE"].endswith("sqlite3") and options.get("transaction_mode") != "IMMEDIATE":
            yield Error(
                f"The SQLite database {alias!r} does not begin its transactions with IMMEDIATE.",
                hint="Set OPTIONS['transaction_mode'] to 'IMMEDIATE': a transaction that reads and then writes "
                "fails otherwise as soon as two do, whatever the timeout.",
                id="chat.E007",
            )


@register()
def how_news_travels(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """The channel layer."""
    backend = settings.CHANNEL_LAYERS.get("default", {}).get("BACKEND", "")
    if not backend:
        yield Error("There is no channel layer.", hint="Set CHANNEL_LAYERS['default'].", id="chat.E012")
    elif is_in_memory() and not settings.DEBUG and settings.CHAT_ENGINE == "in-process":
        yield checks.Warning(
            "The channel layer is in memory: only one process may serve.",
            hint="Set REDIS_URL. Devices of another process would get what is said here seconds later, by timer.",
            id="chat.W002",
        )


@register()
def what_operators_see(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """Logs, prices and traces."""
    if settings.LOG_FORMAT not in {"json", "line"}:
        yield Error(f"LOG_FORMAT is {settings.LOG_FORMAT!r}.", hint="It can be json or line.", id="chat.E030")
    try:
        prices.read(settings.CHAT_PRICES)
    except ValueError as error:
        yield Error(
            f"CHAT_PRICES cannot be read: {error}.",
            hint='Give JSON: {"a-model": {"input": 3, "output": 15, "cache_write": 3.75, "cache_read": 0.3}}, '
            "each the price of a million tokens.",
            id="chat.E031",
        )
    if settings.TRACES and find_spec("opentelemetry.sdk") is None:
        yield Error(
            "Traces are to be sent, and what sends them is not installed.",
            hint="Install opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http, or unset "
            "OTEL_EXPORTER_OTLP_ENDPOINT. docs/operations.md has the command.",
            id="chat.E032",
        )


@register()
def how_long_and_how_many(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """Times that fit together."""
    for names, least in ((_ABOVE_ZERO, "more than 0"), (_FROM_ZERO, "0 or more")):
        for name in names:
            value = getattr(settings, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and names is _ABOVE_ZERO):
                yield Error(
                    f"{name} is {value}.",
                    hint=f"It must be {least}. docs/settings.md says what it does.",
                    id="chat.E008",
                )
    if settings.CHAT_LEASE_SECONDS < SHORTEST_LEASE:
        yield Error(
            f"CHAT_LEASE_SECONDS is {settings.CHAT_LEASE_SECONDS}: a busy process would lose its runs.",
            hint=f"Leases are renewed every second. Give them {SHORTEST_LEASE:g} seconds or more.",
            id="chat.E009",
        )
    if settings.CHAT_SWEEP_SECONDS >= settings.CHAT_LEASE_SECONDS:
        yield Error(
            "CHAT_SWEEP_SECONDS is not shorter than CHAT_LEASE_SECONDS.",
            hint="A run whose process died would be found late. Sweep several times in a lease.",
            id="chat.E010",
        )
    if settings.CHAT_HEARTBEAT_SECONDS >= LONGEST_HEARTBEAT:
        yield Error(
            f"CHAT_HEARTBEAT_SECONDS is {settings.CHAT_HEARTBEAT_SECONDS}: balancers would end quiet connections.",
            hint=f"Keep it well below {LONGEST_HEARTBEAT:g} seconds; 20 is good.",
            id="chat.E011",
        )
