"""Figures for whoever operates this: every metric by name, defined here alone. docs/operations.md explains each.

Labels take few values, never an id. What happens for every token is observed once per commit; children of labels are
looked up once.
"""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from chat.prices import KINDS, PER, cost, per_token

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the number of series

STATES = ("queued", "running", "waiting")
TRANSPORTS = ("websocket", "sse", "long_poll")
_MOST_TOKENS = 10**12
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_LONG = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

# What a provider's error is counted as. A code that is not here counts as `other`: a label must stay small.
CODES = frozenset(
    {
        *("invalid_request", "authentication", "billing", "permission", "not_found", "too_large"),
        *("rate_limited", "overloaded", "server_error", "unreachable", "connection_lost", "idle_timeout"),
        *("no_provider", "internal", "storage", "server_lost", "attempts_exhausted", "budget"),
    }
)

_devices = Gauge("chat_devices", "Live connections of devices to this process", ["transport"])
_runs = Gauge("chat_runs", "Runs in the database that have not ended", ["state"])
_queue_depth = Gauge("chat_queue_depth", "Conversations in the database whose next run could start and has not")
_runs_here = Gauge("chat_runs_here", "Runs that this process executes")

token_delay = Histogram(
    "chat_token_delay_seconds",
    "From the provider's text handed in until its frame is handed to the devices' transport: the oldest of a commit",
    buckets=_FAST,
)
_commit_seconds = Histogram("chat_commit_seconds", "From taking a batch of text until it is committed", buckets=_FAST)
_commit_events = Histogram("chat_commit_events", "Events in one commit of streamed text", buckets=_SIZES)
commit_failures = Counter("chat_commit_failures", "Commits of streamed text that the database refused, each try")

_gaps = Counter("chat_gaps_repaired", "Times something missed was read from the log", ["where"])
gap_in_news, gap_at_device = _gaps.labels("news"), _gaps.labels("device")

_runs_ended = Counter("chat_runs_ended", "Runs that ended, as this process wrote it", ["state", "code"])
_run_seconds = Histogram("chat_run_seconds", "From a run's first start to its end", buckets=_LONG)
_cancel_seconds = Histogram("chat_cancel_seconds", "From a stored cancel to the end of a run", buckets=_FAST)
leases_lapsed = Counter("chat_leases_lapsed", "Runs whose process was lost, found by this process")
_provider_errors = Counter(
    "chat_provider_errors", "Calls of a provider that came to nothing", ["provider", "code", "retried"]
)
_mcp_failures = Counter("chat_mcp_failures", "Times an MCP server could not be used", ["server", "what"])
_tokens = Counter("chat_tokens", "Tokens that providers counted", ["provider", "model", "kind"])
_cost = Counter("chat_cost", "What they cost by CHAT_PRICES, in the unit of those", ["provider", "model"])


def watch_devices(count: Callable[[str], int]) -> None:
    """`count(transport)` is asked at each scrape."""
    for transport in TRANSPORTS:
        _devices.labels(transport).set_function(partial(count, transport))


def watch_runs(count: Callable[[], int]) -> None:
    """How many are executed here, asked at each scrape."""
    _runs_here.set_function(count)


def counted(states: Mapping[str, int], startable: int) -> None:
    """What the database has."""
    for state in STATES:
        _runs.labels(state).set(states.get(state, 0))
    _queue_depth.set(startable)


def uncounted() -> None:
    """The database does not say. An old figure would look like a quiet system."""
    for gauge in (*(_runs.labels(state) for state in STATES), _queue_depth):
        gauge.set(float("nan"))


def committed(events: int, seconds: float) -> None:
    """One batch of streamed text."""
    _commit_events.observe(events)
    _commit_seconds.observe(seconds)


def ended(state: str, code: str, seconds: float | None, cancelled_after: float | None) -> None:
    """A run has ended. `seconds`: since it started. `cancelled_after`: since somebody asked for it."""
    _runs_ended.labels(state, _known(code)).inc()
    if seconds is not None:
        _run_seconds.observe(max(0.0, seconds))
    if cancelled_after is not None:
        _cancel_seconds.observe(max(0.0, cancelled_after))


def provider_failed(provider: str, code: str, *, retried: bool) -> None:
    """One call."""
    _provider_errors.labels(provider, _known(code), "yes" if retried else "no").inc()


def mcp_failed(server: str, what: str) -> None:
    """`left_out`: a run went on without its tools, or a call was not made. `lost`: it went away during a call."""
    _mcp_failures.labels(server, what).inc()


def spent(provider: str, model: str, usage: Mapping[str, int], prices: str) -> None:
    """What one attempt has used, by the provider's own names. A count that cannot be one counts nothing."""
    counted = {name: usage[name] for name in KINDS if 0 < usage.get(name, 0) <= _MOST_TOKENS}
    for name, number in counted.items():
        _tokens.labels(provider, model, KINDS[name]).inc(number)
    price = cost(per_token(prices, model), counted)
    if price is not None:
        _cost.labels(provider, model).inc(price / PER)


def _known(code: str) -> str:
    return code if not code or code in CODES else "other"
