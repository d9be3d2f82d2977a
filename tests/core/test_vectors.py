"""`trimtab guards check`: the formulas against cases computed elsewhere; a family that is not built is named, and a wrong figure is not let through."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mpmath import mp, mpf

from services.rules_engine.vectors import Malformed, check, read, render

VECTORS = Path(os.environ.get("TRIMTAB_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")).parent / "guards" / "vectors.json"
LOW, HIGH = ("0.1", "0.2", "0.4", "0.8"), ("0.1", "0.25", "0.6", "1.5")
ALPHAS = ("0.1", "0.05", "0.01", "0.001")


def proportion_case(n: int, k: int, threshold: str, direction: str) -> dict[str, Any]:
    """Another route: the four likelihoods themselves, divided by that of the threshold, at 50 digits; no logarithm before the last step."""
    p0, q = mpf(threshold), []
    for d in LOW if direction == "low" else HIGH:
        theta = p0 * (1 - mpf(d)) if direction == "low" else min(p0 * (1 + mpf(d)), (1 + p0) / 2)
        q.append(theta**k * (1 - theta) ** (n - k) / (p0**k * (1 - p0) ** (n - k)))
    inputs = {"n": n, "k": k, "threshold": float(threshold), "direction": direction}
    return case("proportion_grid", inputs, mp.fsum(q) / 4)


def rate_case(events: str, m: str, phi: str, direction: str) -> dict[str, Any]:
    """Poisson laws with the exposure scaled, divided by that of the target."""
    n, mu, sign = mpf(events) / mpf(phi), mpf(m) / mpf(phi), -1 if direction == "low" else 1
    q = []
    for d in LOW if direction == "low" else HIGH:
        other = mu * (1 + sign * mpf(d))
        q.append(other**n * mp.exp(-other) / (mu**n * mp.exp(-mu)))
    inputs = {"events": float(events), "expected_at_threshold": float(m), "dispersion": float(phi), "direction": direction}
    return case("rate_grid", inputs, mp.fsum(q) / 4)


def lag_case(events: int, buckets: list[tuple[str, str]], now: str, target: str) -> dict[str, Any]:
    """Spend weighed by hand: each bucket's share read off the straight line between its two neighbours."""
    points = [("1", "0.4"), ("6", "0.7"), ("24", "0.9"), ("72", "1")]
    m = mpf(0)
    for start, spend in buckets:
        age, share = mpf(now) - mpf(start), mpf(1)
        for (x0, y0), (x1, y1) in zip([("0", "0"), *points], points, strict=False):
            if mpf(x0) <= age < mpf(x1):
                share = mpf(y0) + (mpf(y1) - mpf(y0)) * (age - mpf(x0)) / (mpf(x1) - mpf(x0))
        m += mpf(spend) * share / mpf(target)
    made = rate_case(str(events), mp.nstr(m, 45), "1", "low")
    inputs = {
        "buckets_start_spend": [[float(s), float(a)] for s, a in buckets],
        "now": float(now),
        "lag_cdf_points_linear": [[float(x), float(y)] for x, y in points],
        "target_cpa": float(target),
        "conversions_observed": events,
    }
    return made | {"family": "maturity_weighted_cpa", "inputs": inputs, "expect": made["expect"] | {"m": float(m)}}


def case(family: str, inputs: dict[str, Any], e: Any) -> dict[str, Any]:
    return {"id": "", "family": family, "inputs": inputs, "expect": {"log_e": float(mp.log(e)), "fires": {a: bool(e >= 1 / mpf(a)) for a in ALPHAS}}}


def own() -> list[dict[str, Any]]:
    with mp.workdps(50):
        made = [
            proportion_case(6000, 30, "0.0072", "low"),
            proportion_case(10_900, 54, "0.0072", "low"),
            proportion_case(1000, 0, "0.008", "low"),
            proportion_case(1, 1, "0.5", "low"),
            proportion_case(250_000, 2400, "0.01", "low"),
            proportion_case(3_000_000, 3_100, "0.001", "low"),
            proportion_case(6000, 70, "0.008", "high"),
            proportion_case(40, 40, "0.9", "high"),
            proportion_case(100_000, 1_200, "0.01", "high"),
            proportion_case(7, 0, "0.999", "high"),
            rate_case("0", "5.26", "1", "low"),
            rate_case("0", "9.39", "1.37", "low"),
            rate_case("3", "14", "1.2", "low"),
            rate_case("250", "400", "4.75", "low"),
            rate_case("14", "5", "1", "high"),
            rate_case("900", "610.5", "2.5", "high"),
            lag_case(0, [("0", "100"), ("23", "100"), ("29.5", "110")], "31", "33"),
            lag_case(2, [("0", "90"), ("24", "90"), ("48", "90"), ("72", "40.5")], "100", "30"),
            lag_case(1, [("0", "60")], "0.25", "22"),
        ]
    return [c | {"id": f"own-{i}"} for i, c in enumerate(made, 1)]


def test_cases_of_our_own_by_another_route_at_fifty_digits_agree() -> None:
    report = check(own())
    assert report.agrees, render(report)
    assert {(f.name, f.built, f.agree) for f in report.families} == {("proportion_grid", True, 10), ("rate_grid", True, 6), ("maturity_weighted_cpa", True, 3)}
    assert max(f.largest for f in report.families) < 1e-8


def test_the_published_cases_agree_and_what_is_not_built_is_named() -> None:
    if not VECTORS.exists():
        pytest.skip(f"the published cases are not at {VECTORS}: set TRIMTAB_TEST_DATA")
    report = check(read(VECTORS.read_bytes(), VECTORS.name))
    assert report.agrees, render(report)
    assert {f.name: (f.agree, f.cases) for f in report.families if f.built} == {
        "proportion_grid": (100, 100),
        "rate_grid": (54, 54),
        "stream_proportion_low": (5, 5),
        "maturity_weighted_cpa": (3, 3),
        "proportion_bounds": (10, 10),
        "rate_bounds": (8, 8),
    }
    missing = [f.name for f in report.families if not f.built]
    assert "two_sample_counts" in missing
    assert all(f"{name} (" in render(report).rpartition("not built yet: ")[2] for name in missing)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c[0]["expect"].update(log_e=c[0]["expect"]["log_e"] + 2e-7),
        lambda c: c[0]["inputs"].update(threshold=0.0072001),
        lambda c: c[12]["inputs"].update(dispersion=1.2001),
        lambda c: c[16]["expect"].update(m=c[16]["expect"]["m"] * (1 + 1e-9)),
        lambda c: c[16]["inputs"]["lag_cdf_points_linear"][1].__setitem__(1, 0.71),
        lambda c: c[1]["expect"]["fires"].update({"0.05": not c[1]["expect"]["fires"]["0.05"]}),
    ],
)
def test_a_family_with_one_wrong_figure_disagrees(spoil: Any) -> None:
    cases = copy.deepcopy(own())
    spoil(cases)
    report = check(cases)
    assert not report.agrees
    assert sum(f.cases - f.agree for f in report.families) >= 1
    assert any(c["id"] + ":" in render(report) for c in cases)


def test_a_file_of_nothing_but_unbuilt_families_proves_nothing() -> None:
    report = check([{"id": "x", "family": "e_bh", "inputs": {}, "expect": {}}])
    assert not report.agrees
    assert render(report).splitlines() == ["not built yet: e_bh (1)", "nothing was checked: no family of this file is built"]


def spoiled(**changes: Any) -> list[dict[str, Any]]:
    return [own()[0] | changes]


@pytest.mark.parametrize(
    "cases, told",
    [
        ({"cases": []}, "at least one case"),
        ("nonsense", "at least one case"),
        ([7], "case 1: `family` is missing"),
        ([{"id": "x", "inputs": {}, "expect": {}}], "x: `family` is missing"),
        (spoiled(inputs=[]), "own-1: `inputs` is missing or no mapping"),
        (spoiled(inputs={"n": 10, "k": "3", "threshold": 0.1, "direction": "low"}), "own-1: `inputs.k` is not a number"),
        (spoiled(inputs={"n": 10, "k": True, "threshold": 0.1, "direction": "low"}), "own-1: `inputs.k` is not a number"),
        (spoiled(inputs={"n": 10, "k": 11, "threshold": 0.1, "direction": "low"}), "own-1: a proportion needs 0 <= k <= n"),
        (spoiled(inputs={"n": 10, "k": 1, "threshold": 0.1, "direction": "sideways"}), "own-1: `inputs.direction` is low or high"),
        (spoiled(inputs={"n": 10, "k": 1, "threshold": 0.1, "direction": ["low"]}), "own-1: `inputs.direction` is low or high"),
        (spoiled(inputs={"n": 10**400, "k": 1, "threshold": 0.1, "direction": "low"}), "own-1: `inputs.n` is not a number"),
        (spoiled(expect={"log_e": "4"}), "own-1: `expect.log_e` is not a number"),
        (spoiled(expect={}), "own-1: `expect.log_e` is missing"),
        (spoiled(expect={"log_e": 4.0, "fires": []}), "own-1: `expect.fires` is a mapping"),
        (spoiled(expect={"log_e": 4.0, "fires": {"2": True}}), "own-1: `expect.fires` names '2'"),
        (spoiled(family="proportion_bounds", inputs={"n": 0, "k": 0, "alpha_each_side": 0.05}), "own-1: "),
        (spoiled(family="stream_proportion_low", inputs={"threshold": 0.1, "alpha": 0.05, "cumulative_n_k": [[1]]}), "a list of rows of 2 numbers"),
    ],
)
def test_a_malformed_file_gives_one_clear_error(cases: Any, told: str) -> None:
    with pytest.raises(Malformed) as error:
        check(cases)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def run(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "services", "guards", "check", str(path)], capture_output=True, text=True, timeout=60, check=False)


def test_the_command_prints_a_line_a_family_and_its_status_says_whether_all_agree(tmp_path: Path) -> None:
    good, bad, broken, bytes_ = (tmp_path / name for name in ("good.json", "bad.json", "broken.json", "bytes.json"))
    cases = own()
    good.write_text(json.dumps({"cases": cases}))
    cases[3]["expect"]["log_e"] = 1.0
    bad.write_text(json.dumps({"cases": cases}))
    broken.write_text('{"cases": [')
    bytes_.write_bytes(b"\xff\xfe\x00")
    done = run(good)
    assert (done.returncode, done.stderr) == (0, "")
    assert "proportion_grid         10 of 10 agree, largest error" in done.stdout
    assert run(bad).returncode == 1
    for path in (broken, bytes_):
        done = run(path)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert f"{path}: not JSON" in done.stderr
