"""A pack: one account's rules in a YAML file, with their targets, conversions, lag table and tests; checked whole, or refused with every fault."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from zoneinfo import ZoneInfoNotFoundError

from services.kernel.entity import LEVELS
from services.kernel.extension import found
from services.rules_engine import guards as guard_folder
from services.rules_engine import metrics as metric_folder
from services.rules_engine.core.evidence import default_coefficients
from services.rules_engine.core.guard import Guard
from services.rules_engine.core.metric import Definition
from services.rules_engine.core.program import Lag, Program
from services.rules_engine.language.checker import Conversion
from services.rules_engine.language.problem import Place, Problem, RuleError, nearest
from services.rules_engine.language.reading import MICRO, Fields, brief, duration, load, number, percent
from services.rules_engine.language.rule import MINUTE, SECOND, Account, RuleReader
from services.rules_engine.language.trial import PackTest, read_tests
from services.rules_engine.language.zone import offsets


@dataclass(frozen=True, slots=True)
class PackTarget:
    """A target as written; `selector` is "" for the account's default, or level:name, resolved to a path when the pack is applied."""

    name: str
    selector: str
    amount: int
    unit: str
    place: Place


@dataclass(frozen=True, slots=True)
class PackRule:
    program: Program
    tests: tuple[PackTest, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Pack:
    name: str
    account: Account
    conversions: tuple[Conversion, ...]
    targets: tuple[PackTarget, ...]
    rules: tuple[PackRule, ...]
    filename: str
    source: str


SHORTEST = 100_000  # microseconds between two boundaries; more often costs more than it tells
CALLED = re.compile(r"(?!(?:and|or|not|target|since)$)[a-z_][a-z0-9_]{0,63}")


@cache
def definitions() -> dict[str, Definition]:
    return found(metric_folder, "metric", "METRIC")


@cache
def guards() -> dict[str, Guard]:
    return found(guard_folder, "guard", "GUARD")


def load_pack(text: str, filename: str = "pack.yaml") -> Pack:
    """The checked pack. Raises RuleError with every problem found, in the order of the file."""
    problems: list[Problem] = []

    def report(place: Place, message: str, hint: str = "") -> None:
        problem = Problem(place, message, hint)
        if problem not in problems:
            problems.append(problem)

    top = Fields(load(text, filename), report, "a pack")
    name = top.text("pack", None)
    account = read_account(top)
    if problems:  # without a currency and a zone nothing below can be judged
        raise RuleError(problems, text, filename)
    conversions = read_conversions(top)
    targets = read_targets(top, account)
    lag = read_lag(top, conversions)
    reader = RuleReader(account, definitions(), guards(), conversions, lag, default_coefficients(), text, report)
    rules: list[PackRule] = []
    for fields in top.items("rules", "a rule"):
        tests = read_tests(fields, account.currency, conversions, guards())
        program = reader.read(fields)
        if program is not None and any(r.program.rule == program.rule for r in rules):
            report(fields.where("rule"), f"two rules are called {program.rule!r}", "a rule's name is its identity")
        elif program is not None:
            rules.append(PackRule(program, tests, fields.place))
    if not top.mapping.get("rules"):
        top.missing("rules", "a list of rules")
    top.done()
    if problems:
        raise RuleError(problems, text, filename)
    return Pack(name, account, tuple(conversions.values()), targets, tuple(rules), filename, text)


def read_account(top: Fields) -> Account:
    fields = top.fields("account", "the account", needed=True)
    if fields is None:
        return Account("", "EUR", "UTC", ())
    platform, currency, zone = fields.text("platform", None), fields.text("currency", None), fields.text("time_zone", "UTC")
    interval = read_interval(fields)
    fields.done()
    if currency and not (len(currency) == 3 and currency.isalpha() and currency.isupper()):
        fields.report(fields.where("currency"), f"{currency!r} is not a currency's code", "three capital letters: EUR")
    try:
        rules = offsets(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        fields.report(fields.where("time_zone"), f"there is no time zone {zone!r}", "write its IANA name: Europe/Berlin")
        rules = ()
    return Account(platform, currency, zone, rules, interval)


def read_interval(fields: Fields) -> int:
    """Microseconds between two boundaries; a minute, the narrowest pane, is a whole number of them."""
    written = fields.text("interval", "1s").strip()
    digits = written.removesuffix("ms")
    is_in_ms = digits != written and digits.isascii() and digits.isdigit() and len(digits) <= 6
    interval = int(digits) * 1000 if is_in_ms else duration(written) or 0
    if not SHORTEST <= interval <= MINUTE or MINUTE % interval:
        hint = "100ms, 250ms, 1s, 10s: a minute is a multiple of it"
        fields.report(fields.where("interval"), f"{brief(written)!r} is not an interval between boundaries", hint)
        return SECOND
    return interval


def read_conversions(top: Fields) -> dict[str, Conversion]:
    every = top.fields("conversions", "the conversions")
    read: dict[str, Conversion] = {}
    for name in list(every.mapping) if every else []:
        assert every is not None
        fields = every.fields(name, f"conversion {name!r}")
        if not CALLED.fullmatch(name):
            every.report(every.where_key(name), f"{brief(name)!r} cannot be called so in a condition", "small letters, digits and _ only: purchases")
        if fields is None:
            continue
        read[name] = Conversion(name, fields.text("source", None), fields.text("action_type", None), fields.text("attribution"))
        fields.done()
    return read


def read_targets(top: Fields, account: Account) -> tuple[PackTarget, ...]:
    every = top.fields("targets", "the targets")
    read: list[PackTarget] = []
    known = {name: d for name, d in definitions().items() if d.denominator}
    for name in list(every.mapping) if every else []:
        assert every is not None
        if name not in known:
            every.asked.append(name)
            every.report(every.where_key(name), f"there is no target {name!r}: targets are set for rates and costs", nearest(name, known))
            continue
        fields = every.fields(name, f"target {name!r}")
        for selector in list(fields.mapping) if fields else []:
            assert fields is not None
            level, _, called = selector.partition(":")
            if selector != "default" and (level not in LEVELS or not called):
                fields.report(fields.where_key(selector), f"{selector!r} selects nothing", 'write default, or a level and a name: "campaign:Retargeting DE"')
            if known[name].unit == "money":
                amount, unit = fields.money(selector, account.currency), account.currency
            else:
                amount, unit = fields.percent(selector), "ratio"
            if amount <= 0 and number(str(fields.mapping[selector]).partition(" ")[0].rstrip("%")) == 0:
                fields.report(fields.where(selector), "a target is more than nothing", "")
            read.append(PackTarget(name, "" if selector == "default" else selector, amount, unit, fields.where_key(selector)))
    return tuple(read)


def read_lag(top: Fields, conversions: dict[str, Conversion]) -> Lag | None:
    fields = top.fields("lag", "the lag table")
    if fields is None:
        return None
    of = fields.text("of", None)
    if of and of not in conversions:
        fields.report(fields.where("of"), f"there is no conversion definition {of!r}", nearest(of, conversions))
    arrived = fields.fields("arrived", "the lag table", needed=True)
    fields.done()
    points: list[tuple[int, int]] = []
    for key in list(arrived.mapping) if arrived else []:
        assert arrived is not None
        age, share = duration(str(key)), percent(str(arrived.take(key)))
        if not age or share is None or share > MICRO:
            place = arrived.where(key) if age else arrived.where_key(key)
            arrived.report(place, "a point of the lag table is an age and the share that has arrived by then", "24h: 90%")
        elif points and (age <= points[-1][0] or share < points[-1][1]):
            arrived.report(arrived.where_key(key), "ages and shares must rise", "order the table by age")
        else:
            points.append((age, share))
    return Lag(of, tuple(points))
