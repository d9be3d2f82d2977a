"""Checkpoints in a bucket of an S3-compatible store: an object each, there whole or not at all, the newest that holds wins.

The objects are the files of a folder of checkpoints, byte for byte, under the same names: a name says partition and next offset, so that an older one never
takes the place of a newer. What is sent is written to a file first, and what is fetched is checked there before anything in it is believed.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from services.adapters.blobs import PART, bucket_of, translated
from services.adapters.settings import Settings
from services.kernel.errors import Unavailable
from services.rules_engine import checkpoint
from services.rules_engine.checkpoint import LONG_DEAD, NAME, Checkpoint, Checkpoints, Header, Kept, Unusable, is_late
from services.rules_engine.core.state import Pieces

log = structlog.get_logger("checkpoints")
HEAD = 1 << 16  # bytes that hold most headers
PATIENCE = 60  # seconds for a request with its repetitions
SCRATCH = ".checkpoint-"


def checkpoints_of(settings: Settings, owner: str = "") -> Checkpoints:
    """Where TRIMTAB_CHECKPOINTS says: a folder, by default the one in the data folder, or a bucket."""
    if not settings.checkpoints.startswith("s3://"):
        return Checkpoints(settings.checkpoints_folder, owner=owner)
    return Bucket(settings)


def daily_of(settings: Settings, owner: str = "") -> Checkpoints:
    """One of each day, beside the archived segments of Kafka's topics and under their prefix, for as long as TRIMTAB_AUDIT_DAYS says."""
    place, days = settings.daily_checkpoints, max(1, round(settings.audit_days))
    return Bucket(settings, 1, days, place) if place.startswith("s3://") else Checkpoints(Path(place), 1, days, owner)


class Bucket(Checkpoints):
    """Of every partition, shared by all processes. Where the store is away, Unavailable is raised, which writing and restoring bear."""

    def __init__(self, settings: Settings, last: int = 3, days: int = 7, place: str = "") -> None:
        """`place` is s3://BUCKET/PREFIX, by default what TRIMTAB_CHECKPOINTS says."""
        super().__init__(settings.data, last, days)
        self.place = place or settings.checkpoints
        self.store = bucket_of(settings, self.place, "TRIMTAB_CHECKPOINTS" if not place else "TRIMTAB_ARCHIVE", PATIENCE, "300s")

    def write(self, header: Header, plain: Mapping[str, Any], pieces: Pieces) -> Path:
        """The checkpoint is in the bucket, and what it makes superfluous is gone. Raises OSError, Unavailable, and then none of its name is there newly."""
        import obstore

        name = f"{header.partition}-{header.offset:020d}.checkpoint"
        with self._scratch() as path:
            with path.open("wb") as file:
                checkpoint.pack(file, header, plain, pieces)
            with translated(f"checkpoint {name} cannot be put into {self.place}", "checkpoints"):
                obstore.put(self.store, name, path, chunk_size=PART)
        self._tidy(header.partition)
        return Path(name)

    def keep(self, kept: Kept, path: Path) -> None:
        import obstore

        with translated(f"checkpoint {kept.path.name} cannot be put into {self.place}", "checkpoints"):
            obstore.put(self.store, kept.path.name, path, chunk_size=PART)
        self._tidy(kept.partition)

    @contextlib.contextmanager
    def file(self, kept: Kept) -> Iterator[Path]:
        with self._fetched(kept.path.name, kept.size) as path:
            yield path

    def every(self, partition: int | None = None) -> list[Kept]:
        found = []
        for name, size in self._names(partition):
            by_name = NAME.fullmatch(name)
            assert by_name is not None
            header, why = None, ""
            try:
                header = self._header(name, size)
            except (Unusable, FileNotFoundError) as error:
                why = str(error)
            found.append(Kept(Path(name), int(by_name[1]), int(by_name[2]), size, header, why))
        return sorted(found, key=lambda k: (k.partition, -k.offset))

    def valid(self, partition: int, before: int | None = None) -> Iterator[Checkpoint | Kept]:
        for name, size in sorted(self._names(partition), reverse=True):  # offsets in names have one length
            by_name = NAME.fullmatch(name)
            assert by_name is not None
            try:
                if before is not None and is_late(self._header(name, size), before):
                    continue
                with self._fetched(name, size) as path:
                    found = checkpoint.read(path)
            except (OSError, Unusable, Unavailable) as error:
                yield Kept(Path(name), int(by_name[1]), int(by_name[2]), size, None, str(error))
                continue
            yield found

    def verify(self, kept: Kept) -> Header:
        with self._fetched(kept.path.name, kept.size) as path:
            return checkpoint.verify(path)

    def remove(self, kept: Kept) -> None:
        import obstore

        with translated(f"checkpoint {kept.path.name} cannot be removed from {self.place}", "checkpoints"), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.store, kept.path.name)

    def clear(self, partition: int, newest: Kept | None) -> None:
        """An object that was not finished is none; files of a process that was killed while it sent or fetched one are left here."""
        for path in self.folder.glob(f"{SCRATCH}*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - LONG_DEAD:
                    path.unlink()

    def _names(self, partition: int | None) -> list[tuple[str, int]]:
        import obstore

        found = []
        with translated(f"no checkpoint can be looked for in {self.place}", "checkpoints"):
            for page in obstore.list(self.store):
                for o in page:
                    name = NAME.fullmatch(o["path"])
                    if name is not None and partition in (None, int(name[1])):
                        found.append((o["path"], o["size"]))
        return found

    def _header(self, name: str, size: int) -> Header:
        """As the object's beginning says."""
        data = self._range(name, min(size, HEAD))
        length = int.from_bytes(data[len(checkpoint.MAGIC) : len(checkpoint.MAGIC) + 8], "little") + len(checkpoint.MAGIC) + 8
        if len(data) < length <= min(size, checkpoint.LARGEST_HEADER):
            data = self._range(name, length)
        header, _ = checkpoint.head(io.BytesIO(data), sha256(), size)
        return header

    def _range(self, name: str, end: int) -> bytes:
        import obstore

        with translated(f"checkpoint {name} cannot be read from {self.place}", "checkpoints"):
            return bytes(obstore.get_range(self.store, name, start=0, end=end)) if end else b""

    @contextlib.contextmanager
    def _fetched(self, name: str, size: int) -> Iterator[Path]:
        """A file that holds what the object did, as long as the block lasts."""
        import obstore

        with self._scratch() as path:
            done, told = 0, 0
            with translated(f"checkpoint {name} cannot be read from {self.place}", "checkpoints"), path.open("wb") as file:
                for part in obstore.get(self.store, name).stream(min_chunk_size=PART):
                    done += file.write(part)
                    if (tenth := done * 10 // max(size, 1)) > told and size > 4 * PART:
                        told = tenth
                        log.info("checkpoint on its way", name=name, bytes=done, of=size)
            yield path

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix=SCRATCH, dir=self.folder)
        os.close(handle)
        try:
            yield Path(path)
        finally:
            Path(path).unlink(missing_ok=True)
