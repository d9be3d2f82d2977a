"""A file that its owner alone may read: whole on the disk, or not there."""

from __future__ import annotations

import os
from pathlib import Path

from services.adapters.disk import flush
from services.adapters.faultpoint import faultpoint


def keep(path: Path, text: str) -> None:
    """The file says this, also after a power cut; until then it is as it was. One process at a time may keep it."""
    begun = path.with_name(f"{path.name}.begun")
    with os.fdopen(os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        faultpoint("private.begun")
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    faultpoint("private.written")
    begun.replace(path)
    flush(path.parent)
