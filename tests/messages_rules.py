"""What the Messages API refuses with a 400, in sentences like its own: `violations(body)` of a good request is empty.

Collected from its documentation, the types of its SDK, and the errors people met. Stricter than the real one where it
repairs or depends on the model: roles must alternate (it merges neighbours), nothing but calls may follow a call in
a message, and a conversation may end with the assistant only where a tool of the provider's own was paused.
It knows nothing of the project, so that it cannot share its mistakes.
"""

import base64
import re
from collections.abc import Iterator
from typing import Any

Block = dict[str, Any]

ID, NAME = re.compile(r"[a-zA-Z0-9_-]+"), re.compile(r"[a-zA-Z0-9_-]{1,128}")
IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
THINKING = ("thinking", "redacted_thinking")
SERVED = ("server_tool_use", "mcp_tool_use")
ONLY_IN = {"tool_use": "assistant", "thinking": "assistant", "redacted_thinking": "assistant"} | {
    **dict.fromkeys(SERVED, "assistant"),
    **dict.fromkeys(("tool_result", "image", "document"), "user"),
}
REQUIRED: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "thinking": {"thinking": str, "signature": str},
    "redacted_thinking": {"data": str},
    "tool_use": {"id": str, "name": str, "input": dict},
    "tool_result": {"tool_use_id": str},
    "server_tool_use": {"id": str, "name": str, "input": dict},
    "image": {"source": dict},
    "document": {"source": dict},
}
ALLOWED = {
    "text": {"cache_control", "citations"},
    "thinking": set[str](),  # no cache_control either
    "redacted_thinking": set[str](),
    "tool_use": {"cache_control", "caller", "toolset_name"},
    "tool_result": {"content", "is_error", "cache_control", "toolset_name"},
    "image": {"cache_control"},
    "document": {"cache_control", "citations", "context", "title"},
}
FROM_USER = {"text", "image", "document", "tool_result", "search_result", "container_upload"}
MB = 1024 * 1024
MOST_REQUEST, MOST_IMAGE = 32 * MB, 5 * MB  # of an image in base64
# For a model with 200,000 tokens.
MOST_IMAGES, MOST_PAGES, MOST_SIDE, MANY_IMAGES, MOST_SIDE_OF_MANY = 100, 100, 8000, 20, 2000


def violations(body: object) -> list[str]:
    """Everything wrong with a request's body; the first sentence is what the real service would say."""
    if not isinstance(body, dict):
        return ["the body is not a JSON object"]
    found = list(_frame(body))
    if found:
        return found  # what follows relies on the shape of the messages
    messages = [(m["role"], _blocks(m["content"])) for m in body["messages"]]
    for check in (_shapes, _thinking, _calls, _served, _files):
        found += check(messages)
    return [
        *found,
        *_last(messages),
        *_asked_to_think(body, messages),
        *_tools(body, messages),
        *_marks(body, messages),
    ]


def _frame(body: Block) -> Iterator[str]:
    if not (isinstance(body.get("model"), str) and body["model"]):
        yield "model: Field required"
    if not (isinstance(count := body.get("max_tokens"), int) and not isinstance(count, bool) and count > 0):
        yield "max_tokens: must be greater than 0"
    if any(not text.strip() for text in _system(body)):
        yield "system: text content blocks must be non-empty"
    messages = body.get("messages")
    if not (isinstance(messages, list) and messages):
        yield "messages: at least one message is required"
        return
    if [message.get("role") for message in messages] != [("user", "assistant")[n % 2] for n in range(len(messages))]:
        yield "messages: roles must alternate, beginning with user"
    for number, message in enumerate(messages):
        content = message.get("content")
        if not content:
            yield f"messages.{number}: all messages must have non-empty content"
        elif not isinstance(content, str) and not all(isinstance(b, dict) and _is(b.get("type")) for b in content):
            yield f"messages.{number}.content: every block is an object with a type"


def _shapes(messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    for where, role, block in _everywhere(messages):
        kind = block["type"]
        if role == "user" and kind not in FROM_USER:
            yield f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags"
        if ONLY_IN.get(kind, role) != role or (kind.endswith("_tool_result") and role == "user"):
            yield f"{where}: `{kind}` blocks can only be in `{'user' if role == 'assistant' else 'assistant'}` messages"
        for name, wanted in REQUIRED.get(kind, {}).items():
            if name not in block:
                yield f"{where}.{kind}.{name}: Field required"
            elif not isinstance(block[name], wanted):
                yield f"{where}.{kind}.{name}: Input should be a valid {'dictionary' if wanted is dict else 'string'}"
        if kind in ALLOWED:
            for name in block.keys() - {"type"} - REQUIRED[kind].keys() - ALLOWED[kind]:
                yield f"{where}.{kind}.{name}: Extra inputs are not permitted"
        yield from _empty(where, block)
        if kind in ("image", "document") and isinstance(block.get("source"), dict):
            yield from _source(f"{where}.{kind}.source", kind, block["source"])


def _empty(where: str, block: Block) -> Iterator[str]:
    if block["type"] == "text" and not str(block.get("text")).strip():
        yield "messages: text content blocks must be non-empty"
    if block["type"] == "tool_result":
        content = block.get("content", "")
        if block.get("is_error") and not content:
            yield f"{where}.tool_result: content cannot be empty if `is_error` is true"
        for inner in content if isinstance(content, list) else []:
            yield from _empty(where, inner)


def _source(where: str, kind: str, source: Block) -> Iterator[str]:
    match source.get("type"):
        case "base64":
            types = IMAGES if kind == "image" else {"application/pdf"}
            if source.get("media_type") not in types:
                yield f"{where}.base64.media_type: Input should be one of {', '.join(sorted(types))}"
            if not source.get("data"):
                yield f"{where}.base64.data: {kind} cannot be empty"
                return
            try:
                data = base64.b64decode(source["data"], validate=True)
            except ValueError:
                yield f"{where}.base64.data: invalid base64 data"
                return
            if kind == "document" and not data.startswith(b"%PDF-"):
                yield f"{where}.base64.data: The PDF specified was not valid."
            if kind == "image" and len(source["data"]) > MOST_IMAGE:
                yield f"{where}.base64: image exceeds 5 MB maximum: {len(source['data'])} bytes > {MOST_IMAGE} bytes"
            if kind == "image" and source.get("media_type") in types and _looks_like(data) != source["media_type"]:
                yield f"{where}: The image was specified using the {source['media_type']} media type, but is another"
        case "text" if kind == "document":
            if source.get("media_type") != "text/plain":
                yield f"{where}.text.media_type: Input should be 'text/plain'"
            if not str(source.get("data") or "").strip():
                yield f"{where}.text.data: document cannot be empty"
        case "url" | "file" | "content":
            pass
        case _:
            yield f"{where}.type: Field required"


def _looks_like(data: bytes) -> str:
    begins = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
    return next((kind for first, kind in begins.items() if data.startswith(first)), "")


def _files(messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    """All of a request's together."""
    images, pages = 0, 0
    for _, _, block in _everywhere(messages):
        source = block.get("source")
        if not isinstance(source, dict) or source.get("type") != "base64":
            continue
        if block["type"] == "image":
            images += 1
        elif str(source.get("data")).startswith("JVBERi"):  # %PDF
            data = _decoded(source["data"])
            pages += len(re.findall(rb"/Type\s*/Page\b", data))  # at least these: others may be packed
    if images > MOST_IMAGES:
        yield f"messages: too many images and documents: {images} > {MOST_IMAGES}"
    if pages > MOST_PAGES:
        yield f"messages: A maximum of {MOST_PAGES} PDF pages may be provided."
    yield from _sides(messages, MOST_SIDE_OF_MANY if images > MANY_IMAGES else MOST_SIDE)


def _decoded(text: str) -> bytes:
    """Nothing if it is none: that is said elsewhere."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _sides(messages: list[tuple[str, list[Block]]], most: int) -> Iterator[str]:
    for where, _, block in _everywhere(messages):
        source = block.get("source")
        if block["type"] == "image" and isinstance(source, dict) and source.get("type") == "base64":
            data = _decoded(str(source.get("data") or "")[:64])
            width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
            if data.startswith(b"\x89PNG") and max(width, height) > most:
                yield f"{where}.image.source: At least one of the image dimensions exceed max allowed: {most}"


def _thinking(messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    for number, (_, blocks) in enumerate(messages):
        if blocks[-1]["type"] in THINKING:
            yield f"messages.{number}: The final block in an assistant message cannot be `thinking`."
    for where, _, block in _everywhere(messages):
        if block["type"] == "thinking" and not block.get("signature"):
            yield f"{where}: Invalid `signature` in `thinking` block"
        if block["type"] == "redacted_thinking" and not block.get("data"):
            yield f"{where}: Invalid `data` in `redacted_thinking` block"


def _calls(messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    """Each call of a tool is answered once, at the beginning of the very next message; nothing else is."""
    used: set[str] = set()
    for where, _, block in _everywhere(messages):
        if block["type"] in ("tool_use", *SERVED):
            if not ID.fullmatch(str(block.get("id"))):
                yield f"{where}.{block['type']}.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            if not NAME.fullmatch(str(block.get("name"))):
                yield f"{where}.{block['type']}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
            if str(block.get("id")) in used:
                yield f"{where}: `{block['type']}` ids must be unique"
            used.add(str(block.get("id")))
    for number, (_, blocks) in enumerate(messages):
        calls = [str(block.get("id")) for block in blocks if block["type"] == "tool_use"]
        after = messages[number + 1][1] if number + 1 < len(messages) else []
        answered = [str(block.get("tool_use_id")) for block in after if block["type"] == "tool_result"]
        if missing := [call for call in calls if call not in answered]:
            yield (
                f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message."
            )
        if doubled := sorted({call for call in calls if answered.count(call) > 1}):
            yield f"messages.{number + 1}: each tool_use must have a single result. Found more for: {doubled[0]}"
        first_call = next((n for n, block in enumerate(blocks) if block["type"] == "tool_use"), len(blocks))
        if any(block["type"] not in ("tool_use", *SERVED) for block in blocks[first_call:]):
            yield f"messages.{number}: `tool_use` blocks must come last: text after them is not accepted"
        before = [str(b.get("id")) for b in messages[number - 1][1] if b["type"] == "tool_use"] if number else []
        results = [block for block in blocks if block["type"] == "tool_result"]
        for place, block in enumerate(blocks):
            if block["type"] == "tool_result" and str(block.get("tool_use_id")) not in before:
                yield (
                    f"messages.{number}.content.{place}: unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{block.get('tool_use_id')}. Each `tool_result` block must have a corresponding `tool_use` block "
                    "in the previous message."
                )
        if results != blocks[: len(results)]:
            yield f"messages.{number}: `tool_result` blocks must come first in a message"


def _served(messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    """Tools the provider runs: their results follow in the same turn, which results of ours do not end."""
    waiting: dict[str, tuple[int, Block]] = {}
    last = len(messages) - 1
    for number, (role, blocks) in enumerate(messages):
        if role == "user" and any(block["type"] != "tool_result" for block in blocks):
            yield from (_alone(*use) for use in waiting.values())
            waiting = {}
        for place, block in enumerate(blocks):
            kind, call = block["type"], str(block.get("tool_use_id"))
            if kind in SERVED:
                waiting[str(block.get("id"))] = (number, block)
            elif kind.endswith("_tool_result") and waiting.pop(call, None) is None:
                yield (
                    f"messages.{number}.content.{place}: unexpected `tool_use_id` found in `{kind}` blocks: {call}. "
                    f"Each `{kind}` block must have a corresponding `server_tool_use` block before it."
                )
    # It is run, or run on, when the turn that made it goes on.
    yield from (_alone(number, use) for number, use in waiting.values() if number < last - 1)


def _alone(number: int, use: Block) -> str:
    name = use.get("name")
    return (
        f"messages.{number}: `{name}` tool use with id `{use.get('id')}` was found without a corresponding result block"
    )


def _last(messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    role, blocks = messages[-1]
    kind = blocks[-1]["type"]
    if role == "assistant" and not (kind in SERVED or kind.endswith("_tool_result")):
        yield "This model does not support assistant message prefill. The conversation must end with a user message."
        if str(blocks[-1].get("text", "")) != str(blocks[-1].get("text", "")).rstrip():
            yield "messages: final assistant content cannot end with trailing whitespace"


def _asked_to_think(body: Block, messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    thinking = body.get("thinking") or {}
    if thinking.get("type") not in (None, "enabled", "adaptive", "disabled"):
        yield "thinking.type: Input should be one of enabled, adaptive, disabled"
    if thinking.get("type") != "enabled":
        return
    budget = thinking.get("budget_tokens")
    if not (isinstance(budget, int) and budget >= 1024):
        yield "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
    elif body["max_tokens"] <= budget:
        yield "`max_tokens` must be greater than `thinking.budget_tokens`."
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        yield "Thinking may not be enabled when tool_choice forces tool use."
    if body.get("temperature", 1) != 1:
        yield "`temperature` may only be set to 1 when thinking is enabled."
    if len(messages) > 1 and all(block["type"] == "tool_result" for block in messages[-1][1]):
        first = messages[-2][1][0]["type"]
        if first not in THINKING:
            yield (
                f"messages.{len(messages) - 2}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{first}`. When `thinking` is enabled, a final `assistant` message must start with a thinking block"
            )


def _tools(body: Block, messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    tools = body.get("tools") or []
    names = [tool.get("name") for tool in tools]
    if len(set(names)) < len(names):
        yield "tools: Tool names must be unique."
    for number, tool in enumerate(tools):
        if not NAME.fullmatch(str(tool.get("name") or "")):
            yield f"tools.{number}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        custom = tool.get("type") in (None, "custom")
        if custom and (tool.get("input_schema") or {}).get("type") != "object":
            yield f"tools.{number}.custom.input_schema.type: Field required"
    choice = body.get("tool_choice") or {}
    if choice.get("type") == "tool" and choice.get("name") not in names:
        yield f"Tool '{choice.get('name')}' not found in provided tools"
    if not tools and any(block["type"] in ("tool_use", "tool_result") for _, _, block in _everywhere(messages)):
        yield "Requests which include `tool_use` or `tool_result` blocks must define tools"


def _marks(body: Block, messages: list[tuple[str, list[Block]]]) -> Iterator[str]:
    blocks = [*_blocks(body.get("system") or []), *(body.get("tools") or [])]
    for _, _, block in _everywhere(messages):
        blocks.append(block)
        blocks += block["content"] if isinstance(block.get("content"), list) else []
    if (marks := sum("cache_control" in block for block in blocks)) > 4:
        yield f"A maximum of 4 blocks with cache_control may be provided. Found {marks}."


def _everywhere(messages: list[tuple[str, list[Block]]]) -> Iterator[tuple[str, str, Block]]:
    for number, (role, blocks) in enumerate(messages):
        for place, block in enumerate(blocks):
            yield f"messages.{number}.content.{place}", role, block


def _blocks(content: Any) -> list[Block]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _system(body: Block) -> list[str]:
    system = body.get("system", [])
    return [system] if isinstance(system, str) else [str(block.get("text")) for block in system]


def _is(value: object) -> bool:
    return isinstance(value, str) and bool(value)
