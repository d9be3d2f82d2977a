"""Revenue of one conversion definition: `revenue(purchases)`, in the account's currency."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="revenue",
    version=1,
    owner="trimtab",
    unit="money",
    aggregation="sum",
    numerator="revenue",
)
