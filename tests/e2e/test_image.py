"""What the image holds works: built by the Dockerfile's own steps, run by a stranger from a tree that cannot be written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from deploy.kafka.broker import Brokers
from deploy.postgres.server import Server
from services import VERSION
from tests.dockerfile import ROOT, build, context, stages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NOBODY = 10001
AS_ROOT = os.geteuid() == 0
PATH = "/usr/bin:/bin" if AS_ROOT else os.environ["PATH"]  # a Python that others than root can run


@dataclass(frozen=True)
class Image:
    """`app` stands for the folder that the image keeps the application in; nothing of it may be written."""

    app: Path
    data: Path

    def environment(self, **settings: str) -> dict[str, str]:
        told = stages((ROOT / "Dockerfile").read_text())[-1].environment
        return {name: value.replace("/opt/trimtab", str(self.app)).replace("$PATH", PATH) for name, value in told.items()} | {
            "TRIMTAB_DATA": str(self.data),
            "TRIMTAB_HOST": "127.0.0.1",
            "TRIMTAB_PORT": "0",
            **settings,
        }

    def start(self, *words: str, **settings: str) -> subprocess.Popen[str]:
        stranger = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if AS_ROOT else {}
        environment = self.environment(**settings)
        command = shutil.which("trimtab", path=environment["PATH"])
        assert command is not None
        pipe = subprocess.PIPE
        return subprocess.Popen([command, *words], cwd=self.data, env=environment, stdout=pipe, stderr=pipe, text=True, **stranger)

    def files(self) -> dict[str, int]:
        return {str(p): p.lstat().st_mtime_ns for p in self.app.rglob("*")}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="trimtab-image-") as made:  # not pytest's own folder, which is closed to strangers
        folder, first = Path(made), stages((ROOT / "Dockerfile").read_text())[0]
        folder.chmod(0o755)
        found = Image(folder / "app", folder / "data")
        for there in (found.app, found.data):
            there.mkdir()
        if AS_ROOT:
            os.chown(found.data, NOBODY, NOBODY)
        build(first, context((ROOT / ".dockerignore").read_text(), folder / "context"), found.app, PATH)
        shutil.rmtree(folder / "context")
        subprocess.run(["chmod", "-R", "a-w", str(found.app)], check=True)
        yield found
        subprocess.run(["chmod", "-R", "u+w", str(found.app)], check=True)


def test_it_says_its_version_and_leaves_no_tools_behind(image: Image) -> None:
    out, err = (process := image.start("--version")).communicate(timeout=60)
    assert (process.returncode, out, err) == (0, f"trimtab {VERSION}\n", "")
    assert sorted(p.name for p in image.app.iterdir()) == [".venv", "services"]
    assert not list(image.app.glob(".venv/lib/python*/site-packages/pip"))


def test_it_migrates_runs_the_engine_writes_nothing_beside_its_data_and_ends_in_order(image: Image, kafka: Brokers, postgres: Server) -> None:
    before, prefix = image.files(), f"image-{os.urandom(4).hex()}"
    postgres.sql("CREATE DATABASE image")
    database = {"TRIMTAB_DATABASE": postgres.url("image")}
    out, err = (process := image.start("migrate", **database)).communicate(timeout=120)
    assert process.returncode == 0 and out.endswith("is this build's\n"), err
    topics = {"TRIMTAB_KAFKA": kafka.bootstrap, "TRIMTAB_KAFKA_PREFIX": prefix, "TRIMTAB_KAFKA_REPLICAS": "1", "TRIMTAB_KAFKA_PARTITIONS": "1"}
    process = image.start("serve", "rules", **topics, **database, TRIMTAB_SECRET="ab" * 32)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next((word for word in line.split() if word.startswith("http")), "")
        assert url, line + process.stderr.read()
        url = url.rstrip(";")
        end = time.monotonic() + 60
        while httpx2.get(f"{url}/readyz").status_code != 200:
            assert time.monotonic() < end, httpx2.get(f"{url}/readyz").text
            time.sleep(0.1)
        assert httpx2.get(f"{url}/livez").status_code == 200
        assert "trimtab_engine_partitions 1.0" in httpx2.get(f"{url}/metrics").text
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "stopped; nothing that was acknowledged is lost\n"), err
    finally:
        process.kill()
        process.wait()
    assert image.files() == before
