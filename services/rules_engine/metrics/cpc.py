"""Cost per click: money spent per click."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="cpc",
    version=1,
    owner="trimtab",
    unit="money",
    aggregation="ratio of sums",
    numerator="spend",
    denominator="clicks",
    family="rate",
)
