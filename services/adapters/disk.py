"""What has to be on the disk, and not only said to be; and what of it is still what was written."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from services.kernel.errors import Misconfigured, TrimtabError

SMALL = 128 << 20  # bytes of a database that a start reads whole: a tenth of a second of work, where the disk is slow some seconds
FULL = 1 << 20  # bytes free, with fewer of which a disk counts as full
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def flush(folder: Path) -> None:
    """The folder's names are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_whole(path: Path, small: int = SMALL) -> None:
    """A SQLite file, where there is one, holds together: each page of one that is small, of a larger one the first page of each table and index.

    Raises Misconfigured where it is damaged. What else keeps it from being read, whoever opens it says.
    """
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None)) as file:
            [(pages,)], [(size,)] = file.execute("PRAGMA page_count").fetchall(), file.execute("PRAGMA page_size").fetchall()
            if pages * size > small:
                _read_roots(file)
                return
            [fault] = file.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in DAMAGED:
            return
        fault = str(error)
    if fault != "ok":
        raise Misconfigured(f"{path} is damaged: {' '.join(fault.split())}; `trimtab doctor` looks into all of the folder; restore it from a backup")


def _read_roots(file: sqlite3.Connection) -> None:
    for kind, name, table, text in file.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE rootpage > 0").fetchall():
        if kind == "table":
            file.execute(f'SELECT 1 FROM "{name}" NOT INDEXED LIMIT 1').fetchall()
        elif "WHERE" not in (text or "").upper():
            file.execute(f'SELECT 1 FROM "{table}" INDEXED BY "{name}" LIMIT 1').fetchall()


@contextmanager
def room_named(folder: Path) -> Iterator[None]:
    """What a disk without room did is said as that, whatever it looked like. Raises Misconfigured then."""
    try:
        yield
    except (TrimtabError, OSError, sqlite3.Error) as error:
        if is_for_room(error, folder):
            free = shutil.disk_usage(folder).free >> 10
            why = f"the disk of {folder} is full ({free} KB free): make room and start again; nothing that was acknowledged is lost"
            raise Misconfigured(f"{why} ({' '.join(str(error).split())})") from error
        raise


def is_for_room(error: BaseException | None, folder: Path) -> bool:
    """Whether what was raised comes of a disk that is full, or of a quota."""
    while error is not None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
            return True
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and shutil.disk_usage(folder).free < FULL:
            return True
        error = error.__cause__ or error.__context__
    return False
