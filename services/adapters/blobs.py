"""Files under names, in a folder or in a bucket of an S3-compatible store: each is there whole or not at all, and one that is there is not made twice.

Everything here blocks, and raises Unavailable where the place is away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from services.adapters.disk import flush
from services.adapters.settings import Settings
from services.kernel.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from obstore.store import S3Store

PART = 8 << 20  # bytes
LONG_DEAD = 86_400.0  # seconds
PATIENCE = 10.0  # seconds for a request with its repetitions: whoever archives comes back by itself
LONGEST = "120s"  # that one request may take


@dataclass(frozen=True, slots=True)
class Blob:
    name: str
    size: int


class Blobs(Protocol):
    """`place` is where, as people know it; names have folders in them: trimtab.events/3/00000000000000000000.segment."""

    place: str

    def names(self, folder: str) -> list[Blob]:
        """What lies in a folder, by name."""
        ...

    def create(self, name: str, path: Path) -> bool:
        """The file is there under this name; False where one was there before, which stays as it is."""
        ...

    def replace(self, name: str, path: Path) -> None: ...

    def fetch(self, name: str, path: Path) -> None:
        """The file at `path` holds what is there. Raises FileNotFoundError, and OSError where `path` cannot be written."""
        ...

    def end(self, blob: Blob, size: int) -> bytes:
        """The last `size` bytes of it, or all. Raises FileNotFoundError."""
        ...


def blobs_of(settings: Settings, place: str) -> Blobs:
    """A folder, or s3://BUCKET/PREFIX."""
    return BucketBlobs(settings, place) if place.startswith("s3://") else FolderBlobs(Path(place))


class FolderBlobs:
    def __init__(self, root: Path) -> None:
        self.root, self.place = root, str(root)

    def names(self, folder: str) -> list[Blob]:
        with self._translated():
            try:
                return sorted((Blob(f"{folder}/{e.name}", e.stat().st_size) for e in os.scandir(self.root / folder) if _is_whole(e)), key=lambda b: b.name)
            except FileNotFoundError:
                self._is_there()
                return []

    def _is_there(self) -> None:
        """It may not be mounted: then it must not be taken for an empty one, nor made."""
        if not self.root.is_dir():
            raise FileNotFoundError(2, "there is no such folder; make it, or mount it")

    def create(self, name: str, path: Path) -> bool:
        return self._put(name, path, is_new=True)

    def replace(self, name: str, path: Path) -> None:
        self._put(name, path, is_new=False)

    def _put(self, name: str, path: Path, is_new: bool) -> bool:
        final = self.root / name
        begun = final.with_name(f".{final.name}.{os.urandom(4).hex()}.begun")
        with self._translated():
            self._is_there()
            final.parent.mkdir(parents=True, exist_ok=True)
            _sweep(final.parent)
            try:
                with path.open("rb") as source, begun.open("wb") as target:
                    shutil.copyfileobj(source, target, PART)
                    target.flush()
                    os.fsync(target.fileno())
                if not is_new:
                    begun.replace(final)
                else:
                    os.link(begun, final)
            except FileExistsError:
                return False
            finally:
                begun.unlink(missing_ok=True)
            flush(final.parent)
        return True

    def fetch(self, name: str, path: Path) -> None:
        with path.open("wb") as file:
            for part in self._parts(name):
                file.write(part)

    def _parts(self, name: str) -> Iterator[bytes]:
        with self._translated(is_named=True), (self.root / name).open("rb") as file:
            while part := file.read(PART):
                yield part

    def end(self, blob: Blob, size: int) -> bytes:
        with self._translated(is_named=True), (self.root / blob.name).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read()

    @contextlib.contextmanager
    def _translated(self, is_named: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_named and isinstance(error, FileNotFoundError) and self.root.is_dir():
                raise
            raise Unavailable(f"the archive {self.place} cannot be used: {error.strerror or error}", reason="archive") from error


def _sweep(folder: Path) -> None:
    """What was begun here and not ended for a day is gone: whoever began it was killed."""
    for begun in folder.glob(".*.begun"):
        with contextlib.suppress(FileNotFoundError):  # another one sweeps, too
            if begun.stat().st_mtime < time.time() - LONG_DEAD:
                begun.unlink()


def _is_whole(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and not entry.name.startswith(".")


class BucketBlobs:
    """A name is created by a conditional put (If-None-Match), which AWS and its like all know."""

    def __init__(self, settings: Settings, place: str) -> None:
        self.place = place
        self.store = bucket_of(settings, place, "TRIMTAB_ARCHIVE", PATIENCE, LONGEST)

    def names(self, folder: str) -> list[Blob]:
        import obstore

        with translated(f"nothing can be looked for in {self.place}", "archive"):
            return sorted((Blob(o["path"], o["size"]) for page in obstore.list(self.store, prefix=folder) for o in page), key=lambda b: b.name)

    def create(self, name: str, path: Path) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with translated(f"{name} cannot be put into {self.place}", "archive"):
            try:
                obstore.put(self.store, name, path, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def replace(self, name: str, path: Path) -> None:
        import obstore

        with translated(f"{name} cannot be put into {self.place}", "archive"):
            obstore.put(self.store, name, path, chunk_size=PART)

    def fetch(self, name: str, path: Path) -> None:
        import obstore

        with translated(f"{name} cannot be read from {self.place}", "archive"), path.open("wb") as file:
            for part in obstore.get(self.store, name).stream(min_chunk_size=PART):
                file.write(part)

    def end(self, blob: Blob, size: int) -> bytes:
        import obstore

        with translated(f"{blob.name} cannot be read from {self.place}", "archive"):
            return bytes(obstore.get_range(self.store, blob.name, start=max(0, blob.size - size), end=blob.size)) if blob.size else b""


def bucket_of(settings: Settings, place: str, variable: str, patience: float, longest: str) -> S3Store:
    """The bucket that `variable` names as s3://BUCKET/PREFIX; nobody is asked yet. Raises Misconfigured."""
    from obstore.store import S3Store  # 10 MB, which most processes do without

    address = urlsplit(place)
    config: dict[str, Any] = {"region": settings.checkpoints_region, "checksum_algorithm": "SHA256"}
    if settings.checkpoints_endpoint:
        config["endpoint"] = settings.checkpoints_endpoint
    if settings.checkpoints_key_id:
        config |= {"access_key_id": settings.checkpoints_key_id, "secret_access_key": settings.checkpoints_secret_key}
    client: Any = {"allow_http": settings.checkpoints_endpoint.startswith("http://"), "connect_timeout": "5s", "timeout": longest}
    retry: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=patience)}
    try:
        prefix = address.path.strip("/") or None
        return S3Store(address.netloc, prefix=prefix, config=config, client_options=client, retry_config=retry)  # type: ignore[arg-type]
    except Exception as error:
        raise Misconfigured(f"{variable}={place} cannot be used: {_short(error)}") from error


@contextlib.contextmanager
def translated(what: str, reason: str) -> Iterator[None]:
    """What the library raises is Unavailable; that there is nothing of a name is not."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, ConnectionError, TimeoutError) as error:
        raise Unavailable(f"{what}: {_short(error)}", reason=reason) from error


def _short(error: Exception) -> str:
    """The first line of what the library says, without its own source lines."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
