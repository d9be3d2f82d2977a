"""Money spent on an object, in the account's currency."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="spend",
    version=1,
    owner="trimtab",
    unit="money",
    aggregation="sum",
    numerator="spend",
)
