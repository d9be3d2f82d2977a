"""`trimtab` as people run it: every command a process of its own, with nothing of this process's settings, ended by its pid.

Each is a fork of one that has read all modules (`tests.e2e.plug.zygote`), since to read them takes longer than most commands do. It gets the words, the
environment and the files of a command of its own, and runs the same entry point.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from tests.e2e.plug.zygote import CLEAN as WITHOUT_SETTINGS
from tests.e2e.plug.zygote import Zygote
from tests.e2e.running import PACK, SECRET, signed
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
        child = zygote().start({f"TRIMTAB_{k.upper()}": v for k, v in settings.items()}, err, [*map(str, arguments)], out)
        code = child.ended(60)
        if code is None:
            child.send(signal.SIGKILL)
            raise AssertionError(f"trimtab {arguments} did not end within 60 s: {out.read_text()}{err.read_text()}")
        return Said(code, out.read_text(), err.read_text())


def zygote() -> Zygote:
    """One for all commands of this process that find the same modules; it ends with it, and its children with it."""
    return _zygote(CLEAN.get("PYTHONPATH"))


@cache
def _zygote(modules: str | None) -> Zygote:
    made = Zygote(environment=WITHOUT_SETTINGS | ({} if modules is None else {"PYTHONPATH": modules}))
    atexit.register(made.close)
    return made


class Process:
    """A command that goes on, and what it says."""

    def __init__(self, settings: dict[str, str], log: Path, words: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory(prefix="trimtab-says-") as folder:
            pipe = Path(folder) / "out"
            os.mkfifo(pipe)
            file = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # opened before there is a writer
            self._child = zygote().start(settings, log, words, pipe)
            while not select.select([file], [], [], 0.02)[0] and self.poll() is None:
                pass  # before its first words the file is not to be waited on: it is at its end until it has a writer
        os.set_blocking(file, True)
        self.stdout = os.fdopen(file)

    @property
    def pid(self) -> int:
        return self._child.pid

    def poll(self) -> int | None:
        return self._child.ended()

    def wait(self, seconds: float) -> int:
        code = self._child.ended(seconds)
        if code is None:
            raise AssertionError(f"process {self.pid} did not end within {seconds:g} s")
        return code

    def send_signal(self, sign: signal.Signals) -> None:
        self._child.send(sign)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


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
        code = self.process.wait(30)
        return code, self.process.stdout.read()


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
    process = Process({f"TRIMTAB_{k.upper()}": v for k, v in values.items()}, log, ["up"])
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
