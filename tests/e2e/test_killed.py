"""`kill -9` between intent and answer, at a platform that loses answers and applies late: no change is made twice, and what is said of each is true."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.shell.commanded import Up, until, up
from tests.shell.sandboxed import sandbox

ADS = [f"a{i}" for i in range(1, 7)]
GROUP = "sandbox/demo/c1/g1/"
ENDED = ("verified", "failed", "unknown")


def acting(trimtab: Up) -> list[dict[str, Any]]:
    """The decisions of which some call has been committed."""
    fired = trimtab.get("/v1/decisions", kind="fired")["decisions"]
    return [whole for d in fired if (whole := trimtab.get(f"/v1/decisions/{d['id']}"))["attempts"]]


def in_doubt(trimtab: Up) -> bool:
    return any(a["status"] == "" for d in acting(trimtab) for a in d["attempts"])


@pytest.mark.parametrize("faults", [pytest.param(("latency",) * 5, marks=pytest.mark.slow), ("drop_after", "latency", "500_after", "drop_before", "garbage")])
def test_a_process_killed_while_it_acts_leaves_nothing_doubled_and_nothing_untold(tmp_path: Path, faults: tuple[str, ...]) -> None:
    with sandbox(tmp_path) as platform:
        platform.load({GROUP + ad: {"status": "active"} for ad in ADS})
        for ad, fault in zip(ADS, faults, strict=False):
            platform.fault(fault, path=GROUP + ad, seconds=2.0)
        settings = {"sandbox_url": platform.url, "sandbox_token": "sandbox"}
        with up(tmp_path / "data", **settings) as first:
            first.report(*({"ad": ad, "status": "active"} for ad in ADS))
            first.apply(tmp_path)
            first.report(*({"ad": ad, "impressions": 50_000, "clicks": 50 + i} for i, ad in enumerate(ADS)))
            until(lambda: in_doubt(first) or None)
            first.process.kill()
        with up(tmp_path / "data", **settings) as second:
            until(lambda: acting(second) or None)
            second.process.kill()
        with up(tmp_path / "data", **settings) as third:
            found = until(lambda: d if len(d := third.get("/v1/decisions", kind="fired")["decisions"]) >= 5 and all(x["status"] in ENDED for x in d) else None)
            assert third.ok("audit", "verify").out.startswith("holds: ")
            applied = Counter(e["path"] for e in platform.applied())
            assert max(applied.values()) == 1
            assert {d["path"]: d["status"] == "verified" for d in found} == {d["path"]: d["path"] in applied for d in found}
            assert len(found) == len({d["path"] for d in found})
            assert len(applied) < len(ADS)  # one of the ad group is kept; the sixth may be decided on once another's pause has failed
