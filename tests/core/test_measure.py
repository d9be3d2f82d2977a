"""Amounts are exact, and a measure's name says its currency."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kernel.errors import RejectedInput
from services.kernel.measure import CURRENCIES, LARGEST, Measure, Money, count, count_measure, currency, measure, micros, money_measure


@given(st.integers(-LARGEST, LARGEST))
def test_every_micro_unit_survives_its_decimal_text(whole: int) -> None:
    text = f"{Decimal(whole).scaleb(-6):f}"
    assert micros(text) == whole
    assert micros(Decimal(text)) == whole


@pytest.mark.parametrize(
    ("value", "scale", "expected"),
    [
        ("1.25", 6, 1_250_000),
        (3, 6, 3_000_000),
        ("20836690", 0, 20_836_690),  # Google's cost_micros
        ("4.416667", 6, 4_416_667),  # a conversion shared between ads
        ("1.429999948", 6, 1_430_000),  # a 32-bit float somebody printed
        ("0.0000015", 6, 2),  # half-even
        ("-12.5", 6, -12_500_000),
        ("9007199254.740992", 6, LARGEST),
        ("0e999", 6, 0),
    ],
)
def test_a_decimal_becomes_micro_units(value: object, scale: int, expected: int) -> None:
    assert micros(value, scale=scale) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("NaN", "not_a_number"), ("Infinity", "not_a_number"), (Decimal("NaN"), "not_a_number"), (Decimal("-Infinity"), "not_a_number"),
        (1.5, "not_a_number"), (True, "not_a_number"), (None, "not_a_number"), ("", "not_a_number"), ("1,000", "not_a_number"), ("0x10", "not_a_number"),
        ("\u0661", "not_a_number"), ("1_000", "not_a_number"),
        ("9007199254.740993", "too_large"), ("1e9999", "too_large"), (10**400, "too_large"), (Decimal("1e999999"), "too_large"),
        ("0.0000001", "too_small"), ("1e-9999", "too_small"),
    ],
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused_with_its_reason(value: object, reason: str) -> None:
    with pytest.raises(RejectedInput) as refused:
        micros(value)
    assert refused.value.reason == reason


def test_a_count_is_never_negative() -> None:
    assert count("2") == 2_000_000
    with pytest.raises(RejectedInput) as refused:
        count(-1)
    assert refused.value.reason == "negative_count"


def test_names_are_built_and_read_back() -> None:
    assert money_measure("revenue", "EUR", "purchase", "7d_click") == "revenue:purchase:7d_click@EUR"
    assert count_measure("conversions", "purchase") == "conversions:purchase"
    assert measure("revenue:purchase:7d_click@EUR") == Measure("revenue", ("purchase", "7d_click"), "EUR")
    assert str(measure("spend@JPY")) == "spend@JPY"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("Clicks", "bad_measure"), ("", "bad_measure"), ("spend@EURO", "unknown_currency"), ("spend@", "unknown_currency"), ("clicks@EUR", "bad_measure"),
     ("a b", "bad_measure"), (7, "bad_measure"), ("conversions:", "bad_measure"), ("a:b:c:d:e", "bad_measure")],
)  # fmt: skip
def test_a_name_that_is_none_is_refused(name: object, reason: str) -> None:
    with pytest.raises(RejectedInput) as refused:
        measure(name)
    assert refused.value.reason == reason


def test_only_active_currencies_are_known() -> None:
    assert currency("EUR") == "EUR"
    assert (CURRENCIES["JPY"], CURRENCIES["KWD"], CURRENCIES["USD"]) == (0, 3, 2)
    for code in ("DEM", "eur", "EURO", "XBT", "", None):
        with pytest.raises(RejectedInput):
            currency(code)


def test_money_is_shown_with_the_digits_of_its_currency() -> None:
    assert (str(Money(1_250_000, "EUR")), str(Money(1_250_000_000, "JPY"))) == ("1.25 EUR", "1250 JPY")
