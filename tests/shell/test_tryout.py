"""`trimtab try`: what would be done, held and unknown, each with its reason; and what an export does not say is told, never guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from services.kernel.errors import RejectedInput
from services.rules_engine.language.pack import guards, load_pack
from services.tryout import Judged, RuleOutcome, Tryout, render, tryout

ROOT = Path(__file__).parents[2]
SEEDS = Path(os.environ.get("TRIMTAB_TEST_DATA", ROOT.parent / "shared" / "data")) / "fivetran_ad_reporting_seeds"
COLUMNS = "date_start,account_id,campaign_id,adset_id,ad_id,impressions,inline_link_clicks,spend"
CTR = """
  - rule: pause-weak
    owner: jana@acme.example
    scope: {level: creative, where: status = "active"}
    when: ctr[since change] < 0.8%
    guards: {sample: {impressions: 3000}, confidence: 95%, keep_active: {at_least: 1, per: ad_group}}
    do: pause
    risk: low
"""
CPA = """
  - rule: stop-loss
    owner: jana@acme.example
    scope: {level: creative}
    when: cpa(purchases)[since change] > 30 EUR
    guards: {sample: {spend: 90 EUR}, confidence: 95%}
    do: pause
    risk: medium
    approve: {always: true, by: media-lead, within: 4h, otherwise: leave running}
"""
PURCHASES = "conversions:\n  purchases: {source: meta_ads, action_type: purchase}\n"


def pack_text(rules: str, platform: str = "meta_ads", currency: str = "EUR", head: str = "") -> str:
    return f"pack: p\naccount: {{platform: {platform}, currency: {currency}, time_zone: Europe/Berlin}}\n{head}rules:{rules}"


def rows(ad: str, days: int, views: int, clicks: int, spend: str = "10.00", first: date = date(2026, 3, 2), group: str = "62") -> list[str]:
    return [f"{first + timedelta(i)},1700,6215,{group},{ad},{views},{clicks},{spend}" for i in range(days)]


def written(folder: Path, *lines: str, header: str = COLUMNS, name: str = "export.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


async def tried(pack: str, *exports: Path, mapping: dict[str, str] | None = None) -> Tryout:
    return await tryout(load_pack(pack, "pack.yaml"), exports, mapping or {}, guards())


def by_id(rule: RuleOutcome) -> dict[str, Judged]:
    return {o.path.rpartition("/")[2]: o for o in rule.objects}


async def test_an_ad_that_is_proven_weak_goes_one_that_is_not_stays_and_one_without_views_is_unknown(tmp_path: Path) -> None:
    lines = [*rows("weak", 5, 2000, 4), *rows("maybe", 5, 1000, 7), *rows("good", 5, 2000, 40), *rows("silent", 5, 0, 0)]
    outcome = await tried(pack_text(CTR), written(tmp_path, *lines))
    [rule] = outcome.rules
    found = by_id(rule)
    assert {name: o.verdict for name, o in found.items()} == {"weak": "act", "maybe": "hold", "good": "hold", "silent": "unknown"}
    assert (rule.count("act"), rule.count("hold"), rule.count("unknown"), rule.plain) == (1, 2, 1, 2)
    assert found["weak"].reason.startswith("on Tue 03 Mar 2026: ctr[since change] < 0.8%: 0.20 % (8 clicks, 4,000 impressions); evidence ")
    assert found["maybe"].reason == "confidence: not proven, evidence 0.68 : 1; 20 needed"
    assert found["good"].reason == "its condition does not hold; ctr[since change] < 0.8%: 2.00 % (200 clicks, 10,000 impressions)"
    assert found["silent"].reason == "no impressions and no clicks counted"
    assert [name for name, o in found.items() if o.plainly] == ["weak", "maybe"]
    text = render(outcome)
    assert "pause-weak: would pause 1, hold 2, unknown 1, of 4 creatives." in text
    assert "A plain threshold (the same condition after impressions: 3000, no other guard) would pause 2." in text
    assert "The export has no status: every object counts as active." in text
    assert "its money was read as EUR, the pack's" in text
    assert "[plain: pause on Wed 04 Mar 2026]" in text


async def test_every_guard_that_stands_in_the_way_says_so_in_units_people_use(tmp_path: Path) -> None:
    lines = [*rows("alone", 3, 2000, 2, group="61"), *rows("small", 3, 500, 0), *rows("good", 3, 500, 20)]
    [rule] = (await tried(pack_text(CTR), written(tmp_path, *lines))).rules
    assert by_id(rule)["alone"].reason == "keep_active: no others of its ad_group would stay on, 1 asked for"
    assert by_id(rule)["small"].reason == "sample: 1,500 impressions of 3,000 impressions counted"


async def test_the_last_one_of_a_group_stays_because_the_first_was_paused_before_it_whatever_the_export_says_of_it_afterwards(tmp_path: Path) -> None:
    export = written(tmp_path, *(f"{line},active" for line in [*rows("first", 6, 4000, 4), *rows("later", 6, 1000, 1)]), header=COLUMNS + ",delivery")
    [rule] = (await tried(pack_text(CTR), export, mapping={"attribute.status": "delivery"})).rules
    assert by_id(rule)["first"].verdict == "act"
    assert by_id(rule)["later"].reason.startswith("keep_active: no others of its ad_group would stay on")
    assert rule.plain == 2


async def test_a_measure_that_the_export_does_not_hold_is_unknown_and_never_read_as_none_sold(tmp_path: Path) -> None:
    [rule] = (await tried(pack_text(CPA, head=PURCHASES), written(tmp_path, *rows("dear", 5, 2000, 40, "400.00")))).rules
    assert by_id(rule)["dear"].verdict == "unknown"
    assert by_id(rule)["dear"].reason == "the export holds no conversions:purchase of meta_ads, and 0 would be a guess"
    assert "A plain threshold is not reckoned either" in render(await tried(pack_text(CPA, head=PURCHASES), tmp_path / "export.csv"))


async def test_a_target_that_names_nothing_here_is_said_and_what_reads_it_is_unknown(tmp_path: Path) -> None:
    head = 'targets:\n  ctr: {"campaign:6215": 0.8%, "campaign:Gone": 2%}\n'
    export = written(tmp_path, *rows("weak", 5, 4000, 4), *rows("good", 5, 4000, 90), "2026-03-02,1700,6299,63,other,5000,4,1.00")
    outcome = await tried(pack_text(CTR.replace("< 0.8%", "< target(ctr)"), head=head), export)
    found = by_id(outcome.rules[0])
    assert {name: o.verdict for name, o in found.items()} == {"weak": "act", "good": "hold", "other": "unknown"}
    assert found["other"].reason == "no target ctr is set for it"
    assert "The target ctr of 'campaign:Gone' is left out: no campaign here has that name." in render(outcome)


async def test_what_needs_a_person_is_only_proposed(tmp_path: Path) -> None:
    export = written(tmp_path, *(f"2026-03-0{d},1700,6215,62,{ad},100,5,{spend},{sold}" for d in range(2, 7) for ad, spend, sold in
                                 (("dear", "250.00", 0), ("fair", "20.00", 4))), header=COLUMNS + ",sold")  # fmt: skip
    mapping = {"conversions:purchase": "sold"}
    outcome = await tried(pack_text(CPA, head=PURCHASES), export, mapping=mapping)
    [rule] = outcome.rules
    assert (by_id(rule)["dear"].verdict, by_id(rule)["dear"].asks, by_id(rule)["fair"].verdict) == ("act", True, "hold")
    assert "without end (250.00 EUR, 0 purchases)" in by_id(rule)["dear"].reason
    assert "would pause 1 (1 of them only if media-lead agrees), hold 1, unknown 0" in render(outcome)


async def test_a_status_column_is_believed_and_a_change_by_hand_begins_the_evidence_anew(tmp_path: Path) -> None:
    header = COLUMNS + ",delivery"
    lines = [f"{line},{'paused' if ad == 'off' else 'active'}" for ad in ("off", "on") for line in rows(ad, 4, 4000, 4)]
    switched = [f"{line},{'paused' if i == 1 else 'active'}" for i, line in enumerate(rows("switched", 3, 1400, 1))]
    export = written(tmp_path, *lines, *switched, *(f"{line},active" for line in rows("good", 4, 4000, 90)), header=header)
    outcome = await tried(pack_text(CTR), export, mapping={"attribute.status": "delivery"})
    found = by_id(outcome.rules[0])
    assert found["off"].reason == "outside the rule's scope: its status is paused"
    assert found["on"].verdict == "act"
    assert found["switched"].verdict != "act"
    assert "no status" not in render(outcome)


async def test_a_history_that_begins_later_says_what_was_so_before(tmp_path: Path) -> None:
    stats = written(tmp_path, *(f"1,2026-03-0{d},{c},4000,4,100,{c}" for d in range(2, 6) for c in ("on", "off")),
                    header="customer_id,date,id,impressions,clicks,cost_micros,base_campaign", name="stats.csv")  # fmt: skip
    states = written(tmp_path, *(f"{c},1,2026-03-05T12:00:00,{c},{s},SEARCH" for c, s in (("on", "ENABLED"), ("off", "PAUSED"))),
                     header="id,customer_id,updated_at,name,status,advertising_channel_type", name="states.csv")  # fmt: skip
    rule = CTR.replace("level: creative", "level: campaign").replace(", keep_active: {at_least: 1, per: ad_group}", "")
    [outcome] = (await tried(pack_text(rule, "google_ads"), stats, states)).rules
    assert {name: (o.verdict, o.reason[:24]) for name, o in by_id(outcome).items()} == {
        "on": ("act", "on Mon 02 Mar 2026: ctr["),
        "off": ("hold", "outside the rule's scope"),
    }


async def test_an_unknown_table_is_read_by_a_mapping_as_the_packs_platform(tmp_path: Path) -> None:
    lines = [f'0{d}.03.2026,A1,C1,G1,{ad},"4,000",{clicks}' for d in range(2, 7) for ad, clicks in (("w", 4), ("g", 90))]
    export = written(tmp_path, *lines, header="Day,Acct,Camp,Group,Ad,Impr.,Clicks")
    mapping = {"date": "Day", "account": "Acct", "campaign": "Camp", "ad_group": "Group", "creative": "Ad", "impressions": "Impr.", "clicks": "Clicks"}
    [rule] = (await tried(pack_text(CTR), export, mapping=mapping | {"date_format": "%d.%m.%Y"})).rules
    assert {o.path: o.verdict for o in rule.objects} == {"meta_ads/A1/C1/G1/g": "hold", "meta_ads/A1/C1/G1/w": "act"}


async def test_refused_rows_are_counted_and_shown(tmp_path: Path) -> None:
    outcome = await tried(pack_text(CTR), written(tmp_path, *rows("a", 4, 4000, 90), "2026-03-06,1700,6215,62,a,N/A,1,2.00"))
    text = render(outcome)
    assert "4 of 5 rows used, 1 refused." in text
    assert "line 6#/impressions: not_available" in text


async def test_rows_in_any_order_and_repeated_change_nothing(tmp_path: Path) -> None:
    lines = [*rows("weak", 5, 2000, 4), *rows("maybe", 5, 1000, 7), *rows("good", 5, 2000, 40)]
    once = await tried(pack_text(CTR), written(tmp_path, *lines))
    again = await tried(pack_text(CTR), written(tmp_path, *reversed(lines), *lines, name="again.csv"))
    assert once.rules == again.rules


@pytest.mark.parametrize(
    ("pack", "mapping", "reason", "words"),
    [
        (pack_text(CTR, platform="google_ads"), {}, "other_platform", "the export is of meta_ads, the pack is for google_ads"),
        (pack_text(CTR), {"currency": "USD"}, "other_currency", "the export is in USD, the pack reckons in EUR"),
        (pack_text(CTR), {"date_format": "%Y/%m/%d"}, "no_rows", "of 4 rows of export.csv none could be used; the first, line 2#/date_start: bad_time"),
    ],
)
async def test_an_export_that_does_not_fit_the_pack_is_refused_in_one_line(
    tmp_path: Path, pack: str, mapping: dict[str, str], reason: str, words: str
) -> None:
    with pytest.raises(RejectedInput) as refused:
        await tried(pack, written(tmp_path, *rows("a", 4, 4000, 90)), mapping=mapping)
    assert refused.value.reason == reason
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_a_table_of_names_alone_has_nothing_to_judge(tmp_path: Path) -> None:
    names = written(tmp_path, "9,1700,62,6215,1,Summer_v1,2026-03-01T10:00:00", header="id,account_id,ad_set_id,campaign_id,creative_id,name,updated_time")
    with pytest.raises(RejectedInput, match="carries no figures"):
        await tried(pack_text(CTR), names)


async def test_the_warehouse_tables_of_google_and_meta_are_tried_as_they_are() -> None:
    if not SEEDS.exists():
        pytest.skip(f"no tables at {SEEDS}: set TRIMTAB_TEST_DATA")
    google = CTR.replace("level: creative", "level: ad_group").replace("0.8%", "30%").replace("3000", "100").replace("per: ad_group", "per: account")
    outcome = await tried(pack_text(google, "google_ads", "USD"), SEEDS / "google_ads_ad_group_stats_data.csv", SEEDS / "google_ads_ad_group_history_data.csv")
    assert [(r.path.name, r.rows, r.accepted) for r in outcome.receipts][1] == ("google_ads_ad_group_stats_data.csv", 15, 15)
    assert {o.verdict for o in outcome.rules[0].objects} <= {"act", "hold"}
    assert "no status" not in render(outcome)
    facebook = [SEEDS / f"facebook_ads_{name}_data.csv" for name in ("basic_ad", "ad_history")]
    outcome = await tried(pack_text(CTR), *facebook)
    assert outcome.rules[0].objects
    assert all('"v1"' in o.label and "keep_active" in o.reason for o in outcome.rules[0].objects)
    with pytest.raises(RejectedInput, match="read the file that lists it first"):
        await tried(pack_text(CTR), facebook[0])


def test_the_command_answers_in_words_and_a_misfit_in_one_line(tmp_path: Path) -> None:
    export, pack = written(tmp_path, *rows("weak", 5, 4000, 4), *rows("good", 5, 4000, 90)), tmp_path / "pack.yaml"
    pack.write_text(pack_text(CTR))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRIMTAB_")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services", "try", str(pack), str(export), *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    done, misfit = run(), run("--map", "currency=USD")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pause-weak: would pause 1, hold 1, unknown 0, of 2 creatives." in done.stdout
    assert (misfit.returncode, misfit.stdout, misfit.stderr.count("\n")) == (2, "", 1)
    assert misfit.stderr.startswith("the export is in USD")
