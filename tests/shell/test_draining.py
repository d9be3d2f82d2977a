"""A service that is told to end does, in good order or at the end of its time, whatever holds it up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.running import DRAIN

ROOT = Path(__file__).parents[2]
SERVICE = """
import asyncio, contextlib, os, signal, sys, time
from services import production, running

class Service:
    @contextlib.asynccontextmanager
    async def serving(self):
        yield "http://127.0.0.1:1"

    async def start(self):
        os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self):
        {stop}

production.service = lambda name, settings: Service()
running.DRAIN = {drain}
running.serve("rules")
"""
HELD_UP = {
    "by a log that does not answer": "await asyncio.sleep(600)",
    "by a thread that waits for storage": "asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)",
    "by a loop that stands still": "time.sleep(600)",
}


def served(tmp_path: Path, stop: str, drain: float) -> subprocess.CompletedProcess[str]:
    script = SERVICE.format(stop=stop, drain=drain)
    where = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TRIMTAB_DATA": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", script], env=where, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("stop", HELD_UP.values(), ids=HELD_UP)
def test_who_cannot_drain_is_gone_at_the_end_of_its_time_and_says_so(tmp_path: Path, stop: str) -> None:
    ended = served(tmp_path, stop, 0.5)
    told = ended.stdout + ended.stderr
    assert (ended.returncode, "not drained in time" in told, "taken up by whoever comes next" in told) == (1, True, True), told


def test_who_has_drained_waits_for_nothing(tmp_path: Path) -> None:
    """Were the timer waited for, this would not come back in time."""
    ended = served(tmp_path, "await asyncio.sleep(0)", 300)
    assert (ended.returncode, "stopped; nothing that was acknowledged is lost" in ended.stdout) == (0, True), ended.stderr


def test_the_time_to_drain_is_less_than_what_a_pod_is_given() -> None:
    chart = (ROOT / "helm" / "trimtab" / "templates" / "_helpers.tpl").read_text()
    assert "terminationGracePeriodSeconds: 30 # 4 until nobody sends any more, 25 to drain" in chart and DRAIN < 25
