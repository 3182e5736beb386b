"""The judge of requests: one body for each rule that breaks it and nothing else."""

import base64
from typing import Any

import pytest

from tests.messages_rules import violations

TOOL = {"name": "clock", "description": "What time it is.", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "t1", "name": "clock", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "noon"}
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "noon"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
THOUGHT = {"type": "thinking", "thinking": "Well.", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
TEXT = {"type": "text", "text": "x"}
MARK = {**TEXT, "cache_control": {"type": "ephemeral"}}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
PDF = base64.b64encode(b"%PDF-1.4 /Type /Page " + bytes(8)).decode()
IMAGE: dict[str, Any] = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
DOCUMENT: dict[str, Any] = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
}
NOTES: dict[str, Any] = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "x"},
    "title": "Notes",
}
THINK = {"type": "enabled", "budget_tokens": 1024}


def body(*contents: Any, **more: Any) -> dict[str, Any]:
    """Alternating contents, the first of the user."""
    messages = [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]
    return {"model": "m", "max_tokens": 2048, "messages": messages, "tools": [TOOL], **more}


def image(data: bytes, again: str = "") -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": again or base64.b64encode(data).decode()}
    return {"type": "image", "source": source}


def sized(width: int, height: int) -> bytes:
    """The beginning of a PNG."""
    return b"\x89PNG\r\n\x1a\n" + bytes(8) + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(5)


@pytest.mark.parametrize(
    "good",
    [
        body("hi"),
        body("hi", tools=[]),
        body([IMAGE, TEXT]),
        body([{"type": "document", "source": {"type": "text", "data": "x", "media_type": "text/plain"}}, TEXT]),
        body("hi", [USE], [RESULT, TEXT]),
        body("hi", [THOUGHT, REDACTED, TEXT, USE, {**USE, "id": "t2"}], [{**RESULT, "tool_use_id": "t2"}, RESULT]),
        body("hi", [THOUGHT, USE], [RESULT], thinking=THINK),
        body("hi", [USE], [RESULT, TEXT], thinking=THINK),
        body("hi", "yes", "so", thinking={"type": "adaptive"}, tool_choice={"type": "tool", "name": "clock"}),
        body("hi", [{**THOUGHT, "thinking": ""}, TEXT], "so"),
        body("hi", [SEARCH, FOUND, TEXT], "so"),
        body("hi", [TEXT, SEARCH]),  # paused, and resumed as it was
        body("hi", [SEARCH, FOUND]),
        body("hi", [SEARCH, USE], [RESULT]),  # it is run when the turn goes on
        body("hi", [SEARCH, USE], [RESULT], [FOUND, TEXT], "so"),
        body([MARK] * 4),
        body("hi", [USE], [{"type": "tool_result", "tool_use_id": "t1"}]),
        body("hi", [USE], [{**RESULT, "content": [TEXT, IMAGE]}]),
        body([{**IMAGE, "cache_control": {"type": "ephemeral"}}, DOCUMENT, NOTES, TEXT]),
        body([IMAGE] * 100),
        body("hi", tools=[TOOL, {"type": "web_search_20250305", "name": "web_search"}]),
    ],
)
def test_what_is_valid_is_taken(good: dict[str, Any]) -> None:
    assert violations(good) == []


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (None, "not a JSON object"),
        (body("a", model=""), "model: Field required"),
        (body("a", max_tokens=0), "max_tokens"),
        (body("a", max_tokens=True), "max_tokens"),
        (body("a", system=""), "system: text content blocks must be non-empty"),
        (body("a", system=[{"type": "text", "text": " "}]), "system: text content blocks must be non-empty"),
        (body(), "at least one message"),
        ({**body(), "messages": [{"role": "assistant", "content": "hi"}]}, "beginning with"),
        ({**body(), "messages": [{"role": "user", "content": "a"}] * 2}, "roles must alternate"),
        (body(""), "messages.0: all messages must have non-empty content"),
        (body("a", [], "b"), "messages.1: all messages must have non-empty content"),
        (body(["a"]), "every block is an object"),
        (body("a", "b"), "must end with a user message"),
        (body([TEXT, {"type": "text", "text": " \n"}]), "text content blocks must be non-empty"),
        (body([{"type": "text"}]), "messages.0.content.0.text.text: Field required"),
        (body([{**TEXT, "state": "done"}]), "text.state: Extra inputs are not permitted"),
        (body("a", [{**THOUGHT, "model": "m"}, TEXT], "b"), "thinking.model: Extra inputs are not permitted"),
        (body("a", [{**MARK, **THOUGHT, "text": 1}, TEXT], "b"), "cache_control: Extra inputs are not permitted"),
        (body([{"type": "image", "source": {"type": "base64", "media_type": "image/bmp", "data": "A"}}]), "media_type"),
        (body([{"type": "image", "source": {"type": "base64", "media_type": "image/png"}}]), "image cannot be empty"),
        (body([{"type": "document", "source": {}}]), "source.type: Field required"),
        (body([image(b"\xff\xd8\xff")]), "specified using the image/png media type, but is another"),
        (body([image(b"x", again="not base64!")]), "invalid base64 data"),
        (body([image(b"\x89PNG" + bytes(4_000_000))]), "image exceeds 5 MB maximum"),
        (body([image(sized(8001, 10))]), "dimensions exceed max allowed: 8000"),
        (body([image(sized(2001, 10))] * 21), "dimensions exceed max allowed: 2000"),
        (body([IMAGE] * 101), "too many images"),
        (body([{**IMAGE, "name": "cat.png"}]), "image.name: Extra inputs are not permitted"),
        (body([{**DOCUMENT, "source": {**DOCUMENT["source"], "data": PNG}}]), "The PDF specified was not valid"),
        (body([DOCUMENT] * 101), "A maximum of 100 PDF pages"),
        (body([{**NOTES, "source": {**NOTES["source"], "data": " "}}]), "document cannot be empty"),
        (body([{**NOTES, "source": {**NOTES["source"], "media_type": "text/csv"}}]), "Input should be 'text/plain'"),
        (body([{"type": "reference", "file": "f"}]), "Input tag 'reference'"),
        (body("a", [IMAGE], "b"), "`image` blocks can only be in `user` messages"),
        (body([USE, THOUGHT, TEXT]), "`thinking` blocks can only be in `assistant` messages"),
        (body("a", [{"type": "thinking", "thinking": "?"}, TEXT], "b"), "thinking.signature: Field required"),
        (body("a", [{**THOUGHT, "signature": ""}, TEXT], "b"), "Invalid `signature` in `thinking` block"),
        (body("a", [{**REDACTED, "data": ""}, TEXT], "b"), "Invalid `data`"),
        (body("a", [TEXT, THOUGHT], "b"), "final block in an assistant message cannot be `thinking`"),
        (body("a", [USE], "b"), "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after"),
        (body("a", [USE]), "`tool_use` ids were found without `tool_result` blocks immediately after: t1"),
        (body("a", [USE], [RESULT], "b", [RESULT]), "messages.4.content.0: unexpected `tool_use_id` found"),
        (body("a", [USE], [RESULT, RESULT]), "each tool_use must have a single result"),
        (body("a", [USE], [TEXT, RESULT]), "`tool_result` blocks must come first"),
        (body("a", [USE, TEXT], [RESULT]), "`tool_use` blocks must come last"),
        (body("a", [{**USE, "id": "a b"}], [{**RESULT, "tool_use_id": "a b"}]), "tool_use.id: String should match"),
        (body("a", [{**USE, "name": "a.b"}], [RESULT]), "tool_use.name: String should match"),
        (body("a", [{**USE, "input": None}], [RESULT]), "tool_use.input: Input should be a valid dictionary"),
        (body("a", [USE, USE], [RESULT]), "messages.1.content.1: `tool_use` ids must be unique"),
        (body("a", [USE], [RESULT], [USE], [RESULT]), "messages.3.content.0: `tool_use` ids must be unique"),
        (body("a", [USE], [{**RESULT, "content": "", "is_error": True}]), "cannot be empty if `is_error`"),
        (body("a", [USE], [{**RESULT, "content": [{"type": "text", "text": ""}]}]), "must be non-empty"),
        (body("a", [SEARCH, TEXT], "b"), "`web_search` tool use with id `srvtoolu_1` was found without"),
        (body("a", [SEARCH, USE], [RESULT, TEXT]), "`web_search` tool use with id `srvtoolu_1` was found without"),
        (body("a", [SEARCH, USE], [RESULT], [{**USE, "id": "t2"}], [{**RESULT, "tool_use_id": "t2"}]), "without"),
        (body("a", [FOUND, SEARCH, TEXT], "b"), "unexpected `tool_use_id` found in `web_search_tool_result` blocks"),
        (body("a", thinking={"type": "always"}), "thinking.type"),
        (body("a", thinking={**THINK, "budget_tokens": 1023}), "budget_tokens: Input should be greater than or equal"),
        (body("a", thinking=THINK, max_tokens=1024), "`max_tokens` must be greater than `thinking.budget_tokens`"),
        (body("a", thinking=THINK, tool_choice={"type": "any"}), "tool_choice forces tool use"),
        (body("a", thinking=THINK, temperature=0.5), "`temperature` may only be set to 1"),
        (
            body("a", [USE], [RESULT], thinking=THINK),
            "Expected `thinking` or `redacted_thinking`, but found `tool_use`",
        ),
        (body("a", tools=[TOOL, TOOL]), "Tool names must be unique"),
        (body("a", tools=[{**TOOL, "name": "a b"}]), "tools.0.custom.name: String should match pattern"),
        (body("a", tools=[{"name": "clock"}]), "tools.0.custom.input_schema.type: Field required"),
        (body("a", tool_choice={"type": "tool", "name": "x"}), "Tool 'x' not found in provided tools"),
        (body("a", [USE], [RESULT], tools=[]), "must define tools"),
        (body([MARK] * 5), "A maximum of 4 blocks with cache_control may be provided. Found 5."),
        (body("a", system=[MARK] * 4, tools=[{**TOOL, "cache_control": {}}]), "maximum of 4"),
        (body("a", [USE], [{**RESULT, "content": [MARK] * 5}]), "maximum of 4"),
    ],
)
def test_each_rule_has_a_body_that_breaks_it(bad: dict[str, Any] | None, problem: str) -> None:
    found = violations(bad)
    assert any(problem in sentence for sentence in found), found


def test_a_prefill_that_ends_with_white_space_is_refused_for_that_too() -> None:
    found = violations(body("a", "b "))
    assert found[-1] == "messages: final assistant content cannot end with trailing whitespace"
