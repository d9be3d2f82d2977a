"""`trimtab` as people run it: every command a process of its own, with nothing of this process's settings, ended by its pid.

Each is a fork, see `tests.shell.forked`.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from tests.e2e.running import PACK, SECRET, signed
from tests.shell.forked import Process, zygote
from tests.shell.sandboxed import Sandbox, sandbox

T = TypeVar("T")
COMMAND = [sys.executable, "-m", "services"]  # for what a fork cannot be given: a terminal
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("TRIMTAB_")}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def refused(self) -> str:
        """The one clear line (or caret) of a command that could not do what was asked."""
        assert (self.code, self.out) == (2, ""), self
        assert "Traceback" not in self.err, self.err
        return self.err.strip()


def run(*arguments: object, **settings: str) -> Said:
    """One command with these TRIMTAB_ settings alone."""
    with tempfile.TemporaryDirectory(prefix="trimtab-said-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        child = zygote(CLEAN.get("PYTHONPATH")).start({f"TRIMTAB_{k.upper()}": v for k, v in settings.items()}, err, [*map(str, arguments)], out)
        code = child.ended(60)
        if code is None:
            child.send(signal.SIGKILL)
            raise AssertionError(f"trimtab {arguments} did not end within 60 s: {out.read_text()}{err.read_text()}")
        return Said(code, out.read_text(), err.read_text())


@dataclass
class Up:
    """`trimtab up`, and commands that talk to it."""

    process: Process
    data: Path
    told: str  # its first line
    login: str
    log: Path
    http: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        key = (self.data / "cli.key").read_text()
        self.http = httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=20, trust_env=False)

    @property
    def url(self) -> str:
        return (self.data / "url").read_text()

    def run(self, *arguments: object) -> Said:
        return run(*arguments, data=str(self.data))

    def ok(self, *arguments: object) -> Said:
        said = self.run(*arguments)
        assert (said.code, said.err) == (0, ""), said
        return said

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        answer = self.http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def report(self, *rows: dict[str, Any]) -> None:
        """Signed rows about ads of sandbox/demo/c1/g1, deltas of now."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        made = []
        for row in rows:
            entity = {"account": "demo", "campaign": "c1", "ad_group": "g1", "creative": row["ad"]}
            rest = {k: v for k, v in row.items() if k != "ad"}
            made.append({"id": f"r{time.monotonic_ns()}{row['ad']}", "entity": entity, "occurred_at": now, "currency": "EUR", **rest})
        body = httpx2.Request("POST", "http://x", json={"type": "report", "account": "demo", "sent_at": now, "rows": made}).content
        answer = self.http.post("/v1/webhooks/sandbox", content=body, headers=signed(body, f"m{time.monotonic_ns()}"))
        assert answer.status_code == 202, answer.text

    def decisions(self, count: int, **wanted: str) -> list[dict[str, Any]]:
        return until(lambda: found if len(found := self.get("/v1/decisions", **wanted)["decisions"]) >= count else None)

    def apply(self, folder: Path, pack: str = PACK) -> Said:
        """The pack's rules are in effect."""
        file = folder / "pack.yaml"
        file.write_text(pack)
        said = self.ok("rules", "apply", file)
        until(lambda: self.get("/v1/engine")["rules"])
        return said

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """(exit code, the rest of what it says)."""
        self.http.close()
        self.process.send_signal(sign)
        return self.process.rest(30)


def until(ask: Callable[[], T | None], seconds: float = 60) -> T:
    """What `ask` answers once it answers something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"nothing within {seconds} s; the last answer was {ask()!r}")


@contextmanager
def up(data: Path, **settings: str) -> Iterator[Up]:
    """A Trimtab on a free port, ended with the block if it was not before."""
    values = {"data": str(data), "port": "0", "webhook_secrets": f'{{"sandbox": ["{SECRET}"]}}'} | settings
    log = data.with_name(f"{data.name}.log")
    log.touch()
    process = Process(["up"], log, {f"TRIMTAB_{k.upper()}": v for k, v in values.items()}, modules=CLEAN.get("PYTHONPATH"))
    try:
        told, login = process.stdout.readline(), process.stdout.readline()
        assert login, log.read_text()
        running = Up(process, data, told.strip(), login.split()[-1], log)
        yield running
        running.http.close()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stdout.close()


@contextmanager
def up_with_a_platform(folder: Path, **settings: str) -> Iterator[tuple[Up, Sandbox]]:
    """A Trimtab that executes at a sandbox with ads a1 to a6 in one ad group, all known to it."""
    ads = [f"a{i}" for i in range(1, 7)]
    with sandbox(folder) as platform:
        platform.load({f"sandbox/demo/c1/g1/{ad}": {"status": "active", "name": f"Summer_v{ad[1:]}"} for ad in ads})
        with up(folder / "data", sandbox_url=platform.url, sandbox_token="sandbox", **settings) as trimtab:
            trimtab.report(*({"ad": ad, "status": "active", "name": f"Summer_v{ad[1:]}"} for ad in ads))
            yield trimtab, platform
