"""What the chart's pods are started with works: each as a process here, on a real broker and database, asked by its own probes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deploy.kafka.broker import Brokers, free_ports
from deploy.postgres.server import Server
from tests.charted import LEAST, SERVICES, environment, mounted, named, rendered, services
from tests.dockerfile import ROOT, stages
from tests.e2e.running import SECRET, signed
from tests.shell.commanded import CLEAN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ALIVE = ("startupProbe", "livenessProbe")
FILES = {"secret": "5e" * 32, "webhook-secrets.json": f'{{"sandbox": ["{SECRET}"]}}'}


@dataclass
class Release:
    """The pods of a release as processes, each on a port of its own instead of at an address of its own."""

    objects: list[dict[str, Any]]
    folder: Path
    secrets: dict[str, str]
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True)))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """Addresses and files as they are on this machine."""
        text = re.sub(r"http://trimtab-(\w+):8420", lambda found: self.url(found[1]), text)
        text = text.replace("http://$(POD_IP):8420", self.url("rules")).replace("http://trimtab-{service}:8420", "http://127.0.0.1:{PORTS[service]}")
        return text.replace("/etc/trimtab/secrets", str(self.folder / "secrets")).replace("/var/lib/trimtab", str(self.folder / "data"))

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    def environment(self, spec: dict[str, Any], service: str = "") -> dict[str, str]:
        told = {name: self.here(value) for name, value in (stages((ROOT / "Dockerfile").read_text())[-1].environment | environment(spec, self.objects)).items()}
        for path in mounted(spec):
            Path(self.here(path)).parent.mkdir(exist_ok=True)
            Path(self.here(path)).write_text(self.secrets[Path(path).name])
        port = str(self.ports[service]) if service else "0"
        return CLEAN | told | {"PATH": CLEAN["PATH"], "TRIMTAB_HOST": "127.0.0.1", "TRIMTAB_PORT": port, "OPENBLAS_NUM_THREADS": "1"}

    def trimtab(self, *words: str, spec: dict[str, Any]) -> str:
        done = subprocess.run([sys.executable, "-m", "services", *words], cwd=ROOT, env=self.environment(spec), capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        (self.folder / "data").mkdir()
        job = named(self.objects)["Job migrate"]["spec"]["template"]["spec"]
        assert self.trimtab(*job["containers"][0]["args"], spec=job)
        for service, spec in services(self.objects).items():
            command = [sys.executable, "-m", "services", *spec["containers"][0]["args"]]
            with (self.folder / f"{service}.log").open("wb") as log:
                self.processes[service] = subprocess.Popen(command, cwd=ROOT, env=self.environment(spec, service), stdout=log, stderr=log)

    def probe(self, service: str, which: str) -> int:
        asked = services(self.objects)[service]["containers"][0][which]["httpGet"]
        return httpx2.get(self.url(service) + asked["path"], trust_env=False).status_code

    def await_ready(self, patience: float = 120) -> None:
        end = time.monotonic() + patience
        for service, process in self.processes.items():
            while True:
                try:
                    if self.probe(service, "readinessProbe") == 200:
                        break
                except httpx2.TransportError:
                    pass
                log = (self.folder / f"{service}.log").read_text()[-2000:]
                assert process.poll() is None and time.monotonic() < end, f"{service} is not ready: {log}"
                time.sleep(0.1)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def release(kafka: Brokers, postgres: Server, tmp_path: Path) -> Iterator[Release]:
    postgres.sql("CREATE DATABASE chart")
    start, _, rest = postgres.url("chart").partition("://")
    [(user, password, place)] = re.findall(r"^([^:@]+):([^@]+)@(.+)$", rest)
    values = {
        "kafka.brokers": kafka.bootstrap, "kafka.prefix": f"chart-{os.urandom(4).hex()}", "kafka.replicas": "1", "kafka.partitions": "2",
        "database.address": f"{start}://{user}@{place}", "secretKeys.webhookSecrets": "webhook-secrets.json",
    }  # fmt: skip
    words = [word for name, value in values.items() for word in ("--set", f"{name}={value}".replace(",", "\\,"))]
    made = Release(rendered(LEAST, *words), tmp_path, FILES | {"database-password": password})
    try:
        yield made
    finally:
        made.stop()


def test_what_the_chart_starts_becomes_ready_serves_through_one_address_and_ends_in_order(release: Release) -> None:
    release.start()
    release.await_ready()
    assert {(service, which): release.probe(service, which) for service in SERVICES for which in ALIVE} == dict.fromkeys(product(SERVICES, ALIVE), 200)

    console = services(release.objects)["console"]
    key = release.trimtab("key", "you", "--role", "admin", "--direct", spec=console).strip()
    people = httpx2.Client(base_url=release.url("console"), headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)
    for path in ("/v1/me", "/v1/rules", "/v1/decisions", "/v1/quarantine"):  # console, rules, actions, ingest
        assert people.get(path).status_code == 200, path

    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    ad = {"id": "r1", "entity": {"account": "demo", "campaign": "c1"}, "occurred_at": at, "currency": "EUR", "impressions": 1}
    body = json.dumps({"type": "report", "account": "demo", "sent_at": at, "rows": [ad]}).encode()
    hook = f"{release.url('ingest')}/v1/webhooks/sandbox"
    answers = [httpx2.post(hook, content=body, headers=headers, trust_env=False).status_code for headers in (signed(body), {})]
    assert answers == [202, 401], "ingest has the signing secret"

    [test] = [o["spec"]["containers"][0] for o in release.objects if o["kind"] == "Pod"]
    script = f"PORTS = {release.ports!r}\n" + release.here(test["args"][0])
    done = subprocess.run([sys.executable, "-c", script], env=CLEAN, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.count('"ready":true')) == (0, len(SERVICES)), done.stdout + done.stderr

    for process in release.processes.values():
        process.send_signal(signal.SIGTERM)
    assert {service: process.wait(60) for service, process in release.processes.items()} == dict.fromkeys(SERVICES, 0)
