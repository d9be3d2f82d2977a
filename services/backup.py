"""A copy of a data folder, taken while it is used, and a folder made of such a copy.

The order makes a copy that can be gone on from whatever happens meanwhile: checkpoints, then `trimtab.db`, then `decisions.db`, then `events.db`, so that
each is at most as new as what it was concluded from. Restored, it is at worst behind the log and catches up. The archive comes last: what the copied log
no longer holds was archived before.

What was decided before the moment of a restore may have been done after the copy was taken, and the restored database would not know: it is held as stale,
and the engine decides anew on present facts.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import zlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from services import VERSION
from services.adapters.clock import SystemClock
from services.adapters.disk import flush
from services.adapters.log.archive import Archive, begins, first_record, registered
from services.adapters.log.codec import EVENTS
from services.adapters.log.lock import FolderLock
from services.kernel.errors import Misconfigured
from services.kernel.record import Clock
from services.rules_engine.checkpoint import Unusable, verify

DATABASES = ("trimtab.db", "decisions.db", "events.db")  # in this order
SECRETS = ("secret", "cli.key")
CHECKPOINTS, ARCHIVE = "checkpoints", "archive"
MANIFEST = "backup.json"
UNFINISHED = "restoring"  # in a data folder: what is in it is half of a backup
RESTORED = "restored"  # in a data folder: when that was


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds."""

    records: int  # next offset of the events log
    decisions: int
    checkpoints: int
    segments: int = 0  # archived ones


def reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. Raises sqlite3.Error."""
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None)


def backup(data: Path, to: Path, archive: Path | None = None, with_archive: bool = True) -> Copied:
    """`to` is a whole copy of the folder, whether or not a Trimtab runs on it, checked and on the disk. Raises Misconfigured with one clear line.

    `archive` is where the log's is, if not in the folder. Without it the copy needs that archive beside it to read what was pruned.
    """
    if not (data / "events.db").exists():
        raise Misconfigured(f"{data} holds no Trimtab: name its folder with TRIMTAB_DATA")
    _empty_folder(to)
    try:
        for path in sorted((data / CHECKPOINTS).glob("*.checkpoint")):
            with contextlib.suppress(FileNotFoundError):  # superseded meanwhile
                _copy(path, to / CHECKPOINTS / path.name)
        for name in DATABASES:
            if (data / name).exists():
                _copy_database(data / name, to / name)
        for name in SECRETS:
            if (data / name).exists():
                _copy(data / name, to / name, 0o600)
        if with_archive:
            for name in _archived(to / "events.db"):
                with contextlib.suppress(FileNotFoundError):  # told by the check below where it is needed
                    _copy((archive or data / ARCHIVE) / name, to / ARCHIVE / name)
        copied = checked(to, to / ARCHIVE if with_archive else None)
        made = {"made_at": SystemClock().now(), "build": VERSION, "records": copied.records, "decisions": copied.decisions, "archive": with_archive}
        (to / MANIFEST).write_text(json.dumps(made) + "\n")
        _flush(to)
    except (OSError, sqlite3.Error) as error:
        raise Misconfigured(f"the backup in {to} is not complete: {error}; remove it and take another") from error
    return copied


def restore(backed_up: Path, data: Path, archive: Path | None = None) -> Copied:
    """The data folder holds what the backup does; what it had under way and had not begun is held when it starts. Raises Misconfigured with one clear line.

    What the backup has of the log's archive is then in `archive`, by default in the data folder; what is there already stays.
    """
    if not (backed_up / MANIFEST).is_file():
        raise Misconfigured(f"{backed_up} is no complete backup: it has no {MANIFEST}")
    try:
        with_archive = bool(json.loads((backed_up / MANIFEST).read_text()).get("archive"))
        copied = checked(backed_up, backed_up / ARCHIVE if with_archive else None)
        _empty_folder(data)
        lock = FolderLock(data)
        try:
            (data / UNFINISHED).write_text(f"{backed_up}\n")
            _flush(data)
            for path in sorted((backed_up / CHECKPOINTS).glob("*.checkpoint")):
                _copy(path, data / CHECKPOINTS / path.name)
            for name in (*DATABASES, *SECRETS):
                if (backed_up / name).exists():
                    _copy(backed_up / name, data / name, 0o600 if name in SECRETS else None)
            if with_archive:
                _restore_archive(backed_up, archive or data / ARCHIVE)
            for name in DATABASES:
                with contextlib.closing(sqlite3.connect(data / name)) as file:
                    file.execute("PRAGMA journal_mode = WAL")
            _let_go(data / "trimtab.db")
            (data / RESTORED).write_text(json.dumps({"at": now_of(data / "events.db", archive or data / ARCHIVE), "from": str(backed_up)}) + "\n")
            _flush(data)
            (data / UNFINISHED).unlink()
            _flush(data)
        finally:
            lock.release()
    except (OSError, ValueError, sqlite3.Error) as error:
        raise Misconfigured(f"the restore into {data} is not complete: {error}; empty the folder and restore again") from error
    return copied


def restored_at(data: Path) -> int:
    """When the folder was restored from a backup, by the log's clock; 0 if it never was. Raises Misconfigured where that was not finished."""
    if (data / UNFINISHED).exists():
        raise Misconfigured(f"a restore into {data} was not finished: empty the folder and restore again")
    try:
        return int(json.loads((data / RESTORED).read_text())["at"])
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Misconfigured(f"{data / RESTORED} cannot be read: it says since when decisions may be carried out; restore it") from error


def checked(folder: Path, archive: Path | None = None) -> Copied:
    """What the copy holds; raises Misconfigured naming what is damaged, or newer than what it was concluded from. Without an archive it asks for none."""
    ends = {}
    for name in DATABASES:
        if not (folder / name).exists():
            raise Misconfigured(f"{folder} lacks {name}")
        if faults := faults_of(folder / name):
            raise Misconfigured(f"{folder / name} is damaged: {faults[0]}; take another backup")
        if name != "trimtab.db":
            with contextlib.closing(reading(folder / name)) as file:
                (ends[name],) = file.execute("SELECT coalesce(max(number), -1) + 1 FROM records WHERE partition = 0").fetchone()
    checkpoints = 0
    for path in sorted((folder / CHECKPOINTS).glob("*.checkpoint")):
        try:
            header = verify(path)
        except Unusable:
            continue  # a start passes it over
        if header.offset > ends["events.db"]:
            raise Misconfigured(f"{folder} holds a checkpoint of {header.offset} records, and its log ends at {ends['events.db']}: take another backup")
        checkpoints += 1
    return Copied(ends["events.db"], ends["decisions.db"], checkpoints, _checked_archive(folder, archive) if archive is not None else 0)


def _checked_archive(folder: Path, archive: Path) -> int:
    """How many segments it holds, every one whole; those that were pruned from the log must be there."""
    with contextlib.closing(reading(folder / "events.db")) as file:
        live, segments = begins(file), [r for r in registered(file) if r.file]
    held = Archive(archive)
    for r in segments:
        if (r.segment.first < live or held.lies(r)) and (fault := held.fault(r)):
            raise Misconfigured(f"{archive / r.file} cannot be used: {fault.why}; it holds records {r.segment.first} to {r.segment.last} of the log")
    return sum(held.lies(r) for r in segments)


def _archived(events: Path) -> list[str]:
    with contextlib.closing(reading(events)) as file:
        return [r.file for r in registered(file) if r.file]


def _restore_archive(backed_up: Path, archive: Path) -> None:
    archive.mkdir(parents=True, exist_ok=True)
    held = Archive(archive)
    with contextlib.closing(reading(backed_up / "events.db")) as file:
        segments = [r for r in registered(file) if r.file]
    for r in segments:
        if Archive(backed_up / ARCHIVE).lies(r) and held.fault(r) is not None:
            _copy(backed_up / ARCHIVE / r.file, archive / r.file)
    _flush(archive)


def faults_of(path: Path) -> list[str]:
    """What is damaged in a database of a data folder, the first few: its pages, and of a log the records whose checksums do not agree."""
    try:
        with contextlib.closing(reading(path)) as file:
            faults = [" ".join(text.split()) for (text,) in file.execute("PRAGMA integrity_check(3)") if text != "ok"]
            if not faults and file.execute("SELECT 1 FROM pragma_table_info('records') WHERE name = 'crc'").fetchone():
                records = file.execute("SELECT number, data, crc FROM records WHERE crc IS NOT NULL")
                damaged = (f"the checksum of record {number} does not agree" for number, data, crc in records if zlib.crc32(data) != crc)
                faults = list(islice(damaged, 3))
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return faults


def _empty_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        there = next(folder.iterdir(), None)
    except OSError as error:
        raise Misconfigured(f"{folder} cannot be used: {error.strerror}") from error
    if there is not None:
        raise Misconfigured(f"{folder} is not empty: name an empty folder, or one that is not there yet")


def _copy_database(path: Path, to: Path) -> None:
    """One consistent moment of it, writers undisturbed."""
    with contextlib.closing(reading(path)) as source, contextlib.closing(sqlite3.connect(to)) as target:
        source.backup(target)  # all in one step: a writer in between would make it begin again
        target.execute("PRAGMA journal_mode = DELETE")  # one file, whoever looks into it


def _copy(path: Path, to: Path, mode: int | None = None) -> None:
    to.parent.mkdir(exist_ok=True)
    if mode is not None:
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT, mode))
    shutil.copyfile(path, to)


def _let_go(database: Path) -> None:
    """What was to be carried out and had not begun has had its time."""
    with contextlib.closing(sqlite3.connect(database)) as file, file:
        if file.execute("SELECT 1 FROM sqlite_master WHERE name = 'intents'").fetchone():
            file.execute("UPDATE intents SET valid_until = 0 WHERE state <> 'done'")


def now_of(events: Path, archive: Path) -> int:
    """By the log's clock: the world's, or where a simulated one stands. Raises sqlite3.Error, Unavailable."""
    with contextlib.closing(reading(events)) as file:
        (last,) = file.execute("SELECT coalesce(max(stamp), 0) FROM records").fetchone()
    first = first_record(events, archive)
    declared = EVENTS.decode(first) if first else None
    return int(last) if isinstance(declared, Clock) and declared.simulated else SystemClock().now()


def _flush(folder: Path) -> None:
    """Every file of the folder, and their names, are on the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for inner in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        flush(inner)
