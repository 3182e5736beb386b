"""How a turn of Claude's can fail: stable codes, words a person can act on, and when asking again may help.

A turn that cannot be finished ends with one of these codes (`ProviderError.code`):

| code            | the service said, or what happened                        | asked again here | retryable |
|-----------------|-----------------------------------------------------------|------------------|-----------|
| invalid_request | 400 and other refusals                                    | no               | no        |
| authentication  | 401, or no key is configured                              | no               | no        |
| billing         | 402                                                       | no               | no        |
| permission      | 403                                                       | no               | no        |
| not_found       | 404: the model or the base URL                            | no               | no        |
| context_full    | 400: the prompt is longer than the model's window         | with less in it  | no        |
| too_large       | 413                                                       | no               | no        |
| rate_limited    | 429, `rate_limit_error`                                   | yes              | yes       |
| overloaded      | 529, `overloaded_error`                                   | yes              | yes       |
| server_error    | other 5xx, `api_error`, an `error` event of unknown type  | yes              | yes       |
| unreachable     | refused, reset or timed out before any answer             | yes              | yes       |
| connection_lost | the answer broke off: cut, reset, unreadable, no end      | yes              | yes       |
| idle_timeout    | no content for CHAT_CLAUDE_IDLE_SECONDS                   | no               | yes       |

`context_full` is a `ContextFull` of chat/agent/provider.py, for which chat/agent/room.py makes room once.
"Asked again here" holds only while nothing was said. Once there is text every one of them is `lost`, and
`connection_lost` always is.
"""

import math
import random
import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from chat.agent.provider import ContextFull, ProviderError

# By the type of an error event or body, else by status: a proxy's answer has only that.
CODES = {
    "invalid_request_error": "invalid_request",
    "authentication_error": "authentication",
    "billing_error": "billing",
    "permission_error": "permission",
    "not_found_error": "not_found",
    "request_too_large": "too_large",
    "rate_limit_error": "rate_limited",
    "overloaded_error": "overloaded",
    "401": "authentication",
    "402": "billing",
    "403": "permission",
    "404": "not_found",
    "413": "too_large",
    "429": "rate_limited",
    "529": "overloaded",
}
ADVICE = {
    "invalid_request": "Claude did not accept the request.",
    "authentication": "Claude did not accept the API key. Check ANTHROPIC_API_KEY.",
    "billing": "The account that pays for Claude has a problem. Check its billing.",
    "permission": "The API key may not use this model. Check the key's permissions and CHAT_CLAUDE_MODEL.",
    "not_found": "There is no such model or address. Check CHAT_CLAUDE_MODEL and ANTHROPIC_BASE_URL.",
    "too_large": "The conversation is too long for Claude. Start a new one or shorten this one.",
    "rate_limited": "Too many requests to Claude at the moment. Try again in a minute.",
    "overloaded": "Claude is overloaded at the moment. Try again in a minute.",
    "server_error": "Claude has a problem at the moment. Try again in a minute.",
    "unreachable": "Claude cannot be reached. Check the network and ANTHROPIC_BASE_URL, then try again.",
    "connection_lost": "The connection to Claude was lost before the answer ended. Try again.",
    "idle_timeout": "Claude fell silent in the middle of the answer. Try again.",
}
# What may pass by itself, and how the wait for it is announced.
PASSING = {
    "rate_limited": "Claude is busy",
    "overloaded": "Claude is busy",
    "server_error": "Claude has a problem",
    "unreachable": "Claude cannot be reached",
    "connection_lost": "The connection to Claude was lost",
}
_TOO_LONG = re.compile(r"([0-9]+)(?: tokens)?(?: \+ ([0-9]+))? > ([0-9]+)")
_LONGEST_BACKOFF = 20.0
_LONGEST_ASKED_WAIT = 60.0  # nobody watches a spinner for longer; the error says when to come back


class Trouble(ProviderError):
    """Why one request came to nothing. `asked_wait` (seconds): what a `retry-after` header asked for."""

    def __init__(self, code: str, message: str = "", *, asked_wait: float | None = None) -> None:
        retryable = code in PASSING or code == "idle_timeout"
        super().__init__(code, message or ADVICE[code], retryable=retryable, lost=code == "connection_lost")
        self._asked_wait = asked_wait
        self.passing = code in PASSING
        if asked_wait is not None and asked_wait > _LONGEST_ASKED_WAIT:
            self.passing = False
            self.message = f"{PASSING.get(code, 'Claude is busy')}. It asks to wait {_duration(asked_wait)}."
            self.args = (self.message,)

    def wait(self, tries: int) -> float:
        """Seconds. With jitter: all runs that were refused together must not come back together."""
        if self._asked_wait is not None:
            return self._asked_wait + random.uniform(0, 0.25)  # noqa: S311
        return min(_LONGEST_BACKOFF, 2.0**tries) * random.uniform(0.5, 1)  # noqa: S311


def is_full(message: str) -> ContextFull | None:
    """What a 400 says if the prompt is too long, by itself or together with the answer's limit; else None.

    `prompt is too long: 200251 tokens > 200000 maximum`; `input length and `max_tokens` exceed context limit: 178959 +
    64000 > 200000, decrease input length or `max_tokens` and try again`.
    """
    if "prompt is too long" not in message and "exceed context limit" not in message:
        return None
    tokens, answer, window = next(iter(_TOO_LONG.findall(message)), ("0", "0", "0"))
    return ContextFull(tokens=int(tokens), window=max(0, int(window) - int(answer or 0)))


def asked_wait(header: str | None) -> float | None:
    """Seconds from a `retry-after` header, which holds seconds or a date. None if it holds neither."""
    seconds = math.nan
    if header:
        with suppress(ValueError):
            seconds = (parsedate_to_datetime(header).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        with suppress(ValueError):
            seconds = float(header)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _duration(seconds: float) -> str:
    return f"{math.ceil(seconds)} seconds" if seconds < 120 else f"{math.ceil(seconds / 60)} minutes"
