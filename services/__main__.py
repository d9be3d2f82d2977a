"""The `trimtab` command."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services import VERSION, people, running, upkeep
from services.adapters.clock import instant
from services.adapters.settings import Settings, from_environment
from services.client import Client, Refused, client
from services.kernel.errors import Misconfigured, RejectedInput, TrimtabError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Decisions on marketing that can be replayed and explained.", pretty_exceptions_enable=False)
rules = typer.Typer(no_args_is_help=True, help="Check, test, apply and switch rules.")
audit = typer.Typer(no_args_is_help=True, help="The ledger.")
guards_app = typer.Typer(no_args_is_help=True, help="The statistics behind the guards.")
app.add_typer(rules, name="rules")
app.add_typer(audit, name="audit")
app.add_typer(guards_app, name="guards")
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]


running.install(app)
people.install(app)
upkeep.install(app)


def show_version(wanted: bool) -> None:
    if wanted:
        say(f"trimtab {VERSION}")
        raise typer.Exit


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", help="print the version and end", is_eager=True, callback=show_version)] = False) -> None:
    """Decisions on marketing that can be replayed and explained."""


def settings() -> Settings:
    return from_environment(os.environ)


def say(text: str = "") -> None:
    typer.echo(text)


def text_of(file: Path) -> str:
    """A file's text, or one clear line."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RejectedInput(f"{file} cannot be read as UTF-8 text: {error}") from error


# -- running --------------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    exit: Annotated[bool, typer.Option("--exit", help="end instead of leaving the pages running; the last line is the figures as JSON")] = False,
    seed: Annotated[int, typer.Option(min=0, help="draws the order of the views")] = 1,
    production: Annotated[bool, typer.Option("--production", help="on the Kafka and PostgreSQL of the settings, with processes killed on the way")] = False,
) -> None:
    """Replays real A/B tests of real creatives through everything, on a simulated clock."""
    if production:
        from services.demo.production import main
    else:
        from services.demo.show import main

    raise typer.Exit(main(leave=not exit, seed=seed))


@app.command()
def login(name: str = "you", role: str = "admin") -> None:
    """Prints a one-time login link for the pages."""
    say(client().post("/v1/login-links", {"name": name, "role": role})["link"])


@app.command()
def key(
    name: str,
    role: str = "source",
    direct: Annotated[bool, typer.Option("--direct", help="straight into the database that the settings name, as an installation's first one")] = False,
) -> None:
    """Makes an API key (role: source, viewer, editor, reviewer or admin) and shows it this once."""
    if not direct:
        say(client().post("/v1/keys", {"name": name, "role": role})["key"])
        return
    from services.adapters.clock import SystemClock
    from services.adapters.db.database import Database
    from services.adapters.db.migrate import migrated
    from services.adapters.http.auth import Auth, given_secret

    wanted = settings().with_database()

    async def make() -> str:
        database = Database(wanted.database_address, wanted.database_password)
        try:
            await migrated(database)
            return await Auth(database, given_secret(wanted.secret), SystemClock()).issue_key(name, role, wanted.workspace)
        finally:
            await database.close()

    say(asyncio.run(make()))


@app.command()
def status() -> None:
    """Where the engine, the decisions and the ledger stand."""
    c = client()
    engine, overview = c.get("/v1/engine"), c.get("/v1/overview")
    stamp = "not begun" if not engine["engine_time"] else instant(engine["engine_time"])
    clock = " (simulated clock)" if engine["simulated"] else ""
    say(f"engine       {'STOPPED: ' + engine['stopped'] if engine['stopped'] else 'running'}, record {engine['offset']}, time {stamp}{clock}")
    say(f"objects      {engine['entities']}, events {counted(engine['events'])}")
    for r in engine["rules"]:
        say(f"rule         {r['rule']} ({r['mode']}, {r['version'][:8]}), {r['alive']} objects pending, on or waiting")
    say(f"decisions    {counted(overview['statuses'])}")
    say(f"escalations  {overview['waiting']} waiting")
    say(f"actions      {'held by TRIMTAB_ACTIONS=hold, ' if overview['holding'] else ''}{people.switch(overview['kill_switch'])}")
    at = overview["ledger"]
    state = f"BROKEN at entry {at['broken_at']}: {at['why']}" if at["broken_at"] else f"verified to entry {at['verified']}"
    say(f"ledger       {at['sequence']} entries, head {at['hash']}, {state}")
    try:
        for p in c.get("/v1/partitions")["partitions"]:
            say(people.partition(p))
    except Refused as refused:
        if refused.reason != "forbidden":  # it asks for an admin's key
            say(f"partitions   not known: {refused}")


@app.command()
def keys() -> None:
    """Lists the API keys: id, role, name, since when, and when it was taken back."""
    for k in client().get("/v1/keys")["keys"]:
        say(f"{k['id']}  {k['role']:8}  {k['name']}, since {instant(k['created_at'])}" + (f", REVOKED {instant(k['revoked_at'])}" if k["revoked_at"] else ""))


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="KEY", help="its id, what stands before the dot; `trimtab keys` lists them")]) -> None:
    """Takes an API key back: at once where it is asked, within seconds in every other process."""
    say(f"revoked {client().post(f'/v1/keys/{key_id}/revoke')['revoked']}")


def counted(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(numbers.items())) or "none"


@app.command("try")
def try_(
    pack: File,
    exports: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="an export, and where it has them the tables of names and statuses")],
    map: Annotated[list[str] | None, typer.Option(help="what a column means: --map date=Day --map spend=Cost")] = None,
) -> None:
    """Says before anything is switched on what a pack would do with an export: would act, hold, unknown, each with its reason."""
    from rich.console import Console

    from services.rules_engine.language.pack import guards, load_pack
    from services.tryout import render, tryout

    checked = load_pack(text_of(pack), str(pack))
    with Console(stderr=True).status("reading the export and replaying it ..."):
        outcome = asyncio.run(tryout(checked, exports, mapping(map), guards()))
    say(render(outcome))


@app.command()
def ingest(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    map: Annotated[list[str] | None, typer.Option(help="what a column means: --map date=Day --map spend=Cost")] = None,
    currency: str = "",
    account: str = "",
    time_zone: str = "UTC",
) -> None:
    """Ingests exports (CSV or JSON lines; the tables of Google Ads and Meta are known by their headers) into a running Trimtab."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    body = {"paths": [str(f.resolve()) for f in files], "map": mapping(map), "currency": currency, "account": account, "time_zone": time_zone}
    screen = Console(stderr=True)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=screen, transient=True, disable=not screen.is_terminal)
    failed = False
    with bar:
        task = bar.add_task("ingesting", total=None)
        for line in client().lines("/v1/imports", body):
            step = json.loads(line)
            if "error" in step:
                raise Refused(step["error"], reason=step["reason"])
            if "file" in step:
                say(f"{step['file']}: {step['rows']} rows ({step['shape']}), {step['accepted']} accepted, {step['quarantined']} quarantined")
                for p in step["first"]:
                    say(f"  {p['place'].replace('#/', ', ').rstrip('#')}: {p['reason']}: {p['detail']}")
                if len(step["first"]) < step["quarantined"]:
                    say("  ... see `trimtab quarantine`")
                failed = failed or bool(step["rows"] and not step["accepted"])
            else:
                bar.update(task, completed=step["done"], total=step["total"])
    raise typer.Exit(int(failed))


def mapping(pairs: list[str] | None) -> dict[str, str]:
    """name=column pairs."""
    made = {}
    for pair in pairs or []:
        name, equals, column = pair.partition("=")
        if not equals or not name or not column:
            raise Misconfigured(f"--map {pair} says nothing: write --map date=Day")
        made[name] = column
    return made


# -- rules ----------------------------------------------------------------------------------------------------------------


@rules.command()
def check(pack: File) -> None:
    """Checks a pack and points at what is wrong, like a compiler."""
    from services.rules_engine.language.pack import load_pack

    checked = load_pack(text_of(pack), str(pack))
    for r in checked.rules:
        say(f"{r.program.rule}  {r.program.version[:8]}  {len(r.tests)} tests")


@rules.command()
def test(pack: File) -> None:
    """Runs the tests that stand in a pack, on a simulated clock."""
    from services.rules_engine.language.pack import guards, load_pack
    from services.rules_engine.trial import run_tests

    results = run_tests(load_pack(text_of(pack), str(pack)), guards())
    for r in results:
        say(f"{'passed' if r.passed else 'FAILED'}  {r.rule}: {r.test}")
        for failure in r.failures:
            say(f"        {failure}")
    failed = sum(not r.passed for r in results)
    say(f"{len(results) - failed} of {len(results)} passed")
    raise typer.Exit(int(failed > 0))


@rules.command()
def apply(pack: File, shadow: bool = False) -> None:
    """Drafts a pack's rules, sets its targets and activates the rules (or runs them in shadow)."""
    body = {"pack": text_of(pack), "filename": str(pack)[-200:], "state": "shadow" if shadow else "active"}
    for r in client().post("/v1/rules/apply", body)["rules"]:
        say(f"{r['rule']}  v{r['number']} ({r['version'][:8]})  {r['state']}")


@rules.command("list")
def list_rules() -> None:
    """Every rule with its versions."""
    for r in client().get("/v1/rules")["rules"]:
        say(r["rule"])
        for v in r["versions"]:
            say(f"  v{v['number']}  {v['version'][:8]}  {v['state']:8}  {v['created_at'][:19]}  {v['by']}")


@rules.command()
def activate(rule: str, version: str = "", shadow: bool = False) -> None:
    """Makes a version (v3, or its hash; the newest by default) the active one."""
    v = client().post(f"/v1/rules/{rule}/activate", {"version": version, "state": "shadow" if shadow else "active"})
    say(f"{v['rule']}  v{v['number']} ({v['version'][:8]})  {v['state']}")


@rules.command()
def retire(rule: str) -> None:
    """Switches a rule off; says what it has decided before and has not ended yet."""
    c = client()
    c.post(f"/v1/rules/{rule}/retire")
    say(f"{rule} is retired")
    try:
        pending = [d for status in ("waiting", "executing", "parked") for d in c.get("/v1/decisions", rule=rule, status=status, limit=500)["decisions"]]
    except TrimtabError as error:
        say(f"whether anything that it decided is still to be carried out is not known: {error}")
        return
    if waiting := sum(not d["undoes"] for d in pending):
        many = f"{waiting} or more" if len(pending) >= 500 else waiting
        say(f"{many} of its decisions have not ended: trimtab cancel --rule {rule} --reason ... stops those of which nothing was sent")


@rules.command()
def rollback(rule: str) -> None:
    """Activates the version that was active before."""
    v = client().post(f"/v1/rules/{rule}/rollback")
    say(f"{v['rule']}  v{v['number']} ({v['version'][:8]})  {v['state']}")


# -- asking ---------------------------------------------------------------------------------------------------------------


@app.command()
def explain(name: str, rule: Annotated[str, typer.Argument()] = "", at: Annotated[str, typer.Option(help="as of an instant, RFC 3339")] = "") -> None:
    """Tells in words why an object (by name, platform id or path) was acted on or left alone, or why a decision (by id) was made."""
    for told in explained(client(), name, rule, at)["told"]:
        say("\n\n".join([told["title"], *told["paragraphs"]]) + "\n")


def explained(c: Client, name: str, rule: str, at: str) -> dict[str, Any]:
    """What is told of an object of this name, else of the decision whose id begins so."""
    try:
        return dict(c.get("/v1/explain", name=name, rule=rule, at=at))
    except Refused as refused:
        if refused.reason != "not_found" or rule or at or len(name) < 6 or not set(name) <= set("0123456789abcdef"):
            raise
        try:
            return {"told": [c.get("/v1/explain", decision=name)]}
        except Refused as other:
            raise (refused if other.reason == "not_found" else other) from None


@app.command()
def replay(decision: str) -> None:
    """Recomputes a decision from the log's beginning, or from a checkpoint where that is gone, and compares it bit for bit."""
    r = client().get(f"/v1/decisions/{decision}/replay")
    begun = f"the checkpoint at record {r['begun']}" if r["begun"] else "record 0"
    say(f"{r['id']}: {'identical' if r['identical'] else 'DIFFERENT'}, sha-256 {r['hash']}, from {begun}, after {r['records']} records")
    if r["begun"]:
        say(f"not from record 0: {r['why']}")
    raise typer.Exit(int(not r["identical"]))


@audit.command()
def verify(
    export: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False, help="an export to verify offline; the running ledger by default")] = None,
) -> None:
    """Walks the hash chain and names the first link that does not hold."""
    if export is not None:
        from services.actions.ledger.chain import Verified, verify_export

        with export.open(encoding="utf-8", errors="replace") as lines:
            found = verify_export(lines)
        if isinstance(found, Verified):
            say(f"holds: {found.head.sequence} entries, head {found.head.hash}")
        else:
            say(f"BROKEN at entry {found.sequence}: {found.why}")
        raise typer.Exit(int(not isinstance(found, Verified)))
    r = client().get("/v1/audit/verify")
    say(f"holds: {r['entries']} entries, head {r['head']}" if r["verified"] else f"BROKEN at entry {r['broken_at']}: {r['why']}")
    raise typer.Exit(int(not r["verified"]))


@audit.command()
def show(after: int = 0, limit: int = 50) -> None:
    """Prints ledger entries in order."""
    for e in client().get("/v1/audit", after=after, limit=limit)["entries"]:
        say(json.dumps(e, ensure_ascii=False))


@audit.command("export")
def export_ledger() -> None:
    """Prints the whole chain as JSON lines, which `trimtab audit verify FILE` checks offline."""
    say(client().text("/v1/audit/export").rstrip())


@guards_app.command("check")
def check_guards(file: File) -> None:
    """Checks the guards' formulas against a file of test vectors."""
    from services.rules_engine.vectors import check as check_vectors
    from services.rules_engine.vectors import read, render

    report = check_vectors(read(file.read_bytes(), str(file)))
    say(render(report))
    raise typer.Exit(int(not report.agrees))


def main() -> None:
    """One clear line for what the user can mend; a traceback only for what is ours."""
    try:
        app()
    except TrimtabError as error:
        print(str(error), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
