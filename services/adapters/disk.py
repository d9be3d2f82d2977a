"""What has to be on the disk, and not only said to be."""

from __future__ import annotations

import os
from pathlib import Path


def flush(folder: Path) -> None:
    """The folder's names are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
