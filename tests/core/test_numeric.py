"""exp and log of the core are right to 1e-14 and the same bits on every processor."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from services.rules_engine.core.numeric import exp, log, log1p, log_sum_exp

CLOSE = 1e-14
TINY = 2.2250738585072014e-308  # the smallest normal double: below it a relative error has no meaning
SUBNORMAL = 5e-324

# Run in a process of its own: one digest over many results of the core's exp, log and log1p and of log E as the guards use it.
DIGEST = """
import numpy as np
from hashlib import sha256
from numpy._core._multiarray_umath import __cpu_features__
from services.rules_engine.core.evidence import HIGH, LOW, proportion_nats, rate_nats
from services.rules_engine.core.numeric import exp, log, log1p
rng = np.random.default_rng(7)
n = np.floor(rng.uniform(1, 1e6, 40_000))
k = np.floor(n * rng.uniform(0, 0.2, 40_000))
p0, m, phi = rng.uniform(1e-4, 0.5, 40_000), rng.uniform(0, 500, 40_000), rng.uniform(1, 8, 40_000)
wide = np.ldexp(rng.uniform(0.5, 1, 100_001), rng.integers(-1060, 1020, 100_001))
made = [exp(rng.uniform(-760, 715, 100_001)), log(wide), log1p(rng.uniform(-1, 3, 100_001))]
made += [proportion_nats(n, k, p0, side, grid) for side, grid in (("low", LOW), ("high", HIGH))]
made += [rate_nats(k, m, phi, side, grid) for side, grid in (("low", LOW), ("high", HIGH))]
print(sha256(b"".join(a.tobytes() for a in made)).hexdigest(), ",".join(sorted(f for f, on in __cpu_features__.items() if on)))
"""


def one(f, x: float) -> float:
    return float(f(np.array([x]))[0])


def precisely(f, x: float):
    with mp.workdps(50):
        return f(mpf(x))


def error(ours: float, true) -> float:
    """Relative; absolute in units of the smallest double where the truth is no normal double."""
    with mp.workdps(50):
        if abs(true) < TINY:
            return float(abs(mpf(ours) - true) / SUBNORMAL) * 1e-16
        return float(abs((mpf(ours) - true) / true))


def wide() -> list[float]:
    rng = np.random.default_rng(1)
    return [float(x) for x in np.exp2(rng.uniform(-1022, 1023, 2000)) * rng.uniform(1, 2, 2000)]


@pytest.mark.parametrize("lowest, highest", [(-745, 709.7), (-40, 40), (-1, 1), (-1e-8, 1e-8), (-0.3466, 0.3466)])
def test_exp_is_right_to_1e_14(lowest: float, highest: float) -> None:
    xs = np.random.default_rng(2).uniform(lowest, highest, 2000)
    assert max(error(float(y), precisely(mp.exp, float(x))) for x, y in zip(xs, exp(xs), strict=True)) < CLOSE


def test_exp_is_right_beside_every_change_of_its_exponent() -> None:
    halves = [(n + 0.5) * math.log(2) for n in range(-1021, 1023)]
    xs = [x for half in halves for x in (math.nextafter(half, -1e9), half, math.nextafter(half, 1e9))]
    assert max(error(one(exp, x), precisely(mp.exp, x)) for x in xs) < CLOSE


def test_log_is_right_to_1e_14_over_all_doubles() -> None:
    near_one = [1 + s * 2.0**-e for e in range(1, 53) for s in (1, -1)]
    subnormal = [SUBNORMAL, 3 * SUBNORMAL, TINY / 2, math.nextafter(TINY, 0)]
    edges = [TINY, 1.7976931348623157e308, math.sqrt(0.5), math.nextafter(math.sqrt(0.5), 0), math.nextafter(math.sqrt(0.5), 1), 2.0, 0.5, 4.0]
    xs = [*wide(), *near_one, *subnormal, *edges]
    assert max(error(float(y), precisely(mp.log, x)) for x, y in zip(xs, log(np.array(xs)), strict=True)) < CLOSE


def test_log1p_is_right_to_1e_14_from_nothing_to_the_largest_double() -> None:
    small = [s * 2.0**-e * f for e in range(1, 300) for s in (1, -1) for f in (1, 1.37, 1.999) if s * 2.0**-e * f > -1]
    near = [-1 + 2.0**-e for e in range(1, 54)]
    rates = [float(x) for x in np.random.default_rng(3).uniform(-1, 1, 2000)]
    xs = [*wide(), *small, *near, *rates]
    assert max(error(float(y), precisely(mp.log1p, x)) for x, y in zip(xs, log1p(np.array(xs)), strict=True)) < CLOSE


@pytest.mark.parametrize(
    "f, x, expected",
    [
        (exp, 0.0, 1.0), (exp, -0.0, 1.0), (exp, 710.0, math.inf), (exp, math.inf, math.inf), (exp, -746.0, 0.0), (exp, -math.inf, 0.0),
        (exp, math.nan, math.nan),
        (log, 1.0, 0.0), (log, 0.0, -math.inf), (log, -0.0, -math.inf), (log, -1.0, math.nan), (log, math.inf, math.inf), (log, math.nan, math.nan),
        (log1p, 0.0, 0.0), (log1p, -1.0, -math.inf), (log1p, -1.5, math.nan), (log1p, math.inf, math.inf), (log1p, math.nan, math.nan),
    ],
)  # fmt: skip
def test_special_values(f, x: float, expected: float) -> None:
    assert one(f, x) == expected or (math.isnan(expected) and math.isnan(one(f, x)))


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=5))
def test_log_sum_exp_neither_overflows_nor_loses(terms: list[float]) -> None:
    with mp.workdps(50):
        true = mp.log(mp.fsum(mp.exp(mpf(t)) for t in terms))
    assert abs(float(log_sum_exp([np.array([t]) for t in terms])[0]) - true) <= 1e-13 * max(1.0, abs(float(true)))


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-740, max_value=705), st.integers(1, 40))
def test_a_value_does_not_depend_on_what_stands_beside_it(x: float, length: int) -> None:
    """Vector loops have heads and tails; neither may show."""
    column = np.linspace(-3, 3, length)
    column[length // 2] = x
    assert exp(column)[length // 2] == one(exp, x)


def digest(**environment: str) -> tuple[str, set[str]]:
    """(digest of many results, processor features in use) in a process of its own."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("NPY_", "OPENBLAS_", "OMP_"))} | environment
    done = subprocess.run([sys.executable, "-W", "error", "-c", DIGEST], env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    made, features = done.stdout.split(maxsplit=1)
    return made, set(features.strip().split(","))


def test_the_bits_are_the_same_with_every_vector_extension_switched_off() -> None:
    extensions = [f for f in __cpu_dispatch__ if __cpu_features__[f]]
    if not extensions:
        pytest.skip("this processor has no extension that numpy could switch off")
    with_all, on = digest()
    without, off = digest(NPY_DISABLE_CPU_FEATURES=" ".join(extensions))
    assert set(extensions) <= on
    assert not set(extensions) & off
    assert with_all == without
    for extension in extensions:
        assert digest(NPY_DISABLE_CPU_FEATURES=" ".join(extensions[extensions.index(extension) :]))[0] == with_all


@pytest.mark.parametrize("environment", [{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}, {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "3"}])
def test_the_bits_do_not_depend_on_threads_or_the_linear_algebra_library(environment: dict[str, str]) -> None:
    assert digest(**environment)[0] == digest()[0]
