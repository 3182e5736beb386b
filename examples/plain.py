"""An agent that is a plain async generator. It asks any server that speaks the chat-completions format."""

import json
import os
from collections.abc import AsyncGenerator

import httpx2

from chat.agent.provider import ProviderError, ProviderEvent, Stopped, Text, Turn

URL = os.environ.get("COMPLETIONS_URL", "http://127.0.0.1:11434/v1/chat/completions")
MODEL = os.environ.get("COMPLETIONS_MODEL", "llama3.2")


async def reply(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    messages = [{"role": "system", "content": turn.system}]
    messages += [{"role": line.role, "content": line.text} for line in turn.history]
    messages += [{"role": "user", "content": turn.question}]
    await turn.progress(f"asking {MODEL}")
    body = {"model": MODEL, "messages": messages, "stream": True}
    timeout = httpx2.Timeout(60, connect=5)
    try:
        # Stop cancels this function where it waits. `async with` then closes the connection, and nobody pays on.
        async with httpx2.AsyncClient(timeout=timeout) as http, http.stream("POST", URL, json=body) as response:
            if response.status_code != 200:
                said = f"The model's server answered {response.status_code}."
                raise ProviderError("server_error", said, retryable=response.status_code >= 500)
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    yield Stopped("end_turn")
                    return
                if line.startswith("data: ") and (text := said_in(line.removeprefix("data: "))):
                    yield Text(text)
    except httpx2.HTTPError as error:
        raise ProviderError("unreachable", "The model's server cannot be reached.", retryable=True) from error
    raise ProviderError("connection_lost", "The answer broke off. Try again.", retryable=True, lost=True)


def said_in(chunk: str) -> str:
    choices = json.loads(chunk).get("choices") or [{}]
    return str(choices[0].get("delta", {}).get("content") or "")
