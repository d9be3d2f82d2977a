"""Click-through rate: clicks per impression. Write thresholds in percent: `ctr[24h] < 0.8%`."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="ctr",
    version=1,
    owner="trimtab",
    unit="ratio",
    aggregation="ratio of sums",
    numerator="clicks",
    denominator="impressions",
    family="proportion",
)
