"""What a program keeps to go on after it was ended: who it is, how far it is, what has no answer yet."""

import asyncio
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

SAVE_DELAY = 0.2  # seconds between two writes


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
            fields = json.loads(self._path.read_text())
            return Saved(
                str(fields["conversation"]),
                str(fields["device"]),
                str(fields["epoch"]),
                None if fields["cursor"] is None else int(fields["cursor"]),
                tuple({**signal} for signal in fields["signals"]),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
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


class Keeper:
    """Writes what is to be kept, soon after it has changed: not for every word of an answer, and never on the loop.

    After a crash a program may be given again what it was given in the last moment.
    """

    def __init__(self, store: Store, saved: Saved) -> None:
        self.saved = saved
        self._store = store
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._keep(), name="client-keep")

    def change(self, **fields: Any) -> None:
        self.saved = replace(self.saved, **fields)
        self._changed.set()

    async def close(self) -> None:
        """Write the last of it. Raises what the store raised."""
        self._task.cancel()
        done, _ = await asyncio.wait([self._task])
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        await asyncio.to_thread(self._store.save, self.saved)

    async def _keep(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            # Shielded, for `close` writes next: two at once would be in each other's way.
            await asyncio.shield(asyncio.to_thread(self._store.save, self.saved))
            await asyncio.sleep(SAVE_DELAY)
