"""A folder of this process for copies that nobody else needs, gone with it; what one that was killed has left is removed by the next.

Whether its owner lives is told by a lock on a file in it, not by its age: a process that has nothing to do writes nothing for days.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

import structlog

PREFIX, OWNER = ".archive-", "owner"
OURS = f"{PREFIX}{os.urandom(4).hex()}-"  # on some file systems a process is let into what it has locked itself
YOUNG = 60.0  # seconds in which one that is not locked may be about to be
LONG_DEAD = 86_400.0  # seconds after which one without that file is nobody's
log = structlog.get_logger("scratch")


class Scratch:
    """From construction to `close`, in a folder that several processes may share."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        self._folder = tempfile.TemporaryDirectory(prefix=OURS, dir=folder, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        self._owner = os.open(self.path / OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # where nothing can be locked nobody else can lock it either, and it stays
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        if self._owner >= 0:
            os.close(self._owner)
            self._owner = -1
        self._folder.cleanup()


def sweep(folder: Path) -> None:
    """What ended processes have left in it is gone."""
    for left in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if not left.name.startswith(OURS) and _is_left(left, time.time() - left.stat().st_mtime):
                shutil.rmtree(left, ignore_errors=True)
                log.info("scratch of an ended process removed", folder=str(left))


def _is_left(folder: Path, age: float) -> bool:
    if age < YOUNG:
        return False
    try:
        with (folder / OWNER).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return age > LONG_DEAD
    except OSError:
        return False
    return True
