"""How far a tool is: the newest text at once, then at most some in a second, whatever it says meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any

from chat.host import Host
from chat.models import Run

EVERY = 0.25  # seconds: nobody reads faster


class Progress:
    """Of one call. `tell` shows a text to whoever watches."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._next: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def show(self, text: str) -> None:
        """Say it, or keep it until it may be said. What is said before that takes its place."""
        self._next = text
        if self._timer is None:
            self._say()

    def end(self) -> None:
        """The call is over, and nothing is said any more."""
        self._tell = lambda text: None

    def _say(self) -> None:
        self._timer = None
        if self._next is not None:
            self._tell(self._next)
            self._next = None
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._say)


def whisper(host: Host, run: Run, text: str, seconds: float, *, call: str = "") -> None:
    """Show it to whoever watches the run, or one call of it; it is forgotten after so many seconds."""
    frame: dict[str, Any] = {"type": "progress", "run": str(run.pk), "text": text, "expires_in": seconds}
    if call:
        frame["call"] = call
    host.desk.whisper(run.conversation_id, frame, "")
