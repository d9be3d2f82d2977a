"""The rule language: what an author wrote wrong is pointed at, whatever it is; what is right means one thing, however it is spelled."""

from __future__ import annotations

import json
import operator
import re
import sys
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from services.rules_engine.core.program import And, Compare, Measure, MetricRef, Not, Number, Or, Program
from services.rules_engine.core.truth import WORDS, Judge
from services.rules_engine.language.grammar import NotACondition, parse
from services.rules_engine.language.pack import Pack, load_pack
from services.rules_engine.language.problem import RuleError

GOLDEN = Path(__file__).parent / "golden"
ACME = Path(__file__).parents[2] / "rules" / "acme-paid-social.yaml"

PACK = """\
pack: acme-paid-social
account: {platform: meta_ads, currency: EUR, time_zone: Europe/Berlin}
conversions:
  purchases: {source: meta_ads, action_type: purchase, attribution: 7d_click}
targets:
  cpa: {default: 30 EUR, "campaign:Retargeting DE": 22 EUR}
lag: {of: purchases, arrived: {1h: 40%, 72h: 100%}}

rules:
  - rule: pause-weak-creatives
    owner: jana@acme.example
    scope: {level: creative, where: status = "active"}
    when: ctr[since change] < 0.8%
    guards:
      sample: {impressions: 3000}
      confidence: {level: 95%, effect: 10%}
    do: pause
    risk: low
"""
RULE = PACK.partition("rules:\n")[2]
PAIR = """\
  - rule: shift-to-proven
    owner: tom@acme.example
    scope: {level: campaign, pairs_within: account, same: objective}
    from: cpa(purchases)[since change] > 30 EUR
    to: cpa(purchases)[since change] < 25 EUR
    guards:
      sample: {spend: 300 EUR}
    do: {shift_budget: 15% of from, floor: 20 EUR, to_at_most: +20% per day}
    risk: high
    approve: {always: true, by: media-lead, within: 24h, otherwise: leave as is}
"""


def put(old: str, new: str, text: str = PACK) -> str:
    assert old in text, f"{old!r} is not in the pack"
    return text.replace(old, new, 1)


def when(condition: str, text: str = PACK) -> str:
    return put("ctr[since change] < 0.8%", condition, text)


def guards(lines: str, text: str = PACK) -> str:
    return put("      sample: {impressions: 3000}\n      confidence: {level: 95%, effect: 10%}\n", lines, text)


def cost(condition: str = "cpa(purchases)[since change] > target(cpa)", lines: str = "      sample: {spend: 90 EUR}\n") -> str:
    return guards(lines, when(condition))


MIXED = "ctr[since change] < 0.8% and cpa(purchases)[since change] > 40 EUR"


def pair(old: str = "", new: str = "") -> str:
    return PACK + (put(old, new, PAIR) if old else PAIR)


def bomb() -> str:
    """Eight lines that stand for more than two million values."""
    lines = [f"{y}: &{y} [{', '.join([f'*{x}'] * 8)}]\n" for x, y in zip("abcdefg", "bcdefgh", strict=True)]
    return "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(lines)


# Each is refused, and golden/NAME.txt holds what its author is shown. `python -m tests.core.test_language` writes them anew: read the difference.
REFUSED: dict[str, str] = {
    # units and windows
    "a_rate_against_a_plain_number": when("ctr[since change] < 0.8"),
    "a_rate_without_a_window": when("ctr < 0.8"),
    "a_rate_against_money": when("ctr[since change] < 30 EUR"),
    "money_against_a_plain_number": cost("cpc[since change] > 2"),
    "money_of_another_currency": cost("cpc[since change] > 2 USD"),
    "money_by_its_sign": cost("cpc[since change] > $2"),
    "a_count_against_a_rate": when("impressions[24h] > 5% and ctr[since change] < 0.8%"),
    "units_that_do_not_add": when("ctr[since change] < 0.8% + 2 EUR"),
    "division_by_zero": when("ctr[since change] < 0.8% / (2 - 2)"),
    "a_window_of_nothing": when("ctr[0h] < 0.8%"),
    "a_window_in_words": when("ctr[yesterday] < 0.8%"),
    "a_number_without_end": when(f"ctr[since change] < {'9' * 200}%"),
    "a_threshold_that_nothing_can_prove": when("ctr[since change] < 120%"),
    "an_effect_that_leaves_nothing": put("effect: 10%", "effect: 100%"),
    # names
    "an_unknown_metric": when("crt[since change] < 0.8%"),
    "a_metric_in_capitals": when("CTR[since change] < 0.8%"),
    "an_unknown_target": cost("cpa(purchases)[since change] > target(cpq)"),
    "a_target_for_a_plain_amount": put("cpa: {default", "spend: {default"),
    "a_target_in_another_currency": put("default: 30 EUR", "default: 30 USD"),
    "a_target_of_nothing": put("default: 30 EUR", "default: 0 EUR"),
    "a_target_that_selects_nothing": put("campaign:Retargeting DE", "campain:Retargeting DE"),
    "conversions_not_named": cost("cpa[since change] > 30 EUR"),
    "conversions_not_defined": cost("cpa(purchase)[since change] > 30 EUR"),
    "conversions_of_a_rate_that_has_none": when("ctr(purchases)[since change] < 0.8%"),
    "an_attribute_with_a_window": when("daily_budget[24h] > 30 EUR and ctr[since change] < 0.8%"),
    "an_unquoted_text": when("status = active and ctr[since change] < 0.8%"),
    "a_text_in_single_quotes": when("status = 'active' and ctr[since change] < 0.8%"),
    "texts_by_size": when('label > "a" and ctr[since change] < 0.8%'),
    "a_metric_in_where": put('where: status = "active"', 'where: "ctr[24h] < 1%"'),
    "a_window_inside_braces": put('where: status = "active"', "where: ctr[24h] < 1%"),
    "an_unknown_level": put("level: creative", "level: creatives"),
    "an_unknown_zone": put("Europe/Berlin", "Europe/Berlim"),
    "a_currency_that_is_none": put("currency: EUR", "currency: euro"),
    # grammar
    "a_condition_that_ends_too_early": when("ctr[since change] < 0.8% and"),
    "a_parenthesis_too_many": when("(ctr[since change] < 0.8%))"),
    "a_chain_of_comparisons": when("0.1% < ctr[since change] < 0.8%"),
    "a_double_equals_sign": when('status == "active" and ctr[since change] < 0.8%'),
    "ampersands": when("ctr[since change] < 0.8% && clicks[24h] > 3"),
    "a_power": when("ctr[since change] < 10**10**10%"),
    "a_sum_without_end": when("ctr[since change] < " + "1% + " * 200 + "1%"),
    "a_condition_over_several_lines": when(">-\n      ctr[since change]\n      < 0.8"),
    "a_condition_that_is_true": when("true"),
    # guards
    "a_rate_rule_without_a_sample": guards("      confidence: 95%\n"),
    "a_cost_rule_without_a_sample": cost(lines="      confidence: 95%\n"),
    "a_cost_rule_with_a_number_of_purchases": cost(lines="      sample: {conversions(purchases): 5}\n"),
    "a_sample_of_what_is_weighed": put("{impressions: 3000}", "{impressions: 3000, clicks: 5}"),
    "a_sample_of_what_a_cost_is_divided_by": cost(MIXED, "      sample: {impressions: 3000, spend: 90 EUR, conversions(purchases): 5}\n"),
    "a_rate_rule_with_money_alone": put("{impressions: 3000}", "{spend: 90 EUR}"),
    "a_cost_rule_with_revenue_alone": cost(lines="      sample: {revenue(purchases): 5 EUR}\n"),
    "a_sample_of_nothing": put("{impressions: 3000}", "{impressions: 0}"),
    "a_sample_of_a_rate": put("{impressions: 3000}", "{ctr: 3000}"),
    "a_sample_that_is_no_number": put("{impressions: 3000}", "{impressions: many}"),
    "or_under_confidence": when("ctr[since change] < 0.8% or cvr(purchases)[since change] < 1%"),
    "a_sliding_window_under_confidence": when("ctr[24h] < 0.8%"),
    "a_metric_without_evidence": cost("roas(purchases)[since change] < 2", "      sample: {spend: 90 EUR}\n      confidence: 95%\n"),
    "confidence_with_nothing_to_measure": cost("spend[24h] > 90 EUR", "      confidence: 95%\n"),
    "an_unknown_guard": put("confidence: {", "confidance: {"),
    "an_unknown_parameter": put("effect: 10%", "efect: 10%"),
    "a_level_of_confidence_without_its_sign": put("level: 95%", "level: 95"),
    "a_level_of_confidence_that_is_not_offered": put("level: 95%", "level: 97%"),
    "a_duration_in_words": put("risk: low", "for: two hours"),
    "a_guard_that_takes_fields": put("confidence: {level: 95%, effect: 10%}", "keep_active: 2"),
    "a_guard_that_lacks_a_field": put("confidence: {level: 95%, effect: 10%}", "cooldown: {after: any change}"),
    "late_conversions_without_a_lag_table": put(
        "lag: {of: purchases, arrived: {1h: 40%, 72h: 100%}}\n", "", cost(lines="      sample: {spend: 90 EUR}\n      late_conversions: purchases\n")
    ),
    "a_lag_table_that_falls": put("72h: 100%", "72h: 30%"),
    # later
    "a_cap": put("risk: low", "cap: {actions: 10, per: day}"),
    "a_stop": put("risk: low", "stop: {after_actions: 50, on: 2027-03-31}"),
    "control_over_many": put("      confidence: {", "      fdr: 10%\n      confidence: {"),
    # actions
    "an_unknown_action": put("do: pause", "do: puase"),
    "a_budget_without_an_amount": put("do: pause", "do: set_budget"),
    "a_shift_without_a_pair": put("do: pause", "do: {shift_budget: 15% of from}"),
    "a_shift_that_is_no_share": pair("15% of from", "15"),
    "a_pair_within_its_own_level": pair("pairs_within: account", "pairs_within: campaign"),
    "an_approval_that_says_too_little": put("risk: low", "approve: {above: 300 EUR per day}"),
    "an_approval_above_no_limit": put("risk: low", "approve: {above: 300 EUR, by: lead, within: 4h, otherwise: leave running}"),
    "a_rule_of_no_name": put("pause-weak-creatives", "pause weak/creatives"),
    "two_rules_of_one_name": PACK + RULE,
    "a_rule_that_lacks_nearly_everything": PACK.partition("  - rule")[0] + "  - rule: empty\n",
    # tests of a rule
    "a_test_that_expects_nothing": PACK + "    tests:\n      - {name: idle, series: {every: 2h, impressions: 400}}\n",
    "a_series_of_an_unknown_amount": PACK + "    tests:\n      - {name: odd, series: {every: 2h, impresions: 400}, expect: [{at: 30h, held: confidence}]}\n",
    "an_expectation_of_an_unknown_guard": PACK + "    tests:\n      - {name: odd, series: {every: 2h}, expect: [{at: 30h, held: confidance}]}\n",
    "an_expectation_of_an_unknown_series": PACK + "    tests:\n      - {name: odd, series: {A: {every: 2h}}, expect: [{at: 30h, propose: {B: 2 EUR}}]}\n",
    "a_test_without_end": PACK + "    tests:\n      - {name: odd, series: {every: 1s}, expect: [{at: 3000d, held: sample}]}\n",
    "an_expectation_that_says_two_things": PACK + "    tests:\n      - {name: both, series: {every: 2h}, expect: [{at: 30h, held: sample, do: pause}]}\n",
    # YAML
    "a_field_written_twice": put("    do: pause\n", "    do: pause\n    do: notify\n"),
    "an_unknown_field": put("owner: jana", "ownr: jana"),
    "a_tab": put("    do: pause", "\tdo: pause"),
    "a_field_named_by_a_number": put("    do: pause\n", "    do: pause\n    12: x\n"),
    "an_alias_without_an_anchor": put("do: pause", "do: *careful"),
    "a_merged_field_that_does_not_fit": put("guards:\n", "guards: &careful\n") + cost("cpc[since change] > 2 EUR", "      <<: *careful\n").split("rules:\n")[1],
    "a_document_that_contains_itself": put("rules:\n", "rules: &all\n", PACK) + "    tests: *all\n",
    "a_bomb_of_aliases": bomb(),
    "nesting_without_end": PACK + "x: " + "[" * 2000 + "\n",
    "a_control_character": put("jana@acme.example", '"jana\\0@acme.example"'),
    "a_tag": put("do: pause", "do: !!python/object:os.system pause"),
    "two_documents": PACK + "---\n" + PACK,
    "a_list": "- pause\n- resume\n",
    "nothing": "",
    "a_pack_of_64_kib": PACK + "#" * (1 << 16) + "\n",
    "several_faults_in_the_order_of_the_file": put("do: pause", "do: puase", put("level: creative", "level: creatives", when("crt[24h] < 0.8"))),
}  # fmt: skip


def refused(text: str) -> RuleError:
    with pytest.raises(RuleError) as error:
        load_pack(text, "pack.yaml")
    return error.value


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_shown_where_it_stands(name: str) -> None:
    assert str(refused(REFUSED[name])) + "\n" == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    "condition",
    ['label = "x" and ({} or {})', "not ({} and {})", 'label = "x" or ({} or {})', 'not (label = "x" or ({} and {}))', "not not ({} or {})"],
)
def test_an_or_between_two_metrics_is_refused_under_confidence_inside_an_and_and_as_a_negated_and_too(condition: str) -> None:
    problems = refused(when(condition.format("ctr[since change] < 0.8%", "cvr(purchases)[since change] < 1%"))).problems
    assert [p.message for p in problems] == ["`or` between two metrics has no evidence of its own"]


@pytest.mark.parametrize("condition", ["{} and {}", "not ({} or {})", 'label = "x" or ({} and {})', "not not ({} and {})"])
def test_two_metrics_that_must_both_hold_have_evidence_however_that_is_written(condition: str) -> None:
    assert program(when(condition.format("ctr[since change] < 0.8%", "cvr(purchases)[since change] < 1%")))


def test_every_golden_file_has_its_case() -> None:
    assert {p.stem for p in GOLDEN.glob("*.txt")} == set(REFUSED)


def test_each_of_several_faults_is_told_once() -> None:
    problems = refused(REFUSED["several_faults_in_the_order_of_the_file"]).problems
    told = [(p.place.line, p.message.partition(" '")[0]) for p in problems]
    assert told == [(12, "there is no level"), (13, "there is no metric or attribute"), (17, "there is no action")]


# -- what is right --------------------------------------------------------------------------------------------------------


def program(text: str, rule: int = 0) -> Program:
    return load_pack(text).rules[rule].program


def test_the_pack_itself_is_right() -> None:
    assert [r.program.rule for r in load_pack(PACK + PAIR).rules] == ["pause-weak-creatives", "shift-to-proven"]


@pytest.mark.parametrize(
    "text",
    [
        "# said above\n" + put("0.8%\n", "0.8%     # said beside\n"),
        when("ctr[since change] < 0.80%"),
        when("ctr[since change] < 0.8 %"),
        when("ctr [ since   change ]<0.8%"),
        when("'ctr[since change] < 0.8%'"),
        when(">-\n      ctr[since change]\n      < 0.8%"),
        put("{impressions: 3000}", "{impressions: 3_000}"),
        put("{level: 95%, effect: 10%}", "{effect: 10.0%, level: 95%}"),
        put("      confidence: {level: 95%, effect: 10%}\n", "      confidence:\n        level: '95%'\n        effect: 10%\n"),
        put("    owner: jana@acme.example\n", "", put("    risk: low\n", "    risk: low\n    owner: jana@acme.example\n")),
        put("      sample: {impressions: 3000}\n", "", put("effect: 10%}\n", "effect: 10%}\n      sample: {impressions: 3000}\n")),
        put("account: {platform: meta_ads, currency: EUR, time_zone: Europe/Berlin}", "account: {time_zone: Europe/Berlin, currency: EUR, platform: meta_ads}"),
        put("guards:\n", "guards: &careful\n"),
        PACK.replace("\n", "\r\n"),
        "---\n" + PACK,
        PACK + PAIR,
        put("default: 30 EUR", "default: 29 EUR"),
    ],
)
def test_comments_order_and_spelling_make_no_other_version(text: str) -> None:
    assert program(text).version == program(PACK).version


@pytest.mark.parametrize(
    "text",
    [
        when("ctr[since change] < 0.81%"),
        when("ctr[since change] <= 0.8%"),
        put("3000", "3001"),
        put("effect: 10%", "effect: 11%"),
        put("jana@", "tom@"),
        put("Europe/Berlin", "Europe/London"),
        put("    do: pause\n", "    do: pause\n    for: 1h\n"),
    ],
)
def test_what_means_something_else_is_another_version(text: str) -> None:
    assert program(text).version != program(PACK).version


def test_the_order_of_a_sample_and_of_spelled_money_do_not_matter_either() -> None:
    both = ["      sample: {impressions: 3000, spend: 90 EUR}\n", "      sample: {spend: 90.00 EUR, impressions: 3000}\n"]
    assert program(guards(both[0])).version == program(guards(both[1])).version


def test_an_anchored_block_is_merged_and_may_be_overridden() -> None:
    second = put("pause-weak-creatives", "second", RULE)
    second = guards("      <<: *careful\n      confidence: 99%\n", second)
    merged = load_pack(put("guards:\n", "guards: &careful\n") + second)
    first, other = (r.program for r in merged.rules)
    assert [g.guard for g in other.guards] == [g.guard for g in first.guards]
    assert next(g for g in other.guards if g.guard == "confidence").integer("level") == 990_000
    assert other.minimums == first.minimums


APART = {"100ms": 100_000, "0250ms": 250_000, "1s": 1_000_000, "1000ms": 1_000_000, "10s": 10_000_000, "1m": 60_000_000}
NO_INTERVAL = ["99ms", "0s", "0", "70ms", "7s", "61s", "2m", "-100ms", "1e2ms", "100", "100 ms", "1.5s", "\u0661s", "9999999999ms", "[1s]"]


@pytest.mark.parametrize(("written", "micros"), APART.items())
def test_an_account_says_how_far_boundaries_are_apart(written: str, micros: int) -> None:
    pack = load_pack(PACK.replace("time_zone: Europe/Berlin}", f"interval: {written}}}", 1))
    assert {r.program.interval for r in pack.rules} == {micros}


@pytest.mark.parametrize("written", NO_INTERVAL)
def test_an_interval_that_no_minute_is_a_multiple_of_is_refused_where_it_stands(written: str) -> None:
    with pytest.raises(RuleError) as refused:
        load_pack(PACK.replace("time_zone: Europe/Berlin}", f"interval: {written}}}", 1))
    [problem] = refused.value.problems
    assert problem.place.line == 1 + PACK[: PACK.index("account:")].count("\n")


def test_a_rule_keeps_its_own_lines_as_its_source() -> None:
    assert program(PACK + PAIR).source == RULE
    assert program(PACK + PAIR, 1).source == PAIR


@pytest.mark.parametrize("rule", range(3))
def test_a_program_survives_being_written_and_read(rule: int) -> None:
    original = program(ACME.read_text(), rule)
    again = Program.from_json(original.to_json())
    assert again == original
    assert (again.version, again.to_json()) == (original.version, original.to_json())


@pytest.mark.parametrize(
    "condition, canonical",
    [
        ("clicks[24h] > 3*(2+1)-(4-(2-1))/2", "clicks[24h] > 3 * (2 + 1) - (4 - (2 - 1)) / 2"),
        ("spend[7d] > 90%*daily_budget", "spend[7d] > 90% * daily_budget"),
        ("spend[90m] / clicks[90m] > 1.50 EUR", "spend[90m] / clicks[90m] > 1.5 EUR"),
        ('label != "x  y"', 'label != "x  y"'),
        ("impressions[1h] / 2 > 0100.5", "impressions[1h] / 2 > 100.5"),
        ("clicks[24h] - (impressions[24h] - 3) > 4 * (2 / 3)", "clicks[24h] - (impressions[24h] - 3) > 4 * (2 / 3)"),
    ],
)
def test_a_comparison_is_told_in_one_spelling_that_reads_back_as_itself(condition: str, canonical: str) -> None:
    text = guards("      sample: {impressions: 3000, spend: 3 EUR}\n", when(condition))
    first = program(text)
    assert isinstance(first.when, Compare)
    assert first.when.text == canonical
    assert program(put(condition, canonical, text)).version == first.version


# -- whatever is written --------------------------------------------------------------------------------------------------

PARTS = ["ctr", "cpa(purchases)", "spend", "[since change]", "[24h]", "[", "]", "(", ")", "<", ">=", "=", "and", "or", "not", "0.8%", "30 EUR", "7"]
PARTS += ["*", "/", "-", "target(cpa)", "daily_budget", "status", '"active"', " ", "\n", "'", "#", ":", ": ", "- ", "{", "}", ",", "&a", "*a", "!!int"]
PARTS += ["|", ">", "\t", "%", "@", "é", "\\"]
conditions = st.lists(st.sampled_from(PARTS), max_size=25).map("".join) | st.text(max_size=80)


def is_inside(error: RuleError, text: str) -> bool:
    lines = text.splitlines() or [""]
    return all(1 <= p.place.line <= len(lines) and 1 <= p.place.column <= len(lines[p.place.line - 1]) + 1 for p in error.problems)


def loads_or_points(text: str) -> Pack | None:
    """The one promise: a pack, or faults that stand inside the text and can be printed."""
    try:
        return load_pack(text)
    except RuleError as error:
        assert error.problems
        assert is_inside(error, text)
        str(error).encode()
        return None


@given(conditions)
@settings(deadline=None)
@example("(" * 1000)
@example("((((((((" * 100 + "ctr[24h] < 1%" + "))))))))" * 100)
@example("not " * 490 + "ctr[24h] < 1%")
@example("1" + "+1" * 990)
@example("1%" + "*(1" * 300 + ")" * 300)
@example("10**10**10 > ctr[24h]")
@example("ctr[" + "9" * 1900 + "d] < 1%")
@example("9" * 1999)
@example("ctr[24h] < 0." + "0" * 1900 + "1%")
def test_any_text_is_a_condition_or_a_place_inside_it(text: str) -> None:
    try:
        parse(text)
    except NotACondition as fault:
        assert 0 <= fault.span.start < fault.span.end
        assert fault.span.start <= len(text)


@given(conditions)
@settings(deadline=None)
def test_any_condition_in_a_pack_makes_a_pack_or_faults_inside_it(condition: str) -> None:
    loads_or_points(when(condition))


@given(st.integers(0, 2**32), st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("".join) | st.text(max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_pack_spoiled_anywhere_makes_a_pack_or_faults_inside_it(seed: int, junk: str) -> None:
    rng = Random(seed)
    text = ACME.read_text()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text))
        text = text[:at] + junk + text[at + rng.choice([0, 0, 1, 5, 40]) :]
    loads_or_points(text)


@settings(deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(PARTS), max_size=40).map("".join))
@example("\ud800")
@example("\x00")
@example("\x85\u2028\x0b\x0c")
@example("a: \x07")
@example("? [a]\n: b")
@example("? {a: b}\n: b")
@example("<<: x")
@example("a: !!binary x")
@example("a: !!timestamp x")
@example("a: !!float x")
@example("a: !!int x")
@example("a: !!int")
@example("a: !!omap x")
@example("%YAML 9.9\n---\na: b")
@example("%TAG ! tag:x,2000:\n---\na: !x b")
@example("a: 2001-99-99")
@example("a: &a b\nc: &a d\n")
@example("pack: \ufeff")
@example('pack: "\\ud800"')
@example("pack: " + "9" * 4500)
@example("{" * 3000)
@example("- " * 3000)
@example("a: b: c")
def test_any_text_at_all_makes_a_pack_or_faults_inside_it(text: str) -> None:
    loads_or_points(text)


plain = st.text(st.characters(codec="ascii"), max_size=6) | st.sampled_from([*PARTS, "level", "default", "at", "name"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["pack", "account", "conversions", "targets", "lag", "rules"]
RULE_FIELDS = ["rule", "owner", "objective", "scope", "when", "clear", "for", "guards", "do", "risk", "approve", "priority", "valid_for", "tests", "from", "to"]
INNER = {
    "account": ["platform", "currency", "time_zone", "interval"],
    "conversions": ["purchases"],
    "targets": ["cpa"],
    "lag": ["of", "arrived"],
    "scope": ["level", "where", "except", "pairs_within", "same"],
    "guards": ["sample", "confidence", "cooldown", "keep_active", "fresh", "min_runtime", "late_conversions", "status"],
    "do": ["shift_budget", "set_budget", "floor", "to_at_most"],
    "approve": ["above", "always", "by", "within"],
}
PLACES = [(f, "") for f in [*FIELDS, *RULE_FIELDS]] + [(outer, inner) for outer, many in INNER.items() for inner in many]


@given(st.sampled_from(PLACES), st.integers(0, 1), values)
@settings(max_examples=150, deadline=None)
def test_any_value_in_any_field_makes_a_pack_or_faults_inside_it(place: tuple[str, str], rule: int, value: Any) -> None:
    """JSON is YAML, so any value can stand anywhere."""
    document = json.loads(json.dumps(YAML(typ="safe", pure=True).load(PACK + PAIR)))
    (outer, inner), where = place, document if place[0] in FIELDS else document["rules"][rule]
    if inner:
        where[outer] = (where[outer] if isinstance(where.get(outer), dict) else {}) | {inner: value}
    else:
        where[outer] = value
    loads_or_points(json.dumps(document))


# -- meaning --------------------------------------------------------------------------------------------------------------

WINDOWS = {"[since change]": 0, "[24h]": 86_400_000_000, "[2h]": 7_200_000_000}
AMOUNTS = ["impressions", "clicks", "spend"]
OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne}
Sums = dict[tuple[str, int], int]


class Figures:
    """What one object has counted, in micro-units; no target but that of cpc."""

    def __init__(self, sums: Sums, target: int | None, status: str | None) -> None:
        self.counted, self.goal, self.status = sums, target, status

    def sums(self, measure: Measure, window: int, rows: Any) -> Any:
        value = self.counted[measure.name.partition("@")[0], window]
        return np.full(len(rows), value, np.int64), np.full(len(rows), value < 0)

    def sum_of(self, measure: Measure, window: int, row: int) -> tuple[int, bool]:
        value = self.counted[measure.name.partition("@")[0], window]
        return value, value < 0

    def target(self, wanted: Any, row: int) -> int | None:
        return self.goal

    def targets(self, wanted: Any, rows: Any) -> Any:
        return np.full(len(rows), self.goal or 0, np.int64), np.full(len(rows), self.goal is None)

    def attribute(self, name: str, row: int) -> str | int | None:
        return self.status

    def attributes_of(self, name: str, rows: Any, text: str | None) -> Any:
        known = isinstance(self.status, int if text is None else str)
        value = self.status if text is None else int(self.status == text)
        return np.full(len(rows), value if known else 0, np.int64), np.full(len(rows), not known)


def worth(text: str, figures: Figures) -> Fraction | str | float | None:
    """A second, tiny evaluator, from the text alone: infinity above everything, None unknown."""
    text = text.strip()
    if m := re.fullmatch(r'"(.*)"', text):
        return m[1]
    if text == "status":
        return figures.status
    if text == "target(cpc)":
        return None if figures.goal is None else Fraction(figures.goal, 10**6)
    if m := re.fullmatch(r"([\d.]+)(%| EUR|)", text):
        return Fraction(m[1]) / (100 if m[2] == "%" else 1)
    name, _, window = text.partition("[")
    width = WINDOWS["[" + window]
    n, d = {"ctr": ("clicks", "impressions"), "cpc": ("spend", "clicks")}.get(name, (name, ""))
    above, below = figures.counted[n, width], figures.counted[d, width] if d else 10**6
    if above < 0 or below < 0 or (above == below == 0):
        return None
    return float("inf") if below == 0 else Fraction(above, below)


def compares(text: str, figures: Figures) -> str:
    left, op, right = re.fullmatch(r"(.+?) (<=|>=|!=|<|>|=) (.+)", text).groups()  # type: ignore[union-attr]
    a, b = worth(left, figures), worth(right, figures)
    if a is None or b is None or (a == b == float("inf")):
        return "unknown"
    return "true" if OPERATORS[op](a, b) else "false"


windows, sizes = st.sampled_from(list(WINDOWS)), st.sampled_from(["<", "<=", ">", ">="])
every = st.sampled_from(list(OPERATORS))
a_comparison = st.one_of(
    st.builds("ctr{} {} {}%".format, windows, every, st.sampled_from(["0", "0.8", "50", "100"])),
    st.builds("cpc{} {} {}".format, windows, sizes, st.sampled_from(["target(cpc)", "0.5 EUR", "2 EUR"])),
    st.builds("{1} {0} clicks{2}".format, every, st.sampled_from(["0", "1", "3"]), windows),
    st.builds('status {} "{}"'.format, st.sampled_from(["=", "!="]), st.sampled_from(["active", "paused"])),
)
Tree = Any
trees = st.recursive(
    a_comparison,
    lambda inner: st.tuples(st.just("not"), inner) | st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)),
    max_leaves=5,
)


def spell(tree: Tree) -> str:
    if isinstance(tree, str):
        return tree
    return f"not ({spell(tree[1])})" if tree[0] == "not" else f" {tree[0]} ".join(f"({spell(t)})" for t in tree[1])


def holds(tree: Tree, figures: Figures) -> str:
    """Kleene: unknown unless the rest decides."""
    if isinstance(tree, str):
        return compares(tree, figures)
    if tree[0] == "not":
        return {"true": "false", "false": "true", "unknown": "unknown"}[holds(tree[1], figures)]
    parts = [holds(t, figures) for t in tree[1]]
    decides, otherwise = ("false", "true") if tree[0] == "and" else ("true", "false")
    return decides if decides in parts else "unknown" if "unknown" in parts else otherwise


counted = st.sampled_from([0, 0, 1, 8, 800, 1000, 100_000, -1]).map(lambda n: n * 10**6)


sums = st.fixed_dictionaries({(a, w): counted for a in AMOUNTS for w in WINDOWS.values()})


@given(trees, sums, st.sampled_from([None, 500_000, 10**6]), st.sampled_from([None, "active", "x"]))
@settings(max_examples=200, deadline=None)
def test_a_condition_is_as_true_as_a_second_evaluator_of_its_text_says(tree: Tree, sums: Sums, target: int | None, status: str | None) -> None:
    read = spell(tree)
    text = guards("      sample: {impressions: 3000, spend: 3 EUR}\n" if "ctr" in read else "      sample: {spend: 3 EUR}\n", when(f"'{read}'"))
    compiled, figures = program(text), Figures(sums, target, status)
    truth = Judge(compiled.metrics, figures).truth(compiled.when, np.array([0, 0], np.int64))
    assert [WORDS[int(t)] for t in truth] == [holds(tree, figures)] * 2


def test_and_binds_tighter_than_or_and_not_tighter_than_both() -> None:
    text = guards("      sample: {impressions: 1}\n", when("not clicks[24h] > 1 and clicks[24h] > 2 or clicks[24h] > 3"))
    condition = program(text).when
    assert isinstance(condition, Or)
    assert isinstance(condition.terms[0], And)
    assert isinstance(condition.terms[0].terms[0], Not)


def test_numbers_are_exact() -> None:
    condition = program(PACK).when
    assert condition == Compare("<", MetricRef(0, 0, "ctr"), Number(1, 125, "ratio", "0.8%"), "ctr[since change] < 0.8%")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.txt"):
        old.unlink()
    for name, text in REFUSED.items():
        try:
            load_pack(text, "pack.yaml")
        except RuleError as error:
            (GOLDEN / f"{name}.txt").write_text(f"{error}\n")
        else:
            sys.exit(f"{name} is not refused")
