"""Conversions of one definition: `conversions(purchases)`. Those of another source are another measure, never added."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="conversions",
    version=1,
    owner="trimtab",
    unit="count",
    aggregation="sum",
    numerator="conversions",
)
