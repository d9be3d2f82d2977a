"""The services of production, each a process of its own on Kafka and PostgreSQL, any number of each; `trimtab serve SERVICE` runs one.

    platforms --> ingest --> events --> rules --> decisions --> actions --> platforms
                               ^                                   |
                               +------------- outcomes ------------+
    people, command line --> console --> ingest, rules, actions
"""

from __future__ import annotations

from services.adapters.settings import Settings
from services.kernel.errors import Misconfigured
from services.production.service import Service

NAMES = ("ingest", "rules", "actions", "console")


def service(name: str, settings: Settings) -> Service:
    """Raises Misconfigured where there is none of this name, or the settings lack what it needs."""
    match name:  # each brings its own libraries along
        case "ingest":
            from services.production.ingest import Ingest

            return Ingest(settings)
        case "rules":
            from services.production.rules import Rules

            return Rules(settings)
        case "actions":
            from services.production.actions import Actions

            return Actions(settings)
        case "console":
            from services.production.console import Console

            return Console(settings)
    raise Misconfigured(f"there is no service {name}: {', '.join(NAMES)}")
