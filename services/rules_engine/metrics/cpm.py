"""Cost per mille: money spent per thousand impressions. A price, not a chance: no evidence is built for it."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="cpm",
    version=1,
    owner="trimtab",
    unit="money",
    aggregation="ratio of sums",
    numerator="spend",
    denominator="impressions",
    factor=1000,
)
