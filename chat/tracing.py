"""A run as an OpenTelemetry trace, where somebody collects traces; elsewhere every call here does nothing.

The trace id of a run is made from its id, so that the server that accepted it and the worker that executes it write to
one trace without handing anything over. Nothing that anybody said is in it, nor is any span made per token.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    get_tracer,
    set_span_in_context,
)

NAME = "chat"
# Names by the semantic conventions for generative AI; other providers go by their own.
_SYSTEMS = {"claude": "anthropic"}
_CACHED = {
    "gen_ai.usage.cache_creation.input_tokens": "cache_creation_input_tokens",
    "gen_ai.usage.cache_read.input_tokens": "cache_read_input_tokens",
}

_tracer: Tracer = get_tracer(NAME)
beginning: ContextVar[UUID | None] = ContextVar("beginning", default=None)  # the run whose first span is being made


def use(provider: TracerProvider | None) -> None:
    """Where spans go; None: wherever OpenTelemetry as a whole is told to send them, which is nowhere by default."""
    global _tracer
    _tracer = get_tracer(NAME, tracer_provider=provider)


def trace_id(run: UUID) -> int:
    """Its halves swapped: samplers look at the last bits, and those of an id are not all random."""
    high, low = divmod(run.int, 1 << 64)
    return low << 64 | high


def _root(run: UUID, name: str, attributes: Mapping[str, str | int], began_ns: int | None = None) -> Span:
    token = beginning.set(run)
    try:
        # An empty context: whatever surrounds us must not take it into another trace.
        return _tracer.start_span(name, Context(), SpanKind.SERVER, attributes, start_time=began_ns)
    finally:
        beginning.reset(token)


def accepted(run: UUID, conversation: UUID, began_ns: int) -> None:
    """A signal began this run. `began_ns`: when it was received (Unix time)."""
    _root(run, "send", {"chat.run.id": str(run), "gen_ai.conversation.id": str(conversation)}, began_ns).end()


class RunTrace:
    """One attempt of a run, from its claim to its end, and in it the call of its provider."""

    def __init__(self, run: UUID, conversation: UUID, attempt: int, worker: str) -> None:
        ids = {"chat.run.id": str(run), "gen_ai.conversation.id": str(conversation)}
        self._run = _root(run, "run", {**ids, "chat.run.attempt": attempt, "chat.worker": worker})
        self._call: Span | None = None

    def calls(self, provider: str, model: str) -> None:
        """The provider is asked."""
        if not self._run.is_recording():
            return
        system = _SYSTEMS.get(provider, provider)
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": system, "gen_ai.request.model": model}
        context = set_span_in_context(self._run, Context())
        name = f"chat {model}" if model else "chat"
        self._call = _tracer.start_span(name, context, SpanKind.CLIENT, attributes)

    def first_text(self) -> None:
        """Its first word came."""
        if self._call is not None:
            self._call.add_event("first token")

    def retries(self, code: str) -> None:
        """It tries again after this."""
        if self._call is not None:
            self._call.add_event("retry", {"error.type": code})

    def told_to_stop(self, why: str) -> None:
        """Somebody cancelled, or it is no longer ours."""
        self._run.add_event("stop", {"chat.why": why})

    def answered(self, usage: Mapping[str, int], stop_reason: str, code: str) -> None:
        """The call is over: with a stop reason, with an error's code, or with neither if it was stopped."""
        call, self._call = self._call, None
        if call is None:
            return
        cached = {name: usage[ours] for name, ours in _CACHED.items() if ours in usage}
        call.set_attributes(cached)
        if "input_tokens" in usage:  # by the conventions with those of the cache, which the provider counts apart
            call.set_attribute("gen_ai.usage.input_tokens", usage["input_tokens"] + sum(cached.values()))
        if "output_tokens" in usage:
            call.set_attribute("gen_ai.usage.output_tokens", usage["output_tokens"])
        if stop_reason:
            call.set_attribute("gen_ai.response.finish_reasons", [stop_reason])
        _fail(call, code)
        call.end()

    def ended(self, state: str, code: str) -> None:
        """All is written."""
        self._run.set_attribute("chat.run.state", state)
        _fail(self._run, code)
        self._run.end()


def _fail(span: Span, code: str) -> None:
    if code:
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR, code))
