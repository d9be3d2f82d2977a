"""The command line as people meet it: real processes, one clear line for what they can mend, exit codes that scripts can trust."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from services import VERSION
from services.people import partition
from tests.e2e.running import PACK
from tests.shell.commanded import CLEAN, COMMAND, Up, run, until, up, up_with_a_platform
from tests.shell.sandboxed import ROOT, Sandbox

AD = "sandbox/demo/c1/g1/a1"
TESTED = (
    PACK
    + """
    tests:
      - name: a weak creative is paused
        series: {every: 2h, impressions: 4000, clicks: 4, siblings: 3}
        expect: [{by: 24h, do: pause}]
"""
)


@dataclass
class World:
    up: Up
    platform: Sandbox
    fired: dict[str, Any]  # the decision that paused a1
    folder: Path


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One rule, one creative paused by it, one that it left alone."""
    folder = tmp_path_factory.mktemp("cli")
    with up_with_a_platform(folder) as (trimtab, platform):
        trimtab.apply(folder)
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100, "spend": "12.50"}, {"ad": "a2", "impressions": 50_000, "clicks": 900})
        [fired] = trimtab.decisions(1, status="verified")
        yield World(trimtab, platform, fired, folder)


COLD = (
    "status",
    "decisions",
    "keys",
    "escalations",
    "quarantine",
    "rules list",
    "audit verify",
    "log segments",
    "checkpoint list",
    "checkpoint verify",
    "doctor",
    f"explain {AD}",
)


@pytest.mark.parametrize("words", COLD)
def test_each_command_finds_by_itself_what_it_needs_and_says_nothing_else(w: World, words: str) -> None:
    """Not as a fork that has read every module, as all other tests here."""
    environment = CLEAN | {"TRIMTAB_DATA": str(w.up.data)}
    done = subprocess.run([*COMMAND, *words.split()], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout, "where there is nothing to list, that is said"


# -- running --------------------------------------------------------------------------------------------------------------


def test_the_version_is_the_packages() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version").out == f"trimtab {VERSION}\n"
    assert declared == VERSION


def test_up_says_where_it_is_and_its_login_link_works_once(w: World) -> None:
    assert w.up.told.startswith(f"Trimtab is up at {w.up.url}")
    assert w.up.login.startswith(f"{w.up.url}/login/")
    with httpx2.Client(trust_env=False) as browser:
        assert browser.get(w.up.login).status_code == 200
        assert browser.get(f"{w.up.url}/v1/overview").status_code == 200
        assert httpx2.get(w.up.login, trust_env=False).status_code == 401


def test_login_makes_another_link_and_a_role_that_is_none_is_refused(w: World) -> None:
    link = w.up.ok("login", "--name", "rita", "--role", "reviewer").out.strip()
    with httpx2.Client(trust_env=False) as browser:
        assert browser.get(link).status_code == 200
        refused = browser.put(f"{w.up.url}/v1/kill-switch", json={"engaged": True, "reason": "x"})
        assert (refused.status_code, refused.json()["detail"]) == (403, "this needs the role admin; rita is reviewer")
    assert "viewer" in w.up.run("login", "--role", "king").refused()


def test_a_key_opens_what_its_role_may_and_is_shown_once(w: World) -> None:
    key = w.up.ok("key", "shop").out.strip()
    [line] = [x for x in w.up.ok("keys").out.splitlines() if x.startswith(key.partition(".")[0])]
    assert "source" in line and "shop" in line and "REVOKED" not in line
    assert key.partition(".")[2] not in w.up.ok("keys").out
    other = w.up.ok("key", "leaked").out.strip().partition(".")[0]
    assert w.up.ok("revoke", other).out.strip() == f"revoked {other}"
    assert "REVOKED" in next(x for x in w.up.ok("keys").out.splitlines() if x.startswith(other))
    assert w.up.run("revoke", other).refused() == f"there is no key {other} in use: `trimtab keys` lists them"
    headers = {"Authorization": f"Bearer {key}"}
    body = {"id": "k1", "kind": "click", "entity": "web/acme", "occurred_at": "2026-01-01T00:00:00Z", "amounts": {"clicks": 1}}
    assert httpx2.post(f"{w.up.url}/v1/events", json=body, headers=headers, trust_env=False).status_code in (202, 422)  # let in
    assert httpx2.get(f"{w.up.url}/v1/decisions", headers=headers, trust_env=False).status_code == 403
    assert run("status", url=w.up.url, key=key).refused() == "this needs the role viewer; shop is source"
    assert "source" in w.up.run("key", "shop", "--role", "king").refused()


def test_a_partition_is_told_with_its_owner_lag_time_and_checkpoint() -> None:
    told = {"partition": 3, "state": "followed", "why": "", "owner": "http://a:1", "offset": 12, "lag": 5, "engine_time": 1_767_225_600_000_000}
    told |= {"delay_seconds": 0.04, "checkpoint": 10, "checkpoint_age_seconds": 192.4}
    begins = "partition 3  followed by http://a:1, record 12, 5 behind the log's end, time 2026-01-01T00:00:00+00:00, 0.0 s behind the clock"
    assert partition(told) == f"{begins}, checkpoint at 10, the first record after it 3 min old"
    assert partition(told | {"checkpoint_age_seconds": 0}) == f"{begins}, checkpoint at 10, nothing after it"
    assert partition(told | {"checkpoint": 0}) == f"{begins}, no checkpoint, the first record 3 min old"
    empty = {"offset": 0, "lag": 0, "engine_time": 0, "delay_seconds": None, "checkpoint": 0, "checkpoint_age_seconds": 0}
    assert partition(told | empty) == "partition 3  followed by http://a:1, record 0, 0 behind the log's end, time not begun, no checkpoint"
    assert partition({"partition": 3, "state": "unowned", "why": "nobody has it", "owner": ""}) == "partition 3  unowned: nobody has it"


def test_status_tells_where_everything_stands(w: World) -> None:
    told = {line.split()[0]: line for line in w.up.ok("status").lines}
    assert set(told) == {"engine", "objects", "rule", "decisions", "escalations", "actions", "ledger", "partition"}
    assert told["partition"].startswith(f"partition 0  followed by {w.up.url}, record ")
    assert "running, record" in told["engine"]
    assert "accepted" in told["objects"]
    assert "pause-weak (active, " in told["rule"]
    assert "1 verified" in told["decisions"]
    assert told["escalations"].split()[1:] == ["0", "waiting"]
    assert told["actions"].split(maxsplit=1)[1] == "kill switch off"


def test_without_a_server_there_is_one_clear_line(tmp_path: Path) -> None:
    for command in (["status"], ["rules", "list"], ["ingest", __file__], ["decisions"], ["kill-switch", "on", "--reason", "x"]):
        refused = run(*command, data=str(tmp_path), url="http://127.0.0.1:1").refused()
        assert refused == "no Trimtab answers at http://127.0.0.1:1 (ConnectError): start one with `trimtab up`, or set TRIMTAB_URL"
    assert "TRIMTAB_URL" in run("status", data=str(tmp_path), url="http://[").refused()
    assert "TRIMTAB_URL" in run("status", data=str(tmp_path), url="nowhere").refused()


def test_what_answers_but_is_no_trimtab_is_said_to_be_none(w: World, tmp_path: Path) -> None:
    assert "the server answers 401" in run("status", data=str(tmp_path), url=w.platform.url).refused()


def test_a_key_that_opens_nothing_says_where_keys_come_from(w: World, tmp_path: Path) -> None:
    refused = run("status", data=str(tmp_path), url=w.up.url).refused()
    assert refused.startswith("a key or a login is needed") and "TRIMTAB_KEY" in refused and "TRIMTAB_DATA" in refused
    assert run("status", url=w.up.url, key="tk.wrong").refused().startswith("the key is not valid")
    assert "TRIMTAB_KEY" in run("status", url=w.up.url, key="schlüssel").refused()


def test_wrong_settings_are_all_listed_at_once() -> None:
    refused = run("up", port="seventy", action="hold", host="all of them", log_format="xml", webhook_secrets='{"sandbox": "canary-secret"}').refused()
    for part in ("TRIMTAB_PORT", "TRIMTAB_ACTION is not a setting; did you mean TRIMTAB_ACTIONS?", "TRIMTAB_HOST", "TRIMTAB_LOG_FORMAT"):
        assert part in refused
    assert "TRIMTAB_WEBHOOK_SECRETS" in refused and "canary" not in refused
    assert len(refused.splitlines()) == 1


def test_an_unknown_command_and_a_missing_file_are_one_screen_not_a_traceback() -> None:
    for command in (["frobnicate"], ["rules", "check", "/nowhere.yaml"], ["audit", "verify", "/nowhere.jsonl"], ["kill-switch", "true"]):
        said = run(*command)
        assert said.code == 2 and "Traceback" not in said.err and said.err


def test_a_data_folder_in_use_is_refused_with_its_owner(w: World) -> None:
    refused = run("up", data=str(w.up.data), port="0").refused()
    assert refused == f"another Trimtab (process {w.up.process.pid}) uses {w.up.data}: stop it, or choose another folder with TRIMTAB_DATA"
    assert w.up.ok("status")


def test_a_port_in_use_is_refused_and_lets_the_folder_go(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = run("up", data=str(tmp_path / "data"), port=str(port))
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines()[-1] == f"port {port} of 127.0.0.1 cannot be opened: Address already in use; choose another with TRIMTAB_PORT"
    assert "Traceback" not in said.err
    with up(tmp_path / "data") as again:
        assert again.stop()[0] == 0


def test_after_a_kill_the_command_line_sends_its_key_to_nobody(tmp_path: Path) -> None:
    with up(tmp_path / "data") as trimtab:
        address = urlsplit(trimtab.url)
        trimtab.process.kill()
        trimtab.process.wait(10)
    with socket.create_server((str(address.hostname), address.port or 0)) as stranger:
        assert run("status", data=str(tmp_path / "data")).refused() == (
            f"no Trimtab runs on {tmp_path / 'data'}: start one with `trimtab up`, or set TRIMTAB_URL"
        )
        stranger.setblocking(False)
        with pytest.raises(BlockingIOError):
            stranger.accept()


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "choose another with TRIMTAB_DATA" in run("up", data=str(tmp_path / "file" / "data"), port="0").refused()


@pytest.mark.parametrize("name", ["trimtab.db", "events.db"])
def test_a_damaged_file_is_one_clear_line_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is no database" * 400)
    refused = run("up", data=str(tmp_path), port="0").refused()
    assert name in refused and "backup" in refused and len(refused.splitlines()) == 1


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_gracefully_and_the_next_start_goes_on(tmp_path: Path, sign: signal.Signals) -> None:
    with up_with_a_platform(tmp_path) as (trimtab, platform):
        trimtab.apply(tmp_path)
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100})
        [fired] = trimtab.decisions(1, status="verified")
        code, rest = trimtab.stop(sign)
        assert (code, rest) == (0, "stopped; nothing that was acknowledged is lost\n")
        assert not (trimtab.data / "url").exists()
        assert "Traceback" not in trimtab.log.read_text()
        with up(trimtab.data, sandbox_url=platform.url, sandbox_token="sandbox") as again:
            assert [d["id"] for d in again.decisions(1, kind="fired")] == [fired["id"]]
            assert again.ok("replay", fired["id"]).out.startswith(f"{fired['id']}: identical")
            assert again.ok("audit", "verify").out.startswith("holds: ")
            again.report({"ad": "a2", "impressions": 50_000, "clicks": 100})
            assert len(again.decisions(2, status="verified")) == 2
            assert again.stop(sign)[0] == 0
        assert [e["path"] for e in platform.applied()] == [AD, AD[:-1] + "2"]


# -- ingest ---------------------------------------------------------------------------------------------------------------

MAPPED = ["--map", "date=Day", "--map", "account=acc", "--map", "campaign=Campaign", "--map", "spend=Cost", "--map", "clicks=Clicks"]
MAPPED += ["--map", "platform=meta_ads", "--currency", "EUR"]


def table(folder: Path, *rows: str) -> Path:
    file = folder / "export [1].csv"
    file.write_text("Day,Campaign,Cost,Clicks\n" + "".join(f"{row}\n" for row in rows))
    return file


def test_an_export_is_ingested_and_a_spoiled_row_is_told_with_its_place_and_reason(w: World, tmp_path: Path) -> None:
    file = table(tmp_path, "2026-01-01,c1,1.50,3", "2026-01-02,c1,lots,3", "2026-01-03,c1,2.50,-1")
    said = w.up.ok("ingest", file, *MAPPED)
    head, second, third = said.lines
    assert head == "export [1].csv: 3 rows (mapped), 1 accepted, 2 quarantined"
    assert second == "  line 3, Cost: not_a_number: 'lots' is not a number"
    assert third.startswith("  line 4, Clicks: ") and "-1" in third
    listed = w.up.ok("quarantine").out
    assert "lots" in listed and "-1" in listed


def test_a_file_without_one_good_row_is_a_failure_to_scripts(w: World, tmp_path: Path) -> None:
    said = w.up.run("ingest", table(tmp_path, "soon,c1,1,1"), *MAPPED)
    assert said.code == 1 and "0 accepted, 1 quarantined" in said.out


def test_columns_that_nobody_understands_and_mappings_to_none_are_one_clear_line(w: World, tmp_path: Path) -> None:
    file = table(tmp_path, "2026-01-01,c1,1.50,3")
    assert w.up.run("ingest", file).refused().endswith("which is no known report; say what they mean with --map, such as --map date=Day")
    assert w.up.run("ingest", file, "--map", "date=Tag").refused() == "--map date=Tag: the file has no column 'Tag'; it has Day, Campaign, Cost, Clicks"
    assert w.up.run("ingest", file, "--map", "date").refused() == "--map date says nothing: write --map date=Day"
    assert "is not a time zone" in w.up.run("ingest", file, *MAPPED, "--time-zone", "Mars").refused()


def test_progress_shows_on_a_terminal_and_stays_out_of_the_output(w: World, tmp_path: Path) -> None:
    file = table(tmp_path, *(f"2026-01-{1 + i % 28:02},c{i},1.50,3" for i in range(3000)))
    master, slave = pty.openpty()
    environment = CLEAN | {"TRIMTAB_DATA": str(w.up.data), "TERM": "xterm"}
    with subprocess.Popen([*COMMAND, "ingest", str(file), *MAPPED], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        os.close(slave)
        shown = drained(master)
        assert process.stdout is not None
        out = process.stdout.read()
    assert (process.returncode, out) == (0, "export [1].csv: 3000 rows (mapped), 3000 accepted, 0 quarantined\n")
    assert "ingesting" in shown


def drained(terminal: int) -> str:
    parts = []
    try:
        while part := os.read(terminal, 65_536):
            parts.append(part)
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return b"".join(parts).decode()


def test_quarantine_shows_a_delivery_and_drives_it_again(w: World) -> None:
    event = {"id": "q1", "kind": "click", "entity": "web/acme", "occurred_at": "2026-01-01T00:00:00Z", "amounts": {"clicks": "many"}}
    assert w.up.http.post("/v1/events", json=event).status_code == 422
    [line] = w.up.ok("quarantine", "list", "--source", "generic", "--limit", "1").lines[:1]
    row = line.split()[-1]
    assert json.loads(json.loads(w.up.ok("quarantine", "show", row).out)["body"]) == event
    assert w.up.run("quarantine", "redrive", row).refused().startswith("it is still refused: ")
    assert w.up.ok("quarantine", "list", "--reason", "no_such_reason").out == "none\n"
    assert "nothing in quarantine is called nothing" in w.up.run("quarantine", "show", "nothing").refused()


# -- rules ----------------------------------------------------------------------------------------------------------------


def test_a_pack_is_checked_and_its_tests_are_run_without_a_server(tmp_path: Path) -> None:
    file = tmp_path / "pack.yaml"
    file.write_text(TESTED)
    assert run("rules", "check", file).out.startswith("pause-weak  ")
    assert run("rules", "test", file).lines == ["passed  pause-weak: a weak creative is paused", "1 of 1 passed"]
    file.write_text(TESTED.replace("clicks: 4,", "clicks: 400,"))
    failed = run("rules", "test", file)
    assert failed.code == 1
    assert failed.lines[0] == "FAILED  pause-weak: a weak creative is paused" and failed.lines[-1] == "0 of 1 passed"
    assert len(failed.lines) > 2  # and why


def test_what_is_wrong_in_a_pack_is_pointed_at(w: World, tmp_path: Path) -> None:
    file = tmp_path / "pack.yaml"
    file.write_text(PACK.replace("< 0.8%", "< 0.8"))
    line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if "< 0.8" in text)
    for command in (["rules", "check"], ["rules", "test"], ["rules", "apply"]):
        refused = w.up.run(*command, file).refused().splitlines()
        assert refused[0].startswith(f"{file}:{line}:")
        assert refused[3].rstrip().endswith("^" * 3)
        assert "did you mean 0.8%?" in "\n".join(refused)
    file.write_bytes(b"\xff\xfe\x00")
    for command in (["rules", "check"], ["rules", "test"], ["rules", "apply"]):
        assert "cannot be read as UTF-8" in w.up.run(*command, file).refused()


def test_rules_are_applied_listed_switched_retired_and_rolled_back(tmp_path: Path) -> None:
    with up(tmp_path / "data") as trimtab:
        first = trimtab.apply(tmp_path).out.split()
        assert (first[0], first[1], first[3]) == ("pause-weak", "v1", "active")
        second = trimtab.apply(tmp_path, PACK.replace("0.8%", "0.7%")).out.split()
        assert (second[1], second[3]) == ("v2", "active")

        def states() -> list[list[str]]:
            head, *versions = trimtab.ok("rules", "list").lines
            assert head == "pause-weak"
            return [line.split()[:3] for line in versions]

        v1, v2 = first[2].strip("()"), second[2].strip("()")
        assert states() == [["v2", v2, "active"], ["v1", v1, "retired"]]
        assert trimtab.ok("rules", "rollback", "pause-weak").out == f"pause-weak  v1 ({v1})  active\n"
        assert states() == [["v2", v2, "retired"], ["v1", v1, "active"]]
        assert trimtab.ok("rules", "activate", "pause-weak", "--version", "v2", "--shadow").out == f"pause-weak  v2 ({v2})  shadow\n"
        assert states() == [["v2", v2, "shadow"], ["v1", v1, "active"]]
        assert trimtab.ok("rules", "activate", "pause-weak", "--version", v2).out == f"pause-weak  v2 ({v2})  active\n"
        assert trimtab.ok("rules", "retire", "pause-weak").out == "pause-weak is retired\n"
        assert {state for *_, state in states()} == {"retired"}
        assert trimtab.run("rules", "retire", "pause-weak").refused() == "no version of 'pause-weak' is active"
        assert trimtab.run("rules", "activate", "nothing").refused()
        assert trimtab.run("rules", "activate", "pause-weak", "--version", "v9").refused()


# -- asking ---------------------------------------------------------------------------------------------------------------


def test_an_object_is_explained_by_its_name_its_platform_id_and_its_path(w: World) -> None:
    told = [w.up.ok("explain", name).out for name in ("Summer_v1", "a1", AD)]
    assert told[0].startswith('Paused "Summer_v1"') and "100 clicks in 50,000 impressions is 0.20 %" in told[0]
    assert told[0] == told[1] == told[2] == w.up.ok("explain", "Summer_v1", "pause-weak").out
    assert w.up.ok("explain", "Summer_v2").out.startswith('Left "Summer_v2"')


def test_a_decision_is_explained_and_replayed_by_its_first_digits(w: World) -> None:
    decision = w.fired["id"]
    whole = w.up.ok("explain", decision).out
    assert whole == w.up.ok("explain", decision[:10]).out and whole.startswith('Paused "Summer_v1"')
    line = w.up.ok("replay", decision).out
    assert line == w.up.ok("replay", decision[:6]).out
    assert line.startswith(f"{decision}: identical, sha-256 ") and ", from record 0, after " in line


def test_the_past_is_explained_as_it_was(w: World) -> None:
    assert w.up.ok("explain", "Summer_v1", "--at", w.fired["at"]).out.startswith('Paused "Summer_v1"')
    assert w.up.run("explain", "Summer_v1", "--at", "2020-01-01T00:00:00Z").refused() == "the log holds nothing from before that time"
    assert w.up.run("explain", "Summer_v1", "--at", "yesterday").refused() == "'yesterday' is not an instant"


def test_asking_for_what_is_not_there_is_one_clear_line(w: World) -> None:
    assert w.up.run("explain", "Winter").refused() == "nothing is called 'Winter'; give a name, a platform id or a path"
    assert w.up.run("explain", "0" * 32).refused().startswith("nothing is called")
    assert "'nothing'" in w.up.run("explain", "a1", "nothing").refused() or "nothing" in w.up.run("explain", "a1", "nothing").refused()
    assert w.up.run("replay", "f" * 32).refused() == f"there is no decision '{'f' * 32}' here"


def test_decisions_are_listed_newest_first_and_filtered(w: World) -> None:
    line = w.up.ok("decisions", "--kind", "fired").lines[0]
    assert "verified" in line and "pause-weak" in line and line.endswith(f"{AD}  {w.fired['id']}")
    assert w.up.ok("decisions", "--status", "verified", "--entity", "sandbox/demo", "--rule", "pause-weak").lines == [line]
    assert w.up.ok("decisions", "--entity", "sandbox/other").out == "none\n"
    assert w.up.ok("decisions", "--rule", "other").out == "none\n"
    limited = w.up.ok("decisions", "--limit", "1").lines
    assert len(limited) in (1, 2) and (len(limited) == 1 or "--limit" in limited[1])


def test_the_ledger_is_shown_verified_exported_and_verified_again_offline(w: World, tmp_path: Path) -> None:
    first, *_ = (json.loads(line) for line in w.up.ok("audit", "show").lines)
    assert (first["sequence"], first["previous"]) == (1, "0" * 64)
    assert json.loads(w.up.ok("audit", "show", "--after", "1", "--limit", "1").out)["sequence"] == 2
    held = w.up.ok("audit", "verify").out
    export = tmp_path / "ledger.jsonl"
    export.write_text(w.up.ok("audit", "export").out)
    offline = run("audit", "verify", export, url="http://127.0.0.1:1")
    assert (offline.code, offline.out) == (0, held) and held.startswith("holds: ")

    lines = export.read_text().splitlines()
    for tampered, where in (
        ([lines[0], lines[1].replace("pause-weak", "pause-good"), *lines[2:]], "BROKEN at entry 2: its content is not what was hashed"),
        ([lines[0], *lines[2:]], "BROKEN at entry 2: sequence 3 stands where 2 belongs"),
        (lines[:-1], "the head is missing"),
        (["\x00", *lines], "line 1 is not an entry"),
    ):
        export.write_text("\n".join(tampered))
        found = run("audit", "verify", export)
        assert found.code == 1 and where in found.out and found.err == ""
    export.write_bytes(b"\xff\xfe")
    assert run("audit", "verify", export).code == 1


# -- acting ---------------------------------------------------------------------------------------------------------------


def test_escalations_are_listed_approved_rejected_and_what_was_done_is_undone(tmp_path: Path) -> None:
    with up_with_a_platform(tmp_path) as (trimtab, platform):
        trimtab.apply(tmp_path)
        assert trimtab.ok("escalations").out == "none\n"
        trimtab.report(*({"ad": ad, "impressions": 50_000, "clicks": 100, "spend": "400.00"} for ad in ("a1", "a2")))
        waiting = {d["path"]: d["id"] for d in trimtab.decisions(2, status="waiting")}
        listed = trimtab.ok("escalations").lines
        assert len(listed) == 4
        assert f"waiting  pause {AD}  (pause-weak, above_amount)" in "\n".join(listed)
        assert "asks media-lead until" in listed[1] and listed[1].endswith("otherwise leave running")
        ids = {line.split()[3]: line.split()[0] for line in listed[::2]}

        assert trimtab.ok("escalations", "approve", ids[AD], "--reason", "agreed").out == f"{ids[AD]} is approved: pause {AD}\n"
        [done] = trimtab.decisions(1, status="verified")
        assert (done["id"], platform.applied()[-1]["after"]) == (waiting[AD], {"status": "paused"})
        other = ids[AD[:-1] + "2"]
        assert "--reason" in trimtab.run("escalations", "reject", other).err
        assert trimtab.ok("escalations", "reject", other, "--reason", "our best seller").out == f"{other} is rejected: pause {AD[:-1]}2\n"
        assert trimtab.run("escalations", "approve", other).refused() == "it was rejected by command line"
        assert "our best seller" in trimtab.ok("escalations", "list", "--status", "rejected").out
        assert trimtab.ok("escalations").out == "none\n"

        undone = trimtab.ok("undo", done["id"], "--reason", "a mistake").out
        assert undone.endswith(f" undoes {done['id']}: executing\n")
        until(lambda: platform.applied()[-1]["after"] == {"status": "active"})
        assert trimtab.run("undo", done["id"]).refused().startswith("it has been undone already")
        assert trimtab.run("undo", "f" * 32).refused() == f"there is no decision {'f' * 32}"
        assert trimtab.ok("audit", "verify").out.startswith("holds: ")


def test_what_a_retired_rule_has_decided_is_said_and_cancelled(tmp_path: Path) -> None:
    with up_with_a_platform(tmp_path) as (trimtab, platform):
        trimtab.apply(tmp_path)
        trimtab.report(*({"ad": ad, "impressions": 50_000, "clicks": 100, "spend": "400.00"} for ad in ("a1", "a2", "a3")))
        waiting = trimtab.decisions(3, status="waiting")
        said = trimtab.ok("rules", "retire", "pause-weak").lines
        assert said == [
            "pause-weak is retired",
            "3 of its decisions have not ended: trimtab cancel --rule pause-weak --reason ... stops those of which nothing was sent",
        ]
        assert "--reason" in trimtab.run("cancel", waiting[0]["id"]).err
        assert "name one decision, or a rule" in trimtab.run("cancel", "--reason", "wrong list").err
        anew = "pause-weak decides anew while its condition is true, unless it is retired"
        assert trimtab.ok("cancel", waiting[0]["id"], "--reason", "wrong list").out == f"{waiting[0]['id']} is cancelled; {anew}\n"
        told = trimtab.run("cancel", waiting[0]["id"], "--reason", "again").refused()
        assert told == "the decision is cancelled: there is nothing to cancel"
        assert trimtab.ok("cancel", "--rule", "pause-weak", "--reason", "wrong list").out == "2 cancelled\n"
        assert trimtab.ok("cancel", "--rule", "pause-weak", "--reason", "wrong list").out == "0 cancelled\n"
        told = trimtab.run("cancel", "--rule", "pause-waek", "--reason", "wrong list").refused()
        assert told == "no rule 'pause-waek' has decided anything in this workspace"
        assert {d["id"] for d in trimtab.decisions(3, status="cancelled")} == {d["id"] for d in waiting}
        assert "wrong list" in trimtab.ok("escalations", "list", "--status", "cancelled").out
        assert (trimtab.ok("escalations").out, platform.applied()) == ("none\n", [])
        assert trimtab.ok("audit", "verify").out.startswith("holds: ")


def test_the_kill_switch_stops_what_comes_until_it_is_released(tmp_path: Path) -> None:
    with up_with_a_platform(tmp_path) as (trimtab, platform):
        trimtab.apply(tmp_path)
        assert trimtab.ok("kill-switch").out == "kill switch off\n"
        assert trimtab.run("kill-switch", "on").refused() == "say why: everyone who meets the switch will read it"
        engaged = trimtab.ok("kill-switch", "on", "--reason", "wrong currency").out
        assert engaged.startswith("kill switch ON since ") and engaged.endswith(" by command line: wrong currency\n")
        assert trimtab.ok("kill-switch", "show").out == engaged
        assert engaged.strip() in trimtab.ok("status").out
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100})
        parked = trimtab.decisions(1, status="parked")[0]
        assert (parked["reason"], platform.applied()) == ("kill_switch", [])
        assert "fired    parked: kill_switch " in trimtab.ok("decisions", "--status", "parked").out
        assert "1 parked" in trimtab.ok("status").out
        assert trimtab.ok("kill-switch", "off").out.startswith("kill switch off since ")
        assert trimtab.decisions(1, status="verified")[0]["id"] == parked["id"]
        assert len(platform.applied()) == 1


def test_actions_that_are_held_by_the_operator_are_said_to_be(tmp_path: Path) -> None:
    with up(tmp_path / "data", actions="hold") as trimtab:
        assert "actions      held by TRIMTAB_ACTIONS=hold, kill switch off" in trimtab.ok("status").lines
