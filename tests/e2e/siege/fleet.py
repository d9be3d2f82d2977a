"""All of production on this machine: each service some processes of its own, on a broker and a database, each on a port that it keeps over its restarts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from deploy.kafka.broker import free_ports
from tests.e2e.plug.zygote import Command, Started, Zygote
from tests.e2e.running import SECRET
from tests.shell.commanded import CLEAN
from tests.shell.sandboxed import ROOT, Sandbox

SERVICES = {"ingest": 1, "rules": 2, "actions": 2, "console": 1}
ENDS = 26.0  # seconds in which an orderly end is over
STARTS = 90.0  # seconds in which every process is ready
SHARED = "5e" * 32


@dataclass
class Member:
    """One process, or the place of one that has ended."""

    service: str
    name: str
    port: int
    log: Path
    process: Started | None = None
    root: Path = ROOT  # of its code

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def errors(self) -> str:
        """What it logged as an error; of aiokafka's own lines none is: it says so of every broker and member that goes."""
        lines = self.log.read_text().splitlines()
        return "\n".join(x for x in lines if ("level=error" in x and "aiokafka" not in x.lower()) or x.startswith(("Traceback", "  File")))


@dataclass
class Fleet:
    """`settings` are added to those of every process, `own` to those of one service's."""

    folder: Path
    bootstrap: str
    database: str
    platform: Sandbox
    prefix: str
    partitions: int = 4
    replicas: int = 1
    many: Mapping[str, int] = field(default_factory=lambda: SERVICES)
    settings: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    http: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=30, trust_env=False))
    key: str = ""
    zygote: Zygote | None = None  # who starts them; without one each is the real command

    def __post_init__(self) -> None:
        wanted = [(service, f"{service}-{i}") for service, many in self.many.items() for i in range(many)]
        for (service, name), port in zip(wanted, free_ports(len(wanted)), strict=True):
            self.members[name] = Member(service, name, port, self.folder / f"{name}.log")

    def of(self, service: str) -> list[Member]:
        return [m for m in self.members.values() if m.service == service]

    @property
    def url(self) -> str:
        return self.of("console")[0].url

    def environment(self, member: Member) -> dict[str, str]:
        values = {
            "kafka": self.bootstrap, "kafka_prefix": self.prefix, "kafka_partitions": self.partitions, "kafka_replicas": self.replicas,
            "database": self.database,
            "data": self.folder / "data", "port": member.port, "secret": SHARED, "log_level": "warning", "webhook_secrets": f'{{"sandbox": ["{SECRET}"]}}',
            "sandbox_url": self.platform.url, "sandbox_token": "sandbox", "settle_seconds": 0.02, "checkpoint_records": 12, "checkpoint_seconds": 0.2,
            **{f"{service}_url": self.of(service)[0].url for service in ("ingest", "rules", "actions")},
            **self.settings,
            **self.own.get(member.service, {}),
        }  # fmt: skip
        return CLEAN | {"OPENBLAS_NUM_THREADS": "1"} | {f"TRIMTAB_{name.upper()}": str(value) for name, value in values.items()}

    def begin(self, member: Member, **more: str) -> None:
        """The process is there; whether it is ready is another matter. `more` are variables of its environment alone."""
        words, environment = ("serve", member.service), self.environment(member) | more
        if self.zygote is not None:
            own = {name: value for name, value in environment.items() if name.startswith("TRIMTAB_")}
            member.process = self.zygote.start(own, member.log, words)
        else:
            member.process = Command(environment, member.log, words, member.root)

    def command(self, *words: str, **more: str) -> str:
        """What `trimtab` prints with the settings of this fleet."""
        any_member = next(iter(self.members.values()))
        own = {"TRIMTAB_URL": self.url, "TRIMTAB_KEY": self.key} | more
        environment = {k: v for k, v in (self.environment(any_member) | own).items() if v}
        done = subprocess.run([sys.executable, "-m", "services", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def start(self) -> Fleet:
        """Everything is ready, and we have an admin's key."""
        for member in self.members.values():
            self.begin(member)
        self.key = self.command("key", "tester", "--role", "admin", "--direct").strip()
        self.http.headers["Authorization"] = f"Bearer {self.key}"
        self.await_ready()
        return self

    def await_ready(self, *members: Member) -> None:
        end = time.monotonic() + STARTS
        for member in members or self.members.values():
            while (said := self.readiness(member)) != "":
                assert time.monotonic() < end, f"{member.name} is not ready: {said}\n{member.log.read_text()[-3000:]}"
                assert member.process is None or member.process.ended() is None, f"{member.name} ended: {member.log.read_text()[-3000:]}"
                time.sleep(0.05)

    def readiness(self, member: Member) -> str:
        """Why it is not ready, "" where it is."""
        try:
            answer = self.http.get(f"{member.url}/readyz")
            return str(answer.json()["why"])
        except (httpx2.HTTPError, ValueError) as error:
            return f"no answer ({type(error).__name__})"

    def kill(self, member: Member) -> None:
        assert member.process is not None
        member.process.send(signal.SIGKILL)
        member.process.ended(10)

    def end(self, member: Member) -> int | None:
        """Asked to end in good order; its code, None where it does not within the time that it is given."""
        assert member.process is not None
        member.process.send(signal.SIGTERM)
        return member.process.ended(ENDS)

    def ask(self, method: str, path: str, body: Any = None, base: str = "") -> httpx2.Response:
        """The answer; who gets none, or is told to come back, asks again."""
        end = time.monotonic() + STARTS
        while True:
            try:
                answer = self.http.request(method, f"{base or self.url}{path}", json=body)
                if answer.status_code not in (429, 503):
                    return answer
                said = answer.text
            except httpx2.TransportError as error:
                said = str(error)
            assert time.monotonic() < end, f"{method} {path}: {said}"
            time.sleep(0.1)

    def close(self) -> None:
        for member in self.members.values():
            if member.process is not None and member.process.ended() is None:
                self.kill(member)
        self.http.close()


@contextmanager
def fleet(folder: Path, bootstrap: str, database: str, platform: Sandbox, *, prefix: str = "", **options: Any) -> Iterator[Fleet]:
    made = Fleet(folder, bootstrap, database, platform, prefix or f"f{os.urandom(4).hex()}", **options)
    try:
        yield made.start()
    finally:
        made.close()
