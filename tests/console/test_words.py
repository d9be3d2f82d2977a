"""Figures in words, the chart's geometry, and the palette: what can be checked without a server."""

from __future__ import annotations

import re
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.console import chart, words
from services.console.pages import Pages
from services.console.safety import form_token
from services.rules_engine.language.pack import guards

CSS = (Path(__file__).parents[2] / "services/console/static/console.css").read_text()
LN_20 = 2_995_732
HOUR = 3_600_000_000


@pytest.mark.parametrize(
    ("log_e", "said"),
    [
        (LN_20, "20 : 1"),
        (LN_20 - 2_000, "19 : 1"),
        (round(log(14.9) * 1e6), "14 : 1"),
        (round(log(4.49) * 1e6), "4.4 : 1"),
        (0, "1 : 1"),
        (round(log(0.0129) * 1e6), "0.012 : 1"),
        (-40_000_000, "0 : 1"),
        (126_341_778, "over 1,000,000 : 1"),
    ],
)
def test_evidence_reads_as_odds_that_are_never_rounded_up(log_e: int, said: str) -> None:
    assert words.ratio(log_e) == said


@given(st.integers(-20_000_000, LN_20 - 10))
def test_evidence_that_falls_short_of_twenty_never_reads_as_twenty(log_e: int) -> None:
    assert float(words.ratio(log_e).split()[0]) <= exp(log_e / 1e6) * (1 + 3e-6)
    assert words.ratio(log_e) != "20 : 1"


def test_evidence_stands_beside_what_was_needed() -> None:
    verdict = {"guard": "confidence", "refusal": "not_proven", "figures": [["evidence", round(log(14.2) * 1e6)], ["needed", LN_20]]}
    assert words.evidence({"evidence": 1, "verdicts": [verdict]}) == "14 : 1 of 20 : 1"
    assert words.evidence({"evidence": LN_20}) == "20 : 1"
    assert words.evidence({"evidence": None, "verdicts": []}) == ""


@pytest.mark.parametrize(
    ("micros", "said"),
    [(0, "0 s"), (59_000_000, "59 s"), (HOUR, "1 h"), (HOUR + 60_000_000, "1 h 1 min"), (24 * HOUR + 5_000_000, "1 d"), (51 * HOUR, "2 d 3 h"), (-5, "0 s")],
)
def test_a_span_has_at_most_two_units(micros: int, said: str) -> None:
    assert words.span(micros) == said


def test_money_and_settings_are_absolute_values_with_their_unit() -> None:
    assert words.setting("daily_budget", 68_000_000, "EUR") == "68.00 EUR a day"
    assert words.setting("daily_budget", 12_345_670_000, "") == "12,345.67 a day"
    assert words.setting("status", "paused", "EUR") == "paused"
    assert words.setting("status", None, "EUR") == "not known"


SPEND, PURCHASES = {"name": "spend@EUR"}, {"name": "conversions:purchase:7d_click"}
PROGRAM: dict[str, Any] = {
    "metrics": [
        {"name": "cpa(purchases)", "unit": "EUR", "family": "rate", "numerator": SPEND, "denominator": PURCHASES},
        {"name": "spend", "unit": "EUR", "family": "", "numerator": SPEND, "denominator": None},
    ],
    "minimums": [{"metric": 1, "least": 90_000_000}],
}


@pytest.mark.parametrize(
    ("guard", "refusal", "figures", "said"),
    [
        ("sample", "too_small", {"counted": 80_500_000, "least": 90_000_000}, "80.50 EUR spend counted; at least 90.00 EUR asked for"),
        ("sample", "unknown", {}, "what was counted is unknown"),
        (
            "confidence",
            "",
            {"evidence": 3_020_000, "needed": LN_20, "metric": "cpa(purchases)", "numerator": 310_000_000, "denominator": 0, "tested_nano": 33_000_000_000},
            "evidence 20 : 1 of 20 : 1; 310.00 EUR for 0 purchase, tested against 33.00 EUR",
        ),
        ("confidence", "not_measured", {"needed": LN_20}, "nothing measured yet that could speak for it; 20 : 1 needed"),
        (
            "cooldown",
            "recently_changed",
            {"ago": 2 * HOUR, "by": "jana", "for": 6 * HOUR, "remaining": 4 * HOUR},
            "last changed 2 h ago by jana; 6 h of rest asked for, asked again in 4 h",
        ),
        ("cooldown", "", {}, "no change known"),
        ("fresh", "stale", {"age": 5 * HOUR, "source": "meta_ads", "within": 3 * HOUR}, "the newest data of meta_ads is 5 h old; at most 3 h asked for"),
        ("fresh", "never_heard", {"source": "meta_ads"}, "nothing was ever heard from meta_ads"),
        ("keep_active", "last_survivors", {"others": 1, "at_least": 2, "per": "ad_group"}, "1 other stays on in the same ad group; at least 2 asked for"),
        ("min_runtime", "too_young", {"running": HOUR, "at_least": 24 * HOUR}, "running for 1 h; at least 1 d asked for"),
        ("status", "does_not_fit", {"status": "paused", "wanted": "active"}, "its status is paused; active asked for"),
        ("weather", "rain", {"millimetres": 1200, "where": "Graz"}, "millimetres 1,200, where Graz"),
        ("keep_active", "", {"others": 3}, "others 3"),  # another version's figures
    ],
)
def test_a_guards_answer_is_told_with_its_figures(guard: str, refusal: str, figures: dict[str, Any], said: str) -> None:
    assert words.verdict({"guard": guard, "refusal": refusal, "figures": [list(f) for f in figures.items()]}, PROGRAM) == said


def test_every_guard_that_there_is_has_its_words() -> None:
    assert set(guards()) <= set(words.SAYERS)


# -- the chart ---------------------------------------------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.integers(0, 10**6), st.none() | st.floats(0, 1e6)), max_size=60).map(lambda many: sorted(many, key=lambda p: p[0]))


@given(POINTS, st.none() | st.floats(1e-6, 1e6), st.sampled_from(["ratio", "count", "EUR"]), st.sampled_from([360, 760]))
def test_a_chart_stays_in_its_frame_and_leaves_gaps_where_nothing_is_known(
    points: list[tuple[int, float | None]], limit: float | None, unit: str, width: int
) -> None:
    series = {"points": [[t, v] for t, v in points], "threshold": limit, "unit": unit, "metric": "m", "decided_at": 10**6 + 5}
    drawn = chart.draw(series, width, 280)
    known = [v for _, v in points if v is not None]
    assert (drawn is None) == (not known)
    if drawn is None:
        return
    places = [tuple(map(float, p.split(","))) for line in drawn.lines for p in line.split()] + list(drawn.dots)
    assert all(drawn.left <= x <= width - drawn.right for x, _ in places)
    assert all(y <= 280 - drawn.bottom for _, y in places)
    assert drawn.threshold is None or drawn.top <= drawn.threshold <= 280 - drawn.bottom
    assert len(drawn.x_ticks) >= 1
    assert 2 <= len(drawn.y_ticks) <= 9
    assert all(drawn.top - 1 <= t.at <= 280 - drawn.bottom for t in drawn.y_ticks)
    gaps = "".join("x" if v is None else "v" for _, v in points) + ("x" if points[-1][1] is None else "v")
    assert len(drawn.lines) + len(drawn.dots) == len(re.findall("v+", gaps))


def test_a_low_rate_is_drawn_below_its_threshold_and_the_last_value_holds_until_the_decision() -> None:
    series = {"points": [[0, 0.012], [100, 0.002]], "threshold": 0.008, "unit": "ratio", "metric": "ctr", "decided_at": 200}
    drawn = chart.draw(series, 760, 280)
    assert drawn is not None
    [line] = drawn.lines
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in line.split())
    assert drawn.threshold is not None
    assert y0 < drawn.threshold < y1 == y2
    assert x0 == drawn.left
    assert x2 == drawn.decided == 760 - drawn.right
    assert x0 < x1 < x2
    assert [t.label for t in drawn.y_ticks] == ["0.00 %", "0.50 %", "1.00 %"]
    assert [(r.when, r.value) for r in chart.rows(series)] == [("01 Jan 1970, 00:00:00 UTC", "1.20 %"), ("01 Jan 1970, 00:01:40 UTC", "0.20 %")]


# -- what is drawn and how ---------------------------------------------------------------------------------------------


def test_control_characters_of_a_name_cannot_hide_or_reorder_what_stands_around_it() -> None:
    page = Pages().templates.from_string("{{ name }}|{{ nothing }}")
    family = "\U0001f468\u200d\U0001f469"  # what joins an emoji is no trick
    assert page.render(name=f"safe\u202egnp.exe\x00\u2066 {family}", nothing=None) == f"safe\ufffdgnp.exe\ufffd\ufffd {family}|"
    assert page.render(name="<b>'\"&", nothing=0) == "&lt;b&gt;&#39;&#34;&amp;|0"


def test_a_form_token_belongs_to_one_session_and_does_not_give_it_away() -> None:
    assert form_token("a") == form_token("a") != form_token("b")
    assert "session" not in form_token("session")


def palettes() -> dict[str, dict[str, str]]:
    light, dark = CSS.split("@media (prefers-color-scheme: dark)", 1)

    def colours(text: str) -> dict[str, str]:
        return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", text))

    return {"light": colours(light), "dark": colours(dark)}


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, relative luminance."""

    def bright(colour: str) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((bright(a), bright(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_palette_can_be_read_on_every_ground(scheme: str) -> None:
    assert (round(contrast("#ffffff", "#000000"), 2), round(contrast("#777777", "#ffffff"), 2)) == (21.0, 4.48)
    p = palettes()[scheme]
    assert set(palettes()["dark"]) == set(palettes()["light"])
    inks, grounds = ("text", "muted", "accent", "good", "warn", "bad"), ("paper", "surface", "raised")
    texts = {(ink, ground): contrast(p[ink], p[ground]) for ink in inks for ground in grounds}
    texts |= {("on-accent", "accent"): contrast(p["on-accent"], p["accent"]), ("on-bad", "bad"): contrast(p["on-bad"], p["bad"])}
    assert {pair: round(c, 2) for pair, c in texts.items() if c < 4.5} == {}
    edges = {ground: contrast(p["edge"], p[ground]) for ground in ("paper", "surface")}
    assert {ground: round(c, 2) for ground, c in edges.items() if c < 3} == {}


def test_no_colour_is_used_that_the_palette_does_not_name() -> None:
    rules = re.sub(r":root \{[^}]*\}", "", CSS)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", rules) == []
    assert "url(" not in CSS
    assert "@import" not in CSS
