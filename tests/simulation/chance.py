"""What befalls a schedule: drawn from its seed before it begins, counted where it really happened."""

from __future__ import annotations

import random
from collections import Counter
from hashlib import blake2b


class Trace:
    """The ordered story of a schedule, as a hash; `lines` only where somebody wants to read it."""

    def __init__(self, keep: bool = False) -> None:
        self._hash = blake2b(digest_size=16)
        self.lines: list[str] | None = [] if keep else None

    def tell(self, at: int, who: str, what: str) -> None:
        line = f"{at / 1e6:14.6f}  {who:12} {what}"
        self._hash.update(line.encode("utf-8", "surrogatepass"))
        if self.lines is not None:
            self.lines.append(line)

    def digest(self) -> str:
        return self._hash.hexdigest()


class Faults:
    """Of each kind the numbers of those opportunities at which it strikes. Nothing strikes once `over`."""

    def __init__(self, chance: random.Random, menu: dict[str, tuple[float, int, int]]) -> None:
        """`menu`: kind -> (in what share of schedules, how often at most, among how many opportunities)."""
        self.plan: dict[str, set[int]] = {}
        for kind, (share, times, among) in menu.items():
            if chance.random() < share:
                self.plan[kind] = {1 + int(among * chance.random()) for _ in range(1 + int(times * chance.random()))}
        self.happened: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.over = False

    def strikes(self, kind: str) -> bool:
        planned = self.plan.get(kind)
        if planned is None or self.over:
            return False
        self.seen[kind] += 1
        if self.seen[kind] not in planned:
            return False
        self.happened[kind] += 1
        return True
