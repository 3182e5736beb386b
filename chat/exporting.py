"""Sends traces away by OTLP. Imported only where that is configured: the SDK is an extra.

The SDK reads the standard variables: OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS, OTEL_TRACES_SAMPLER and so on.
"""

import asyncio
import threading
from contextlib import suppress
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from chat import tracing

PATIENCE = 2.0  # seconds for the last spans


class RunIds(RandomIdGenerator):
    """A run's spans find each other by the run's id."""

    def generate_trace_id(self) -> int:
        run = tracing.beginning.get()
        return super().generate_trace_id() if run is None else tracing.trace_id(run)


def provider(*processors: SpanProcessor) -> TracerProvider:
    """Of our own, not the process's: other packages put into their spans what they like."""
    resource = Resource.create({SERVICE_NAME: "conversations"})  # OTEL_SERVICE_NAME goes before
    made = TracerProvider(resource=resource, id_generator=RunIds(), shutdown_on_exit=False)
    for processor in processors:
        made.add_span_processor(processor)
    return made


class Exporter:
    """Beside a host: sends while it lives, in a thread of its own. Nobody waits for a collector that is away."""

    def __init__(self, _: Any) -> None:
        self._provider = provider(BatchSpanProcessor(OTLPSpanExporter()))

    async def start(self) -> None:
        tracing.use(self._provider)

    async def drain(self, seconds: float) -> None:
        """Runs are still to end."""

    async def close(self) -> None:
        """Send what is left, for a moment."""
        tracing.use(None)
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def send() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop may be gone by then
                loop.call_soon_threadsafe(sent.set)

        threading.Thread(target=send, name="traces-last", daemon=True).start()  # the process need not wait for it
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await sent.wait()
