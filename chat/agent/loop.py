"""An agent's turn: ask the model, do what it asks for, ask again, until it has nothing more to ask for.

What was said and done is read from the answer's parts each time. So a turn that waited for a person, perhaps
through a restart of everything, goes on like any other.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import UUID

from django.conf import settings

from chat.agent.progress import Progress, whisper
from chat.agent.provider import ContextFull, Turn
from chat.agent.room import Room
from chat.agent.saying import MOST_LEVELS
from chat.agent.tool import Context, Tool, ToolError
from chat.agent.toolbox import Toolbox
from chat.agent.writer import Writer
from chat.approval import to_decide
from chat.host import Host
from chat.models import Run
from chat.models.answering import Answering
from chat.models.parts import RESULTS, STARTABLE, Part, unanswered
from chat.models.spending import Spending

logger = logging.getLogger(__name__)

MAX_STEPS = "max_steps"  # why a turn stopped that would have gone on
PROGRESS_SECONDS = 30.0  # an indicator always ends by itself
CUT_OFF = frozenset({"max_tokens", "model_context_window_exceeded"})  # why an answer stopped in the middle


class Loop:
    """`ask` calls the provider once and returns why it stopped; `turn_at` is what it is asked at a step; `spent` is
    what that has used so far; `cancelled` is set when the run is to stop.
    """

    def __init__(
        self,
        host: Host,
        run: Run,
        writer: Writer,
        toolbox: Toolbox,
        *,
        room: Room,
        ask: Callable[[Turn], Awaitable[str]],
        turn_at: Callable[[int], Turn],
        spent: Callable[[], Spending],
        cancelled: asyncio.Event,
    ) -> None:
        self._host, self._run, self._writer, self._toolbox = host, run, writer, toolbox
        self._room = room
        self._answering = Answering(run)
        self._progress = Progress(lambda text: self._show("", text))
        self._ask, self._turn_at, self._spent, self._cancelled = ask, turn_at, spent, cancelled
        self._tools: dict[str, Tool] = {}

    async def complete(self, turn: Turn) -> str | None:
        """Why the provider stopped in the end; None if the run was given back, to wait for a person."""
        try:
            # Once: what the model is told of tools stays the same from step to step.
            self._tools = await self._toolbox.tools_for(self._run.requested_by)
            return await self._complete(turn)
        except SystemExit as error:  # not the provider's to decide; it would end the server
            raise RuntimeError("it wanted to end the process") from error
        finally:
            self._progress.end()

    async def _complete(self, turn: Turn) -> str | None:
        step = turn.step
        if step and not await self._act():
            return None
        calls = cuts = 0
        is_cut, added = False, False
        turn = self._equipped(turn)
        while True:
            if step >= settings.CHAT_MAX_STEPS:
                return MAX_STEPS
            if step:
                added = bool(await self._host.database.run(self._answering.take_steers, step))
                turn = await self._host.database.run(self.turn_at, step)
            turn = await self._room.fit(turn)
            self._writer.begin(step, goes_on=is_cut and not calls and not added)
            reason = await self._asked(turn)
            await self._writer.flush()
            calls, is_cut = self._writer.calls, reason in CUT_OFF
            # Of one that wrote nothing more there will be no more.
            goes_on = is_cut and self._writer.written > 0 and cuts < settings.CHAT_CONTINUATIONS
            ends = not calls and not goes_on and reason != "pause_turn"
            if ends and not await self._host.database.run(self._answering.is_steered):
                await self._writer.settle()
                return reason
            await self._writer.close()
            if is_cut:
                cuts += 1
                await self._host.database.run(self._answering.cut_off)
            if is_cut and calls and not goes_on:
                return reason
            if calls and not await self._act():
                return None
            step = self._writer.step + 1

    def turn_at(self, step: int) -> Turn:
        """What the provider is asked at a step, read from the database."""
        return self._equipped(self._turn_at(step))

    def _equipped(self, turn: Turn) -> Turn:
        """With what only lives while the run does."""
        tools = list(self._tools.values())
        return replace(turn, tools=tools, cancelled=self._cancelled, show=self._progress.show, take=self._steers)

    async def _steers(self) -> list[str]:
        """What was added meanwhile, for an agent that asks for it before it is asked again."""
        if not await self._host.database.run(self._answering.is_steered):
            return []
        await self._writer.close()
        self._writer.step += 1  # what it says from here on is said to these
        return await self._host.database.run(self._answering.take_steers, self._writer.step)

    async def _asked(self, turn: Turn) -> str:
        try:
            return await self._ask(turn)
        except ContextFull as full:  # nothing was said yet
            turn = await self._room.fit(turn, full)
        return await self._ask(turn)

    async def _act(self) -> bool:
        """Execute what was asked for. False: some of it waits for a person or a device, and so does the run."""
        while True:
            parts = await self._host.database.run(self._answering.parts)
            calls = unanswered(parts)
            approvals = {
                call["call"]: to_decide(call["name"], call["input"]) for call in calls if self._needs_approval(call)
            }
            if approvals:
                await self._host.database.run(self._answering.ask, approvals, settings.CHAT_APPROVAL_SECONDS)
            ready = [call for call in calls if call["status"] in STARTABLE and call["call"] not in approvals]
            ready = [call for call in ready if not await self._offer(call)]
            if ready:
                await self._execute_all(ready)
            elif not calls:
                return True
            elif begun := [call for call in calls if call["status"] == "running"]:
                for call in begun:  # nobody knows what became of it, and it is not for us to try again
                    await self._host.database.run(self._answering.finish, call["call"], "unknown", RESULTS["unknown"])
            elif await self._host.database.run(self._answering.wait, self._spent()):
                return False

    async def _offer(self, call: Part) -> bool:
        """Whether it is for a device, which now has it. One with arguments that are wrong ends like any other."""
        tool, user = self._tools.get(call["name"]), self._run.requested_by
        if tool is None or not tool.on_device or user is None or not _is_allowed(tool, call):
            return False
        try:
            offer = {"arguments": tool.offered(call.get("input")), "user": user.get_username()}
        except ToolError:
            return False
        seconds = tool.timeout_seconds or settings.CHAT_DEVICE_SECONDS
        await self._host.database.run(self._answering.offer, call["call"], offer, seconds)
        return True

    async def _execute_all(self, calls: list[Part]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(self._execute(call), name=f"tool-{call['name']}")
        except ExceptionGroup as errors:  # no tool's: those are results
            raise errors.exceptions[0] from None

    async def _execute(self, call: Part) -> None:
        try:
            if await self._host.database.run(self._answering.start, call["call"]):
                outcome, text = await self._result(call)
                await self._host.database.run(self._answering.finish, call["call"], outcome, text)
        except Exception:  # the run is no longer ours, or cannot be stored: those that run beside it are to stop
            self._cancelled.set()
            raise

    async def _result(self, call: Part) -> tuple[str, str]:
        tool = self._tools.get(call["name"])
        if tool is None:
            return "error", self._toolbox.why_absent(call["name"])
        if call.get("input") is None:
            return "error", f"The arguments are not a JSON object. It has at most {MOST_LEVELS} levels, and no U+0000."
        if not _is_allowed(tool, call):
            tool.check(call["input"])  # says what is wrong with them
            return "error", "Nobody was asked to approve it, as its arguments were wrong at first. Ask for it again."
        progress = Progress(lambda text: self._show(call["call"], text))
        context = Context(
            user=self._run.requested_by,
            conversation=self._run.conversation_id,
            run=self._run.pk,
            call=UUID(call["call"]),
            cancelled=self._cancelled,
            query=self._host.database.run,
            show=progress.show,
        )
        try:
            if tool.on_device:
                tool.offered(call["input"])
            return "done", await tool.call(context, call["input"])
        except ToolError as error:
            return "error", error.message
        finally:
            progress.end()

    def _needs_approval(self, call: Part) -> bool:
        tool = self._tools.get(call["name"])
        if call["status"] != "asked" or tool is None or not tool.needs_approval or call.get("input") is None:
            return False
        try:
            tool.check(call["input"])
        except ToolError:
            return False  # nobody is asked about what cannot be done
        return True

    def _show(self, call: str, text: str) -> None:
        whisper(self._host, self._run, text, PROGRESS_SECONDS, call=call)


def _is_allowed(tool: Tool, call: Part) -> bool:
    """Also where what was found wrong a moment ago, so that nobody was asked, is right now."""
    return not tool.needs_approval or call["status"] == "approved"
