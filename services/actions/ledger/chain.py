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
from typing import Any

GENESIS = "0" * 64
DOMAIN = b"trimtab ledger 1\n"
BEGUN = hashlib.sha256(DOMAIN)
text = json.encoder.encode_basestring_ascii


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
        begun = BEGUN.copy()
        begun.update(self._canonical().encode("ascii"))
        return begun.hexdigest()

    def _canonical(self) -> str:
        """What json.dumps makes of all but the hash with sorted keys, no spaces and ASCII alone: written out, since verifying is this and little else."""
        if type(self.at) is not int or type(self.sequence) is not int:
            content = {k: v for k, v in asdict(self).items() if k != "hash"}
            return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return (
            f'{{"at":{self.at},"body":{text(self.body)},"by":{text(self.by)},"kind":{text(self.kind)},"previous":{text(self.previous)},'
            f'"sequence":{self.sequence},"subject":{text(self.subject)},"workspace":{text(self.workspace)}}}'
        )


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


def verify(workspace: str, entries: Iterable[Entry], head: Head | None) -> Verified | Broken:
    """Walks a workspace's entries in the order given. `head` is where the chain claims to end; without one a cut-off tail cannot be seen, so it is Broken."""
    sequence, before = 0, GENESIS
    for entry in entries:
        if entry.workspace != workspace:
            return Broken(workspace, sequence + 1, f"an entry of workspace {entry.workspace!r} stands here")
        if entry.sequence != sequence + 1:
            return Broken(workspace, sequence + 1, f"sequence {entry.sequence} stands where {sequence + 1} belongs")
        if entry.previous != before:
            return Broken(workspace, entry.sequence, "it does not follow from the entry before it")
        if entry.hash != entry.expected_hash():
            return Broken(workspace, entry.sequence, "its content is not what was hashed")
        sequence, before = entry.sequence, entry.hash
    last = Head(workspace, sequence, before)
    if head is None:
        return Broken(workspace, last.sequence + 1, "the head is missing: nobody can tell whether entries were cut off")
    if head != last:
        return Broken(workspace, last.sequence + 1, f"the chain ends at {last.sequence}, its head says {head.sequence}")
    return Verified(last)


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
