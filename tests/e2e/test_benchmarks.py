"""Every benchmark that needs nothing but this machine runs to its end in its small size. Its figures are nobody's business here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("kafka", "rivals")  # test_bench_kafka.py; rivals need an environment of their own


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ELSEWHERE])
def test_it_runs_and_prints_figures_of_its_own(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", name], cwd=ROOT, env={**os.environ, "JSON": "1"}, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(figures) > 3 and {f["benchmark"] for f in figures} == {name}
    assert all(f["value"] > 0 for f in figures if "stage" not in f["case"])
