"""Which tools the model has: those that CHAT_TOOLS names, in its order, so that the prompt stays the same."""

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from chat.agent.tool import NotATool, Tool, tool_of


def tools() -> dict[str, Tool]:
    """name → tool. Raises ImportError or NotATool where a system check has spoken."""
    return dict(_tools(tuple(settings.CHAT_TOOLS)))


@cache
def _tools(paths: tuple[str, ...]) -> dict[str, Tool]:
    found: dict[str, Tool] = {}
    for path in paths:
        for one in map(tool_of, functions_at(path)):
            if one.name in found:
                raise NotATool(f"Two tools are called {one.name}.")
            found[one.name] = one
    return found


def functions_at(path: str) -> list[Callable[..., Any]]:
    """What a dotted path names: a function, or a module, whose public functions are all meant. Raises ImportError."""
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:  # the module is there; what it imports is not
            raise
        return [import_string(path)]
    except (TypeError, ValueError) as error:
        raise ImportError(f"{path!r} is not a dotted path.") from error
    functions: list[Callable[..., Any]] = [
        one
        for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not functions:
        raise ImportError(f"The module {path} has no public function of its own.")
    return functions
