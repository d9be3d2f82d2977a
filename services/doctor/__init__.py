"""What stands in the way of a Trimtab's being used, a line a check: ok, warn or FAIL, and what to do. Reads only, and needs no Trimtab to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from services.adapters.settings import from_environment
from services.doctor.line import FAIL, OK, WARN, Line
from services.kernel.errors import Misconfigured

__all__ = ["FAIL", "OK", "WARN", "Line", "examine"]


def examine(environment: Mapping[str, str]) -> Iterator[Line]:
    """Every check in turn, of a data folder, or of what TRIMTAB_KAFKA names; one that cannot be made is a FAIL of its own, and the others go on."""
    try:
        settings = from_environment(environment)
    except Misconfigured as error:
        yield Line(FAIL, "settings", str(error), "correct the variables that it names; docs/settings.md lists all")
        return
    yield Line(OK, "settings", f"data in {settings.data}, workspace {settings.workspace}")
    if settings.kafka:
        from services.doctor.production import examined  # Kafka's client, which a folder does not need
    else:
        from services.doctor.folder import examined
    yield from examined(settings)
