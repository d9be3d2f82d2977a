"""What an operator sees: alive, ready and why not, counters, one event a log line, and never a secret."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from services.adapters.clock import ManualClock, SystemClock
from services.adapters.http.serving import open_port
from services.kernel.errors import Unavailable
from tests.e2e.running import PACK, running
from tests.shell.commanded import Up, run, until, up, up_with_a_platform
from tests.shell.sandboxed import ROOT

HOUR = 3_600_000_000
TOKEN = "canary-token-7391"
SIGNING = base64.b64encode(b"canary-signing-secret-of-32-byte").decode()


def numbers(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values in order of their names...) -> value."""
    families = text_string_to_metric_families(text)
    return {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def metrics(trimtab: Up) -> dict[tuple[str, ...], float]:
    answer = httpx2.get(f"{trimtab.url}/metrics", trust_env=False)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    return numbers(answer.text)


# -- probes and counters --------------------------------------------------------------------------------------------------


def test_what_happens_is_counted_by_rule_guard_source_and_reason(tmp_path: Path) -> None:
    with up_with_a_platform(tmp_path) as (trimtab, _):
        assert httpx2.get(f"{trimtab.url}/livez", trust_env=False).text == "alive"
        ready = httpx2.get(f"{trimtab.url}/readyz", trust_env=False)
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "why": ""})

        trimtab.apply(tmp_path)
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100}, {"ad": "a2", "impressions": 100, "clicks": 0})
        trimtab.decisions(1, status="verified")
        bad = {"id": "b1", "kind": "click", "entity": "web/acme", "occurred_at": "2026-01-01T00:00:00Z", "amounts": {"clicks": -1}}
        reason = trimtab.http.post("/v1/events", json=bad).json()["reason"]
        assert httpx2.post(f"{trimtab.url}/v1/events", json=bad, trust_env=False).status_code == 401
        counted = until(lambda: n if (n := metrics(trimtab)).get(("trimtab_actions_total", "", "verified")) else None)

    assert counted["trimtab_decisions_total", "fired", "active", "pause-weak"] == 1
    assert counted["trimtab_decisions_total", "refused", "active", "pause-weak"] == 1
    assert counted["trimtab_guard_refusals_total", "sample", "pause-weak"] == 1
    assert counted["trimtab_guard_refusals_total", "confidence", "pause-weak"] == 1
    assert counted["trimtab_platform_writes_total", "accepted", "sandbox"] == 1
    assert counted["trimtab_actions_received_total", "fired", "within_bounds", "executing"] == 1
    assert counted["trimtab_escalations_waiting",] == counted["trimtab_outcomes_unsent",] == 0
    assert counted["trimtab_ledger_entries_total",] >= 5
    assert counted["trimtab_ingest_events_total", "accepted", "sandbox"] == 8
    assert counted["trimtab_ingest_events_total", "quarantined", "generic"] == 1
    assert counted["trimtab_ingest_quarantined_total", reason] == 1
    assert counted["trimtab_ingest_requests_total", "events", "401"] == counted["trimtab_ingest_requests_total", "events", "422"] == 1
    assert counted["trimtab_ingest_requests_total", "webhooks", "202"] == 2
    assert counted["trimtab_engine_records_total", "0"] >= 5
    assert counted["trimtab_engine_step_seconds_count",] >= 5
    assert abs(counted["trimtab_engine_time_seconds", "0"] - SystemClock().now() / 1e6) < 600
    assert 0 <= counted["trimtab_engine_delay_seconds", "0"] < 600
    assert 0 < counted["trimtab_checkpoint_age_seconds", "0"] < 600
    assert counted["trimtab_partition_stopped", "0"] == 0


async def test_a_partition_stopped_by_a_clock_ahead_says_so_everywhere_and_still_ends_gracefully(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        await r.report({"ad": "a1", "status": "active"})
        r.trimtab.events.clock = ManualClock(SystemClock().now() + HOUR)
        assert (await r.report({"ad": "a2", "status": "active"})).status_code == 202  # ingest goes on: the log is well
        with pytest.raises(Unavailable, match="ahead of this machine's clock"):
            await r.trimtab.worker.caught_up(10**9)
        ready = await r.http.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert re.search(r"stamped 3[56]\d\d s ahead of this machine's clock", ready.json()["why"])
        assert (await r.http.get("/livez")).status_code == 200
        assert numbers((await r.http.get("/metrics")).text)["trimtab_partition_stopped", "0"] == 1
        where, url = r.trimtab.settings.data, str(r.http.base_url)
        status = await asyncio.to_thread(run, "status", data=str(where), url=url)
        assert status.code == 0 and re.search(r"^engine +STOPPED: .*ahead of this machine's clock", status.out)
        pack = tmp_path / "pack.yaml"
        pack.write_text((ROOT / "rules/acme-paid-social.yaml").read_text().replace(', "campaign:Retargeting DE": 22 EUR', ""))
        refused = (await asyncio.to_thread(run, "rules", "apply", pack, data=str(where), url=url)).refused()
        assert "ahead of this machine's clock" in refused
    again = await asyncio.to_thread(run, "up", data=str(tmp_path / "data"), port="0")
    assert again.code == 2 and "Traceback" not in again.err
    assert "ahead of this machine's clock" in again.err.splitlines()[-1]


async def test_time_goes_on_after_the_log_could_not_be_written_for_a_while(tmp_path: Path) -> None:
    """Ticks are how a rule that waits for time alone comes to fire; a full disk must not end them for good."""
    async with running(tmp_path) as r:
        await r.apply(PACK.replace("    guards:", "    for: 2s\n    guards:"))
        log = r.trimtab.events
        with capture_logs() as logged:
            await r.report({"ad": "a2", "status": "active"}, {"ad": "a1", "status": "active", "impressions": 50_000, "clicks": 100})
            await asyncio.wrap_future(log._writing.submit(log._writer.execute, "PRAGMA query_only = 1"))
            assert (await r.report({"ad": "a1", "impressions": 10, "clicks": 0})).status_code == 503
            async with asyncio.timeout(20):
                while "tick waits" not in {line["event"] for line in logged}:  # noqa: ASYNC110  the log tells nobody
                    await asyncio.sleep(0.01)
        await asyncio.wrap_future(log._writing.submit(log._writer.execute, "PRAGMA query_only = 0"))
        [fired] = await r.decisions(1, kind="fired")
        assert fired["path"].endswith("/a1")
        assert (await r.http.get("/readyz")).status_code == 200


# -- logs -----------------------------------------------------------------------------------------------------------------


def junk(url: str) -> None:
    """What is no HTTP at all, at which the server's library grumbles."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as wire:
        wire.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        wire.recv(1000)


@pytest.mark.parametrize("form", ["text", "json"])
def test_every_log_line_is_one_event_with_its_time_and_level(tmp_path: Path, form: str) -> None:
    with up_with_a_platform(tmp_path, log_format=form) as (trimtab, platform):
        trimtab.apply(tmp_path)
        platform.fault("500_before")
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100})
        junk(trimtab.url)
        [fired] = trimtab.decisions(1, kind="fired")
        assert trimtab.stop(signal.SIGTERM)[0] == 0
        lines = trimtab.log.read_text().splitlines()
    if form == "json":
        events = [json.loads(line) for line in lines]
        assert all(e.keys() >= {"timestamp", "level", "event"} for e in events)
        assert [e["decision"] for e in events if e["event"] == "decided" and e["kind"] == "fired"] == [fired["id"]]
        assert [e["level"] for e in events if e.get("logger") == "uvicorn.error" and "Invalid HTTP" in e["event"]] == ["warning"]
    else:
        assert all(re.match(r"timestamp=\d{4}-\d\d-\d\dT[\d:.]+Z level=(info|warning|error) event=", line) for line in lines), lines
        assert any(f"decision={fired['id']}" in line and "event=decided" in line for line in lines)
        assert any("Invalid HTTP" in line and "logger=uvicorn.error" in line for line in lines)


SCRIPT = """
import asyncio, logging, sys, warnings
import structlog
from services.adapters.telemetry import configure
configure("info", sys.argv[1], ("canary-token-7391", "canary-token"))
log = structlog.get_logger()
log.debug("unseen")
try:
    raise ValueError("two\\nlines of canary-token-7391")
except ValueError:
    log.exception("failed", url="http://u:canary-pass@host/", header="Bearer canary-bearer", many=["canary-token"])
logging.getLogger("library").warning("%s said\\r\\nlevel=forged", "canary-token")
logging.getLogger("library").debug("unseen")
warnings.warn("old canary-token")
async def lost():
    async def fail():
        raise RuntimeError("canary-token")
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0)
asyncio.run(lost())
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_exceptions_and_what_libraries_log_keep_to_one_line_and_lose_their_secrets(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, form], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and done.stdout == ""
    assert "canary" not in done.stderr and "unseen" not in done.stderr
    assert "[redacted]" in lines[0] and "ValueError" in lines[0] and "two" in lines[0]
    if form == "json":
        assert [json.loads(line)["level"] for line in lines] == ["error", "warning", "warning", "error"]


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, list[str]]]:
    """A Trimtab full of secrets in which as much as possible went wrong, with every answer it gave; and the secrets."""
    folder = tmp_path_factory.mktemp("canary")
    secrets = f'{{"sandbox": ["whsec_{SIGNING}"], "hubspot": ["canary-hubspot"]}}'
    with up(folder / "data", webhook_secrets=secrets, sandbox_url="http://127.0.0.1:1", sandbox_token=TOKEN, log_level="debug") as trimtab:
        key = trimtab.run("key", "shop").out.strip()
        link = trimtab.run("login").out.strip()
        answers: list[str] = []

        def ask(method: str, path: str, **more: object) -> None:
            answer = httpx2.request(method, trimtab.url + path, trust_env=False, timeout=20, **more)
            answers.append(f"{answer.status_code} {answer.headers} {answer.text}")

        bearer = {"Authorization": f"Bearer {key}"}
        for headers in (bearer, {"Authorization": f"Bearer {key}x"}, {"Authorization": f"Basic {key}"}, {}):
            ask("GET", "/v1/decisions", headers=headers)
            ask("POST", "/v1/events", headers=headers, json={"id": key, "entity": f"web/{TOKEN}", "kind": f"whsec_{SIGNING}"})
            ask("POST", "/v1/events", headers=headers, content=b'{"a": ' + TOKEN.encode())
        for signature in (f"v1,{SIGNING}", SIGNING, ""):
            sent = {"webhook-id": "m", "webhook-timestamp": "1", "webhook-signature": signature}
            ask("POST", "/v1/webhooks/sandbox", headers=sent, json={})
            ask("POST", "/v1/webhooks/hubspot", headers={"X-HubSpot-Signature-v3": "canary-hubspot", "X-HubSpot-Request-Timestamp": "1"}, json=[])
        ask("GET", urlsplit(link).path + "x")
        ask("GET", f"/v1/explain?name={key}", headers=bearer)
        ask("GET", "/metrics")
        ask("GET", "/readyz")
        answers.append(trimtab.ok("status").out + trimtab.ok("decisions").out + trimtab.ok("audit", "export").out)
        trimtab.stop()
        yield trimtab, [trimtab.log.read_text(), *answers]


@pytest.mark.parametrize("secret", [TOKEN, SIGNING, "canary-hubspot"])
def test_a_secret_of_the_settings_is_in_no_log_answer_metric_or_file(canary: tuple[Up, list[str]], secret: str) -> None:
    trimtab, told = canary
    assert len(told) > 15 and told[0]
    for text in told:
        assert secret not in text
    if secret != TOKEN:  # that one was sent to us as an entity's name, and what is quarantined is kept as it came
        for name in ("events.db", "decisions.db"):
            assert secret.encode() not in (trimtab.data / name).read_bytes()


def test_keys_and_login_links_are_in_no_log_and_kept_as_digests(canary: tuple[Up, list[str]]) -> None:
    trimtab, told = canary
    own = (trimtab.data / "cli.key").read_text()
    token = trimtab.login.rpartition("/")[2]
    for secret in (own, own.partition(".")[2], token):
        assert secret not in "".join(told)
        for file in trimtab.data.glob("*.db*"):
            assert secret.encode() not in file.read_bytes()
    for name in ("cli.key", "secret"):
        assert (trimtab.data / name).stat().st_mode & 0o077 == 0


def test_what_is_answered_is_sent_at_once() -> None:
    """Else the second part of an answer waits for the sender's delayed acknowledgement, forty milliseconds a request."""
    with open_port("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
