"""What is wrong with a rule, pointed at like a compiler does: file, line, column, the line itself, a caret, a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from services.kernel.errors import RejectedInput


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of the file: 1-based line and column, at least one character wide."""

    line: int
    column: int
    width: int = 1


@dataclass(frozen=True, slots=True)
class Problem:
    place: Place
    message: str
    hint: str = ""

    def render(self, source: str, filename: str) -> str:
        lines = source.splitlines() or [""]
        line = lines[min(self.place.line, len(lines)) - 1]
        gutter = " " * len(str(self.place.line))
        caret = "".join("\t" if c == "\t" else " " for c in line[: self.place.column - 1]) + "^" * max(
            1, min(self.place.width, len(line) - self.place.column + 1)
        )
        shown = [f"{filename}:{self.place.line}:{self.place.column}: {self.message}", f" {gutter} |", f" {self.place.line} | {line}", f" {gutter} | {caret}"]
        return "\n".join([*shown, f" {gutter} = {self.hint}"] if self.hint else shown)


class RuleError(RejectedInput):
    """A pack that cannot be what its author meant; every problem found is in it, in the order of the file."""

    reason = "invalid_rule"

    def __init__(self, problems: Iterable[Problem], source: str, filename: str) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.place.line, p.place.column, p.message)))
        super().__init__("\n\n".join(p.render(source, filename) for p in self.problems))


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest known name, or with all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}" if names else ""
