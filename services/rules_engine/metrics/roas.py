"""Return on ad spend: revenue of one definition per money spent, `roas(purchases)`. Its evidence needs the order values and is not built yet."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="roas",
    version=1,
    owner="trimtab",
    unit="ratio",
    aggregation="ratio of sums",
    numerator="revenue",
    denominator="spend",
)
