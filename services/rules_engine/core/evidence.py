"""Evidence that a true rate lies on the far side of a threshold: an e-value from a mixture of four fixed alternatives.

Whenever and however often one looks, an object whose true rate is on the allowed side is ever acted on with probability at most alpha: the guard opens
when log E reaches ln(1/alpha). State is two totals, so late data and corrections are recomputed, never patched. (Robbins; Howard, Ramdas et al. 2021.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from services.kernel.record import I64
from services.rules_engine.core.numeric import log, log1p, log_sum_exp

Floats = NDArray[np.float64]
MICRO = 1_000_000
LN_4 = float(log(np.array([4.0]))[0])
LOW, HIGH = (0.1, 0.2, 0.4, 0.8), (0.1, 0.25, 0.6, 1.5)
DISPERSION = 0.2


def default_coefficients() -> tuple[tuple[str, tuple[float, ...]], ...]:
    """The grid of relative deviations and the default day-to-day variation; they travel in the activation record."""
    return (("dispersion", (DISPERSION,)), ("high", HIGH), ("low", LOW))


def micro_nats(log_e: Floats) -> I64:
    """Rounded half to even, before anything compares or records it."""
    return np.asarray(np.rint(log_e * MICRO), np.int64)


@cache
def threshold_micro_nats(alpha_ppm: int) -> int:
    """ln(1/alpha) in micro-nats; alpha in parts per million."""
    if not 0 < alpha_ppm < MICRO:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha_ppm} ppm")
    return int(micro_nats(log(np.array([MICRO / alpha_ppm])))[0])


def one(x: float) -> Floats:
    return np.array([x], np.float64)


def proportion_nats(n: Floats, k: Floats, p0: Floats, side: str, grid: tuple[float, ...]) -> Floats:
    """log E of k events in n trials against "the rate is p0": `side` low speaks for a lower rate, high for a higher one."""
    if ((k < 0) | (k > n) | (p0 <= 0) | (p0 >= 1)).any():
        raise ValueError("a proportion needs 0 <= k <= n and 0 < p0 < 1")
    terms, base = [], log1p(-p0)
    for d in grid:
        if side == "low":
            terms.append(k * log1p(one(-d)) + (n - k) * (log1p(-p0 * (1 - d)) - base) - LN_4)
        else:
            theta = np.minimum(p0 * (1 + d), (1 + p0) / 2)
            terms.append(k * log(theta / p0) + (n - k) * (log1p(-theta) - base) - LN_4)
    return log_sum_exp(terms)


def proportion_log_e(n: Floats, k: Floats, p0: Floats, side: str, grid: tuple[float, ...]) -> I64:
    """The same in micro-nats."""
    return micro_nats(proportion_nats(n, k, p0, side, grid))


def rate_nats(events: Floats, m: Floats, phi: Floats, side: str, grid: tuple[float, ...]) -> Floats:
    """log E of `events` where m were to be expected at the threshold; phi >= 1 is the over-dispersion."""
    if ((events < 0) | (m < 0) | (phi < 1)).any():
        raise ValueError("a rate needs events >= 0, m >= 0 and phi >= 1")
    sign = -1.0 if side == "low" else 1.0
    terms = [(events / phi) * log1p(one(sign * d)) - sign * (d * m) / phi - LN_4 for d in grid]
    return log_sum_exp(terms)


def rate_log_e(events: Floats, m: Floats, phi: Floats, side: str, grid: tuple[float, ...]) -> I64:
    """The same in micro-nats."""
    return micro_nats(rate_nats(events, m, phi, side, grid))


def crossing(enough: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where `enough` turns true on the way from `inside`, where it is not, to `outside`; `outside` itself where it never does."""
    while enough(outside):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        inside, outside = (inside, middle) if enough(middle) else (middle, outside)
    return outside


def dispersion(daily: list[float], cv: float) -> float:
    """phi = 1 + cv^2 * sum m_d^2 / sum m_d over the days' expected events, oldest first; 1 of nothing."""
    total = squares = 0.0
    for m in daily:
        total, squares = total + m, squares + m * m
    return 1.0 if total <= 0 else 1.0 + cv * cv * squares / total
