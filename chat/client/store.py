"""What a program keeps to go on after it was ended: who it is, how far it is, what has no answer yet."""

import asyncio
import json
import logging
import os
import tempfile
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)

SAVE_DELAY = 0.2  # seconds between two writes
LONGEST_DELAY = 30.0  # where writing fails
LARGEST_SERIAL = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Saved:
    """Of one conversation. `cursor` None: begin with a snapshot."""

    conversation: str
    device: str
    epoch: str = ""
    cursor: int | None = None
    signals: tuple[dict[str, Any], ...] = ()


class Store(Protocol):
    """Where it is kept. `save` may be called in another thread, never twice at once."""

    def load(self) -> Saved | None: ...

    def save(self, saved: Saved) -> None: ...


class MemoryStore:
    """For as long as the program runs."""

    def __init__(self) -> None:
        self.saved: Saved | None = None

    def load(self) -> Saved | None:
        return self.saved

    def save(self, saved: Saved) -> None:
        self.saved = saved


class FileStore:
    """One file, which nobody else may read and which is whole at any moment. For one program at a time."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def load(self) -> Saved | None:
        """None if there is nothing, or nothing that we wrote: then the conversation begins afresh."""
        try:
            return _read(json.loads(self._path.read_text()))
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def save(self, saved: Saved) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(saved), file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except OSError:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise


def _read(fields: Any) -> Saved:
    """Raises ValueError, KeyError or TypeError for what `save` does not write."""
    saved = Saved(**{name: fields[name] for name in ("conversation", "device", "epoch", "cursor", "signals")})
    words = [saved.conversation, saved.device, saved.epoch]
    for signal in saved.signals:
        words += [signal["type"], signal["id"]]
    if not all(isinstance(word, str) and word.isascii() for word in words):
        raise ValueError("not a word")
    for name in (saved.device, *(signal["id"] for signal in saved.signals)):
        uuid.UUID(name)  # with another device we would be turned away, each time anew
    # A bool is an int, too.
    if saved.cursor is not None and not (type(saved.cursor) is int and 0 <= saved.cursor <= LARGEST_SERIAL):
        raise ValueError("not a serial")
    return replace(saved, signals=tuple(saved.signals))


class Keeper:
    """Writes what is to be kept, soon after it has changed: not for every word of an answer, and never on the loop.

    After a crash a program may be given again what it was given in the last moment. A write that fails is tried again:
    a disk that is full for a minute must not end the keeping for good.
    """

    def __init__(self, store: Store, saved: Saved) -> None:
        self.saved = saved
        self._store = store
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="client-keep")

    def change(self, **fields: Any) -> None:
        self.saved = replace(self.saved, **fields)
        self._changed.set()

    async def close(self) -> None:
        """Write the last of it, whatever became of the writes before. Raises what the store raises at that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._writing is not None:  # a thread cannot be cancelled, and two at once would be in each other's way
            await asyncio.wait([self._writing])
            self._writing.exception()  # looked at: what matters is the write that comes now
        await asyncio.to_thread(self._store.save, self.saved)

    async def _keep(self) -> None:
        delay = SAVE_DELAY
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._writing = asyncio.get_running_loop().run_in_executor(None, self._store.save, self.saved)
            await asyncio.wait([self._writing])
            error = self._writing.exception()
            if error is None:
                delay = SAVE_DELAY
            else:
                if delay == SAVE_DELAY:
                    logger.warning("What is to be kept could not be written, and will be tried again: %r", error)
                self._changed.set()
                delay = min(LONGEST_DELAY, delay * 2)
            await asyncio.sleep(delay)
