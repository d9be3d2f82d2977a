"""Which entity a visit, a lead or a sale belongs to: a path that the payload names, or the ids that ad links carry (UTM parameters).

    utm_source   -> platform      google, facebook, instagram, linkedin ... or a platform's word as it stands
    account_id   -> account       (also ad_account_id, customer_id, utm_account)
    utm_campaign -> campaign      the platform's id (also utm_id, campaign_id)
    utm_term     -> ad group      (also ad_group_id, adgroup_id, adset_id, ad_set_id)
    utm_content  -> creative      (also ad_id, creative_id)

Set the ad platforms' tracking templates accordingly; for Meta, for example,
`utm_source=facebook&account_id=1700&utm_campaign={{campaign.id}}&utm_term={{adset.id}}&utm_content={{ad.id}}`.
The deepest level without a gap above it is taken: an amount of a campaign is true for the campaign, whatever else is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.ingest.core.normalize import part, path, word
from services.ingest.core.refused import Refused

PLATFORMS = {
    "google": "google_ads", "adwords": "google_ads", "youtube": "google_ads",
    "facebook": "meta_ads", "fb": "meta_ads", "instagram": "meta_ads", "ig": "meta_ads", "meta": "meta_ads",
    "linkedin": "linkedin_ads", "bing": "microsoft_ads", "microsoft": "microsoft_ads", "tiktok": "tiktok_ads",
}  # fmt: skip
LEVELS = (
    ("account_id", "ad_account_id", "customer_id", "utm_account"),
    ("campaign_id", "utm_id", "utm_campaign"),
    ("ad_group_id", "adgroup_id", "adset_id", "ad_set_id", "utm_term"),
    ("creative_id", "ad_id", "utm_content"),
)


def place(fields: Mapping[str, object], *, explicit: str = "entity") -> str:
    """The path these fields name; Refused `no_entity` where they name none: what belongs nowhere is kept aside, not counted somewhere."""
    named = fields.get(explicit)
    if named is not None:
        return path(named)
    source = fields.get("platform") or fields.get("utm_source")
    if not isinstance(source, str) or not source.strip():
        raise Refused("nothing names an entity: neither `entity` nor utm_source with the ad's ids", reason="no_entity")
    platform = source.strip().lower()
    parts = [word(PLATFORMS.get(platform, platform), "platform")]
    for names in LEVELS:
        value = next((fields[n] for n in names if fields.get(n) not in (None, "")), None)
        if value is None:
            break
        parts.append(part(value))
    if len(parts) < 2:
        raise Refused(f"the account at {parts[0]} is not named: add account_id to the ad links, or send `entity`", reason="no_entity")
    return "/".join(parts)
