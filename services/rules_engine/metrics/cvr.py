"""Conversion rate: conversions of one definition per click, `cvr(purchases)`."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="cvr",
    version=1,
    owner="trimtab",
    unit="ratio",
    aggregation="ratio of sums",
    numerator="conversions",
    denominator="clicks",
    family="proportion",
)
