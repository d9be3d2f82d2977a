"""What the sandbox sends: one JSON body, signed as a Standard Webhook (headers webhook-id, webhook-timestamp, webhook-signature over the raw body).

    {"type": "report", "account": "demo", "sent_at": "2026-03-02T06:30:00Z",
     "rows": [{
        "id": "r-17",                                    unique for this sender: a row sent again carries the same id
        "entity": {"account": "demo", "campaign": "c1", "ad_group": "g1", "creative": "a1"},    levels from the top, the deeper ones may be missing
        "occurred_at": "2026-03-02T06:29:59Z",           RFC 3339, UTC
        "interval": {"start": "...", "end": "..."},      with as_of: a snapshot of this interval; absent: the figures are deltas
        "as_of": "...",
        "currency": "EUR",                               needed where spend or revenue is given
        "impressions": 400, "clicks": 2,                 whole numbers >= 0
        "spend": "1.25",                                 decimal text in the currency
        "conversions": {"purchase": {"7d_click": 1}},    whole numbers by action type and attribution
        "revenue": {"purchase": {"7d_click": "49.90"}},
        "name": "Summer_v3", "status": "active", "daily_budget": "80.00", "label": "...", "objective": "sales"     attributes, all optional
     }]}

    {"type": "entity", ...}   the same rows, without figures: what an object is now (status, budget, name)

Every row is about exactly the entity that it names; figures are reported for creatives only, and levels above are sums of them.
The platform's first path level is `sandbox`: sandbox/demo/c1/g1/a1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

LEVELS = ("account", "campaign", "ad_group", "creative")


def instant(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1_000_000, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def entity(path: str) -> dict[str, str]:
    """sandbox/demo/c1 -> {"account": "demo", "campaign": "c1"}"""
    return dict(zip(LEVELS, path.split("/")[1:], strict=False))


def decimal(micros: int) -> str:
    """1,250,000 -> "1.25", exact."""
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    whole, rest = divmod(micros, 1_000_000)
    return f"{sign}{whole}.{rest:06d}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"


def body(kind: str, account: str, sent_at: int, rows: Sequence[dict[str, Any]]) -> bytes:
    return json.dumps({"type": kind, "account": account, "sent_at": instant(sent_at), "rows": list(rows)}).encode()
