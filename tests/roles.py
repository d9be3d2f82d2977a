"""The database and the roles of docs/postgres.md, made by the statements that stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.postgres.server import Server

PAGE = Path(__file__).parents[1] / "docs" / "postgres.md"
NAME, OWNER, SERVICE = "trimtab", "trimtab_owner", "trimtab_service"
PASSWORDS = {OWNER: "owner-password", SERVICE: "service-password"}


@dataclass(frozen=True)
class Roles:
    server: Server
    taken: str  # what follows the first migration

    def url(self, role: str) -> str:
        return self.server.url(NAME, role, PASSWORDS[role])

    def sql(self, text: str, role: str) -> str:
        """Raises Failed with what the server said."""
        return self.server.sql(text, NAME, role, PASSWORDS[role])

    def take_back(self) -> None:
        self.sql(self.taken, OWNER)


@contextmanager
def roles(server: Server) -> Iterator[Roles]:
    """An empty database, and who may what in it; nothing of it is left."""
    made, taken = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    given = made.replace("PASSWORD_OF_OWNER", PASSWORDS[OWNER]).replace("PASSWORD_OF_SERVICE", PASSWORDS[SERVICE])
    before, _, after = given.partition(f"\\connect {NAME} {OWNER}\n")
    found = Roles(server, taken)
    try:
        server.sql(before)
        found.sql(after, OWNER)
        yield found
    finally:
        server.sql(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        for role in PASSWORDS:
            server.sql(f"DROP ROLE IF EXISTS {role}")
