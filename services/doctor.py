"""What stands in the way of a folder's being used, a line a check: ok, warn or FAIL, and what to do. Reads only, and needs no Trimtab to run.

A FAIL is what a start would refuse, or what would lose or alter something; a warn is what will become one, or what somebody should know.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx2
from alembic.script import ScriptDirectory

from services.actions.ledger.chain import Broken, Entry, Head, verify
from services.adapters.clock import SystemClock
from services.adapters.db.migrate import MIGRATIONS
from services.adapters.log.codec import EVENTS
from services.adapters.settings import Settings, from_environment
from services.backup import CHECKPOINTS, DATABASES, SECRETS, UNFINISHED, faults_of, reading
from services.kernel.errors import Misconfigured
from services.kernel.record import Clock, Stamped
from services.rules_engine.checkpoint import Checkpoints, Header, Unusable, mark
from services.rules_engine.checkpoint import verify as verify_checkpoint
from services.rules_engine.core.state import STATE
from services.rules_engine.worker import SKEW

OK, WARN, FAIL = "ok", "warn", "FAIL"
SECOND, GB = 1_000_000, 1 << 30
SCARCE, SHORT = GB // 10, GB  # bytes free
FAR_BEHIND = 2_000_000  # records that a start would fold without a checkpoint


@dataclass(frozen=True, slots=True)
class Line:
    level: str
    name: str
    text: str
    mend: str = ""


def examine(environment: Mapping[str, str]) -> Iterator[Line]:
    """Every check in turn; one that cannot be made is a FAIL of its own, and the others go on."""
    try:
        settings = from_environment(environment)
    except Misconfigured as error:
        yield Line(FAIL, "settings", str(error), "correct the variables that it names; docs/settings.md lists all")
        return
    yield Line(OK, "settings", f"data in {settings.data}, workspace {settings.workspace}")
    if not (settings.data / "events.db").exists():
        yield Line(FAIL, "folder", f"{settings.data} holds no Trimtab", "name its folder with TRIMTAB_DATA, or begin one with `trimtab up`")
        return
    checks: tuple[tuple[str, Callable[[Settings], Iterator[Line]]], ...] = (
        ("folder", folder), ("space", space), ("lock", lock), ("secrets", secrets), ("files", files), ("schema", schema), ("clock", clock),
        ("log", log), ("decisions", decisions), ("checkpoints", checkpoints), ("ledger", ledger),
    )  # fmt: skip
    for name, check in checks:
        try:
            yield from check(settings)
        except (OSError, sqlite3.Error) as error:
            yield Line(FAIL, name, str(error), "see the other lines: what they name must be mended first")


def folder(settings: Settings) -> Iterator[Line]:
    """Ours alone to write."""
    path = settings.data
    if (path / UNFINISHED).exists():
        yield Line(FAIL, "folder", "a restore into it was not finished", "empty it and restore again")
    unwritable = [p.name or str(p) for p in (path, *(path / n for n in DATABASES)) if p.exists() and not is_writable(p)]
    mode = stat.S_IMODE(path.stat().st_mode)
    if unwritable:
        yield Line(FAIL, "folder", f"not writable: {', '.join(unwritable)}", f"give {whoami()} the right to write there, or mount it for writing")
    elif mode & 0o022:
        yield Line(WARN, "folder", f"others may write into {path} (mode {mode:o})", f"chmod go-w {path}")
    else:
        yield Line(OK, "folder", f"{path} (mode {mode:o})")


def space(settings: Settings) -> Iterator[Line]:
    free = shutil.disk_usage(settings.data).free
    level = FAIL if free < SCARCE else WARN if free < SHORT else OK
    yield Line(level, "space", f"{free / GB:.1f} GB free", "" if level == OK else "make room: with a full disk nothing is accepted and nothing decided")


def lock(settings: Settings) -> Iterator[Line]:
    path = settings.data / "lock"
    if not path.exists():
        yield Line(OK, "lock", "nobody uses the folder")
        return
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            owner = file.read().strip() or "?"
            yield from running(settings, owner)
            return
    yield Line(OK, "lock", "nobody uses the folder")


def running(settings: Settings, owner: str) -> Iterator[Line]:
    """What the process that uses the folder says of itself."""
    yield Line(OK, "lock", f"process {owner} uses the folder")
    where = settings.data / "url"
    if not where.exists():
        yield Line(WARN, "server", "it serves no pages yet, or none at all", "wait until `trimtab up` says where it is")
        return
    try:
        answer = httpx2.get(f"{where.read_text().strip()}/readyz", timeout=5, trust_env=False)
        why = answer.json()["why"]
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError) as error:
        yield Line(FAIL, "server", f"it does not answer: {error}", "look at its log; if it hangs, end it and start again: nothing acknowledged is lost")
        return
    if why:
        yield Line(FAIL, "server", f"not ready: {why}", "docs/operations.md, the runbook, has an entry for it")
    else:
        yield Line(OK, "server", "ready")


def secrets(settings: Settings) -> Iterator[Line]:
    path = settings.data / SECRETS[0]
    if not path.exists():
        yield Line(FAIL, "secrets", f"{path} is gone: no key and no session opens any more", "restore it from a backup")
    for name in SECRETS:
        kept = settings.data / name
        if kept.exists() and stat.S_IMODE(kept.stat().st_mode) & 0o077:
            mode = stat.S_IMODE(kept.stat().st_mode)
            yield Line(FAIL, "secrets", f"others may read {kept} (mode {mode:o})", f"chmod 600 {kept}, and make new keys if anyone did")
            return
    if path.exists():
        yield Line(OK, "secrets", "readable by their owner alone")


def files(settings: Settings) -> Iterator[Line]:
    """The pages of each file hold together, and it is written ahead."""
    for name in DATABASES:
        path = settings.data / name
        mend = "stop, keep a copy of the folder, and restore all of it from a backup; what came after it, senders may repeat"
        if not path.exists():
            again = "start: it is derived again" if name == "decisions.db" else mend
            yield Line(WARN if name == "decisions.db" else FAIL, name, "it is not there", again)
            continue
        if faults := faults_of(path):
            yield Line(FAIL, name, f"damaged: {'; '.join(faults)}", mend)
            continue
        with contextlib.closing(reading(path)) as file:
            (mode,) = file.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            yield Line(WARN, name, f"journal mode {mode}", "a start sets it to wal; on a network share that is refused: use a local disk")
        else:
            yield Line(OK, name, f"whole, {path.stat().st_size / (1 << 20):.1f} MB")


def schema(settings: Settings) -> Iterator[Line]:
    newest = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    with contextlib.closing(reading(settings.data / "trimtab.db")) as file:
        there = [version for (version,) in file.execute("SELECT version_num FROM alembic_version")]
    known = {s.revision for s in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    if there == [newest]:
        yield Line(OK, "schema", f"{newest}, the newest")
    elif set(there) <= known:
        yield Line(WARN, "schema", f"{', '.join(there) or 'none'}; this build's is {newest}", "the next start brings it there: take a backup first")
    else:
        yield Line(FAIL, "schema", f"{', '.join(there)} is of a newer build than this one", "start it with the build that wrote it, or a newer one")


def clock(settings: Settings) -> Iterator[Line]:
    with contextlib.closing(reading(settings.data / "events.db")) as file:
        (newest,) = file.execute("SELECT coalesce(max(stamp), 0) FROM records").fetchone()
        first = file.execute("SELECT data FROM records ORDER BY number LIMIT 1").fetchone()
    declared = EVENTS.decode(first[0]) if first else None
    if isinstance(declared, Clock) and declared.simulated:
        yield Line(OK, "clock", f"simulated, it stands at {instant(newest)}")
        return
    ahead = newest - SystemClock().now()
    mend = "compare this machine's clock with a time server; a stamp, once on the log, is engine time, and is waited for"
    if ahead > SKEW:
        yield Line(FAIL, "clock", f"the newest record is stamped {ahead / SECOND:.0f} s ahead of this machine's clock: the engine stops", mend)
    elif ahead > 0:
        yield Line(WARN, "clock", f"the newest record is stamped {ahead / SECOND:.3f} s ahead of this machine's clock", mend)
    else:
        yield Line(OK, "clock", f"the newest record is of {instant(newest)}" if newest else "no record yet")


def log(settings: Settings) -> Iterator[Line]:
    """From where to where it reaches, dense, and how far back a decision can be recomputed."""
    with contextlib.closing(reading(settings.data / "events.db")) as file:
        first, last, many, oldest = file.execute("SELECT min(number), max(number), count(*), min(stamp) FROM records WHERE partition = 0").fetchone()
    if many == 0:
        yield Line(OK, "log", "empty")
    elif many != last - first + 1:
        yield Line(FAIL, "log", f"{last - first + 1 - many} records between {first} and {last} are missing", "restore the folder from a backup")
    elif first > 0:
        mend = "keep the checkpoint that covers what came before; `trimtab replay` and explanations of the past reach no further back"
        yield Line(WARN, "log", f"records {first} to {last}: its beginning is gone, it reaches back to {instant(oldest)}", mend)
    else:
        yield Line(OK, "log", f"records 0 to {last}, back to {instant(oldest)}: all of it can be replayed")


def decisions(settings: Settings) -> Iterator[Line]:
    """The inbox has read no more than the log of decisions holds."""
    with contextlib.closing(reading(settings.data / "decisions.db")) as file:
        (there,) = file.execute("SELECT count(*) FROM records WHERE partition = 0").fetchone()
    with contextlib.closing(reading(settings.data / "trimtab.db")) as file:
        row = file.execute('SELECT "offset" FROM offsets WHERE log = ? AND partition = 0', ("decisions",)).fetchone()
    taken = int(row[0]) if row else 0
    if taken > there:
        mend = "start: what is missing is derived again from events.db; if that does not mend it, restore the folder from a backup"
        yield Line(WARN, "decisions", f"{there} on the log, and {taken} were taken in: the log of decisions is older than the database", mend)
    else:
        yield Line(OK, "decisions", f"{there}, {there - taken} of them to be taken in")


def checkpoints(settings: Settings) -> Iterator[Line]:
    with contextlib.closing(reading(settings.data / "events.db")) as file:
        first, last = file.execute("SELECT coalesce(min(number), 0), coalesce(max(number), -1) FROM records WHERE partition = 0").fetchone()
        usable, faults = usable_checkpoint(settings, file, first, last)
    yield from faults
    behind = last + 1 - (usable.offset if usable else first)
    if any(f.level == FAIL for f in faults):
        return
    if usable is None and first > 0:
        mend = "restore the whole log, or a checkpoint, from a backup: until then a start is refused"
        yield Line(FAIL, "checkpoints", f"none covers the records before {first}, and they are gone", mend)
    elif usable is None:
        yield Line(WARN if behind > FAR_BEHIND else OK, "checkpoints", f"none: a start folds all {behind} records")
    else:
        age = f"of {instant(usable.at)}, {behind} records behind the log"
        yield Line(WARN if behind > FAR_BEHIND else OK, "checkpoints", f"the newest that is valid is {age}")


def usable_checkpoint(settings: Settings, file: sqlite3.Connection, first: int, last: int) -> tuple[Header | None, list[Line]]:
    """The newest that a start would go on from, and what is to be said about newer ones."""
    faults = []
    for kept in Checkpoints(settings.data / CHECKPOINTS).every(0):
        try:
            header = verify_checkpoint(kept.path)
        except (OSError, Unusable) as error:
            faults.append(Line(WARN, "checkpoints", f"{kept.path.name}: {error}", "a start passes it over; delete it"))
            continue
        if header.state != STATE:
            faults.append(Line(WARN, "checkpoints", f"{kept.path.name} is of form {header.state}, this build's is {STATE}", "a start passes it over"))
        elif header.offset < first:
            faults.append(Line(WARN, "checkpoints", f"{kept.path.name}: the log begins after it", "delete it"))
        elif header.offset > last + 1 or not is_marked(file, header):
            mend = "restore the log that belongs to this folder: a start is refused"
            faults.append(Line(FAIL, "checkpoints", f"{kept.path.name} was not taken of this log, or the log has lost records", mend))
            return None, faults
        else:
            return header, faults
    return None, faults


def is_marked(file: sqlite3.Connection, header: Header) -> bool:
    """Whether the record before the checkpoint is the one that it was taken after, where it is still there."""
    offset = header.offset - 1
    row = file.execute("SELECT stamp, data FROM records WHERE partition = 0 AND number = ?", (offset,)).fetchone()
    if row is None:
        return True
    stamped = Stamped(offset, row[0], EVENTS.decode(row[1]))
    return header.last in (mark(stamped), mark(stamped, frozenset({offset})))


def ledger(settings: Settings) -> Iterator[Line]:
    """Every workspace's chain holds to its head."""
    with contextlib.closing(reading(settings.data / "trimtab.db")) as file:
        heads = [Head(*row) for row in file.execute("SELECT workspace, sequence, hash FROM ledger_heads ORDER BY workspace")]
        for head in heads:
            columns = 'SELECT workspace, sequence, at, kind, subject, "by", body, previous, hash FROM ledger WHERE workspace = ? ORDER BY sequence'
            found = verify(head.workspace, (Entry(*row) for row in file.execute(columns, (head.workspace,))), head)
            if isinstance(found, Broken):
                mend = "somebody wrote to the file: keep a copy, compare with the last export kept elsewhere, treat it as an incident"
                yield Line(FAIL, "ledger", f"{head.workspace}: broken at entry {found.sequence}: {found.why}", mend)
            else:
                yield Line(OK, "ledger", f"{head.workspace}: {head.sequence} entries, head {head.hash[:16]}")
    if not heads:
        yield Line(OK, "ledger", "empty")


def is_writable(path: Path) -> bool:
    """Asked of the system, and of the mount that it lies on: the superuser may, where the file system may not."""
    return os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY


def whoami() -> str:
    return f"user {os.geteuid()}"


def instant(micros: int) -> str:
    return datetime.fromtimestamp(micros / SECOND, UTC).isoformat(timespec="seconds")
