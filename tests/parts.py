"""Parts that a test needs and a machine may lack: it is skipped with the reason, or fails where TRIMTAB_REQUIRE names the part."""

from __future__ import annotations

import os

import pytest


def lacks(part: str, why: str) -> pytest.skip.Exception:
    """Ends the test; never returns. `part` is one of those that CI requires (deploy/ci.sh)."""
    if part in os.environ.get("TRIMTAB_REQUIRE", "").split(","):
        pytest.fail(f"{part} is required: {why}")
    pytest.skip(why)
