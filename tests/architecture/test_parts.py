"""CI skips nothing: every part that a test may be skipped for is required there, and told in the settings' page."""

from __future__ import annotations

import re
from pathlib import Path

from tests.charted import PART_OF

ROOT = Path(__file__).parents[2]


def test_ci_requires_every_part_that_a_test_may_be_skipped_for() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("*.py")]
    parts = {part for text in sources for part in re.findall(r'\blacks\("([a-z-]+)"', text)}
    parts |= {PART_OF.get(name, name) for text in sources for name in re.findall(r'\bprogram\("([a-z-]+)"\)', text)}
    [required] = re.findall(r"^export TRIMTAB_REQUIRE=\$\{TRIMTAB_REQUIRE:-([a-z,-]+)\}$", (ROOT / "deploy" / "ci.sh").read_text(), re.M)
    assert set(required.split(",")) == parts
    assert all(f"`{part}`" in (ROOT / "docs" / "settings.md").read_text() for part in parts)
