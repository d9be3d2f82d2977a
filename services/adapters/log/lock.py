"""One process owns a data folder: a second one is told who does."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from services.kernel.errors import Misconfigured


def holder(folder: Path) -> str:
    """The process that owns the folder, "" where none does."""
    try:
        with open(folder / "lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "?"
    except FileNotFoundError:
        pass
    return ""


class FolderLock:
    """Held from construction to `release`, or until the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / "lock", "a+")  # noqa: SIM115  held for as long as the lock is
        except OSError as error:
            raise Misconfigured(f"the data folder {folder} cannot be used: {error.strerror}; choose another with TRIMTAB_DATA") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read().strip() or "?"
            self._file.close()
            raise Misconfigured(f"another Trimtab (process {owner}) uses {folder}: stop it, or choose another folder with TRIMTAB_DATA") from None
        try:
            self._file.truncate(0)
            self._file.write(str(os.getpid()))
            self._file.flush()
        except OSError as error:
            raise Misconfigured(f"the data folder {folder} cannot be used: {error.strerror}; choose another with TRIMTAB_DATA") from error

    def release(self) -> None:
        self._file.close()
