"""Checkpoints of the engine's state: a file each, complete or not there, newest valid wins.

    trimtab checkpoint 1\\n | size of header | header, JSON | plain state, JSON | columns, one after another | sha-256 of all before

The header says what the file is of, so that listing reads no state: the partition, the next offset, how many decisions the log held then, marks of the
log's first record and of the last one folded, the build, the form of the state, and every column's name, kind and shape. A file is written under another
name, flushed with its folder, and renamed; what is damaged, foreign or of another form is passed over, told and counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from services import VERSION
from services.adapters.disk import flush
from services.adapters.faultpoint import faultpoint
from services.kernel.errors import Misconfigured, Unreadable
from services.kernel.ports import Log
from services.kernel.record import EventBatch, Record, Stamped
from services.rules_engine.core.state import STATE, Pieces

MAGIC = b"trimtab checkpoint 1\n"
NAME = re.compile(r"([0-9]+)-([0-9]{20})\.checkpoint")
LARGEST_HEADER = 64 << 20  # bytes: a damaged size must not be believed
DAY = 86_400_000_000
CHUNK = 1 << 22

Arrays = dict[str, NDArray[Any]]


class Unusable(Exception):
    """This file cannot be gone on from: the message says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a checkpoint is of. `at` is the log's clock when it was taken; the marks tell a log that was recreated from the one it was taken of."""

    partition: int
    offset: int  # the next one to be folded
    decisions: int  # on the decisions log before that
    engine_time: int
    first: str
    last: str  # "" before the first record
    at: int
    state: int = STATE
    build: str = VERSION


@dataclass(frozen=True, slots=True)
class Checkpoint:
    header: Header
    plain: dict[str, Any]
    arrays: Arrays


@dataclass(frozen=True, slots=True)
class Kept:
    """A file in the folder; `header` is None where it cannot be read."""

    path: Path
    partition: int
    offset: int
    size: int
    header: Header | None
    why: str = ""


def mark(stamped: Stamped[Record] | None, skipped: frozenset[int] = frozenset()) -> str:
    """Enough of a record to know it again, whatever the build that decodes it."""
    if stamped is None:
        return ""
    ids = stamped.record.event_id.tobytes() if isinstance(stamped.record, EventBatch) and stamped.offset not in skipped else b""
    return hashlib.blake2b(f"{stamped.offset} {stamped.stamp} ".encode() + ids, digest_size=16).hexdigest()


LONG_DEAD = 86_400.0  # seconds


class Checkpoints:
    """The checkpoints of one data folder. The newest `last` of a partition stay, and the newest of each of the last `days` days (by the log's clock).

    Where several processes share the folder each has an `owner` of its own, so that none finishes or removes what another has begun: two may write the
    checkpoint of one partition at one time, where one of them was believed dead.
    """

    def __init__(self, folder: Path, last: int = 3, days: int = 7, owner: str = "") -> None:
        self.folder, self.last, self.days = folder, last, days
        self.begun = f".{owner}.begun" if owner else ".begun"

    def write(self, header: Header, plain: Mapping[str, Any], pieces: Pieces) -> Path:
        """The checkpoint is on the disk, and what it makes superfluous is gone. Raises OSError, and then nothing is there that was not before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.folder / f"{header.partition}-{header.offset:020d}.checkpoint"
        begun = final.with_suffix(self.begun)
        try:
            with begun.open("wb") as file:
                faultpoint("checkpoint.begun")
                pack(file, header, plain, pieces)
                faultpoint("checkpoint.written")
                file.flush()
                os.fsync(file.fileno())
            faultpoint("checkpoint.flushed")
            begun.replace(final)
            faultpoint("checkpoint.renamed")
        except OSError:
            with contextlib.suppress(OSError):
                begun.unlink()
            raise
        flush(self.folder)
        faultpoint("checkpoint.kept")
        self._tidy(header.partition)
        return final

    def keep(self, kept: Kept, path: Path) -> None:
        """A copy of a checkpoint of elsewhere is here, and what it makes superfluous is gone. Raises OSError, Unavailable."""
        self.folder.mkdir(exist_ok=True)
        begun = (self.folder / kept.path.name).with_suffix(self.begun)
        try:
            with path.open("rb") as source, begun.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
                target.flush()
                os.fsync(target.fileno())
            begun.replace(self.folder / kept.path.name)
        finally:
            begun.unlink(missing_ok=True)
        flush(self.folder)
        self._tidy(kept.partition)

    @contextlib.contextmanager
    def file(self, kept: Kept) -> Iterator[Path]:
        """A file that holds it, as long as the block lasts."""
        yield kept.path

    def every(self, partition: int | None = None) -> list[Kept]:
        """Newest first, by what their headers say; a file is only named a checkpoint once it is whole."""
        found = []
        for path in self.folder.glob("*.checkpoint") if self.folder.is_dir() else ():
            name = NAME.fullmatch(path.name)
            if name is None or partition not in (None, int(name[1])):
                continue
            size = 0
            try:
                size = path.stat().st_size
                with path.open("rb") as file:
                    header, _ = head(file, hashlib.sha256(), size)
                found.append(Kept(path, int(name[1]), int(name[2]), size, header))
            except FileNotFoundError:
                continue  # another process has just made it superfluous
            except (OSError, Unusable) as error:
                found.append(Kept(path, int(name[1]), int(name[2]), size, None, str(error)))
        return sorted(found, key=lambda k: (k.partition, -k.offset))

    def valid(self, partition: int, before: int | None = None) -> Iterator[Checkpoint | Kept]:
        """Each checkpoint of this form, newest first; in place of one that cannot be used the file with why.

        With `before`, an engine time in microseconds, those alone that had not reached it.
        """
        for kept in self.every(partition):
            if is_late(kept.header, before):
                continue
            try:
                yield read(kept.path)
            except (OSError, Unusable) as error:
                yield Kept(kept.path, kept.partition, kept.offset, kept.size, None, str(error))

    def floor(self, partition: int = 0) -> int:
        """The first record that the log must still hold so that a start can go on from any checkpoint that is valid; 0 where none is. Reads them whole."""
        usable = []
        for kept in self.every(partition):
            with contextlib.suppress(OSError, Unusable):
                if (header := self.verify(kept)).state == STATE:
                    usable.append(max(0, header.offset - 1))  # the last record that it folded is what it knows the log by
        return min(usable, default=0)

    def _tidy(self, partition: int) -> None:
        kept = [k for k in self.every(partition) if k.header is not None]
        newest = kept[0].header.at // DAY if kept and kept[0].header else 0
        stay = {k.path for k in kept[: self.last]}
        days: set[int] = set()
        for k in kept:
            assert k.header is not None
            day = k.header.at // DAY
            if day not in days and day > newest - self.days:
                days.add(day)
                stay.add(k.path)
        for k in kept:
            if k.path not in stay:
                self.remove(k)
                faultpoint("checkpoint.tidied")
        self.clear(partition, kept[0] if kept else None)

    def verify(self, kept: Kept) -> Header:
        """Its header, once all of it was read and its hash agrees. Raises Unusable, OSError, Unavailable."""
        return verify(kept.path)

    def remove(self, kept: Kept) -> None:
        kept.path.unlink(missing_ok=True)

    def clear(self, partition: int, newest: Kept | None) -> None:
        """What a process that was killed meanwhile has begun is gone; of another only where it must be long dead."""
        newest_file = newest.path.stat().st_mtime if newest else 0.0
        for begun in self.folder.glob(f"{partition}-*.begun"):
            with contextlib.suppress(FileNotFoundError):
                if begun.match(f"{partition}-*{self.begun}") or begun.stat().st_mtime < newest_file - LONG_DEAD:
                    begun.unlink()


def is_late(header: Header | None, before: int | None) -> bool:
    """Whether the checkpoint is known to have reached that engine time."""
    return before is not None and header is not None and header.engine_time >= before


async def unfit(log: Log[Record], found: Checkpoint, first: Stamped[Record] | None) -> str:
    """Why this checkpoint cannot be gone on from on a log whose first record is this, "" where it can.

    Raises Misconfigured where it shows that the log is not the one it was.
    """
    header, skipped = found.header, frozenset(found.plain["skipped"])
    oldest = first.offset if first else 0
    if header.offset < oldest:
        return f"the log begins at record {oldest}, after it"
    if header.offset > oldest:
        try:
            last = await log.read(header.partition, header.offset - 1, 1)
        except Unreadable as deleted:
            if deleted.beyond > header.offset:
                return f"records {header.offset} to {deleted.beyond - 1} came after it and were deleted"
            return ""  # nothing is left to know the log by, and nothing that it lacks
        if not last or last[0].offset != header.offset - 1:
            raise Misconfigured(
                f"the log ends before record {header.offset - 1}, which a checkpoint has folded: records are missing; restore the log from a backup, "
                "or, where the loss is known and accepted, move the folder of checkpoints and decisions.db away"
            )
        if mark(last[0], skipped) != header.last or (header.first and oldest == 0 and mark(first, skipped) != header.first):
            raise Misconfigured(
                f"the log is not the one that the checkpoint at record {header.offset} was taken of: it was recreated or replaced; restore the log that "
                "belongs to this folder, or begin in another one with TRIMTAB_DATA"
            )
    return ""


def read(path: Path) -> Checkpoint:
    """The whole of a checkpoint of this form. Its hash is checked before anything in it is believed. Raises Unusable, or OSError."""
    verify(path)
    with path.open("rb") as file:
        header, columns = head(file, hashlib.sha256(), path.stat().st_size)
        if header.state != STATE:
            raise Unusable(f"it holds a state of form {header.state}; this build knows form {STATE}")
        arrays: Arrays = {}
        for name, kind, shape in columns:
            arrays[name] = np.empty(shape, np.dtype(kind))
            file.readinto(arrays[name].reshape(-1).view(np.uint8).data)
    plain = json.loads(arrays.pop("plain").tobytes())
    return Checkpoint(header, plain, arrays)


def verify(path: Path) -> Header:
    """The header of a file whose hash agrees, whatever form its state is of. Raises Unusable, or OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256()
        header, _ = head(file, digest, size)
        rest = size - file.tell() - digest.digest_size
        while rest > 0:
            part = file.read(min(CHUNK, rest))
            if not part:
                break
            digest.update(part)
            rest -= len(part)
        if file.read() != digest.digest():
            raise Unusable("its hash does not agree: it is damaged")
    return header


def pack(file: IO[bytes], header: Header, plain: Mapping[str, Any], pieces: Pieces) -> None:
    """The whole of a checkpoint is in the file."""
    text = np.frombuffer(json.dumps(plain, ensure_ascii=True, separators=(",", ":")).encode(), np.uint8)
    whole: Pieces = {"plain": [text]} | pieces
    columns = [[name, many[0].dtype.str, _shape(many)] for name, many in whole.items()]
    begin = json.dumps({"header": asdict(header), "columns": columns}).encode()
    digest = hashlib.sha256()
    for part in (MAGIC, len(begin).to_bytes(8, "little"), begin):
        digest.update(part)
        file.write(part)
    for many in whole.values():
        for array in many:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            digest.update(data)
            file.write(data)
    file.write(digest.digest())


def _shape(many: Sequence[NDArray[Any]]) -> list[int]:
    return [sum(len(a) for a in many), *many[0].shape[1:]]


def head(file: IO[bytes], digest: Any, size: int) -> tuple[Header, list[tuple[str, str, list[int]]]]:
    """What a checkpoint of that many bytes is of, and its columns. Raises Unusable."""
    begin = file.read(len(MAGIC) + 8)
    if begin[: len(MAGIC)] != MAGIC or len(begin) < len(MAGIC) + 8:
        raise Unusable("it is no checkpoint of this format")
    length = int.from_bytes(begin[len(MAGIC) :], "little")
    if length > min(LARGEST_HEADER, size):
        raise Unusable("its header is damaged")
    text = file.read(length)
    digest.update(begin + text)
    try:
        said = json.loads(text)
        header = Header(**said["header"])
        columns = [(str(name), str(kind), [int(n) for n in shape]) for name, kind, shape in said["columns"]]
        held = sum(np.dtype(kind).itemsize * math.prod(shape) for _, kind, shape in columns)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise Unusable("its header is damaged") from error
    if held + len(begin) + length + digest.digest_size != size:
        raise Unusable("it is not as long as it says")
    return header, columns
