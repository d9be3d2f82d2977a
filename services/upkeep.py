"""What an operator does at the command line: look at checkpoints, pass over a poisoned record, check a folder, copy it, make one of a copy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from services.adapters.settings import from_environment
from services.client import client

checkpoint = typer.Typer(no_args_is_help=True, help="The engine's saved states, in the data folder.")
partition = typer.Typer(no_args_is_help=True, help="The engine's partition of the log.")
MB = 1 << 20


def install(app: typer.Typer) -> None:
    """`app` has these commands from now on."""
    app.command()(doctor)
    app.command()(backup)
    app.command()(restore)
    app.add_typer(checkpoint, name="checkpoint")
    app.add_typer(partition, name="partition")


def data() -> Path:
    return from_environment(os.environ).data


@checkpoint.command("list")
def list_checkpoints() -> None:
    """Prints the checkpoints, newest first: next record, decisions before it, engine time, size, build. Reads their headers only."""
    from services.__main__ import instant
    from services.rules_engine.checkpoint import Checkpoints

    for k in Checkpoints(data() / "checkpoints").every():
        if k.header is None:
            typer.echo(f"record {k.offset:>12}  UNUSABLE: {k.why}  {k.path.name}")
            continue
        h = k.header
        told = f"{h.decisions} decisions  engine time {instant(h.engine_time)}  {k.size / MB:.1f} MB  build {h.build}, form {h.state}"
        typer.echo(f"record {h.offset:>12}  {told}  {k.path.name}")


@checkpoint.command("verify")
def verify_checkpoints() -> None:
    """Reads every checkpoint whole and checks its hash; ends with 1 where one is damaged."""
    from services.rules_engine.checkpoint import Checkpoints, Unusable, verify
    from services.rules_engine.core.state import STATE

    damaged = 0
    for k in Checkpoints(data() / "checkpoints").every():
        try:
            form = verify(k.path).state
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
    """Checks the data folder and says what to mend, a line a check, whether or not a Trimtab runs on it; ends with 1 where something must be mended."""
    from services.doctor import FAIL, examine

    found = []
    for line in examine(os.environ):
        found.append(line.level)
        typer.echo(f"{line.level:4}  {line.name:12}  {line.text}")
        if line.mend:
            typer.echo(f"{'':20}{line.mend}")
    raise typer.Exit(int(FAIL in found))


def backup(folder: Annotated[Path, typer.Argument(help="an empty folder, or one that is not there yet")]) -> None:
    """Copies the data folder whole, whether or not a Trimtab runs on it."""
    from services.backup import backup as copy

    made = copy(data(), folder)
    typer.echo(f"{folder} holds {made.records} records, {made.decisions} decisions, {made.checkpoints} checkpoints, and the secrets: keep it as you keep them")


def restore(folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="a backup")]) -> None:
    """Makes the (empty) data folder of a backup; what was under way when it was taken is held when Trimtab starts."""
    from services.backup import restore as make

    where = data()
    made = make(folder, where)
    typer.echo(f"{where} holds {made.records} records, {made.decisions} decisions, {made.checkpoints} checkpoints; start it with `trimtab up`")
    typer.echo("Senders may repeat what came after the backup: what the log knows counts once.")
