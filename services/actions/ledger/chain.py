"""The audit chain: each entry's hash covers its place, its content and the hash before it, so nothing can be altered, dropped or moved quietly.

    hash(n) = SHA-256("trimtab ledger 1\\n" + canonical JSON of {workspace, sequence, at, kind, subject, by, body, previous})

Whoever can rewrite the whole database can also recompute a whole chain: keep the head (or an export, which ends with it) somewhere else.
This module needs nothing but the standard library, so a copy of this one file verifies an export on another machine: python chain.py EXPORT.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import Any, TypeAlias

GENESIS = "0" * 64
DOMAIN = b"trimtab ledger 1\n"
BEGUN = hashlib.sha256(DOMAIN)
text = json.encoder.encode_basestring_ascii
Row: TypeAlias = tuple[str, int, int, str, str, str, str, str, str]  # the fields of an entry


@dataclass(frozen=True, slots=True)
class Entry:
    """One link. `body` is canonical JSON text, hashed as it is stored."""

    workspace: str
    sequence: int  # 1, 2, 3, ...
    at: int  # microseconds
    kind: str
    subject: str
    by: str
    body: str
    previous: str
    hash: str = ""

    def expected_hash(self) -> str:
        if type(self.at) is int and type(self.sequence) is int:
            return _hash(text(self.workspace), self.sequence, self.at, self.kind, self.subject, self.by, self.body, self.previous)
        content = {k: v for k, v in asdict(self).items() if k != "hash"}
        return hashlib.sha256(DOMAIN + json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")).hexdigest()


def _hash(workspace: str, sequence: int, at: int, kind: str, subject: str, by: str, body: str, previous: str) -> str:
    """Over what json.dumps makes of these with sorted keys, no spaces and ASCII alone; `workspace` is JSON already. Verifying is this and little else."""
    begun = BEGUN.copy()
    begun.update(
        f'{{"at":{at},"body":{text(body)},"by":{text(by)},"kind":{text(kind)},"previous":{text(previous)},'
        f'"sequence":{sequence},"subject":{text(subject)},"workspace":{workspace}}}'.encode("ascii")
    )
    return begun.hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: its last sequence and hash; 0 and zeros for an empty one."""

    workspace: str
    sequence: int = 0
    hash: str = GENESIS


@dataclass(frozen=True, slots=True)
class Verified:
    head: Head


@dataclass(frozen=True, slots=True)
class Broken:
    """The first link that does not hold."""

    workspace: str
    sequence: int
    why: str


def following(head: Head, at: int, kind: str, subject: str, by: str, body: str) -> Entry:
    """The entry that comes next after `head`, hashed."""
    draft = Entry(head.workspace, head.sequence + 1, at, kind, subject, by, body, head.hash)
    return replace(draft, hash=draft.expected_hash())


class Walk:
    """A verification under way: a workspace's entries are given in their order, in as many parts as one likes; it stops at the first that does not hold."""

    def __init__(self, workspace: str) -> None:
        self.workspace, self.last = workspace, Head(workspace)

    def go(self, rows: Iterable[Row]) -> Broken | None:
        """Walks on; `rows` have the fields of Entry, in its order."""
        workspace, sequence, before, of_workspace = self.workspace, self.last.sequence, self.last.hash, text(self.workspace)
        for owner, number, at, kind, subject, by, body, previous, kept in rows:
            if owner != workspace:
                return Broken(workspace, sequence + 1, f"an entry of workspace {owner!r} stands here")
            if number != sequence + 1:
                return Broken(workspace, sequence + 1, f"sequence {number} stands where {sequence + 1} belongs")
            if previous != before:
                return Broken(workspace, number, "it does not follow from the entry before it")
            if type(at) is int and type(number) is int:
                expected = _hash(of_workspace, number, at, kind, subject, by, body, previous)
            else:
                expected = Entry(owner, number, at, kind, subject, by, body, previous).expected_hash()
            if kept != expected:
                return Broken(workspace, number, "its content is not what was hashed")
            sequence, before = number, kept
        self.last = Head(workspace, sequence, before)
        return None

    def end(self, head: Head | None) -> Verified | Broken:
        """The verdict. `head` is where the chain claims to end; without one a cut-off tail cannot be seen, so it is Broken."""
        if head is None:
            return Broken(self.workspace, self.last.sequence + 1, "the head is missing: nobody can tell whether entries were cut off")
        if head != self.last:
            return Broken(self.workspace, self.last.sequence + 1, f"the chain ends at {self.last.sequence}, its head says {head.sequence}")
        return Verified(self.last)


def verify(workspace: str, entries: Iterable[Entry], head: Head | None) -> Verified | Broken:
    """Walks a workspace's entries in the order given, to its head."""
    walk = Walk(workspace)
    return walk.go(map(attrgetter(*Entry.__slots__), entries)) or walk.end(head)


def export_lines(entries: Iterable[Entry], head: Head) -> Iterator[str]:
    """JSON lines: every entry, then the head."""
    for entry in entries:
        yield json.dumps(asdict(entry), sort_keys=True)
    yield json.dumps({"head": asdict(head)}, sort_keys=True)


def verify_export(lines: Iterable[str]) -> Verified | Broken:
    """Verifies an export from its lines alone; anything after the head, or a line that is no entry, breaks it."""
    entries: list[Entry] = []
    head: Head | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if head is not None:
            return Broken(head.workspace, head.sequence + 1, f"line {number} stands after the head")
        try:
            raw: dict[str, Any] = json.loads(line)
            if "head" in raw:
                head = Head(**raw["head"])
            else:
                entries.append(Entry(**raw))
        except (ValueError, TypeError):
            return Broken("", len(entries) + 1, f"line {number} is not an entry")
    workspace = head.workspace if head else entries[0].workspace if entries else ""
    return verify(workspace, entries, head)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as export:
        result = verify_export(export)
    print(result)
    sys.exit(0 if isinstance(result, Verified) else 1)
