"""What is wrong with a rule, pointed at like a compiler does: file, line, column, the line itself, a caret, a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.kernel.errors import RejectedInput

WIDEST = 160  # characters of a line that are shown


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of the file: 1-based line and column, at least one character wide."""

    line: int
    column: int
    width: int = 1

    def inside(self, lines: list[str]) -> Place:
        """The same, or the nearest place that the text has; just past a line's end is inside."""
        line = min(max(self.line, 1), len(lines))
        column = min(max(self.column, 1), len(lines[line - 1]) + 1)
        return Place(line, column, max(1, min(self.width, len(lines[line - 1]) - column + 1)))


@dataclass(frozen=True, slots=True)
class Problem:
    place: Place
    message: str
    hint: str = ""

    def render(self, source: str, filename: str) -> str:
        lines = source.splitlines() or [""]
        line, column, width = clipped(lines[self.place.line - 1], self.place.column, self.place.width)
        gutter = " " * len(str(self.place.line))
        caret = "".join("\t" if c == "\t" else " " for c in line[: column - 1]) + "^" * width
        shown = [f"{filename}:{self.place.line}:{self.place.column}: {self.message}", f" {gutter} |", f" {self.place.line} | {line}", f" {gutter} | {caret}"]
        return "\n".join([*shown, f" {gutter} = {self.hint}"] if self.hint else shown)


def clipped(line: str, column: int, width: int) -> tuple[str, int, int]:
    """What of a long line stands around the caret; what cannot be printed is shown as a mark."""
    line = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line)
    if len(line) <= WIDEST:
        return line, column, width
    first = max(0, min(column - WIDEST // 2, len(line) - WIDEST))
    return line[first : first + WIDEST], column - first, min(width, first + WIDEST - column + 1)


class RuleError(RejectedInput):
    """A pack that cannot be what its author meant; every problem found is in it, in the order of the file."""

    reason = "invalid_rule"

    def __init__(self, problems: Iterable[Problem], source: str, filename: str) -> None:
        lines = source.splitlines() or [""]
        inside = (replace(p, place=p.place.inside(lines)) for p in problems)
        self.problems = tuple(sorted(inside, key=lambda p: (p.place.line, p.place.column, p.message)))
        super().__init__("\n\n".join(p.render(source, filename) for p in self.problems))


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name, or with all of them."""
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}" if names else ""
