"""The practice platform as a process of its own, ended by its pid."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.shell.forked import SANDBOX, Process

ROOT = Path(__file__).parents[2]
KEEP_SHORT = httpx2.Limits(keepalive_expiry=2)  # the platform closes what is idle for five seconds


@dataclass
class Sandbox:
    url: str
    journal: Path
    client: httpx2.Client
    process: Process

    def fault(self, kind: str, **more: Any) -> None:
        self.client.post("/faults", json={"kind": kind, **more}).raise_for_status()

    def load(self, objects: dict[str, dict[str, Any]]) -> None:
        self.client.put("/objects", json=objects).raise_for_status()

    def applied(self) -> list[dict[str, Any]]:
        return list(self.client.get("/journal").json()["applied"])


@contextmanager
def sandbox(folder: Path, *options: str) -> Iterator[Sandbox]:
    journal = folder / "journal.jsonl"
    log = folder / "sandbox.log"
    process = Process(["--port", "0", "--journal", str(journal), *options], log, {}, SANDBOX)
    try:
        told = process.stdout.readline()
        assert told, log.read_text()
        url = told.split()[-1]
        with httpx2.Client(base_url=url, headers={"Authorization": "Bearer sandbox"}, timeout=10, limits=KEEP_SHORT) as client:
            yield Sandbox(url, journal, client, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        process.stdout.close()
