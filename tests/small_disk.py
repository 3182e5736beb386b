"""A disk of our own that a test can fill: a small file system in memory, which has no space left as a real one has."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = 24 * 1024 * 1024
BLOCK = 64 * 1024


class SmallDisk:
    """`fill()` leaves not one byte; `free()` gives it all back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Also what has become free since the last time."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (BLOCK, 1):
                while _is_written(file.fileno(), size):
                    pass

    def free(self) -> None:
        self._ballast.unlink()


def _is_written(file: int, size: int) -> bool:
    try:
        return os.write(file, bytes(size)) == size
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mounted in this folder, which only root may, or who becomes root without being asked. Skips otherwise."""
    folder.mkdir()
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={SIZE},mode=700,uid={os.geteuid()},gid={os.getegid()}"
    mount = [*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = str(getattr(error, "stderr", "") or error).strip()
        pytest.skip(f"NO SMALL DISK, so nothing of a full one was tested: only root may mount it: {why}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)
