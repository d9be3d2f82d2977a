"""The points where tests end a process: one list, each of them in the shell, called once by a name that stands there in full."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.adapters import faultpoint
from services.kernel.errors import Misconfigured
from tests.architecture.test_walls import PURE

ROOT = Path(__file__).parents[2]


def names(tree: ast.AST) -> Iterator[str]:
    """Of every point that a module has; a name that is put together is none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "faultpoint":
            [name] = node.args
            assert isinstance(name, ast.Constant), f"line {node.lineno}: a point's name is a text"
            yield str(name.value)


IN_CODE = {path: list(names(ast.parse(path.read_text()))) for path in sorted((ROOT / "services").rglob("*.py")) if "generated" not in path.parts}


def test_the_list_of_points_is_what_the_code_has() -> None:
    assert {name for found in IN_CODE.values() for name in found} == set(faultpoint.POINTS)
    assert len(faultpoint.POINTS) >= 25


def test_a_point_is_in_one_file() -> None:
    files = Counter(name for found in IN_CODE.values() for name in set(found))
    assert [name for name, count in files.items() if count > 1] == []


@pytest.mark.parametrize("path", PURE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_has_no_point(path: Path) -> None:
    assert IN_CODE[path] == []


def test_a_point_does_what_was_asked_at_the_hit_and_nothing_before_or_after() -> None:
    done: list[str] = []
    faultpoint.arm("engine.said", 3, lambda: done.append("now"))
    try:
        for name in ("engine.said", "engine.told", "engine.said", "engine.told"):
            faultpoint.faultpoint(name)
        assert done == []
        for _ in range(3):
            faultpoint.faultpoint("engine.said")
        assert done == ["now"]
    finally:
        faultpoint.disarm()
    faultpoint.faultpoint("engine.said")
    assert done == ["now"]


@pytest.mark.parametrize("wanted", ["engine.said", "engine.said:1", "engine.said:0:KILL", "engine.said:x:KILL", "engine.said:1:BURN", "engine.nowhere:1:KILL"])
def test_what_cannot_be_read_stops_the_start(wanted: str) -> None:
    with pytest.raises(Misconfigured, match=f"TRIMTAB_FAULTPOINT={wanted} is not name:hit:deed"):
        faultpoint.arm_from({faultpoint.VARIABLE: wanted})
    assert faultpoint.arm_from({}) == ""


@pytest.mark.parametrize(
    ("deed", "code", "said"), [("KILL", -9, "first\n"), ("RAISE", 1, "first\n"), ("DELAY", 0, "first\nsecond\n"), ("SLOW", 0, "first\nsecond\n")]
)
def test_the_environment_of_a_process_asks_for_it(deed: str, code: int, said: str) -> None:
    program = (
        "import os, sys\nfrom services.adapters.faultpoint import arm_from, faultpoint\narm_from(os.environ)\n"
        "faultpoint('engine.said')\nprint('first', flush=True)\nfaultpoint('engine.said')\nprint('second')\n"
    )
    environment = {"TRIMTAB_FAULTPOINT": f"engine.said:2:{deed}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (code, said)
    assert ("Planted: planted by a test" in done.stderr) == (deed == "RAISE")
