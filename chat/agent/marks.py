"""What a function says of itself as a tool, beyond its signature and its docstring."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

SECONDS = 30.0  # for tools that do not say
MARK = "__chat_tool__"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Mark:
    """`seconds`: 0 is as long as CHAT_DEVICE_SECONDS says, for those that run on a device."""

    approval: bool = False
    seconds: float = SECONDS
    on_device: bool = False


def tool(*, approval: bool = False, seconds: float = SECONDS) -> Callable[[Function], Function]:
    """Mark a tool: a person must approve each call; it may take so long. The function stays what it is."""

    def mark(function: Function) -> Function:
        vars(function)[MARK] = Mark(approval, seconds)
        return function

    return mark


def device_tool(*, approval: bool = False, seconds: float = 0.0) -> Callable[[Function], Function]:
    """Mark a tool that runs on a device of the person who asked: its function has no body and is never called.

    The first answer wins, also of several devices that have all done it: so it reads or asks, and changes nothing.
    `seconds`: how long an answer is waited for, without a worker being held; 0 as CHAT_DEVICE_SECONDS says.
    """

    def mark(function: Function) -> Function:
        vars(function)[MARK] = Mark(approval, seconds, on_device=True)
        return function

    return mark
