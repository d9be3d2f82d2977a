"""Two rule libraries on the sums that the per-event engine keeps: they judge, it does all the rest. Each judges a group of rules in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.rivals.per_event import Judge
from benchmarks.rivals.plain import MICRO, NAMES, Clause, Rule


def _sides(c: Clause) -> tuple[str, float, str | None]:
    """(name on the left, factor or number on the right, name on the right): in whole units."""
    if c.right[1] is None:
        return NAMES[c.left[1]], c.right[0] / c.left[0] / MICRO, None
    return NAMES[c.left[1]], c.right[0] / c.left[0], NAMES[c.right[1]]


def zen(rules: Sequence[Rule]) -> Judge:
    """One compiled expression of a group, an array of conditions; a decision table of the same rules took twenty times as long."""
    from zen import compile_expression

    def written(c: Clause) -> str:
        left, number, name = _sides(c)
        return f"{left} {c.op} {number:.12f}" if name is None else f"{left} {c.op} {name} * {number:.12f}"

    evaluate = compile_expression("[" + ", ".join(" and ".join(written(c) for c in r.clauses) for r in rules) + "]").evaluate
    return _named(rules, evaluate)


def datalogic(rules: Sequence[Rule]) -> Judge:
    """One compiled JSONLogic array of a group, in a session that keeps its memory."""
    from datalogic_py import Engine

    def written(c: Clause) -> dict[str, Any]:
        left, number, name = _sides(c)
        return {c.op: [{"var": left}, number if name is None else {"*": [{"var": name}, number]}]}

    engine = Engine()
    rule, session = engine.compile([{"and": [written(c) for c in r.clauses]} for r in rules]), engine.session()
    return _named(rules, partial(session.evaluate, rule))


def _named(rules: Sequence[Rule], evaluate: Callable[[Any], list[bool]]) -> Judge:
    names = [r.name for r in rules]

    def judge(sums: Any) -> Sequence[str]:
        truths = evaluate(sums)
        return [name for name, holds in zip(names, truths, strict=True) if holds] if True in truths else ()

    return judge
