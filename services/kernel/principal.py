"""Who asks: every request has a name, a role and one workspace; the workspace comes from the credential and from nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("viewer", "editor", "reviewer", "admin")  # each may do what those before it may
SOURCE = "source"  # a pusher: sends events and reads nothing


@dataclass(frozen=True, slots=True)
class Principal:
    name: str
    role: str
    workspace: str
    kind: str = "key"  # key | session: a session belongs to a person

    def may(self, role: str) -> bool:
        """Whether this principal may do what asks for `role`. Editors and above may also send events; a source may do nothing else."""
        if role == SOURCE:
            return self.role == SOURCE or self.may("editor")
        if role not in ROLES or self.role not in ROLES:
            return False
        return ROLES.index(self.role) >= ROLES.index(role)
