"""What can be asked for. Each verb returns the server's ack, or raises Refused, Closed or Left."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from chat.client.facts import Part
from chat.client.frames import Ack

WhenBusy = Literal["queue", "alongside", "interrupt", "steer", "reject"]


class Verbs:
    """Signals of the protocol, as methods. They wait for as long as it takes to get an answer.

    Whoever stops waiting does not take it back: it is still asked, and its answer comes by the iteration.
    """

    @abstractmethod
    async def _ask(self, kind: str, signal_id: str | None, **fields: Any) -> Ack:
        """Ask under this id, or a new one, until there is an answer. Fields that are None are left out."""

    @abstractmethod
    def _known(self) -> int:
        """The last serial that this program may know of."""

    async def send(
        self,
        text: str,
        *,
        when_busy: WhenBusy = "queue",
        parent: str | None = None,
        steer: str | None = None,
        files: Sequence[str | Part] = (),
        id: str | None = None,  # noqa: A002 - the protocol's word
    ) -> Ack:
        """Say something. Asked again with the same id, also after a year, the answer is the same.

        `files` were uploaded before: what `upload` returned, or their ids. `steer`: the missed one this is in place of.
        """
        attached = [one if isinstance(one, str) else one.file for one in files] or None
        fields = {"text": text, "when_busy": when_busy, "parent": parent, "steer": steer, "files": attached}
        return await self._ask("message.send", id, **fields)

    async def steer(self, run: str, text: str, *, id: str | None = None) -> Ack:  # noqa: A002 - the protocol's word
        """Add something to an answer of ours that is being made: the model is told at its next step."""
        return await self._ask("run.steer", id, run=run, text=text)

    async def decide(self, run: str, call: str, *, approve: bool, arguments_hash: str, reason: str = "") -> Ack:
        """Allow a call that waits, or do not; the hash is that of what we were shown. The ack says what stands."""
        decision = "approve" if approve else "deny"
        fields = {"decision": decision, "arguments_hash": arguments_hash, "reason": reason}
        return await self._ask("tool.decide", None, run=run, call=call, **fields)

    async def cancel(
        self,
        *,
        run: str | None = None,
        send: str | None = None,
        scope: Literal["mine", "all"] | None = None,
        until: int | None = None,
    ) -> Ack:
        """Stop a run, the run of a send by that send's id, or a scope: whatever was asked up to serial `until`.

        Without `until`, what this program knows of: a stop that comes late must not hit a later question.
        """
        if scope is not None and until is None:
            until = self._known()
        return await self._ask("run.cancel", None, run=run, send=send, scope=scope, until=until)

    async def retry(self, run: str, *, id: str | None = None) -> Ack:  # noqa: A002 - the protocol's word
        """Answer a prompt again whose run was stopped, interrupted or failed."""
        return await self._ask("run.retry", id, run=run)

    async def answer(self, run: str, call: str, *, result: str | None = None, error: str | None = None) -> Ack:
        """Say what a call came to that was offered to our devices: one of the two. The ack says which answer stands."""
        return await self._ask("tool.result", None, run=run, call=call, result=result, error=error)

    async def edit(self, message: str, text: str) -> Ack:
        """Change a waiting message."""
        return await self._ask("queue.edit", None, message=message, text=text)

    async def move(self, message: str, before: str | None = None) -> Ack:
        """Put a waiting message before another one, or last."""
        return await self._ask("queue.move", None, message=message, before=before)

    async def remove(self, message: str) -> Ack:
        """Take a waiting message back."""
        return await self._ask("queue.remove", None, message=message)

    async def rename(self, title: str) -> Ack:
        """Give the conversation another title."""
        return await self._ask("conversation.rename", None, title=title)

    async def remove_file(self, file: str) -> Ack:
        """Take back a file that is not sent."""
        return await self._ask("file.remove", None, file=file)

    async def read(self, serial: int | None = None) -> Ack:
        """The person has seen everything up to this serial, or up to what was last iterated over."""
        return await self._ask("read", None, serial=self._known() if serial is None else serial)
