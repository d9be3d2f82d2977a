"""The witness: where each chain ended, signed, in a folder outside the database. A database that is older than what its witness saw is known by it.

FOLDER/WORKSPACE.witness: {"at", "hash", "sequence", "signature", "workspace"}, the signature an HMAC-SHA256 of the rest with the server's secret
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.actions.core.letter import canonical
from services.actions.ledger import store as ledger
from services.actions.ledger.chain import Head
from services.actions.tables import ledger as entries
from services.actions.tables import ledger_checks
from services.adapters.disk import flush

DOMAIN = b"trimtab witness 1\n"


@dataclass(frozen=True, slots=True)
class Untrue:
    """A file that is none of ours, or not as we wrote it."""

    workspace: str


@dataclass(frozen=True, slots=True)
class Disagreement:
    workspace: str
    why: str  # the same for as long as it is the same disagreement


class Witness:
    """Files of one folder, which whoever can write to the database should not be able to write to, and which is not restored together with it."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self.folder, self._secret = folder, secret

    def all(self) -> list[Head | Untrue]:
        """What was seen of every workspace. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return [self._read(path) for path in sorted(self.folder.glob("*.witness"))]

    def write(self, head: Head, at: int) -> None:
        """From now on this is what was seen. Raises OSError, and then it is what it was."""
        said = asdict(head) | {"at": at}
        path = self.folder / f"{quote(head.workspace, safe='')}.witness"
        begun = path.with_suffix(f".{os.urandom(4).hex()}.begun")  # not the process's number, which is 1 in every container
        self.folder.mkdir(parents=True, exist_ok=True)
        with begun.open("w") as file:
            file.write(canonical(said | {"signature": self._sign(said)}))
            file.flush()
            os.fsync(file.fileno())
        begun.replace(path)
        flush(self.folder)

    def _read(self, path: Path) -> Head | Untrue:
        workspace = unquote(path.name.removesuffix(".witness"))
        try:
            said: dict[str, Any] = json.loads(path.read_text())
            signature = said.pop("signature")
            head = Head(said["workspace"], said["sequence"], said["hash"])
            holds = hmac.compare_digest(str(signature), self._sign(said)) and head.workspace == workspace
        except (ValueError, KeyError, TypeError, AttributeError):
            return Untrue(workspace)
        return head if holds else Untrue(workspace)

    def _sign(self, said: dict[str, Any]) -> str:
        return hmac.new(self._secret, DOMAIN + canonical(said).encode(), hashlib.sha256).hexdigest()


def witness_of(folder: Path | None, secret: bytes) -> Witness | None:
    return None if folder is None else Witness(folder, secret)


async def witnessed(connection: AsyncConnection) -> list[str]:
    """The workspaces of which the database knows that they were seen."""
    return list((await connection.execute(select(ledger_checks.c.workspace).where(ledger_checks.c.witnessed > 0))).scalars())


async def compare(connection: AsyncConnection, seen: Iterable[Head | Untrue], witnessed: Iterable[str]) -> list[Disagreement]:
    """Where the database is not what was seen; `witnessed` are the workspaces that must have been."""
    found, missing = [], set(witnessed)
    for head in seen:
        missing.discard(head.workspace)
        if isinstance(head, Untrue):
            found.append(Disagreement(head.workspace, "the ledger's witness is damaged or not signed with the server's secret"))
            continue
        place = (entries.c.workspace == head.workspace) & (entries.c.sequence == head.sequence)
        end = await ledger.head(connection, head.workspace)
        if end.sequence < head.sequence or await connection.scalar(select(entries.c.hash).where(place)) != head.hash:
            what = f"the ledger is not the one that its witness saw (entry {head.sequence}, {head.hash[:12]})"
            found.append(Disagreement(head.workspace, f"{what}: the database was restored, lost its end or was changed"))
    return found + [Disagreement(workspace, "the ledger's witness is gone from its folder") for workspace in sorted(missing)]
