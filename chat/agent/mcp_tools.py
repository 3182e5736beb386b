"""What MCP servers offer, as tools: named `server__tool`, called at most once, left out where a server is away.

Each process has one connection to each server, opened when a run first needs it and again after it broke. No run
waits longer than LIST_SECONDS for a server, and none at all for AGAIN_SECONDS after one failed.
"""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from mcp import Client, MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    AudioContent,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from mcp_types import CallToolResult as Result
from mcp_types import Tool as Offer
from pydantic import ValidationError

from chat import metrics
from chat.agent.mcp_link import Away, Link
from chat.agent.mcp_setting import ServerSpec
from chat.agent.saying import is_storable
from chat.agent.tool import Context, Tool, ToolFailed, ToolRefused
from chat.logs import reason

LIST_SECONDS = 5.0  # how long a run waits for what a server offers
AGAIN_SECONDS = 30.0  # how long a server is left alone that failed
LISTED_SECONDS = 60.0  # how old a list may be
MOST_PAGES, MOST_TOOLS = 20, 100  # of a list
MAX_NAME_CHARS = 64
MAX_OFFER_CHARS = 20_000  # of a description and a schema: all of it is sent with every request
SEPARATOR = "__"
_REFUSED = re.compile(r"[^a-zA-Z0-9_-]")

logger = logging.getLogger(__name__)


class Servers:
    """All of CHAT_MCP_SERVERS, in its order."""

    def __init__(self, specs: Mapping[str, ServerSpec]) -> None:
        self._servers = {name: Server(name, spec) for name, spec in specs.items()}

    async def tools_for(self, user: Any) -> list[Tool]:
        """Of the servers this user may use, as far as they answer in time. Never raises."""
        meant = [server for server in self._servers.values() if server.is_for(user)]
        found = await asyncio.gather(*(server.tools() for server in meant))
        return [tool for tools in found for tool in tools]

    def why_absent(self, name: str) -> str:
        server, separator, _ = name.partition(SEPARATOR)
        if not separator or server not in self._servers:
            return ""
        return (
            f"There is no tool {name} now: the server {server} does not offer it to this person, or cannot be reached."
        )

    async def aclose(self) -> None:
        await asyncio.gather(*(server.aclose() for server in self._servers.values()))


class Server:
    """One of them."""

    def __init__(self, name: str, spec: ServerSpec) -> None:
        self._name, self._spec = name, spec
        self._link: Link | None = None
        self._old: list[Link] = []
        self._tools: list[Tool] = []
        self._listed_by: Link | None = None
        self._listed_at = 0.0
        self._complaints: set[str] = set()
        self._listing = asyncio.Lock()
        self._not_before = 0.0

    def is_for(self, user: Any) -> bool:
        return self._spec.to == "everybody" or bool(getattr(user, "is_staff", False))

    async def tools(self) -> list[Tool]:
        """What it offers, in the order of names; nothing if it cannot be asked. Never raises."""
        try:
            async with asyncio.timeout(LIST_SECONDS):
                return await self._listed()
        except Exception as error:  # noqa: BLE001 - whatever it is: this run goes on without
            if self._tools and self._link is self._listed_by and self._link is not None and self._link.calls:
                return self._tools  # it is busy with what it was asked for, and will answer
            self._failed(error)
            return []

    async def call(self, tool: str, context: Context, arguments: dict[str, Any]) -> str:
        """Call it once. Raises ToolError; cancelled, it tells the server."""
        try:
            async with asyncio.timeout(LIST_SECONDS):
                link = self._linked()
                client = await link.client()
        except (Away, TimeoutError) as error:
            self._failed(error)
            raise ToolRefused(f"The server {self._name} cannot be reached now. Nothing was done.") from error
        async with link.calling():
            result = await self._result(client, link, tool, context, arguments)
        text = words(result)
        if result.is_error:
            raise ToolFailed(text or f"{self._name} says that it failed, and not why.")
        return text

    async def aclose(self) -> None:
        links = [*self._old, *([self._link] if self._link is not None else [])]
        await asyncio.gather(*(link.aclose() for link in links))

    async def _result(
        self, client: Client, link: Link, tool: str, context: Context, arguments: dict[str, Any]
    ) -> Result:
        async def show(progress: float, total: float | None, message: str | None) -> None:
            await context.progress(message or (f"{progress:g} of {total:g}" if total else f"{progress:g}"))

        try:
            return await client.call_tool(tool, arguments, progress_callback=show)
        except MCPError as error:
            if error.code != CONNECTION_CLOSED:
                if self._spec.url:  # a session that is over there is not noticed here otherwise
                    self._retire(link)
                raise ToolFailed(f"{self._name} refused the call: {error.message}") from error
            metrics.mcp_failed(self._name, "lost")
            logger.warning("a server was lost during a call", extra={"server": self._name})
            lost = f"The server {self._name} was lost during the call."
            raise ToolFailed(f"{lost} What it had begun may have taken effect.") from error
        except (RuntimeError, ValidationError) as error:  # it has answered, and not as it had said it would
            logger.warning("a server's answer cannot be read: %s", type(error).__name__, extra={"server": self._name})
            unread = f"The server {self._name} answered in a way that cannot be read."
            raise ToolFailed(f"{unread} What it did has taken effect.") from error

    def _linked(self) -> Link:
        """The connection, or a new one. Raises Away if that failed a moment ago, or takes long."""
        alone = asyncio.get_running_loop().time() < self._not_before
        if self._link is None or self._link.is_over:
            if alone:
                raise Away("it failed a moment ago")
            self._link = Link(self._name, self._spec)
        elif alone and not self._link.is_ready:
            raise Away("it has not started yet")
        return self._link

    async def _listed(self) -> list[Tool]:
        link = self._linked()
        client = await link.client()
        async with self._listing:  # of several runs that begin together one asks
            now = asyncio.get_running_loop().time()
            if self._listed_by is not link or now > self._listed_at + LISTED_SECONDS:
                self._tools = self._made(await offered(client))
                self._listed_by, self._listed_at = link, now
        return self._tools

    def _failed(self, error: Exception) -> None:
        """Leave it alone for a while. One that no longer answers is started anew then, unless it is at work."""
        metrics.mcp_failed(self._name, "left_out")
        now = asyncio.get_running_loop().time()
        if now < self._not_before:
            return
        self._not_before = now + AGAIN_SECONDS
        late = isinstance(error, TimeoutError)
        why = "it did not answer in time" if late else str(error) if isinstance(error, Away) else reason(error)
        logger.warning("a server's tools are left out: %s", why, extra={"server": self._name})
        if self._link is not None and self._link.is_ready:
            self._retire(self._link)

    def _retire(self, link: Link) -> None:
        """It ends with the calls that are under way; whoever comes next opens another."""
        self._old = [one for one in self._old if not one.is_over] + [link]
        link.retire()
        if self._link is link:
            self._link = None

    def _made(self, offers: list[Offer]) -> list[Tool]:
        known = {offer.name: offer for offer in reversed(offers)}
        wanted = known.keys() if self._spec.tools is None else dict.fromkeys(self._spec.tools)
        made: list[Tool] = []
        for name in sorted(wanted):
            fault = "it has no such tool" if name not in known else fault_of(known[name])
            if fault or len(made) >= MOST_TOOLS:
                why = f"the tool {name[:MAX_NAME_CHARS]!r} is left out: {fault or 'there are too many'}"
                if why not in self._complaints:  # once, not at each listing
                    logger.warning("of a server %s", why, extra={"server": self._name})
                self._complaints.add(why)
            else:
                made.append(self._tool(known[name]))
        return made

    def _tool(self, offer: Offer) -> Tool:
        async def call(context: Context, /, **arguments: Any) -> str:
            return await self.call(offer.name, context, arguments)

        reads = offer.annotations is not None and offer.annotations.read_only_hint is True
        approve = self._spec.approve
        description = offer.description or offer.title or offer.name
        needs = approve == "all" or (approve == "changes" and not reads)
        name = tool_name(self._name, offer.name)
        return Tool(name, description, offer.input_schema, needs, self._spec.seconds, False, call, None)


async def offered(client: Client) -> list[Offer]:
    """All that a server lists."""
    found: list[Offer] = []
    cursor: str | None = None
    for _ in range(MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return found


def tool_name(server: str, tool: str) -> str:
    """As the Messages API takes it. What had to be changed for that ends with a hash of what it was: no two clash."""
    name = f"{server}{SEPARATOR}{_REFUSED.sub('_', tool)}"
    if name == f"{server}{SEPARATOR}{tool}" and tool and len(name) <= MAX_NAME_CHARS:
        return name
    mark = hashlib.sha256(tool.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name[: MAX_NAME_CHARS - 9]}_{mark}"


def fault_of(offer: Offer) -> str:
    """Why the Messages API would refuse it, and every request that has it; nothing if it would not."""
    schema = offer.input_schema
    if schema.get("type") != "object":
        return "its arguments are no object"
    if found := [word for word in ("oneOf", "anyOf", "allOf") if word in schema]:
        return f"its schema has {found[0]} at the top"
    said = [offer.description, offer.title, schema]
    if not is_storable(said):
        return "it has characters that cannot be sent"
    return "it is too long" if len(json.dumps(said, ensure_ascii=False)) > MAX_OFFER_CHARS else ""


def words(result: Result) -> str:
    """What the model is told of a result: its text, and that there was something else where there was."""
    said = [_word(block) for block in result.content]
    if not said and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return "\n\n".join(filter(None, said))


def _word(block: Any) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            kind = "an image" if isinstance(block, ImageContent) else "a sound"
            return f"[{kind}, {block.mime_type}, {_size(block.data)}: it cannot be shown here]"
        case ResourceLink():
            return " ".join(filter(None, [f"[{block.uri}: {block.title or block.name}.", block.description])) + "]"
        case EmbeddedResource(resource=resource):
            if isinstance(resource, TextResourceContents):
                return f"[{resource.uri}]\n{resource.text}"
            return f"[{resource.uri}, {resource.mime_type or 'unknown type'}, {_size(resource.blob)}: it is no text]"
        case _:
            return f"[{type(block).__name__}: it cannot be shown here]"


def _size(base64: str) -> str:
    return f"{len(base64) * 3 // 4:,} bytes"
