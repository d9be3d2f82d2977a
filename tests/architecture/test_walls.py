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


SECRET_NAMES = ("digest", "mac", "signature", "secret", "key")


def hasty_comparisons(tree: ast.AST) -> list[int]:
    """The lines that compare a secret, or a hash made with one, in a time that depends on how much of it is right; a database looks up keyed hashes."""

    def name(node: ast.AST) -> str:
        node = node.func if isinstance(node, ast.Call) else node
        return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""

    def is_column(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "c"

    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
            sides = [node.left, *node.comparators]
            if any(name(s).endswith(SECRET_NAMES) for s in sides) and not any(is_column(s) for s in sides):
                lines.append(node.lineno)
    return lines


CHECKING_SECRETS = sorted(p for p in ROOT.glob("**/*.py") if "hmac" in p.read_text())


@pytest.mark.parametrize("path", CHECKING_SECRETS, ids=lambda p: str(p.relative_to(ROOT)))
def test_secrets_are_compared_in_constant_time(path: Path) -> None:
    assert hasty_comparisons(ast.parse(path.read_text())) == []


def test_a_hasty_comparison_is_seen() -> None:
    assert {"adapters/http/auth.py", "ingest/core/signature.py"} <= {str(p.relative_to(ROOT)) for p in CHECKING_SECRETS}
    for planted in ("self._digest(x) == row.digest", "signature in given", "mac != other", "a.expected_digest() == b"):
        assert hasty_comparisons(ast.parse(planted))
    assert hasty_comparisons(ast.parse("links.c.digest == self._digest(x)")) == []
