"""A rule's tests as its author writes them: a series of reports, what people do meanwhile, and what must come of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ruamel.yaml.comments import CommentedMap

from services.rules_engine.language.checker import ATTRIBUTES, Conversion
from services.rules_engine.language.problem import Place, nearest
from services.rules_engine.language.reading import LARGEST, MICRO, Fields, brief, number

PLAIN = ("impressions", "clicks", "leads")
DOING = ("pause", "resume", "notify", "set_budget", "shift_budget")
MOST_ROWS, MOST_SIBLINGS = 20_000, 1_000


@dataclass(frozen=True, slots=True)
class Series:
    """One object's report rows: every `every` microseconds the same amounts (micro-units by metric or conversion name)."""

    name: str  # "" where the test has a single object
    every: int
    amounts: tuple[tuple[str, int], ...]
    attributes: tuple[tuple[str, str | int], ...]
    siblings: int


@dataclass(frozen=True, slots=True)
class Person:
    at: int
    do: str  # pause | resume


@dataclass(frozen=True, slots=True)
class Expectation:
    """`at` an instant, or `by` one at the latest: held by a guard, an action done, or budgets proposed."""

    at: int
    by: bool
    held: str
    do: str
    propose: tuple[tuple[str, int], ...]
    place: Place


@dataclass(frozen=True, slots=True)
class PackTest:
    name: str
    series: tuple[Series, ...]
    person: Person | None
    expect: tuple[Expectation, ...]
    place: Place


def read_tests(rule: Fields, currency: str, conversions: dict[str, Conversion], guards: Iterable[str]) -> tuple[PackTest, ...]:
    read, holding = [], (*guards, "outranked", "proposal")
    for fields in rule.items("tests", "a test"):
        name = fields.text("name", None)
        series = read_series(fields, currency, conversions)
        person = read_person(fields)
        names = [s.name for s in series]
        expect = tuple(read_expectation(e, currency, holding, names) for e in fields.items("expect", "an expectation"))
        if not expect:
            fields.missing("expect", "a test without an expectation cannot fail")
        rows = max((e.at for e in expect), default=0) // min((s.every for s in series), default=1)
        if rows > MOST_ROWS:
            fields.report(fields.place, f"a test of {rows:,} rows is too long", f"at most {MOST_ROWS:,}; report less often, or expect it sooner")
        fields.done()
        read.append(PackTest(name, series, person, expect, fields.place))
    return tuple(read)


def read_series(test: Fields, currency: str, conversions: dict[str, Conversion]) -> tuple[Series, ...]:
    fields = test.fields("series", "a series", needed=True)
    if fields is None:
        return ()
    if "every" in fields.mapping:
        return (one_series("", fields, currency, conversions),)
    read = []
    for name in list(fields.mapping):
        inner = fields.fields(name, f"series {name!r}")
        if not name or set(name) & set("/|"):
            fields.report(fields.where_key(name), f"{name!r} cannot be an object's name", "letters and digits: A")
        if inner is not None:
            read.append(one_series(str(name), inner, currency, conversions))
    return tuple(read)


def one_series(name: str, fields: Fields, currency: str, conversions: dict[str, Conversion]) -> Series:
    every = fields.duration("every", None)
    amounts: list[tuple[str, int]] = []
    attributes: list[tuple[str, str | int]] = []
    siblings = 0
    for key in list(fields.mapping):
        if key == "every":
            continue
        if key == "spend":
            amounts.append((key, fields.money(key, currency)))
        elif key == "siblings" or key in PLAIN or key in conversions:
            value = number(str(fields.take(key)))
            if value is None or value.denominator != 1 or value > LARGEST:
                fields.report(fields.where(key), f"{key} is a whole number", f"at most {int(LARGEST):,}")
            elif key == "siblings":
                siblings = int(value)
                if siblings > MOST_SIBLINGS:
                    fields.report(fields.where(key), "these are too many siblings", f"at most {MOST_SIBLINGS:,}")
            else:
                amounts.append((key, int(value) * MICRO))
        elif key in ATTRIBUTES:
            attributes.append((key, fields.money(key, currency) if ATTRIBUTES[key] == "money" else fields.text(key)))
        else:
            fields.asked.append(key)
            fields.report(fields.where_key(key), f"a series has no {key!r}", nearest(key, ["spend", "siblings", *PLAIN, *conversions, *ATTRIBUTES]))
    if every <= 0:
        fields.report(fields.place, "a series needs a positive `every`", "every: 2h")
    return Series(name, every or 1, tuple(amounts), tuple(attributes), siblings)


def read_person(test: Fields) -> Person | None:
    fields = test.fields("person", "what a person does")
    if fields is None:
        return None
    person = Person(fields.duration("at", None), fields.text("do", None))
    if person.do not in ("pause", "resume"):
        fields.report(fields.where("do"), f"a person cannot {person.do!r} here", nearest(person.do, ("pause", "resume")))
    fields.done()
    return person


def read_expectation(fields: Fields, currency: str, holding: tuple[str, ...], names: list[str]) -> Expectation:
    by = fields.has("by")
    at = fields.duration("by" if by else "at", None)
    held, do = fields.text("held"), fields.text("do")
    propose: list[tuple[str, int]] = []
    if isinstance(fields.mapping.get("propose"), CommentedMap):
        inner = fields.fields("propose", "a proposal")
        assert inner is not None
        propose = [(str(key), inner.money(key, currency)) for key in inner.mapping]
        for name, _ in propose:
            if name not in names:
                inner.report(inner.where_key(name), f"this test has no series {brief(name)!r}", nearest(name, names))
    if held and held not in holding:
        fields.report(fields.where("held"), f"there is no guard {brief(held)!r}", nearest(held, holding))
    if do and do not in DOING:
        fields.report(fields.where("do"), f"there is no action {brief(do)!r}", nearest(do, DOING))
    if sum((bool(held), bool(do), bool(propose))) != 1:
        fields.report(fields.place, "an expectation says one thing", "{at: 30h, held: confidence}, {by: 60h, do: pause} or {by: 14d, propose: {A: 68 EUR}}")
    place = fields.place
    fields.done()
    return Expectation(at, by, held, do, tuple(propose), place)
