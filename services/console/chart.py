"""A metric against its threshold, as the lines and ticks of a drawing: everything but the picture's frame, which the template holds.

    top  |     ______
         |    |      |____
    limit| - -|- - - - - -|- -
         |____|           |___
    0    +--------------------- decided
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil, floor, log10
from typing import Any

from services.console.words import MICRO, amount, instant

LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 30
DAY = 86_400
MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Row:
    when: str
    value: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Coordinates in units of the drawing, y downwards."""

    width: int
    height: int
    lines: tuple[str, ...]  # polyline points, one per stretch without a gap
    dots: tuple[tuple[float, float], ...]  # stretches of a single point
    threshold: float | None  # y
    decided: float  # x
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    is_cut: bool  # values above the top are cut off

    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def draw(series: dict[str, Any], width: int, height: int) -> Chart | None:
    """None where there is not one value to show. Early values of a cumulated rate jump; the top follows the later ones, and the threshold."""
    points = [(float(t), v) for t, v in series["points"]]
    points += [(float(series["decided_at"]), points[-1][1])] if points and points[-1][0] < series["decided_at"] else []
    known = [v for _, v in points if v is not None]
    if not known:
        return None
    limit = series["threshold"]
    top = _top(known, limit)
    first, end = points[0][0], points[-1][0]
    reach = (end - first) or 1.0
    inner_width, inner_height = width - LEFT - RIGHT, height - TOP - BOTTOM

    def x(t: float) -> float:
        return round(LEFT + (t - first) / reach * inner_width, 1)

    def y(v: float) -> float:
        return round(TOP + (1 - min(max(v, 0), top * 1.5) / top) * inner_height, 1)

    stretches = [[(x(t), y(v)) for t, v in s] for s in _stretches(points)]
    step = _step(top, 4)
    return Chart(
        width=width,
        height=height,
        lines=tuple(" ".join(f"{a:g},{b:g}" for a, b in s) for s in stretches if len(s) > 1),
        dots=tuple(s[0] for s in stretches if len(s) == 1),
        threshold=None if limit is None else y(limit),
        decided=x(series["decided_at"]),
        x_ticks=tuple(Tick(x(t), _clock(t, end - first)) for t in _moments(first, end, 4 if width > 500 else 2)),
        y_ticks=tuple(Tick(y(step * i), amount(step * i, series["unit"])) for i in range(floor(top / step + 1e-9) + 1)),
        is_cut=max(known) > top,
    )


def rows(series: dict[str, Any]) -> tuple[Row, ...]:
    """The same as a table, at most forty rows evenly taken, the last one always among them."""
    points = series["points"]
    stride = -(-len(points) // MOST_ROWS) or 1
    kept = points[(len(points) - 1) % stride :: stride] if points else []
    return tuple(Row(instant(t * MICRO), "nothing counted" if v is None else amount(v, series["unit"])) for t, v in kept)


def last(series: dict[str, Any]) -> float | None:
    """The value at the end, where there is one."""
    return next((float(v) for _, v in reversed(series["points"]) if v is not None), None)


def _top(known: Sequence[float], limit: float | None) -> float:
    usual = sorted(known)[ceil(0.95 * (len(known) - 1))]
    top = max(usual, known[-1], limit or 0.0) * 1.15
    return top if top > 1e-9 else 1.0


def _step(top: float, wanted: int) -> float:
    """A round distance, so that about `wanted` ticks fit below the top."""
    rough = top / wanted
    power = 10.0 ** floor(log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))


def _stretches(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    found: list[list[tuple[float, float]]] = [[]]
    for t, v in points:
        if v is None:
            found.append([])
        else:
            found[-1].append((t, v))
    return [s for s in found if s]


def _moments(first: float, end: float, parts: int) -> list[float]:
    """Evenly spread over what is shown, both ends among them."""
    return [first + (end - first) * i / parts for i in range(parts + 1)] if end - first >= 1 else [end]


def _clock(t: float, reach: float) -> str:
    at = datetime.fromtimestamp(t, UTC)
    if reach > 5 * DAY:
        return f"{at:%d %b}"
    return f"{at:%a %H:%M}" if reach > 600 else f"{at:%H:%M:%S}"
