"""The `trimtab` command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.adapters.settings import Settings, from_environment
from services.kernel.errors import Misconfigured, TrimtabError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Decisions on marketing that can be replayed and explained.", pretty_exceptions_enable=False)
rules = typer.Typer(no_args_is_help=True, help="Check, test, apply and switch rules.")
audit = typer.Typer(no_args_is_help=True, help="The ledger.")
guards_app = typer.Typer(no_args_is_help=True, help="The statistics behind the guards.")
app.add_typer(rules, name="rules")
app.add_typer(audit, name="audit")
app.add_typer(guards_app, name="guards")
File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)]


def settings() -> Settings:
    return from_environment(os.environ)


def client() -> Any:
    from services.client import Client

    return Client(settings())


def say(text: str = "") -> None:
    typer.echo(text)


# -- running --------------------------------------------------------------------------------------------------------------


@app.command()
def up() -> None:
    """Starts everything in this process and prints a one-time login link; Ctrl-C stops it gracefully."""
    from services.adapters.telemetry import configure
    from services.embedded import Embedded

    wanted = settings()
    configure(wanted.log_level, wanted.log_format)

    async def run() -> None:
        stop = asyncio.Event()
        for sign in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(sign, stop.set)
        trimtab = Embedded(wanted)
        try:
            await trimtab.start()
            async with trimtab.serving() as url:
                await trimtab.cli_key()
                (wanted.data / "url").write_text(url)
                say(f"Trimtab is up at {url}  (data in {wanted.data}, workspace {wanted.workspace})")
                say(f"Log in once within the hour: {await trimtab.login()}")
                await stop.wait()
        finally:
            await trimtab.stop()
        say("stopped; nothing that was acknowledged is lost")

    asyncio.run(run())


@app.command()
def demo(exit: Annotated[bool, typer.Option("--exit", help="end instead of leaving the pages running")] = False) -> None:
    """Replays real A/B tests of real creatives through everything, on a simulated clock."""
    from services.demo.show import main as show

    raise typer.Exit(show(leave=not exit))


@app.command()
def login(name: str = "you", role: str = "admin") -> None:
    """Prints a one-time login link for the pages."""
    say(client().post("/v1/login-links", {"name": name, "role": role})["link"])


@app.command()
def key(name: str, role: str = "source") -> None:
    """Makes an API key (role: source, viewer, editor, reviewer or admin) and shows it this once."""
    say(client().post("/v1/keys", {"name": name, "role": role})["key"])


@app.command()
def status() -> None:
    """Where the engine, the decisions and the ledger stand."""
    c = client()
    engine, overview = c.get("/v1/engine"), c.get("/v1/overview")
    stamp = "not begun" if not engine["engine_time"] else instant(engine["engine_time"])
    clock = " (simulated clock)" if engine["simulated"] else ""
    say(f"engine     {'STOPPED: ' + engine['stopped'] if engine['stopped'] else 'running'}, record {engine['offset']}, time {stamp}{clock}")
    say(f"objects    {engine['entities']}, events {json.dumps(engine['events'])}")
    for r in engine["rules"]:
        say(f"rule       {r['rule']} ({r['mode']}, {r['version'][:8]}), {r['alive']} objects pending, on or waiting")
    say(f"decisions  {json.dumps(overview.get('statuses', overview))}")


@app.command("try")
def try_(pack: File, export: File, map: Annotated[list[str] | None, typer.Option(help="column mapping, such as --map date=Day")] = None) -> None:
    """Says before anything is switched on what a pack would do with an export: would act, hold, unknown, each with its reason."""
    from services.rules_engine.language.pack import guards, load_pack
    from services.tryout import render, tryout

    outcome = asyncio.run(tryout(load_pack(pack.read_text(), str(pack)), export, mapping(map), guards()))
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
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    body = {"paths": [str(f.resolve()) for f in files], "map": mapping(map), "currency": currency, "account": account, "time_zone": time_zone}
    failed = False
    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), transient=True) as bar:
        task = bar.add_task("ingesting", total=None)
        for line in client().lines("/v1/imports", body):
            step = json.loads(line)
            if "error" in step:
                raise Misconfigured(step["error"])
            if "file" in step:
                bar.console.print(f"{step['file']}: {step['rows']} rows ({step['shape']}), {step['accepted']} accepted, {step['quarantined']} quarantined")
                for p in step["first"]:
                    bar.console.print(f"  {p['place']}: {p['reason']}: {p['detail']}", markup=False)
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

    checked = load_pack(pack.read_text(), str(pack))
    for r in checked.rules:
        say(f"{r.program.rule}  {r.program.version[:8]}  {len(r.tests)} tests")


@rules.command()
def test(pack: File) -> None:
    """Runs the tests that stand in a pack, on a simulated clock."""
    from services.rules_engine.language.pack import guards, load_pack
    from services.rules_engine.trial import run_tests

    results = run_tests(load_pack(pack.read_text(), str(pack)), guards())
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
    body = {"pack": pack.read_text(), "filename": str(pack), "state": "shadow" if shadow else "active"}
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
    """Switches a rule off."""
    client().post(f"/v1/rules/{rule}/retire")
    say(f"{rule} is retired")


@rules.command()
def rollback(rule: str) -> None:
    """Activates the version that was active before."""
    v = client().post(f"/v1/rules/{rule}/rollback")
    say(f"{v['rule']}  v{v['number']} ({v['version'][:8]})  {v['state']}")


# -- asking ---------------------------------------------------------------------------------------------------------------


@app.command()
def explain(name: str, rule: Annotated[str, typer.Argument()] = "", at: Annotated[str, typer.Option(help="as of an instant, RFC 3339")] = "") -> None:
    """Tells in words why an object (by name, platform id or path) was acted on or left alone, or why a decision (by id) was made."""
    c = client()
    looks_like_an_id = len(name) >= 6 and set(name) <= set("0123456789abcdef")
    found = c.get("/v1/explain", decision=name) if looks_like_an_id and not rule and is_decision(c, name) else c.get("/v1/explain", name=name, rule=rule, at=at)
    for told in found.get("told", [found]):
        say("\n\n".join([told["title"], *told["paragraphs"]]) + "\n")


def is_decision(c: Any, name: str) -> bool:
    from services.client import Refused

    try:
        c.get(f"/v1/decisions/{name}/replay") if len(name) == 32 else c.get("/v1/explain", decision=name)
    except Refused:
        return False
    return True


@app.command()
def replay(decision: str) -> None:
    """Recomputes a decision from the log's beginning and compares it bit for bit."""
    r = client().get(f"/v1/decisions/{decision}/replay")
    say(f"{r['id']}: {'identical' if r['identical'] else 'DIFFERENT'}, sha-256 {r['hash']}, after {r['records']} records")
    raise typer.Exit(int(not r["identical"]))


@audit.command()
def verify(export: Annotated[Path | None, typer.Argument(help="an export to verify offline; the running ledger by default")] = None) -> None:
    """Walks the hash chain and names the first link that does not hold."""
    if export is not None:
        from services.actions.ledger.chain import Verified, verify_export

        with export.open(encoding="utf-8") as lines:
            found = verify_export(lines)
        holds = isinstance(found, Verified)
        say(f"{'holds' if holds else 'BROKEN'}: {found}")
        raise typer.Exit(int(not holds))
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
    say(client().get("/v1/audit/export").rstrip())


@app.command("kill-switch")
def kill_switch(engage: bool, reason: str = "by command line") -> None:
    """Stops (--engage) or allows (--no-engage) every action of the workspace."""
    say(json.dumps(client().put("/v1/kill-switch", {"engaged": engage, "reason": reason})))


@guards_app.command("check")
def check_guards(file: File) -> None:
    """Checks the guards' formulas against a file of test vectors."""
    from services.rules_engine.vectors import check as check_vectors
    from services.rules_engine.vectors import render

    report = check_vectors(json.loads(file.read_text()))
    say(render(report))
    raise typer.Exit(int(not report.agrees))


def instant(micros: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(micros / 1_000_000, UTC).isoformat(timespec="seconds")


def main() -> None:
    """One clear line for what the user can mend; a traceback only for what is ours."""
    try:
        app()
    except TrimtabError as error:
        print(str(error), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
