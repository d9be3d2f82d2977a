"""`make bench-check` names what got slower, and a busy machine is not it."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from benchmarks import against
from benchmarks.against import ROOT, CannotRun, checked_out, compared, measured
from benchmarks.figure import Figure


class Machine:
    """Measures two trees, with whatever else it does: `busy` says what is left of it at its n-th measurement."""

    def __init__(self, busy: Callable[[int], float] = lambda _: 1.0, **of_before: float) -> None:
        self.busy, self.of_before, self.order = busy, of_before, ""

    def _figures(self, **values: float) -> list[dict[str, Any]]:
        left = self.busy(len(self.order) - 1)
        return [
            {"case": name, "value": value / left if name.endswith("_ms") else value * left, "unit": "x"} | ({"at_most": True} if name.endswith("_ms") else {})
            for name, value in values.items()
        ]

    def here(self) -> list[dict[str, Any]]:
        self.order += "h"
        return self._figures(**{name: 1000 / of if name.endswith("_ms") else 1000 * of for name, of in self.of_before.items()})

    def there(self) -> list[dict[str, Any]]:
        self.order += "t"
        return self._figures(**dict.fromkeys(self.of_before, 1000.0))

    def slower(self) -> list[str]:
        return [case.name for case in compared(self.here, self.there) if case.is_slower]


def test_what_got_slower_is_named_and_what_got_faster_is_not() -> None:
    assert Machine(events=0.8, p99_ms=0.8, same=1.0, faster=1.5, faster_ms=1.5, nearly=0.95).slower() == ["events", "p99_ms"]


def test_the_trees_take_turns_in_changing_order_and_what_seems_slower_has_twice_as_many() -> None:
    quiet, slow = Machine(events=1.0), Machine(events=0.5)
    assert (quiet.slower(), quiet.order) == ([], "htthht")
    assert (slow.slower(), slow.order) == (["events"], "htthht" + "thhtth")


def test_a_burst_of_other_work_in_one_turn_is_not_taken_for_slowness() -> None:
    for busy in range(6):
        speed = [0.2 if turn == busy else 1.0 for turn in range(12)]
        assert Machine(speed.__getitem__, events=1.0, p99_ms=1.0).slower() == []


def test_a_machine_that_is_more_and_more_busy_hides_nothing_and_accuses_nobody() -> None:
    fading: Callable[[int], float] = lambda n: 1.0 / (1 + n / 10)  # noqa: E731
    assert Machine(fading, events=1.0, p99_ms=1.0).slower() == []
    assert Machine(fading, events=0.7, p99_ms=0.7).slower() == ["events", "p99_ms"]


def test_under_noise_a_real_slowdown_is_nearly_always_named_and_none_nearly_never() -> None:
    def busy(seed: int) -> Callable[[int], float]:
        draws = random.Random(seed)
        return lambda _: draws.uniform(0.75, 1.0)

    assert sum(bool(Machine(busy(seed), events=1.0).slower()) for seed in range(300)) <= 15
    assert sum(bool(Machine(busy(seed), events=0.7).slower()) for seed in range(300)) >= 285


def test_among_many_figures_that_each_sway_for_themselves_nearly_never_one_is_accused_by_chance() -> None:
    def accused(seed: int) -> int:
        draws = random.Random(seed)

        def tree() -> list[dict[str, Any]]:
            return [{"case": str(n), "value": draws.uniform(0.8, 1.0), "unit": "x"} for n in range(150)]

        return sum(case.is_slower for case in compared(tree, lambda: tree()))

    assert sum(bool(accused(seed)) for seed in range(50)) <= 5


def test_what_every_turn_calls_slower_needs_no_more_of_them_and_what_only_most_do_is_measured_again_twice_as_often() -> None:
    speeds = iter([0.8, 1.0, 1.0, 0.8, 0.8, 1.0, 1.0, 0.8, 0.8, 1.0] + [1.0] * 14)  # this tree seems slower in five turns of the first six
    doubtful = Machine(lambda _: next(speeds), events=1.0)
    assert (doubtful.slower(), len(doubtful.order)) == ([], 24)
    clear = Machine(events=0.8)
    assert (clear.slower(), len(clear.order)) == (["events"], 12)


def test_a_benchmark_that_one_tree_does_not_run_is_compared_with_nothing() -> None:
    machine = Machine(events=1.0)
    with pytest.raises(CannotRun, match="this tree"):
        compared(lambda: None, machine.there)
    with pytest.raises(CannotRun, match="the tree before"):
        compared(machine.here, lambda: None)


def test_a_case_that_only_one_tree_has_is_compared_with_nothing() -> None:
    machine = Machine(events=0.5)
    assert compared(machine.here, lambda: [{"case": "other", "value": 1, "unit": "x"}]) == []


def test_what_only_one_tree_has_is_known_so_that_it_can_be_named() -> None:
    cases = measured(Machine(events=1.0).here, lambda: [{"case": "other", "value": 1, "unit": "x"}])
    assert [(case.name, case.is_compared) for case in cases] == [("events", False), ("other", False)]


def test_what_is_not_compared_is_named_and_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def figures(name: str, skipped: dict[str, None], *trees: Path) -> list[dict[str, Any]] | None:
        skipped["rivals   zen: skipped, it is not installed"] = None
        if name == "kafka":
            return None if trees[0] == Path("ours") else []
        return [{"case": "both", "value": 1, "unit": "x"}, {"case": f"of {trees[0].name}", "value": 1, "unit": "x"}]

    monkeypatch.setattr(against, "_figures", figures)
    monkeypatch.setattr(against, "checked_out", lambda _: nullcontext((Path("own"), Path("ours"))))
    assert against.against("HEAD~1", ["rivals", "kafka"]) == 0
    assert [line.removeprefix("NOT COMPARED ") for line in capsys.readouterr().out.splitlines() if line.startswith("NOT COMPARED")] == [
        "rivals   zen: skipped, it is not installed",
        f"rivals of {ROOT.name}: only one of the trees has it",
        "rivals of ours: only one of the trees has it",
        "kafka: the tree before cannot run it",
    ]


def test_a_case_in_seconds_and_in_those_of_processor_is_two_figures() -> None:
    def tree(wall: float, processor: float) -> list[dict[str, Any]]:
        return [{"case": "c", "value": wall, "unit": "events/s"}, {"case": "c", "value": processor, "unit": "events/s of processor"}]

    cases = compared(lambda: tree(50, 200), lambda: tree(100, 200))
    assert [(case.unit, case.ratio, case.is_slower) for case in cases] == [("events/s", 0.5, True), ("events/s of processor", 1.0, False)]


def test_a_figure_without_its_goal_is_missed_in_the_right_direction() -> None:
    assert [Figure("x", "c", v, "u", 10).reached for v in (9, 10, 11)] == [False, True, True]
    assert [Figure("x", "c", v, "u", 10, at_most=True).reached for v in (9, 10, 11)] == [True, True, False]


def test_the_tree_before_is_measured_by_this_tree_s_benchmarks_and_leaves_nothing_behind() -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("this is not a git checkout")
    with checked_out("HEAD") as (own, ours):
        assert (ours / "benchmarks" / "against.py").read_text() == (ROOT / "benchmarks" / "against.py").read_text()
        assert (ours / "services").resolve() == (own / "services").resolve()
        kept: Path = own
    assert not kept.exists()
    assert str(kept) not in subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True).stdout
