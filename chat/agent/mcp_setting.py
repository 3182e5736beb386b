"""What CHAT_MCP_SERVERS says: servers whose tools the model may use. Reads it, and starts nothing."""

import json
import re
from functools import cache
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# No two underscores side by side: they stand between a server's name and its tool's.
_NAME = re.compile(r"[a-zA-Z0-9]+(?:[_-][a-zA-Z0-9]+)*\Z")
MAX_NAME_CHARS = 24


class ServerSpec(BaseModel):
    """One server: a program of ours that speaks over its standard input and output, or an address."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[str, ...] = ()
    env: dict[str, str] = {}  # besides HOME, LOGNAME, PATH, SHELL, TERM and USER nothing is passed on
    url: str = ""
    headers: dict[str, str] = {}
    tools: tuple[str, ...] | None = None  # by the server's own names; None: all it has
    approve: Literal["all", "none", "changes"] = "changes"  # the last: all but what says that it only reads
    to: Literal["everybody", "staff"] = Field("staff", alias="for")  # a server does not know who asks
    seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0  # for one call

    @model_validator(mode="after")
    def _is_one_of_two(self) -> "ServerSpec":
        if bool(self.command) == bool(self.url):
            raise ValueError("give either command or url")
        if (self.env and self.url) or (self.headers and self.command):
            raise ValueError("env goes with command, and headers with url")
        if self.command and not self.command[0].strip():
            raise ValueError("command begins with the name of a program")
        if self.url and not (urlsplit(self.url).scheme in ("http", "https") and urlsplit(self.url).hostname):
            raise ValueError("url is not the address of an HTTP server")
        return self


@cache
def servers_in(text: str) -> dict[str, ServerSpec]:
    """name → server, in the order given. Raises ValueError, in words that repeat no value: it may be a secret."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"it is no JSON, from character {getattr(error, 'pos', 0) + 1} on") from None
    if not isinstance(found, dict):
        raise ValueError("it is not an object of servers by name")
    return {name: _spec(name, value) for name, value in found.items()}


def _spec(name: str, value: object) -> ServerSpec:
    if not _NAME.match(name) or len(name) > MAX_NAME_CHARS:
        raise ValueError(
            f"{name[:40]!r} is no name for a server: up to {MAX_NAME_CHARS} letters of a to z and digits, "
            "with single - and _ between them"
        )
    try:
        return ServerSpec.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(step) for step in (name, *first["loc"]))
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
