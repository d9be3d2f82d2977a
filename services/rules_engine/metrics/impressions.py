"""How often an object was shown, as the ad platform reports it."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="impressions",
    version=1,
    owner="trimtab",
    unit="count",
    aggregation="sum",
    numerator="impressions",
)
