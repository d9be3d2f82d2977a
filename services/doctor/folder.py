"""What stands in the way of a data folder's being used."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
from alembic.script import ScriptDirectory

from services.actions.ledger.chain import Broken, Entry, Head, verify
from services.adapters.clock import SystemClock, instant
from services.adapters.db.migrate import MIGRATIONS
from services.adapters.log.archive import Archive, Registered, begins, first_record, registered, unlinked
from services.adapters.log.codec import EVENTS
from services.adapters.log.lock import holder
from services.adapters.settings import Settings
from services.backup import DATABASES, SECRETS, UNFINISHED, faults_of, reading
from services.doctor.checkpoints import Found, judged, newest, reach_of
from services.doctor.line import FAIL, OK, SECOND, TAMPERED, WARN, Line
from services.kernel.errors import Unavailable
from services.kernel.record import Clock, Record, Stamped
from services.rules_engine.bucket import checkpoints_of
from services.rules_engine.worker import SKEW

GB = 1 << 30
SCARCE, SHORT = GB // 10, GB  # bytes free
LEAP = 86_400 * SECOND


def examined(settings: Settings) -> Iterator[Line]:
    """Every check in turn; one that cannot be made is a FAIL of its own, and the others go on."""
    if not (settings.data / "events.db").exists():
        yield Line(FAIL, "folder", f"{settings.data} holds no Trimtab", "name its folder with TRIMTAB_DATA, or begin one with `trimtab up`")
        return
    checks: tuple[tuple[str, Callable[[Settings], Iterator[Line]]], ...] = (
        ("folder", folder), ("space", space), ("lock", lock), ("secrets", secrets), ("files", files), ("schema", schema), ("clock", clock),
        ("log", log), ("archive", archive), ("decisions", decisions), ("checkpoints", checkpoints), ("ledger", ledger),
    )  # fmt: skip
    for name, check in checks:
        if settings.database and check in (schema, decisions, ledger):
            continue
        try:
            yield from check(settings)
        except (OSError, sqlite3.Error, Unavailable) as error:
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
    if owner := holder(settings.data):
        yield from running(settings, owner)
    else:
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
    if settings.database:
        mend = "`trimtab audit verify` walks its ledger; docs/postgres.md says how to watch it"
        yield Line(WARN, "database", "it is a PostgreSQL, which is not looked into here", mend)
    for name in DATABASES[1:] if settings.database else DATABASES:
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
    first = first_record(settings.data / "events.db", settings.archive_folder)
    declared = EVENTS.decode(first) if first else None
    if isinstance(declared, Clock) and declared.simulated:
        yield Line(OK, "clock", f"simulated, it stands at {instant(newest)}")
        return
    ahead = newest - SystemClock().now()
    mend = "compare this machine's clock with a time server; a stamp, once on the log, is engine time, and is waited for"
    if ahead > SKEW:
        yield Line(FAIL, "clock", f"the newest record is stamped {ahead / SECOND:.0f} s ahead of this machine's clock: the engine stops", mend)
    elif ahead > 0:
        yield Line(WARN, "clock", f"the newest record is stamped {ahead / SECOND:.3f} s ahead of this machine's clock", mend)
    elif newest and -ahead > LEAP:
        text = f"the newest record is of {instant(newest)}: nothing was recorded for {-ahead / LEAP:.1f} days, or this machine's clock is ahead by as much"
        yield Line(WARN, "clock", text, "compare this machine's clock with a time server before a start: a stamp is never taken back")
    else:
        yield Line(OK, "clock", f"the newest record is of {instant(newest)}" if newest else "no record yet")


def log(settings: Settings) -> Iterator[Line]:
    """From where to where it reaches, dense, and how far back a decision can be recomputed."""
    with contextlib.closing(reading(settings.data / "events.db")) as file:
        first, last, many, oldest = file.execute("SELECT min(number), max(number), count(*), min(stamp) FROM records WHERE partition = 0").fetchone()
        segments = registered(file)
    reach = Archive(settings.archive_folder).reach(segments, first or 0)
    oldest = next((r.segment.oldest for r in segments if r.segment.first == reach < first), oldest) if many else 0
    if many == 0:
        yield Line(OK, "log", "empty")
    elif many != last - first + 1:
        yield Line(FAIL, "log", f"{last - first + 1 - many} records between {first} and {last} are missing", "restore the folder from a backup")
    elif reach > 0:
        mend = "bring the missing files of the archive back, or name its folder with TRIMTAB_ARCHIVE, and everything can be; until then keep the checkpoints"
        archived = f", and in the archive from {reach} on" if reach < first else ""
        how_far = reach_of([checkpoints_of(settings)], 0, reach)
        yield Line(WARN, "log", f"records {first} to {last}{archived}, back to {instant(oldest)}: its beginning is gone, and {how_far}", mend)
    elif first > 0:
        yield Line(OK, "log", f"records {first} to {last}, and in the archive 0 to {first - 1}, back to {instant(oldest)}: all of it can be replayed")
    else:
        yield Line(OK, "log", f"records 0 to {last}, back to {instant(oldest)}: all of it can be replayed")


def archive(settings: Settings) -> Iterator[Line]:
    """Every segment that was archived is a file that holds, and follows the one before."""
    with contextlib.closing(reading(settings.data / "events.db")) as file:
        live, segments = begins(file), registered(file)
    held, altered, faults = Archive(settings.archive_folder), unlinked(segments), 0
    gone: list[Registered] = []  # from the first on
    for f in altered:
        mend = "somebody wrote to the file: keep a copy of the folder, and compare with a backup"
        yield Line(FAIL, "archive", f"records {f.segment.first} to {f.segment.last}: {f.why}", mend)
    for r in segments:
        is_pruned, where = r.segment.first < live, settings.archive_folder / r.file
        if not r.file or r.segment in [f.segment for f in altered] or (fault := held.fault(r)) is None:
            continue
        faults += 1
        if is_pruned and not where.exists() and segments[len(gone)] == r:
            gone.append(r)
        elif is_pruned:
            mend = "restore that file from a backup: nothing else holds these records"
            yield Line(FAIL, "archive", f"{where}: {fault.why}; records {r.segment.first} to {r.segment.last} cannot be read", mend)
        else:
            yield Line(WARN, "archive", f"{where}: {fault.why}", "`trimtab log archive --mend` writes it again from the live log")
    if gone:
        last = gone[-1].segment.last
        mend = "bring them back, or name the archive's folder with TRIMTAB_ARCHIVE; a start without a valid checkpoint is refused until then"
        yield Line(WARN, "archive", f"the files of records {gone[0].segment.first} to {last} are not in {settings.archive_folder}", mend)
    waiting = [r for r in segments if not r.file]
    if waiting:
        text = f"records {waiting[0].segment.first} to {waiting[-1].segment.last} are sealed and not archived yet"
        yield Line(WARN, "archive", text, "a running Trimtab does it within minutes, or its log says why not; `trimtab log archive` does it now")
    elif not faults and not altered:
        size = sum(r.packed for r in segments) / (1 << 20)
        yield Line(OK, "archive", f"{len(segments)} segments, {size:.1f} MB, all hold" if segments else "no segment is due yet")


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
        live, _ = ends(file)
        first = Archive(settings.archive_folder).reach(registered(file), live)
        found = newest([checkpoints_of(settings)], 0, first)
        _, end = ends(file)  # asked for later: meanwhile both may have grown
        yield from judged(found, first, end, before(file, found), settings.checkpoints or str(settings.checkpoints_folder))


def ends(file: sqlite3.Connection) -> tuple[int, int]:
    """(the first record that is there, the next that will be)."""
    first, end = file.execute("SELECT coalesce(min(number), 0), coalesce(max(number), -1) + 1 FROM records WHERE partition = 0").fetchone()
    return first, end


def before(file: sqlite3.Connection, found: Found) -> Stamped[Record] | None:
    """The record that the checkpoint was taken after, None where it is not there any more."""
    offset = found.header.offset - 1 if found.header else -1
    row = file.execute("SELECT stamp, data FROM records WHERE partition = 0 AND number = ?", (offset,)).fetchone()
    return None if row is None else Stamped(offset, row[0], EVENTS.decode(row[1]))


def ledger(settings: Settings) -> Iterator[Line]:
    """Every workspace's chain holds to its head."""
    with contextlib.closing(reading(settings.data / "trimtab.db")) as file:
        heads = [Head(*row) for row in file.execute("SELECT workspace, sequence, hash FROM ledger_heads ORDER BY workspace")]
        for head in heads:
            columns = 'SELECT workspace, sequence, at, kind, subject, "by", body, previous, hash FROM ledger WHERE workspace = ? ORDER BY sequence'
            found = verify(head.workspace, (Entry(*row) for row in file.execute(columns, (head.workspace,))), head)
            if isinstance(found, Broken):
                yield Line(FAIL, "ledger", f"{head.workspace}: broken at entry {found.sequence}: {found.why}", TAMPERED)
            else:
                yield Line(OK, "ledger", f"{head.workspace}: {head.sequence} entries, head {head.hash[:16]}")
    if not heads:
        yield Line(OK, "ledger", "empty")


def is_writable(path: Path) -> bool:
    """Asked of the system, and of the mount that it lies on: the superuser may, where the file system may not."""
    return os.access(path, os.W_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY


def whoami() -> str:
    return f"user {os.geteuid()}"
