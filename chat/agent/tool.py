"""A tool: an async function that the model may ask for, made safe to be asked.

Writing one is writing a function:

    @tool(approval=True, seconds=10)  # only where the defaults do not do
    async def rename_conversation(context: Context, title: str) -> str:
        \"\"\"Give this conversation another title.

        title: the new title, at most 80 characters;
            a line that is indented goes on with it
        \"\"\"

The first parameter is a `Context` and no business of the model's. The others are its arguments: any type that
pydantic can check, with a default or without. What the model reads of it is the docstring; lines that begin with
an argument's name and a colon describe that argument (`Annotated[…, Field(description=…)]` does, too).

A tool returns text, or anything that can be JSON. What it cannot do for good reasons it raises as `ToolRefused`,
in words for the model; any other exception is a mistake of the tool's, which the model hears of without details.
A tool that is cancelled, or out of time, ends at its next await: what `context.query` has begun is done to its end.
"""

import asyncio
import inspect
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Any, ParamSpec, Protocol, TypeVar, get_type_hints
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from chat.agent.marks import MARK, SECONDS, Mark, device_tool, tool
from chat.agent.saying import Path, progress_text, result_text, storable, unstorable_in
from chat.errors import Refused

__all__ = ["SECONDS", "device_tool", "tool"]  # not of this module, but for whoever writes a tool

MAX_ERROR_CHARS = 2_000
MAX_OFFERED_CHARS = 32_768  # code points of the JSON that devices are given

logger = logging.getLogger(__name__)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")  # the Messages API's

P = ParamSpec("P")
T = TypeVar("T")


class NotATool(ValueError):
    """A function that cannot be a tool. The message is for whoever wrote it; a system check shows it."""


class ToolError(Exception):
    """A call without a result. The message is for the model: short, storable, and without internals."""

    def __init__(self, message: str) -> None:
        self.message = storable(message[:MAX_ERROR_CHARS])
        super().__init__(self.message)


class ToolRefused(ToolError):
    """The call cannot be carried out as it was asked for, and nothing was changed. Other arguments may help."""


class ToolFailed(ToolError):
    """The tool has a fault or ran out of time. What it had begun may have taken effect."""


class Query(Protocol):
    """`Database.run` (chat/database.py)."""

    async def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...


@dataclass(frozen=True, slots=True)
class Context:
    """For whom, where and in which call a tool acts. It sees and does what `user` may see and do, and nothing else."""

    user: Any  # who asked for the run
    conversation: UUID
    run: UUID
    call: UUID
    cancelled: asyncio.Event  # set when the run is stopped, for tools that look between two steps; `Turn` has the same
    query: Query  # await context.query(function, …): ORM work, in a database thread
    show: Callable[[str], Awaitable[None]]  # what `progress` ends in

    async def progress(self, text: str) -> None:
        """Say how far it is. The latest text is shown to whoever watches, and never stored."""
        await self.show(progress_text(text))


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """A function with what the model is told of it. Made by `tool_of`, or of what a server offers (`mcp_tools.py`)."""

    name: str
    description: str
    input_schema: dict[str, Any]  # JSON Schema: an object with its properties, and no others
    needs_approval: bool
    timeout_seconds: float  # of a tool on a device: 0 if it does not say
    on_device: bool
    function: Callable[..., Awaitable[object]]
    _arguments: type[BaseModel] | None = field(repr=False)  # None: whoever executes it checks them

    @property
    def definition(self) -> dict[str, Any]:
        """The tool as the Messages API takes it."""
        return {"name": self.name, "description": self.description, "input_schema": self.input_schema}

    def check(self, input: object) -> dict[str, Any]:  # noqa: A002 - the Messages API's name for it
        """The arguments to call the function with. Raises ToolRefused with the fields that are wrong, and how."""
        if not isinstance(input, dict):
            raise ToolRefused(f"{self.name} takes its arguments as one JSON object.")
        if (path := unstorable_in(input)) is not None:
            raise ToolRefused(_sentence(path, "Text must not contain U+0000 or half of a surrogate pair"))
        if self._arguments is None:
            return dict(input)
        try:
            checked = self._arguments.model_validate(input)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False, include_context=False)
            raise ToolRefused("\n".join(_sentence(one["loc"], one["msg"]) for one in wrong)) from None
        except Exception as error:  # of a validator that somebody wrote
            logger.exception("tool %s could not check its arguments", self.name)
            raise ToolFailed(f"{self.name} failed: {type(error).__name__}.") from error
        fields = type(checked).model_fields.items()
        return {str(known.alias): getattr(checked, attribute) for attribute, known in fields}

    def offered(self, input: object) -> dict[str, Any]:  # noqa: A002
        """The arguments as devices get them, as JSON. Raises ToolError."""
        arguments: dict[str, Any] = to_jsonable_python(self.check(input))
        if len(json.dumps(arguments, ensure_ascii=False)) > MAX_OFFERED_CHARS:
            raise ToolRefused(f"The arguments are longer than {MAX_OFFERED_CHARS:,} characters.")
        return arguments

    async def call(self, context: Context, input: object) -> str:  # noqa: A002
        """Check, run and return what the model is told, in at most MAX_RESULT_CHARS. Raises ToolError, or is cancelled.

        A cancel passes even where the tool swallows it.
        """
        arguments = self.check(input)
        if self.on_device:
            raise ToolRefused("There is nobody on whose device it could run.")
        task = asyncio.current_task()
        assert task is not None
        asked = task.cancelling()
        try:
            # In a task of its own: a task group that fails leaves a cancel behind in its task (CPython 3.11 and 3.12).
            text = await asyncio.create_task(self._outcome(context, arguments), name=f"call-{self.name}")
        except ToolError:
            if task.cancelling() > asked:
                raise asyncio.CancelledError from None
            raise
        if task.cancelling() > asked:
            raise asyncio.CancelledError
        return text

    async def _outcome(self, context: Context, arguments: dict[str, Any]) -> str:
        limit = asyncio.timeout(self.timeout_seconds)
        try:
            async with limit:
                result = await self.function(context, **arguments)
            return result_text(result)
        except ToolError:
            raise
        except Refused as refusal:
            raise ToolRefused(refusal.message) from refusal
        except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # `sys.exit` among them: a task would let it end the server
            if limit.expired():
                late = f"{self.name} took longer than {self.timeout_seconds:g} seconds and was stopped."
                raise ToolFailed(f"{late} What it had begun may have taken effect.") from error
            ids = {"conversation": str(context.conversation), "run": str(context.run)}
            logger.exception("tool %s failed", self.name, extra=ids)
            raise ToolFailed(f"{self.name} failed: {type(error).__name__}.") from error


# --- making one ---------------------------------------------------------------------------------------------


class _WithoutTitles(GenerateJsonSchema):
    """Titles repeat the names: tokens for nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def tool_of(function: Callable[..., Any]) -> Tool:
    """The tool that a function is. Raises NotATool, saying what it lacks."""
    name = str(getattr(function, "__name__", function))
    if not _NAME.match(name):
        raise NotATool(f"{name!r} is no name for a tool: up to 64 letters of a to z, digits, _ and -.")
    if not (inspect.isfunction(function) and inspect.iscoroutinefunction(function)):
        raise NotATool(f"{name} is not a function made with `async def`.")
    mark = vars(function).get(MARK, Mark())
    if not (math.isfinite(mark.seconds) and mark.seconds > 0) and not (mark.on_device and mark.seconds == 0):
        raise NotATool(f"{name} may take {mark.seconds} seconds, which is no time.")
    parameters = _parameters(name, function)
    description, described = _documented(function, set(parameters))
    if not description:
        raise NotATool(f"{name} has no docstring: the model would not know what it is for.")
    # Fields of pydantic's have names that are its own (`copy`, `model_…`), so arguments are aliases of numbered ones.
    fields: dict[str, Any] = {}
    for number, (argument, (annotation, default)) in enumerate(parameters.items()):
        options: dict[str, Any] = {"alias": argument, "validation_alias": argument}
        if argument in described:
            options["description"] = described[argument]
        fields[f"argument_{number}"] = (annotation, Field(default, **options))
    try:
        arguments = create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)
        schema = arguments.model_json_schema(schema_generator=_WithoutTitles)
    except (PydanticUserError, TypeError, ValueError) as error:
        raise NotATool(f"{name} has an argument that cannot be checked: {str(error).splitlines()[0]}") from error
    del schema["title"]
    schema = {**schema, "properties": schema.get("properties", {}), "required": schema.get("required", [])}
    return Tool(name, description, schema, mark.approval, mark.seconds, mark.on_device, function, arguments)


def _parameters(name: str, function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """argument → its type and its default (`...` if there is none)."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise NotATool(f"{name} has a type that is not known: {error}") from error
    parameters = list(inspect.signature(function).parameters.values())
    others = parameters[1:]
    named = Parameter.POSITIONAL_OR_KEYWORD
    if not parameters or parameters[0].kind is not named or hints.get(parameters[0].name) is not Context:
        raise NotATool(f"{name} must take a Context first, and say so: `context: Context`.")
    for one in others:
        if one.kind not in (named, Parameter.KEYWORD_ONLY):
            raise NotATool(f"{name} must name each of its arguments, without `*`, `**` and `/`: {one}.")
        if one.name not in hints:
            raise NotATool(f"{name} does not say which type its argument {one.name} has.")
    return {one.name: (hints[one.name], ... if one.default is one.empty else one.default) for one in others}


def _documented(function: Callable[..., Any], names: set[str]) -> tuple[str, dict[str, str]]:
    """The docstring without the lines that describe an argument, and these."""
    said: list[str] = []
    described: dict[str, str] = {}
    current = ""
    for line in inspect.cleandoc(function.__doc__ or "").splitlines():
        name, colon, what = line.partition(":")
        if colon and name in names:
            current, described[name] = name, what.strip()
        elif current and line.startswith(" "):
            described[current] += f" {line.strip()}"
        else:
            current = ""
            said.append(line)
    return "\n".join(said).strip(), described


def _sentence(path: Path, message: str) -> str:
    return f"{'.'.join(str(step) for step in path)[:80] or 'arguments'}: {message}"
