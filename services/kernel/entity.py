"""An entity is a path whose every prefix is an entity too."""

from __future__ import annotations

LEVELS = ("platform", "account", "campaign", "ad_group", "creative")


def level_of(path: str) -> str:
    return LEVELS[path.count("/")]


def ancestors(path: str) -> tuple[str, ...]:
    """The path's own prefixes from platform down to itself."""
    parts = path.split("/")
    return tuple("/".join(parts[: i + 1]) for i in range(len(parts)))
