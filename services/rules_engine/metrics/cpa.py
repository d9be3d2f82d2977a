"""Cost per acquisition: money spent per conversion of one definition, `cpa(purchases)`. Spend without a sale lies above every threshold."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="cpa",
    version=1,
    owner="trimtab",
    unit="money",
    aggregation="ratio of sums",
    numerator="spend",
    denominator="conversions",
    family="rate",
)
