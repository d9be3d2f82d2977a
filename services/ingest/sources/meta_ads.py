"""meta_ads: report rows of Meta (Facebook, Instagram), pushed to `POST /v1/reports/meta_ads` or read from a file.

* Rows of the Insights API (`{"data": [...]}`), at the level asked for: account_id, campaign_id, adset_id, ad_id, date_start, date_stop, impressions,
  spend, inline_link_clicks, actions, action_values. `account_currency` names the currency; without it send `currency` beside the rows.
* Tables of a warehouse copy (`trimtab ingest FILE`): ad reports, actions and their values, and the histories of campaigns, ad sets and ads, which say
  whose child an ad is: read them first, or in the same command.

`spend` is in units of the account's currency, numbers may arrive as texts. Clicks are link clicks (`inline_link_clicks`), not every tap on the ad.
An action `purchase` becomes `conversions:purchase`, with a window `conversions:purchase:7d_click`; its value `revenue:purchase...@CURRENCY`; an action
`lead` is also counted as `leads`. The same purchase may appear under several action types: a rule names the one it means.
"""

from __future__ import annotations

from services.ingest.core.report import As, Shape
from services.ingest.core.source import Example

NAME = "meta_ads"
BASIC = {"impressions": As("impressions"), "inline_link_clicks": As("clicks", optional=True), "spend": As("spend")}
LISTS = {"actions": "conversions", "action_values": "revenue"}
IDS = {"account": "account_id", "campaign": "campaign_id", "ad_group": "adset_id", "creative": "ad_id"}
NAMED = {"name": As("name", "text")}


def insights(level: str, depth: int) -> Shape:
    """Rows of the Insights API at one level; those of a level above have fewer ids."""
    return Shape(
        f"meta_ads {level} insights", NAME, level, dict(list(IDS.items())[:depth]), {"impressions": As("impressions"), "spend": As("spend", optional=True),
        "inline_link_clicks": As("clicks", optional=True)}, day="date_start", last_day="date_stop", currency="account_currency",
        breakdown=("age", "gender", "country", "region", "publisher_platform", "platform_position", "impression_device"), lists=LISTS,
    )  # fmt: skip


class MetaAds:
    name = NAME
    shapes = (
        *(insights(level, depth) for depth, level in enumerate(IDS, 1)),
        Shape("meta_ads ad report", NAME, "creative", {"account": "account_id", "creative": "ad_id"}, BASIC, day="date"),
        Shape(
            "meta_ads country report", NAME, "account", {"account": "account_id"}, BASIC, breakdown=("country",), day="date",
            as_of="_fivetran_synced", columns_also=("country",),
        ),
        Shape(
            "meta_ads region report", NAME, "account", {"account": "account_id"}, BASIC, breakdown=("region",), day="date",
            as_of="_fivetran_synced", columns_also=("region",),
        ),
        Shape(
            "meta_ads actions", NAME, "creative", {"creative": "ad_id"},
            {
                "value": As("conversions:{action_type}"),
                "_7_d_click": As("conversions:{action_type}:7d_click", optional=True),
                "_1_d_view": As("conversions:{action_type}:1d_view", optional=True),
            },
            day="date", as_of="_fivetran_synced", columns_also=("action_type", "inline"),
        ),
        Shape(
            "meta_ads action values", NAME, "creative", {"creative": "ad_id"},
            {"value": As("revenue:{action_type}"), "_7_d_click": As("revenue:{action_type}:7d_click", optional=True)},
            day="date", as_of="_fivetran_synced", columns_also=("action_type", "_7_d_click"),
        ),
        Shape("meta_ads campaign history", NAME, "campaign", {"account": "account_id", "campaign": "id"}, {}, NAMED, at="updated_time"),
        Shape(
            "meta_ads ad set history", NAME, "ad_group", {"account": "account_id", "campaign": "campaign_id", "ad_group": "id"}, {}, NAMED,
            at="updated_time",
        ),
        Shape(
            "meta_ads ad history", NAME, "creative", {"account": "account_id", "campaign": "campaign_id", "ad_group": "ad_set_id", "creative": "id"}, {},
            NAMED, at="updated_time", columns_also=("creative_id",),
        ),
    )  # fmt: skip

    example = Example(
        body=b'{"data": [{"account_id": "1700252260223815", "campaign_id": "6215", "adset_id": "62151", "ad_id": "621510", "account_currency": "EUR",'
        b' "date_start": "2026-02-28", "date_stop": "2026-02-28", "impressions": "4233", "inline_link_clicks": "10", "spend": "76.53",'
        b' "actions": [{"action_type": "purchase", "value": "3", "7d_click": "2"}, {"action_type": "lead", "value": "1"}],'
        b' "action_values": [{"action_type": "purchase", "value": "149.70", "7d_click": "99.80"}]},'
        b' {"account_id": "1700252260223815", "campaign_id": "6215", "adset_id": "62151", "ad_id": "621511",'
        b' "date_start": "2026-02-28", "date_stop": "2026-02-28", "impressions": "N/A", "spend": "1.00"}]}',
        events=1,
        rejections=1,
    )


SOURCE = MetaAds()
