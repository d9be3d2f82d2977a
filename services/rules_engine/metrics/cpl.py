"""Cost per lead: money spent per lead of the platform, or of a definition: `cpl(crm_leads)`."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="cpl",
    version=1,
    owner="trimtab",
    unit="money",
    aggregation="ratio of sums",
    numerator="spend",
    denominator="leads",
    family="rate",
)
