"""Clicks on an object, as the ad platform reports them."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="clicks",
    version=1,
    owner="trimtab",
    unit="count",
    aggregation="sum",
    numerator="clicks",
)
