"""Checkpoints in a bucket: what holds for those in a folder holds there too, and a store that is away, cut off or half there stops nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from typer.testing import CliRunner
from werkzeug.serving import make_server

from services.__main__ import app
from services.adapters.settings import Settings, from_environment
from services.kernel.errors import Misconfigured, Unavailable
from services.rules_engine.bucket import HEAD, SCRATCH, Bucket, checkpoints_of
from services.rules_engine.checkpoint import DAY, Checkpoint, Checkpoints, Header, Kept
from services.rules_engine.core import state
from services.rules_engine.core.partition import Partition
from services.rules_engine.watched import Metrics
from services.rules_engine.worker import Worker
from tests.core.world import GUARDS, HOUR, START
from tests.shell.test_checkpoints import House, weak


@dataclass
class Store:
    """Moto's S3 over HTTP, which can be told to misbehave for some requests."""

    moto: Any = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))
    mood: str = ""  # 503 | cut | half
    of: str = ""  # only requests of this method; "" for all
    seen: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.seen.append((method, path))
        if not self.mood or self.of not in ("", method):
            return self.moto(environ, start)  # type: ignore[no-any-return]
        if self.mood == "503":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Slow Down", [("Content-Length", "0")])
            return []
        if self.mood == "half":
            body = b"".join(self.moto(environ, start))
            return [body[: len(body) // 2]]
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return []


@pytest.fixture
def store() -> Iterator[Store]:
    served = Store()
    server = make_server("127.0.0.1", 0, served, threaded=True)
    served.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def environment(store: Store, tmp_path: Path) -> dict[str, str]:

    secret = tmp_path / "secret-key"
    secret.write_text("a secret key")
    made = {
        "TRIMTAB_DATA": str(tmp_path / "data"),
        "TRIMTAB_CHECKPOINTS": f"s3://states-{store.port}/trimtab/one",
        "TRIMTAB_CHECKPOINTS_ENDPOINT": f"http://127.0.0.1:{store.port}",
        "TRIMTAB_CHECKPOINTS_KEY_ID": "ours",
        "TRIMTAB_CHECKPOINTS_SECRET_KEY_FILE": str(secret),
    }
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{store.port}/states-{store.port}", method="PUT")).close()
    return made


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return from_environment(environment)


@pytest.fixture
def bucket(settings: Settings) -> Checkpoints:
    made = checkpoints_of(settings)
    assert isinstance(made, Bucket)
    return made


def header(offset: int, partition: int = 0, at: int = START) -> Header:
    return Header(partition, offset, 3, 11 * offset, "x", "y", at)


def write(there: Checkpoints, offset: int, partition: int = 0, **pieces: Any) -> None:
    there.write(header(offset, partition), {"state": "é"}, {"a": [np.arange(5)]} | pieces)


def names(there: Checkpoints, partition: int | None = None) -> list[tuple[int, int]]:
    return [(k.partition, k.offset) for k in there.every(partition)]


def scratch(settings: Settings) -> list[Path]:
    return list(settings.data.glob(f"{SCRATCH}*"))


def test_a_checkpoint_holds_what_it_was_given(bucket: Checkpoints, settings: Settings) -> None:
    big = np.arange(3_000_000)  # 24 MB: more than one part
    write(bucket, 7, b=[big], **{f"column {i} {'x' * 40}": [np.arange(1)] for i in range(1500)})  # and a header longer than is read at first
    [kept] = bucket.every(0)
    assert kept.header == header(7) and kept.size > big.nbytes + HEAD
    [found] = bucket.valid(0)
    assert isinstance(found, Checkpoint)
    assert found.plain == {"state": "é"} and np.array_equal(found.arrays["b"], big)
    assert bucket.verify(kept) == header(7)
    assert scratch(settings) == []


def test_the_newest_comes_first_and_an_older_one_replaces_nothing(bucket: Checkpoints) -> None:
    for offset in (5, 100, 30):  # the last by a process that was believed dead
        write(bucket, offset)
    write(bucket, 9, partition=1)
    assert names(bucket) == [(0, 100), (0, 30), (0, 5), (1, 9)]
    assert [f.header.offset for f in bucket.valid(0) if isinstance(f, Checkpoint)] == [100, 30, 5]
    assert bucket.floor(0) == 4
    assert [f.header.offset for f in bucket.valid(0, 11 * 100) if isinstance(f, Checkpoint)] == [30, 5]  # those that had not reached that engine time


def test_the_newest_three_stay_and_one_of_each_of_seven_days(bucket: Checkpoints) -> None:
    plain, pieces = state.dump(Partition(GUARDS))
    for offset, hour in enumerate(range(0, 24 * 12, 12)):
        bucket.write(header(offset, at=START + hour * HOUR), plain, pieces)
    days = [(k.header.at - START) // DAY for k in bucket.every(0) if k.header]
    assert days == [11, 11, 10, 9, 8, 7, 6, 5]


def test_what_is_damaged_or_foreign_is_passed_over_and_named(bucket: Checkpoints) -> None:
    assert isinstance(bucket, Bucket)
    for offset in (7, 8, 9):
        write(bucket, offset)
    whole = bytes(obstore.get(bucket.store, bucket.every(0)[0].path.name).bytes())
    obstore.put(bucket.store, f"0-{8:020d}.checkpoint", whole[:-40])
    obstore.put(bucket.store, f"0-{9:020d}.checkpoint", whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:])
    obstore.put(bucket.store, "notes.txt", b"not ours")
    first, second, third = bucket.valid(0)
    assert isinstance(first, Kept) and "hash" in first.why
    assert isinstance(second, Kept) and "not as long" in second.why
    assert isinstance(third, Checkpoint) and third.header.offset == 7


@pytest.mark.parametrize("mood", ["503", "cut"])
def test_a_store_that_is_away_is_said_and_leaves_nothing(bucket: Checkpoints, settings: Settings, store: Store, mood: str) -> None:
    write(bucket, 7)
    store.mood = mood
    with pytest.raises(Unavailable, match="s3://states"):
        write(bucket, 8)
    with pytest.raises(Unavailable, match="no checkpoint can be looked for"):
        bucket.every(0)
    with pytest.raises(Unavailable):
        list(bucket.valid(0))
    store.mood = ""
    assert names(bucket) == [(0, 7)]
    assert scratch(settings) == []


def test_an_upload_that_was_cut_off_is_no_checkpoint(bucket: Checkpoints, store: Store) -> None:
    write(bucket, 7)
    store.mood, store.of = "cut", "PUT"
    with pytest.raises(Unavailable):
        write(bucket, 8, b=[np.arange(3_000_000)])
    store.mood = ""
    assert names(bucket) == [(0, 7)]


def test_a_download_that_ends_early_is_not_believed(bucket: Checkpoints, store: Store) -> None:
    write(bucket, 7)
    write(bucket, 8)
    [found, _] = bucket.every(0)
    store.mood, store.of = "half", "GET"
    with pytest.raises((Unavailable, OSError)):
        bucket.verify(found)


class InBucket(House):
    """A house whose checkpoints are in the bucket."""

    settings: Settings

    def worker(self, events: Any = None) -> Worker:
        from prometheus_client import CollectorRegistry

        self.registry = CollectorRegistry()
        there = checkpoints_of(self.settings)
        return Worker(events or self.events, self.decisions, self.clock, GUARDS, Metrics(self.registry), checkpoints=there, often=self.often)


async def test_an_engine_goes_on_from_the_bucket_and_works_while_it_is_away(settings: Settings, store: Store, tmp_path: Path) -> None:
    house = InBucket(tmp_path)
    house.settings = settings
    await house.hold(weak("a", "b").records)
    await house.run()
    assert (house.counted("written"), len(await house.said())) == (1, 2)
    again = await house.run()
    assert house.folded == again.partition.offset - checkpoints_of(settings).every(0)[0].offset
    await house.hold(weak("a", "b", "c").records[1:])
    worker = house.worker()
    await worker.start()
    store.mood = "503"
    await worker.caught_up(worker.partition.offset)
    await worker.stop()
    assert (worker.stopped, house.counted("failed")) == ("", 1)


def test_the_command_line_lists_and_verifies_them(bucket: Checkpoints, environment: dict[str, str], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(bucket, Bucket)
    write(bucket, 7)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    listed = CliRunner().invoke(app, ["checkpoint", "list"])
    assert listed.exit_code == 0 and "record            7" in listed.output
    assert CliRunner().invoke(app, ["checkpoint", "verify"]).output == f"0-{7:020d}.checkpoint: holds\n"
    obstore.put(bucket.store, f"0-{8:020d}.checkpoint", b"nothing of ours")
    verified = CliRunner().invoke(app, ["checkpoint", "verify"])
    assert verified.exit_code == 1 and "DAMAGED" in verified.output


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"TRIMTAB_CHECKPOINTS": "gs://elsewhere/x"}, "write s3://BUCKET/PREFIX"),
        ({"TRIMTAB_CHECKPOINTS": "s3://"}, "write s3://BUCKET/PREFIX"),
        ({"TRIMTAB_CHECKPOINTS": "folder", "TRIMTAB_CHECKPOINTS_KEY_ID": "x"}, "TRIMTAB_CHECKPOINTS_KEY_ID says nothing"),
        ({"TRIMTAB_CHECKPOINTS": "s3://a/b", "TRIMTAB_CHECKPOINTS_KEY_ID": "x"}, "go together"),
        ({"TRIMTAB_CHECKPOINTS": "s3://a/b", "TRIMTAB_CHECKPOINTS_ENDPOINT": "store:9000"}, "is no address"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changed: dict[str, str], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        from_environment(changed)


def test_the_secret_key_is_a_secret(settings: Settings) -> None:
    assert "a secret key" in settings.secrets()
    assert "a secret key" not in repr(settings)


def test_another_folder_may_be_named(tmp_path: Path) -> None:
    there = checkpoints_of(from_environment({"TRIMTAB_CHECKPOINTS": str(tmp_path / "there"), "TRIMTAB_DATA": str(tmp_path)}))
    write(there, 7)
    assert [p.name for p in (tmp_path / "there").iterdir()] == [f"0-{7:020d}.checkpoint"]
