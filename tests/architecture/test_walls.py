"""The walls of the house: the core is pure, and nothing in it can read a clock, draw a number or open a file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "services"
ROOMS = ("kernel", "rules_engine/core", "rules_engine/guards", "rules_engine/metrics", "ingest/core", "ingest/sources", "actions/core")
PURE = sorted(p for room in ROOMS for p in (ROOT / room).glob("**/*.py"))
BANNED_IMPORTS = {"time", "random", "secrets", "uuid", "asyncio", "socket", "subprocess", "os", "sqlite3", "threading", "locale"} | {
    "httpx2",
    "sqlalchemy",
    "fastapi",
    "aiosqlite",
}
BANNED_CALLS = {"now", "utcnow", "today", "urandom", "open", "hash", "id", "print", "eval", "exec"}
FLOAT_SUMS = {"exp", "log", "log1p", "expm1", "power", "logaddexp"}


def purity_faults(tree: ast.AST) -> list[str]:
    """The lines of a module that would let the world into the core."""
    faults = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name.split(".")[0] for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
        faults += [f"{node.lineno}: import {n}" for n in names if n in BANNED_IMPORTS]
        if isinstance(node, ast.Call):
            f = node.func
            if isinstance(f, ast.Name) and f.id in BANNED_CALLS:
                faults.append(f"{node.lineno}: {f.id}()")
            if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name):
                if f.value.id in ("datetime", "date") and f.attr in BANNED_CALLS:
                    faults.append(f"{node.lineno}: {f.value.id}.{f.attr}()")
                if f.value.id in ("np", "math") and f.attr in FLOAT_SUMS:
                    faults.append(f"{node.lineno}: {f.value.id}.{f.attr}() differs between processors")
                if f.value.id == "np" and f.attr == "random":
                    faults.append(f"{node.lineno}: np.random")
    return faults


@pytest.mark.parametrize("path", PURE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_reads_no_clock_and_no_world(path: Path) -> None:
    assert purity_faults(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "planted",
    ["import time", "from random import random", "x = hash('a')", "import datetime\nx = datetime.now()", "y = np.exp(1.0)", "f = open('x')"],
)
def test_the_wall_sees_a_planted_fault(planted: str) -> None:
    assert purity_faults(ast.parse(planted))
