"""google_ads: report rows of Google Ads, pushed to `POST /v1/reports/google_ads` or read from a file.

* Rows of the API (`searchStream` results as JSON, `{"results": [...]}`): customer.id, campaign.id, adGroup.id, adGroupAd.ad.id, segments.date, metrics.*.
* Tables of a warehouse copy (`trimtab ingest FILE`): account, campaign, ad group and ad stats, and the histories that carry names and statuses.
  Rows of ads do not name their campaign's account everywhere: read the histories first, or in the same command.

`cost_micros` are millionths of the account's currency, `conversions` may be fractions (attribution shares a sale), `conversions_value` is in units.
The day is the account's local day. ENABLED, PAUSED and REMOVED become active, paused and archived. Conversions are `conversions` and
`revenue@CURRENCY` without a name: Google's column adds up every action that the account counts.
"""

from __future__ import annotations

from services.ingest.core.report import As, Shape
from services.ingest.core.source import Example

NAME = "google_ads"
STATS = {
    "impressions": As("impressions"),
    "clicks": As("clicks"),
    "cost_micros": As("spend", "micros"),
    "conversions": As("conversions", optional=True),
    "conversions_value": As("revenue", optional=True),
}
METRICS = {f"metrics.{column}": As(what.name, what.unit, optional=True) for column, what in STATS.items()}
API = {"account": "customer.id", "campaign": "campaign.id"}
STATE = {"name": As("name", "text"), "status": As("status", "status")}


def api(level: str, ids: dict[str, str], state: dict[str, As]) -> Shape:
    return Shape(
        f"google_ads {level} (API)", NAME, level, API | ids, METRICS, state, ("segments.device", "segments.ad_network_type"),
        day="segments.date", currency="customer.currency_code", zone="customer.time_zone",
    )  # fmt: skip


class GoogleAds:
    name = NAME
    shapes = (
        Shape("google_ads account stats", NAME, "account", {"account": "customer_id"}, STATS, breakdown=("ad_network_type", "device"), day="date",
              as_of="_fivetran_synced", columns_not=("id", "campaign_id", "ad_group_id")),
        Shape(
            "google_ads campaign stats", NAME, "campaign", {"account": "customer_id", "campaign": "id"}, STATS,
            breakdown=("ad_network_type", "device"), day="date", as_of="_fivetran_synced", columns_also=("base_campaign",),
        ),
        Shape(
            "google_ads ad group stats", NAME, "ad_group", {"account": "customer_id", "campaign": "campaign_id", "ad_group": "id"}, STATS,
            breakdown=("ad_network_type", "device"), day="date", as_of="_fivetran_synced", columns_also=("base_ad_group",),
        ),
        Shape(
            "google_ads ad stats", NAME, "creative",
            {"account": "customer_id", "campaign": "campaign_id", "ad_group": "ad_group", "creative": "ad_id"}, STATS,
            breakdown=("ad_network_type", "device", "keyword_ad_group_criterion"), day="date",
        ),
        Shape(
            "google_ads keyword stats", NAME, "ad_group", {"account": "customer_id", "campaign": "campaign_id", "ad_group": "ad_group_id"}, STATS,
            breakdown=("ad_group_criterion_criterion_id", "ad_network_type", "device"), day="date", as_of="_fivetran_synced",
            columns_also=("ad_group_criterion_criterion_id",),
        ),
        Shape(
            "google_ads account history", NAME, "account", {"account": "id"}, {}, 
            {"descriptive_name": As("name", "text"), "currency_code": As("currency", "text"), "time_zone": As("time_zone", "text")}, at="updated_at",
            currency="currency_code", zone="time_zone", columns_also=("currency_code", "auto_tagging_enabled"),
        ),
        Shape(
            "google_ads campaign history", NAME, "campaign", {"account": "customer_id", "campaign": "id"}, {}, STATE, at="updated_at",
            columns_also=("advertising_channel_type",),
        ),
        Shape("google_ads ad group history", NAME, "ad_group", {"campaign": "campaign_id", "ad_group": "id"}, {}, STATE, at="updated_at"),
        Shape(
            "google_ads ad history", NAME, "creative", {"ad_group": "ad_group_id", "creative": "id"}, {}, STATE, at="updated_at",
            columns_also=("final_urls",),
        ),
        api("campaign", {}, {"campaign.name": As("name", "text"), "campaign.status": As("status", "status"),
                             "campaign_budget.amount_micros": As("daily_budget", "micros")}),
        api("ad_group", {"ad_group": "ad_group.id"}, {"ad_group.name": As("name", "text"), "ad_group.status": As("status", "status")}),
        api("creative", {"ad_group": "ad_group.id", "creative": "ad_group_ad.ad.id"},
            {"ad_group_ad.ad.name": As("name", "text"), "ad_group_ad.status": As("status", "status")}),
    )  # fmt: skip

    example = Example(
        body=b'{"results": [{"customer": {"id": "2121450128", "currencyCode": "USD", "timeZone": "America/Los_Angeles"}, "campaign": {"id": "344106493"},'
        b' "adGroup": {"id": "23289504013"}, "adGroupAd": {"ad": {"id": "514818869462"}, "status": "ENABLED"}, "segments": {"date": "2026-02-28"},'
        b' "metrics": {"impressions": "6319", "clicks": "51", "costMicros": "20836690", "conversions": 2.5}},'
        b' {"customer": {"id": "2121450128"}, "campaign": {"id": "344106493"}, "adGroup": {"id": "1"}, "adGroupAd": {"ad": {"id": "2"}},'
        b' "segments": {"date": "2026-02-28"}, "metrics": {"impressions": "N/A"}}]}',
        events=1,
        rejections=1,
    )


SOURCE = GoogleAds()
