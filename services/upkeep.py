"""What an operator does at the command line: look at checkpoints, pass over a poisoned record, check a folder, copy it, make one of a copy."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from services import segments
from services.adapters.clock import instant
from services.adapters.settings import Settings, from_environment
from services.client import client
from services.kernel.errors import Misconfigured

checkpoint = typer.Typer(no_args_is_help=True, help="The engine's saved states, in the data folder.")
partition = typer.Typer(no_args_is_help=True, help="The engine's partition of the log.")
MB = 1 << 20


def install(app: typer.Typer) -> None:
    """`app` has these commands from now on."""
    app.command()(doctor)
    app.command()(migrate)
    app.command()(backup)
    app.command()(restore)
    app.add_typer(checkpoint, name="checkpoint")
    app.add_typer(segments.app, name="log")
    app.add_typer(partition, name="partition")


def data() -> Path:
    return from_environment(os.environ).data


@checkpoint.command("list")
def list_checkpoints() -> None:
    """Prints the checkpoints, newest first: next record, decisions before it, engine time, size, build. Reads their headers only."""
    from services.rules_engine.bucket import checkpoints_of

    kept = checkpoints_of(from_environment(os.environ)).every()
    if not kept:
        typer.echo("none")
    for k in kept:
        if k.header is None:
            typer.echo(f"record {k.offset:>12}  UNUSABLE: {k.why}  {k.path.name}")
            continue
        h = k.header
        told = f"{h.decisions} decisions  engine time {instant(h.engine_time)}  {k.size / MB:.1f} MB  build {h.build}, form {h.state}"
        typer.echo(f"record {h.offset:>12}  {told}  {k.path.name}")


@checkpoint.command("verify")
def verify_checkpoints() -> None:
    """Reads every checkpoint whole and checks its hash; ends with 1 where one is damaged."""
    from services.rules_engine.bucket import checkpoints_of
    from services.rules_engine.checkpoint import Unusable
    from services.rules_engine.core.state import STATE

    damaged = 0
    kept = checkpoints_of(from_environment(os.environ))
    every = kept.every()
    if not every:
        typer.echo("none")
    for k in every:
        try:
            form = kept.verify(k).state
            told = "holds" if form == STATE else f"holds, of form {form}: this build rebuilds the state from the log"
        except (OSError, Unusable) as error:
            damaged, told = damaged + 1, f"DAMAGED: {error}"
        typer.echo(f"{k.path.name}: {told}")
    raise typer.Exit(int(damaged > 0))


@partition.command()
def skip(offset: int, reason: Annotated[str, typer.Option(help="why, for everyone who reads it later")]) -> None:
    """Passes over the record at which the partition stopped, now and in every replay: the log says so for ever."""
    stands = client().post("/v1/partition/skip", {"offset": offset, "reason": reason})
    typer.echo(f"record {offset} is skipped; the engine {'STOPPED: ' + stands['stopped'] if stands['stopped'] else 'runs'}, record {stands['offset']}")
    raise typer.Exit(int(bool(stands["stopped"])))


def doctor() -> None:
    """Checks the data folder, or what production stands on, running or not, a line a check, and says what to mend; ends with 1 where something must be."""
    from services.doctor import FAIL, examine

    found = []
    for line in examine(os.environ):
        found.append(line.level)
        typer.echo(f"{line.level:4}  {line.name:12}  {line.text}")
        if line.mend:
            typer.echo(f"{'':20}{line.mend}")
    raise typer.Exit(int(FAIL in found))


def migrate() -> None:
    """Brings the database's schema to what this build needs, as its owner where services may not change it; ends with 2 where it cannot."""
    from services.adapters.db.database import Database
    from services.adapters.db.migrate import migrate as bring

    wanted = from_environment(os.environ).with_database()

    async def run() -> str:
        wanted.data.mkdir(parents=True, exist_ok=True)
        database = Database(wanted.database_address, wanted.database_password)
        try:
            await bring(database)
        finally:
            await database.close()
        return database.place

    typer.echo(f"the schema of {asyncio.run(run())} is this build's")


def with_its_database(wanted: Settings) -> Settings:
    """The settings, where all there is lies in the data folder."""
    if wanted.database:
        raise Misconfigured("the database is a PostgreSQL, and this copies folders only: docs/postgres.md says how to back it up and restore it")
    return wanted


def backup(
    folder: Annotated[Path, typer.Argument(help="an empty folder, or one that is not there yet")],
    archive: Annotated[bool, typer.Option(help="with the log's archived segments; without them the backup needs that archive beside it")] = True,
) -> None:
    """Copies the data folder whole, whether or not a Trimtab runs on it."""
    from services.backup import backup as copy

    wanted = with_its_database(from_environment(os.environ))
    made = copy(wanted.data, folder, wanted.archive_folder, archive)
    held = f"{made.records} records, {made.decisions} decisions, {made.checkpoints} checkpoints, {made.segments} archived segments"
    typer.echo(f"{folder} holds {held}, and the secrets: keep it as you keep them")


def restore(folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="a backup")]) -> None:
    """Makes the (empty) data folder of a backup; what was under way when it was taken is held when Trimtab starts."""
    from services.backup import restore as make

    wanted = with_its_database(from_environment(os.environ))
    where = wanted.data
    made = make(folder, where, wanted.archive_folder)
    typer.echo(f"{where} holds {made.records} records, {made.decisions} decisions, {made.checkpoints} checkpoints; start it with `trimtab up`")
    typer.echo("Senders may repeat what came after the backup: what the log knows counts once.")
