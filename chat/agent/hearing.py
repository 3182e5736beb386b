"""One answer of the Messages API as it arrives: its raw events → what the runner is told. Knows no connection."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from chat.agent.provider import (
    Block,
    Citation,
    ProviderEvent,
    Reasoned,
    Reasoning,
    Stopped,
    Text,
    ToolAsked,
    ToolInput,
    ToolReady,
    Usage,
)
from chat.agent.saying import is_storable, storable, storable_json

_COUNTED = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass(slots=True)
class Hearing:
    """What is known of the answer so far. `read` takes the events in order."""

    ended: bool = False
    _stop_reason: str = "end_turn"
    _tokens: dict[str, int] = field(default_factory=dict)
    _half: str = ""
    _block: dict[str, Any] = field(default_factory=dict)  # the one that arrives, but for text that was told
    _json: list[str] = field(default_factory=list)  # the input of a call, as it came

    def read(self, event: Any) -> Iterator[ProviderEvent]:
        match event.type:
            case "message_start":
                yield self._usage(event.message.usage)
            case "content_block_start":
                yield from self._begin(event.content_block)
            case "content_block_delta":
                yield from self._delta(event.delta)
            case "content_block_stop":
                yield from self._end()
            case "message_delta":
                self._stop_reason = event.delta.stop_reason or self._stop_reason
                yield self._usage(event.usage)
            case "message_stop":
                self.ended = True
                if self._half:
                    yield Text("\ufffd")
                yield Stopped(self._stop_reason)

    def _begin(self, block: Any) -> Iterator[ProviderEvent]:
        self._block, self._json = block.model_dump(mode="json", exclude_none=True), []
        match block.type:  # some proxies send all of it at once
            case "text" if text := self._clean(block.text):
                yield Text(text)
            case "thinking":
                yield Reasoning(self._clean(block.thinking))
            case "tool_use":
                yield ToolAsked(block.id, block.name)

    def _delta(self, delta: Any) -> Iterator[ProviderEvent]:
        match delta.type:
            case "text_delta" if text := self._clean(delta.text):
                yield Text(text)
            case "thinking_delta" if text := self._clean(delta.thinking):
                yield Reasoning(text)
            case "citations_delta":
                yield self._citation(delta.citation)
            case "signature_delta":
                self._block["signature"] = delta.signature
            case "input_json_delta":
                self._json.append(delta.partial_json)
                if self._block.get("type") == "tool_use" and (text := self._clean(delta.partial_json)):
                    yield ToolInput(text)

    def _end(self) -> Iterator[ProviderEvent]:
        block, self._block = self._block, {}
        match block.get("type"):
            case "text" | None:
                pass
            case "thinking":
                yield Reasoned(signature=block.get("signature", ""))
            case "redacted_thinking":
                yield Reasoned(data=block["data"])
            case "tool_use":
                yield ToolReady(self._input() if self._json else block.get("input") or {})
            case _:  # the provider's own; its input, too, comes in pieces
                block = {**block, "input": self._input() or {}} if self._json else block
                yield Block(block if is_storable(block) else storable_json(block))

    def _input(self) -> dict[str, Any] | None:
        """None if it is no object."""
        text = "".join(self._json) or "{}"
        try:
            found = orjson.loads(text)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _citation(self, cited: Any) -> Citation:
        """Of a page, a document or a search result: each names itself differently."""
        found = {name: self._whole(getattr(cited, name, None)) for name in ("title", "document_title", "url", "source")}
        url = found["url"] or found["source"]
        title = found["title"] or found["document_title"] or url
        return Citation(title, url if url.startswith(("https://", "http://")) else "", self._whole(cited.cited_text))

    @staticmethod
    def _whole(text: object) -> str:
        """Without what a database refuses; it is complete, unlike a delta."""
        return storable(text) if isinstance(text, str) else ""

    def _usage(self, usage: object) -> Usage:
        for name in _COUNTED:
            if isinstance(count := getattr(usage, name, None), int):
                self._tokens[name] = count
        return Usage(dict(self._tokens))

    def _clean(self, text: str) -> str:
        """Without what a database refuses. JSON may escape one character as two halves, in two deltas."""
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1:] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return storable(text)
