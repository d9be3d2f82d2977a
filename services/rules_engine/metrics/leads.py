"""Leads, as the ad platform reports them, or of a definition that names another source: `leads(crm_leads)`."""

from services.rules_engine.core.metric import Definition

METRIC = Definition(
    name="leads",
    version=1,
    owner="trimtab",
    unit="count",
    aggregation="sum",
    numerator="leads",
)
