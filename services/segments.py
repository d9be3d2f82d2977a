"""`trimtab log`: the segments of the events log, from the data folder, whether or not a Trimtab runs on it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from services import tail
from services.adapters.clock import instant
from services.adapters.settings import Settings, from_environment
from services.kernel.errors import Misconfigured

if TYPE_CHECKING:
    from services.adapters.log.keeper import Keeper, Step, Told
    from services.adapters.log.shelf import Shelf

app = typer.Typer(no_args_is_help=True, help="The log: its newest records; its segments, sealed, archived, pruned; its topics on Kafka.")
tail.install(app)
MB = 1 << 20
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")]


def settings() -> Settings:
    wanted = from_environment(os.environ)
    if wanted.kafka:
        raise Misconfigured(
            "TRIMTAB_KAFKA is set: Kafka keeps the log by itself, see `trimtab log topics`; its topics are archived by `trimtab serve rules`, "
            "where TRIMTAB_ARCHIVE says"
        )
    if not (wanted.data / "events.db").exists():
        raise Misconfigured(f"{wanted.data} holds no Trimtab: name its folder with TRIMTAB_DATA")
    return wanted


@app.command("segments")
def list_segments() -> None:
    """Prints every segment in order: its records, from when to when, its size, whether it is sealed, archived or pruned, its file."""
    if shelves := shelves_of(from_environment(os.environ)):
        list_shelved(shelves)
        return
    from services.adapters.log.archive import begins, registered
    from services.backup import reading

    with closing(reading(settings().data / "events.db")) as file:
        live, segments = begins(file), registered(file)
        (last,) = file.execute("SELECT coalesce(max(number), -1) FROM records WHERE partition = 0").fetchone()
    for r in segments:
        s = r.segment
        state = "sealed" if not r.file else "archived" if s.last >= live else "pruned"
        size = f"{s.size / MB:.1f} MB" + (f" as {r.packed / MB:.1f}" if r.file else "")
        typer.echo(f"records {s.first:>10} to {s.last:>10}  {instant(s.oldest)} to {instant(s.newest)}  {size}  {state:8}  {r.file}".rstrip())
    open_ = segments[-1].segment.last + 1 if segments else live
    typer.echo(f"records {open_:>10} to {last:>10}  open" if last >= open_ else "no record is open")


@app.command()
def archive(
    dry_run: DryRun = False,
    mend: Annotated[bool, typer.Option("--mend", help="read every file of segments that still live, and write again what does not hold")] = False,
) -> None:
    """Seals what is old or large enough, and writes every sealed segment to the archive, read back from the disk."""
    from services.adapters.log.keeper import Step

    with working() as (keeper, now):
        if dry_run:
            tell((Step("sealed and archived", s) for s in keeper.due(now())), "would be ")
            return
        tell(chain(keeper.seal(now()), keeper.store(), keeper.mend() if mend else ()))


@app.command()
def prune(
    dry_run: DryRun = False,
    older_than: Annotated[float | None, typer.Option(min=0, help="days, in place of TRIMTAB_LOG_LIVE_DAYS")] = None,
) -> None:
    """Takes from the live log what is archived, holds when read back, is old enough, and lies below every checkpoint. The archive stays."""
    from services.rules_engine.bucket import checkpoints_of

    floor = checkpoints_of(settings()).floor
    with working(older_than) as (keeper, now):
        tell(keeper.old(now(), floor) if dry_run else keeper.prune(now(), floor), "would be " if dry_run else "")


@app.command()
def verify() -> None:
    """Reads every archived segment whole, checks its hashes and the chain; ends with 1 where anything does not hold."""
    if shelves := shelves_of(from_environment(os.environ)):
        verify_shelved(shelves)
        return
    from services.adapters.log.archive import Archive, registered, unlinked
    from services.backup import reading

    wanted = settings()
    with closing(reading(wanted.data / "events.db")) as file:
        segments = registered(file)
    held, faults = Archive(wanted.archive_folder), unlinked(segments)
    with progress() as told:
        for number, r in enumerate(segments):
            faults += [f for f in (held.fault(r),) if r.file and f is not None]
            told("verifying", number + 1, len(segments))
    for f in faults:
        typer.echo(f"records {f.segment.first} to {f.segment.last}: DAMAGED: {f.why}  {f.file}")
    whole = sum(bool(r.file) for r in segments) - len({f.file for f in faults if f.file})
    typer.echo(f"{whole} of {len(segments)} segments are archived and hold" + (f", link {segments[-1].link}" if segments and not faults else ""))
    raise typer.Exit(int(bool(faults)))


def shelves_of(wanted: Settings) -> list[tuple[Shelf, int]]:
    """The archive of each of Kafka's topics, with how many partitions it has; none where the log is in a folder, or there is no archive."""
    if not (wanted.kafka and wanted.archive):
        return []
    from services.adapters.log.shelf import shelf_of

    return [(shelf_of(wanted, f"{wanted.kafka_prefix}.{which.value}"), wanted.kafka_partitions) for which in (tail.Which.EVENTS, tail.Which.DECISIONS)]


def list_shelved(shelves: list[tuple[Shelf, int]]) -> None:

    for shelf, partitions in shelves:
        for number in range(partitions):
            for r in shelf.every(number):
                about = f"{instant(r.segment.oldest)} to {instant(r.segment.newest)}  {r.segment.size / MB:.1f} MB" if r.segment else f"DAMAGED: {r.why}"
                typer.echo(f"{shelf.topic}-{number}  records {r.first:>10} to {r.last:>10}  {about} as {r.blob.size / MB:.1f}  {r.blob.name}")


def verify_shelved(shelves: list[tuple[Shelf, int]]) -> None:
    from services.adapters.log.segment import Damaged, Segment

    held, faults = 0, 0
    for shelf, partitions in shelves:
        for number in range(partitions):
            before: Segment | None = None
            for r in shelf.every(number):
                where, why = f"{shelf.topic}-{number} records {r.first} to {r.last}", ""
                if before is not None and r.first > before.last + 1:
                    faults += 1
                    typer.echo(f"{shelf.topic}-{number} records {before.last + 1} to {r.first - 1}: NOT THERE: no segment holds them")
                try:
                    file = shelf.verified(r.blob)
                    file.path.unlink()
                    if before is not None and file.segment.previous != before.link:
                        why = "it does not follow the segment before it"
                    before = file.segment
                except (Damaged, FileNotFoundError) as error:
                    why, before = str(error), None
                if why:
                    typer.echo(f"{where}: DAMAGED: {why}  {r.blob.name}")
                held, faults = held + (not why), faults + bool(why)
    typer.echo(f"{held} segments hold" + (f", {faults} faults" if faults else ""))
    raise typer.Exit(int(faults > 0))


def tell(steps: Iterable[Step], would: str = "") -> None:
    any_ = False
    for step in steps:
        any_ = True
        what = f"stay: {step.stays}" if step.stays else f"{would}{step.what}"
        size = f"{step.segment.size / MB:.1f} MB" + (f" as {step.packed / MB:.1f}" if step.packed else "")
        typer.echo(f"records {step.segment.first} to {step.segment.last} ({size}) {what}  {step.file}".rstrip())
    if not any_:
        typer.echo("nothing is due")


@contextmanager
def working(live_days: float | None = None) -> Iterator[tuple[Keeper, Callable[[], int]]]:
    """The keeper of the events log, with a bar of progress, and the log's clock."""
    from services.adapters.log.keeper import Keeper
    from services.backup import now_of
    from services.keeping import policy_of

    wanted = settings()
    if live_days is not None:
        wanted = wanted.model_copy(update={"log_live_days": live_days})
    events = wanted.data / "events.db"
    with progress() as told:
        try:
            yield Keeper(events, wanted.archive_folder, policy_of(wanted), told=told), lambda: now_of(events, wanted.archive_folder)
        except sqlite3.Error as error:
            raise Misconfigured(f"{events} cannot be read: {error}; see `trimtab doctor`") from error


@contextmanager
def progress() -> Iterator[Told]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    screen = Console(stderr=True)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=screen, transient=True, disable=not screen.is_terminal)
    with bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
