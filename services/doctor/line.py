"""What a check says: a line with its level, and what to do.

A FAIL is what a start would refuse, or what would lose or alter something; a warn is what will become one, or what somebody should know.
"""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"
SECOND = 1_000_000
TAMPERED = "somebody wrote to it: keep a copy, compare with the last export kept elsewhere, treat it as an incident"


@dataclass(frozen=True, slots=True)
class Line:
    level: str
    name: str
    text: str
    mend: str = ""
