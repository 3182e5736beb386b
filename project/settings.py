"""Everything that can differ between a laptop and production, from the environment. docs/settings.md lists it."""

import math
import os
from pathlib import Path
from typing import Any

import dj_database_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = Path(os.environ.get("VAR_DIR", BASE_DIR / "var"))


def _flag(name: str, default: bool) -> bool:
    return os.environ.get(name, "1" if default else "0").lower() in {"1", "true", "yes", "on"}


def _list(name: str, default: str) -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def _whole(name: str, default: str) -> int:
    try:
        return int(value := os.environ.get(name, default))
    except ValueError:
        raise ImproperlyConfigured(f"{name} is {value!r}, which is not a whole number.") from None


def _number(name: str, default: str) -> float:
    try:
        number = float(value := os.environ.get(name, default))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ImproperlyConfigured(f"{name} is {value!r}, which is not a number.")
    return number


DEBUG = _flag("DEBUG", default=False)
SECRET_KEY = os.environ.get("SECRET_KEY", "insecure-development-key" if DEBUG else "")
ALLOWED_HOSTS = _list("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if DEBUG else "")
# Full origins (scheme, host and port) that pages are served from. Empty: the origin of the request's own Host.
ALLOWED_ORIGINS = _list("ALLOWED_ORIGINS", "")
CSRF_TRUSTED_ORIGINS = [origin for origin in ALLOWED_ORIGINS if "://" in origin]

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "channels",
    "csp",
    "django_htmx",
    "chat",
]

# Who executes runs: the processes that serve, or workers (`manage.py work`) that the job engine tells what to do.
CHAT_ENGINE = os.environ.get("CHAT_ENGINE", "in-process")
CHAT_ENGINES = {"in-process": "chat.agent.engine.Engine", "procrastinate": "chat.agent.jobs.Dispatcher"}
CHAT_WORKER_RUNS = _whole("CHAT_WORKER_RUNS", "200")
if CHAT_ENGINE == "procrastinate":
    INSTALLED_APPS.insert(INSTALLED_APPS.index("chat"), "procrastinate.contrib.django")

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "chat.pages.not_found.NotFound",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# IMMEDIATE: a deferred SQLite transaction that reads and then writes fails at once with "database is locked".
_SQLITE_OPTIONS: dict[str, Any] = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-16000;",
}
DATABASE_POOL = _whole("DATABASE_POOL", "8")
DATABASES: dict[str, Any] = {"default": {"ENGINE": "django.db.backends.dummy"}}
try:
    _found: Any = dj_database_url.config(
        default=f"sqlite:///{VAR_DIR / 'conversations.sqlite3'}",
        conn_max_age=None,
        conn_health_checks=True,
    )
except ValueError:  # a system check tells, without the address: a piece of it may be one of the password
    _found = {}
if _found.get("NAME") and _found["ENGINE"].endswith(("sqlite3", "postgresql")):
    DATABASES["default"] = _found
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    VAR_DIR.mkdir(parents=True, exist_ok=True)
    DATABASES["default"]["OPTIONS"] = _SQLITE_OPTIONS
    # A file, also in tests: the log is written and read by several threads, each with its own connection.
    DATABASES["default"]["TEST"] = {"NAME": str(VAR_DIR / "test.sqlite3")}
elif DATABASES["default"]["ENGINE"].endswith("postgresql"):
    # A process that is frozen in the middle of a transaction holds the conversation's row: PostgreSQL ends it, so that
    # a sweep can give its runs to others. Nobody waits for a lock longer than people wait for an answer, and no
    # statement is let go on for long after whoever asked has given up; `manage.py migrate` lifts that.
    _options = DATABASES["default"].setdefault("OPTIONS", {})
    _ours = "-c idle_in_transaction_session_timeout=8000 -c lock_timeout=10000 -c statement_timeout=30000"
    _options["options"] = f"{_ours} {_options.get('options', '')}".strip()  # what comes later wins
    # A machine that has vanished says nothing: whoever waits for it finds out in about 20 seconds, not in hours.
    for _name, _value in (
        ("connect_timeout", 5),
        ("tcp_user_timeout", 15_000),
        ("keepalives_idle", 10),
        ("keepalives_interval", 3),
        ("keepalives_count", 3),
    ):
        _options.setdefault(_name, _value)
    # Each request of a page has a thread of its own: without a pool, a connection of its own, too. The log's threads
    # keep theirs, outside of it (chat/database.py). A pool that gave up connecting tries again when next asked.
    DATABASES["default"]["CONN_MAX_AGE"] = 0
    _options["pool"] = {
        "min_size": 0,
        "max_size": DATABASE_POOL,
        "timeout": 10,
        "reconnect_timeout": 2,
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = os.environ.get("REDIS_URL", "")
CHANNEL_LAYERS: dict[str, Any] = {
    "default": (
        {"BACKEND": "chat.layer.RedisLayer", "CONFIG": {"hosts": [{"address": REDIS_URL, "protocol": 2}]}}
        if REDIS_URL
        else {"BACKEND": "chat.layer.OneProcessLayer", "CONFIG": {"capacity": 10_000}}
    ),
}

# Who may make an account. In production nobody, unless you say so: whoever can, can spend your tokens.
SIGNUP = _flag("SIGNUP", default=DEBUG)
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "conversations"
LOGOUT_REDIRECT_URL = "login"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # WhiteNoise warns where there is none
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "project.storage.HashedStorage",
    },
}
# What people attach: served only by a view that asks who they are. Another storage, such as a bucket, goes above.
MEDIA_ROOT = Path(os.environ.get("MEDIA_ROOT", VAR_DIR / "media"))
FILE_UPLOAD_PERMISSIONS = 0o600
FILE_UPLOAD_DIRECTORY_PERMISSIONS = 0o700
WHITENOISE_USE_FINDERS = DEBUG
WHITENOISE_AUTOREFRESH = DEBUG

HTTPS = _flag("HTTPS", default=False)
SECURE_SSL_REDIRECT = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _flag("BEHIND_PROXY", default=False) else None
SECURE_HSTS_SECONDS = _whole("HSTS_SECONDS", "31536000" if HTTPS else "0")
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "manifest-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    },
}

# --- what an operator sees: docs/operations.md -------------------------------------------------------------------
LOG_FORMAT = os.environ.get("LOG_FORMAT", "line" if DEBUG else "json")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"()": "chat.logs.Line", "format": "{asctime} {levelname} {name} {message}", "style": "{"},
        "json": {"()": "chat.logs.Json"},
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line" if LOG_FORMAT == "line" else "json"}},
    "root": {"handlers": ["stderr"], "level": os.environ.get("LOG_LEVEL", "INFO")},
    "loggers": {
        # At DEBUG these would write what people say, as requests and as frames.
        **{name: {"level": "INFO"} for name in ("anthropic", "websockets")},
        # What goes wrong there is raised as well, and told by us; its tracebacks hold what servers said.
        **{name: {"level": "CRITICAL"} for name in ("mcp", "client")},
        # It has set up its own way by now, in which errors would show all their text.
        "uvicorn": {"level": "INFO", "propagate": True},
        "uvicorn.access": {"level": "WARNING", "propagate": True},
        "daphne": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},
        "procrastinate": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
    },
}

METRICS_TOKEN = os.environ.get("METRICS_TOKEN", "")
METRICS_HOST = os.environ.get("METRICS_HOST", "127.0.0.1")  # of a worker; a server answers where it serves
METRICS_PORT = _whole("METRICS_PORT", "0")  # 0: a worker shows none
# JSON: model → input, output, cache_write, cache_read → of a million tokens. That of the demonstration is pretended.
CHAT_PRICES = os.environ.get("CHAT_PRICES", '{"scripted": {"input": 3, "output": 15}}' if DEBUG else "")
CHAT_CURRENCY = os.environ.get("CHAT_CURRENCY", "USD")
# The SDK reads these and its other variables itself; one of the two says that it is wanted.
TRACES = bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))

# --- the conversation ---------------------------------------------------------------------------------------
ANTHROPIC_API_KEY = os.environ.get("ANTHROPIC_API_KEY", "")
ANTHROPIC_BASE_URL = os.environ.get("ANTHROPIC_BASE_URL", "")  # empty: the SDK's default
CHAT_PROVIDER = os.environ.get("CHAT_PROVIDER", "claude" if ANTHROPIC_API_KEY else "scripted")
CHAT_PROVIDERS = {
    "claude": "chat.agent.claude.Claude",
    "scripted": "chat.agent.scripted.Scripted",
    **dict(entry.partition("=")[::2] for entry in _list("CHAT_PROVIDERS", "")),
}
CHAT_CLAUDE_MODEL = os.environ.get("CHAT_CLAUDE_MODEL", "claude-sonnet-4-6")
CHAT_CLAUDE_MAX_TOKENS = _whole("CHAT_CLAUDE_MAX_TOKENS", "8192")
CHAT_CLAUDE_IDLE_SECONDS = float(
    os.environ.get("CHAT_CLAUDE_IDLE_SECONDS", "90")
)  # no content for so long: interrupted
CHAT_CLAUDE_RETRIES = _whole("CHAT_CLAUDE_RETRIES", "4")  # of a call that produced nothing yet
CHAT_WINDOW_TOKENS = _whole("CHAT_WINDOW_TOKENS", "200000")  # how much a model can read at once
CHAT_WINDOWS = os.environ.get("CHAT_WINDOWS", "")  # JSON: model or provider → tokens, where that differs
CHAT_SUMMARY_AT = _number("CHAT_SUMMARY_AT", "0.7")  # when so much of it is taken, older turns give way
CHAT_SUMMARY_KEEP = _number("CHAT_SUMMARY_KEEP", "0.3")  # until no more than this is told word for word
CHAT_CONTINUATIONS = _whole("CHAT_CONTINUATIONS", "2")  # of an answer that reached its length limit
CHAT_SYSTEM_PROMPT = os.environ.get("CHAT_SYSTEM_PROMPT", "You are a helpful assistant. Answer in Markdown.")
CHAT_TOOLS = _list(  # what the model can do: dotted paths of async functions, or of modules of them
    "CHAT_TOOLS",
    "chat.agent.tools.clock,chat.agent.tools.calculator,chat.agent.tools.search,"
    "chat.agent.tools.rename,chat.agent.tools.share,chat.agent.tools.ask_user,chat.agent.tools.this_device",
)
CHAT_MCP_SERVERS = os.environ.get("CHAT_MCP_SERVERS", "")  # JSON: name → command or url, and who may use it for what
CHAT_CLAUDE_THINKING_TOKENS = _whole("CHAT_CLAUDE_THINKING_TOKENS", "0")  # 0: it does not
CHAT_MAX_STEPS = _whole("CHAT_MAX_STEPS", "25")  # how often one run asks the model
CHAT_APPROVAL_SECONDS = _number("CHAT_APPROVAL_SECONDS", "86400")  # then nobody has allowed it
CHAT_APPROVERS = _list("CHAT_APPROVERS", "owner,editor")  # whose role lets them approve what a tool is about to do
CHAT_DEVICE_SECONDS = _number("CHAT_DEVICE_SECONDS", "86400")  # then no device has answered
# In CHAT_CURRENCY; 0: none. Another limit for one user or conversation is a row in the admin.
CHAT_USER_BUDGET = _number("CHAT_USER_BUDGET", "0")  # of each, in a calendar month
CHAT_CONVERSATION_BUDGET = _number("CHAT_CONVERSATION_BUDGET", "0")  # of each, altogether
CHAT_BUDGET_HARD_PERCENT = _number("CHAT_BUDGET_HARD_PERCENT", "110")  # where what runs is stopped
CHAT_BUDGET_RESERVE = _number("CHAT_BUDGET_RESERVE", "0.02")  # what each run is reckoned to need
CHAT_BUDGET_CONTACT = os.environ.get("CHAT_BUDGET_CONTACT", "An administrator of this site")
CHAT_LEASE_SECONDS = _number("CHAT_LEASE_SECONDS", "10")
CHAT_SWEEP_SECONDS = _number("CHAT_SWEEP_SECONDS", "2")
CHAT_MAX_ATTEMPTS = _whole("CHAT_MAX_ATTEMPTS", "3")
CHAT_DRAIN_SECONDS = _number("CHAT_DRAIN_SECONDS", "8")  # how long SIGTERM lets running answers go on
CHAT_HEARTBEAT_SECONDS = _number("CHAT_HEARTBEAT_SECONDS", "20")
CHAT_POSITION_SECONDS = _number("CHAT_POSITION_SECONDS", "1")  # how often the hub compares with the log
CHAT_COMMIT_SECONDS = _number("CHAT_COMMIT_SECONDS", "0.012")  # least time between two group commits
CHAT_SIGNALS_PER_SECOND = _number("CHAT_SIGNALS_PER_SECOND", "20")  # per connection, with a burst of 5 s
CHAT_FILE_BYTES = _whole("CHAT_FILE_BYTES", "10485760")
CHAT_FILES_PER_MESSAGE = _whole("CHAT_FILES_PER_MESSAGE", "10")
CHAT_FILES_UNSENT = _whole("CHAT_FILES_UNSENT", "30")  # of a user, uploaded and not sent
CHAT_FILES_PROMPT_BYTES = _whole("CHAT_FILES_PROMPT_BYTES", "20000000")  # the model is shown at once
CHAT_FILE_TYPES = _list("CHAT_FILE_TYPES", "image/png,image/jpeg,image/gif,image/webp,application/pdf,text/plain")
