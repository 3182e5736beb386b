"""Claude's turn through the Messages API. Only this module imports `anthropic`; `trouble.py` says how one can fail."""

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any, TypeVar, cast

import anthropic
from anthropic.types import RawMessageStreamEvent
from django.conf import settings

from chat.agent.hearing import Hearing
from chat.agent.provider import (
    Notice,
    PromptMessage,
    ProviderError,
    ProviderEvent,
    Turn,
    Usage,
)
from chat.agent.trouble import ADVICE, CODES, PASSING, Trouble, asked_wait, is_full

T = TypeVar("T")
_Stream = anthropic.AsyncStream[RawMessageStreamEvent]

_END_OF_BODY_SECONDS = 0.25
_WAITED_SECONDS = 0.001  # what takes no longer was there already
_GATHERED_PER_TURN = 0.0008
_GATHERED = (0.002, 0.08)  # less is not worth a timer, more would be seen
_CONTENT = {
    *("message_start", "message_delta", "message_stop"),
    *("content_block_start", "content_block_delta", "content_block_stop"),
}
_EPHEMERAL = {"type": "ephemeral"}


class Claude:
    """One per process: its connections are shared by all turns."""

    _client: anthropic.AsyncAnthropic | None = None
    _turns = 0  # being answered now

    @property
    def model(self) -> str:
        return str(settings.CHAT_CLAUDE_MODEL)

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        said, tries = False, 0
        while True:
            try:
                async with aclosing(self._call(turn)) as events:
                    async for event in events:
                        said = said or not isinstance(event, Usage | Notice)
                        yield event
                return
            except Trouble as trouble:
                trouble.lost = trouble.lost or said
                if said or not trouble.passing or tries >= settings.CHAT_CLAUDE_RETRIES:
                    raise
                wait, reason, code = trouble.wait(tries), PASSING[trouble.code], trouble.code
            tries += 1
            yield Notice(f"{reason}, trying again in {math.ceil(wait)} s", expires_in=wait + 2, code=code)
            await asyncio.sleep(wait)

    def summarise(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        return self.reply(turn)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _call(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        """One request. Raises only `Trouble` and `ContextFull`; closes its connection however it is left."""
        idle, answer = settings.CHAT_CLAUDE_IDLE_SECONDS, Hearing()
        clock = asyncio.get_running_loop().time
        async with AsyncExitStack() as held:
            self._turns += 1
            held.callback(self._turn_over)
            stream = await _heard(self._request(turn), idle)
            await held.enter_async_context(stream)
            asked = clock()
            while not answer.ended:
                event = await _heard(_content(stream), idle)
                if event is None:  # the SDK takes a body without message_stop for a good end
                    raise Trouble("connection_lost")
                for piece in answer.read(event):
                    yield piece
                if clock() - asked > _WAITED_SECONDS and (pause := self._gathering()):
                    await asyncio.sleep(pause)
                    asked = clock()
            # Only a body that was read to its end leaves a connection that the next turn can use.
            with suppress(Trouble):
                await _heard(_content(stream), _END_OF_BODY_SECONDS)

    def _gathering(self) -> float:
        """How long to leave a stream alone: what comes meanwhile is read together.

        With a hundred turns, waking up for each event costs more than reading it, and a cancel waits for all of them.
        """
        least, most = _GATHERED
        pause = min(most, self._turns * _GATHERED_PER_TURN)
        return pause if pause >= least else 0.0

    def _turn_over(self) -> None:
        self._turns -= 1

    async def _request(self, turn: Turn) -> _Stream:
        """Not `messages.stream`, whose tokens grow dearer with the length of the answer (docs/decisions/0006)."""
        system = [{"type": "text", "text": turn.system, "cache_control": _EPHEMERAL}]
        return await self._connected().messages.create(
            stream=True,
            model=settings.CHAT_CLAUDE_MODEL,
            max_tokens=settings.CHAT_CLAUDE_MAX_TOKENS,
            system=cast("Any", system) if turn.system else anthropic.omit,
            messages=cast("Any", with_breakpoints(turn.prompt)),
            tools=cast("Any", tools) if (tools := definitions(turn)) else anthropic.omit,
            thinking=thinking if (thinking := _thinking()) else anthropic.omit,
        )

    def _connected(self) -> anthropic.AsyncAnthropic:
        """Made on first use, because its connections belong to the loop that runs then."""
        if self._client is None:
            # The SDK takes a variable that is set but empty for an address, and fails with every request.
            blank = "https://api.anthropic.com" if os.environ.get("ANTHROPIC_BASE_URL") == "" else None
            client = anthropic.AsyncAnthropic(
                api_key=settings.ANTHROPIC_API_KEY or None,
                base_url=settings.ANTHROPIC_BASE_URL or blank,
                max_retries=0,  # ours are announced to who waits, and cover an error inside a 200
                # Our own deadline covers every wait; a read timeout would begin anew with each ping.
                # The SDK's own pool is large enough: 1,000 connections.
                timeout=anthropic.Timeout(None, connect=10.0),
            )
            if client.api_key is None and client.auth_token is None and client.credentials is None:
                raise Trouble("authentication", "No API key for Claude. Set ANTHROPIC_API_KEY.")
            self._client = client
        return self._client


def definitions(turn: Turn) -> list[dict[str, Any]]:
    """The tools as the API takes them. If there are none, those that the prompt speaks of: without, it is refused."""
    gone = {"description": "Not available any more.", "input_schema": {"type": "object"}}
    blocks = (block for message in turn.prompt for block in message["content"])
    called = dict.fromkeys(block["name"] for block in blocks if block["type"] == "tool_use")
    return [tool.definition for tool in turn.tools] or [{"name": name, **gone} for name in called]


def _thinking() -> Any:
    """How much the model may think before it speaks, if at all."""
    budget = settings.CHAT_CLAUDE_THINKING_TOKENS
    return {"type": "enabled", "budget_tokens": budget} if budget else None


def with_breakpoints(prompt: Sequence[PromptMessage]) -> list[dict[str, Any]]:
    """The prompt with a cache breakpoint at the end of its last two user messages; copies what it changes.

    The last one stores the prompt for the next turn, the one before finds what the previous turn stored. A
    breakpoint is no part of what is compared, so as breakpoints wander on, the rest must stay the same to the
    byte: nothing that changes (time, run id) may ever go in front, and an old message is never rewritten.
    """
    marked = [number for number, message in enumerate(prompt) if message["role"] == "user"][-2:]
    return [
        {**message, "content": _marked(message["content"]) if number in marked else message["content"]}
        for number, message in enumerate(prompt)
    ]


def _marked(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*content[:-1], *({**block, "cache_control": _EPHEMERAL} for block in content[-1:])]


async def _content(stream: _Stream) -> RawMessageStreamEvent | None:
    """The next event that has content; None at the end of the body. What is new to us is passed over."""
    while (event := await anext(stream, None)) is not None and event.type not in _CONTENT:
        pass
    return event


async def _heard(awaitable: Awaitable[T], seconds: float) -> T:
    """Waits for the SDK, but not for longer than this, and says in our terms what went wrong."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await awaitable
    except Trouble:
        raise
    except anthropic.APIStatusError as error:
        raise _refused(error) from error
    except anthropic.APIConnectionError as error:
        raise Trouble("unreachable") from error
    except anthropic.CredentialsError as error:
        raise Trouble("authentication") from error
    except Exception as error:  # A broken body can raise anything: httpx2's errors, ValueError, LookupError, …
        raise Trouble("idle_timeout" if limit.expired() else "connection_lost") from error


def _refused(error: anthropic.APIStatusError) -> ProviderError:
    if error.status_code == 400 and (full := is_full(error.api_message or "")):
        return full
    other = "invalid_request" if 400 <= error.status_code < 500 else "server_error"
    code = CODES.get(error.type or "") or CODES.get(str(error.status_code)) or other
    message = ADVICE[code]
    if code == "invalid_request" and error.api_message:
        message = f"{message} It says: {_without_key(error.api_message)}"
    return Trouble(code, message, asked_wait=asked_wait(error.response.headers.get("retry-after")))


def _without_key(text: str) -> str:
    key = settings.ANTHROPIC_API_KEY or os.environ.get("ANTHROPIC_API_KEY")
    return text.replace(key, "…") if key else text
