"""What to do next about the connection: pure decisions, no socket and no clock. `line.py` carries them out.

It is told what happened and when, and answers with acts. A transport is doubted if something answered and yet no
`hello` came by it; then the next one is tried at once. It is remembered as failed only if a lesser one then works:
a server that is away says nothing about transports.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from chat.client.errors import Closed
from chat.client.frames import Bye, Hello
from chat.client.memory import Memory, Transport

FIRST_DELAY = 0.4  # seconds, all of these
LONGEST_DELAY = 15.0
SETTLED = 5.0  # a connection that was live for so long was a good one; after shorter ones we keep backing off
PATIENCE = 2.0  # for `hello`; more where the line has shown that it is slow
LONGEST_PATIENCE = 15.0
OFFLINE_AFTER = 5  # failures in a row
GATEWAY_ERRORS = 3  # in a row, before the transport is doubted
HELD_BACK = 4  # heartbeats: a stream that was heard for longer was not
COME_BACK_BELOW = 4500


class State(StrEnum):
    """Of the connection. `offline`: many tries have failed; it goes on trying."""

    CONNECTING = "connecting"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    OFFLINE = "offline"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Open:
    """Open a connection by this transport. Whatever was open is not any more."""

    transport: Transport


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the connection, without waiting."""


@dataclass(frozen=True, slots=True)
class Beat:
    """Say that we are here, and ask whether the server is."""


Act = Open | Drop | Beat


def backoff(failures: int, random: Callable[[], float]) -> float:
    """Full jitter: devices that lost the same server do not come back at the same moment."""
    return random() * min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, 16))


class Machine:
    """`now` is any clock that does not jump, the one `memory` uses. `due` is when `tick` wants to be called."""

    def __init__(
        self, *, host: str, memory: Memory, random: Callable[[], float], transports: Sequence[Transport] = ()
    ) -> None:
        self.state = State.CONNECTING
        self.transport: Transport | None = None  # what is open, or being opened
        self.attempts = 0
        self.greeted = False
        self.closed: Closed | None = None  # why we stopped, if the server said so
        self._host = host
        self._memory = memory
        self._random = random
        self._transports = tuple(transports) or tuple(Transport)
        self._doubted: list[Transport] = []  # since the last hello
        self._patience = PATIENCE
        self._failures = 0
        self._gateway_errors = 0
        self._opened_at = self._heard_at = 0.0
        self._live_since: float | None = None
        self._heartbeat = 20.0
        self._goodbye: Bye | None = None
        # When to do what; None: not now.
        self._hello_by: float | None = None
        self._beat_at: float | None = None
        self._retry_at: float | None = None
        self._better_at: float | None = None

    @property
    def due(self) -> float | None:
        """It moves with every `heard`, but only to later: a timer may fire early and ask again."""
        times = (self._hello_by, self._beat_at, self._retry_at, self._better_at, self._dead_at)
        return min((at for at in times if at is not None), default=None)

    @property
    def _dead_at(self) -> float | None:
        """A half-open line looks open for minutes, whatever the socket says."""
        return self._heard_at + 2 * self._heartbeat if self.greeted else None

    def start(self, now: float) -> list[Act]:
        return self._open(now)

    def stop(self) -> list[Act]:
        """We leave."""
        self.state = State.STOPPED
        return self._drop()

    def hurry(self, now: float) -> list[Act]:
        """Somebody is waiting: do not sit out a delay."""
        return self._open(now) if self._retry_at is not None else []

    # --- what happened --------------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """Anything at all came over the connection."""
        self._heard_at = now

    def hello(self, now: float, frame: Hello) -> None:
        assert self.transport is not None
        if not self.greeted:  # a poll may be greeted again and again
            self._patience = min(LONGEST_PATIENCE, max(PATIENCE, 3 * (now - self._opened_at)))
        self.greeted = True
        self._hello_by = None
        self._gateway_errors = 0
        self._heartbeat = frame.heartbeat
        self._beat_at = now + self._heartbeat
        self._memory.worked(self._host, self.transport)
        best = self._transports[: self._transports.index(self.transport)]
        for doubted in self._doubted:
            if doubted in best:
                self._memory.failed(self._host, doubted)
        self._doubted.clear()
        self._better_at = min((self._memory.until(self._host, one) for one in best), default=None)

    def synced(self, now: float) -> None:
        if self._live_since is None:
            self._live_since = now
        self.state = State.LIVE

    def bye(self, now: float, frame: Bye) -> list[Act]:
        """The server closes next. If it has said how, there is nothing to wait for."""
        self._goodbye = frame
        return self.lost(now, frame.close) if frame.close else []

    def lost(self, now: float, code: int | None = None, *, refused: bool = False, gateway: bool = False) -> list[Act]:
        """The connection has ended, or could not be made.

        `refused`: something answered, but not our server by this transport. `gateway`: a proxy that says its server
        is away, which is to be believed for a while.
        """
        if self.state is State.STOPPED or self.transport is None:
            return []
        transport, goodbye, greeted = self.transport, self._goodbye, self.greeted
        acts = self._drop()
        code = (goodbye.close if goodbye is not None else 0) or code or 0
        if code >= COME_BACK_BELOW:
            said = goodbye or Bye(code="")
            self.state, self.closed = State.STOPPED, Closed(code, said.code, said.message)
            return acts
        self._gateway_errors += gateway
        refused = refused or (gateway and self._gateway_errors > GATEWAY_ERRORS)
        doubtful = (refused and not greeted and goodbye is None) or self._held_back(transport, goodbye, now)
        if doubtful and self._doubt(transport):
            return [*acts, *self._open(now)]
        settled = self._live_since is not None and now - self._live_since > SETTLED
        self._live_since = None
        self._failures = 0 if settled else self._failures + 1
        promised = goodbye.retry_in if goodbye is not None else None
        self._retry_at = now + (backoff(self._failures, self._random) if promised is None else promised)
        restarting = goodbye is not None and goodbye.code == "drain"
        many = self._failures >= OFFLINE_AFTER and not restarting
        self.state = State.OFFLINE if many else State.RECONNECTING
        return acts

    def again(self, now: float) -> list[Act]:
        """What came does not join up: come back with the cursor."""
        return self.lost(now)

    def tick(self, now: float) -> list[Act]:
        """Do what is due."""
        if self._retry_at is not None and now >= self._retry_at:
            return self._open(now)
        if self._hello_by is not None and now >= self._hello_by:
            return self.lost(now, refused=True)
        if self._better_at is not None and now >= self._better_at:
            return self._improve(now)
        if self._dead_at is not None and now >= self._dead_at:
            return self.lost(now)
        if self._beat_at is not None and now >= self._beat_at:
            self._beat_at = now + self._heartbeat
            return [Beat()]
        return []

    # --- acts -----------------------------------------------------------------------------------------------

    def _open(self, now: float) -> list[Act]:
        self.transport = self._choice()
        self.attempts += 1
        self.greeted, self._goodbye, self._retry_at = False, None, None
        self._opened_at = self._heard_at = now
        self._hello_by = now + self._patience
        return [Open(self.transport)]

    def _drop(self) -> list[Act]:
        self._hello_by = self._beat_at = self._retry_at = self._better_at = None
        self.greeted = False
        was, self.transport = self.transport, None
        return [Drop()] if was is not None else []

    def _improve(self, now: float) -> list[Act]:
        """What failed here may work by now. If it does not, we are back in a moment."""
        acts = self._drop()
        self.state, self._live_since = State.RECONNECTING, None
        return [*acts, *self._open(now)]

    def _choice(self) -> Transport:
        """The best that is neither doubted nor remembered; the memory gives way if nothing else is left."""
        untried = [one for one in self._transports if one not in self._doubted]
        return next((one for one in untried if not self._memory.until(self._host, one)), untried[0])

    def _held_back(self, transport: Transport, goodbye: Bye | None, now: float) -> bool:
        """True of a stream that was greeted and then fell silent: a proxy passes it on by the buffer, or at its end."""
        silent = now >= self._heard_at + 2 * self._heartbeat or (goodbye is not None and goodbye.code == "idle")
        return transport is Transport.SSE and silent and now < self._opened_at + HELD_BACK * self._heartbeat

    def _doubt(self, transport: Transport) -> bool:
        """True if there is another one to try now. Else all have failed, and it is not them: be more patient."""
        self._doubted.append(transport)
        if len(self._doubted) < len(self._transports):
            return True
        self._doubted.clear()
        self._patience = min(LONGEST_PATIENCE, self._patience * 2)
        return False
