"""A YAML file read with places: who asks for a field gets its value and where it stands; what nobody asked for is reported by name."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from services.rules_engine.language.grammar import UNITS
from services.rules_engine.language.problem import Place, Problem, RuleError, nearest

LARGEST_FILE = 200_000  # characters
DEEPEST = 60
MICRO = 1_000_000
Report = Callable[[Place, str, str], None]


def load(text: str, filename: str) -> CommentedMap:
    """The document's mapping. Raises RuleError where it is no YAML, too large, or not a mapping."""
    if len(text) > LARGEST_FILE:
        raise RuleError(
            [Problem(Place(1, 1), f"a pack of {len(text):,} characters is too large", f"at most {LARGEST_FILE:,}; split it")], text[:1000], filename
        )
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    try:
        document = yaml.load(text)
        too_deep(document, 0)
    except DuplicateKeyError as error:
        raise RuleError([Problem(mark(error), "this field is written twice", "keep one")], text, filename) from None
    except MarkedYAMLError as error:
        raise RuleError([Problem(mark(error), f"not YAML: {error.problem or error.context}", "")], text, filename) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise RuleError([Problem(Place(1, 1), f"not YAML: {type(error).__name__}", "")], text, filename) from None
    if not isinstance(document, CommentedMap):
        raise RuleError([Problem(Place(1, 1), "a pack is a mapping of fields", "it begins with `pack: name`")], text, filename)
    return document


def mark(error: MarkedYAMLError) -> Place:
    at = error.problem_mark or error.context_mark
    return Place(at.line + 1, at.column + 1) if at else Place(1, 1)


def too_deep(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, CommentedMap):
        for inner in value.values():
            too_deep(inner, depth + 1)
    elif isinstance(value, CommentedSeq):
        for inner in value:
            too_deep(inner, depth + 1)


class Fields:
    """One mapping. `take*` hands out a field and remembers that it was asked for; `done` reports the rest."""

    def __init__(self, mapping: CommentedMap, report: Report, what: str) -> None:
        self.mapping, self.report, self.what = mapping, report, what
        self.asked: list[str] = []

    @property
    def place(self) -> Place:
        return Place(self.mapping.lc.line + 1, self.mapping.lc.col + 1)

    def where(self, key: str) -> Place:
        """Where the field's value stands; for a merged field, where it was written."""
        owner = self._owner(key)
        line, column = owner.lc.value(key) if key in (owner.lc.data or {}) else (owner.lc.line, owner.lc.col)
        value = self.mapping.get(key)
        return Place(line + 1, column + 1, len(str(value)) if isinstance(value, str | int | float) else 1)

    def where_key(self, key: str) -> Place:
        owner = self._owner(key)
        line, column = owner.lc.key(key) if key in (owner.lc.data or {}) else (owner.lc.line, owner.lc.col)
        return Place(line + 1, column + 1, len(str(key)))

    def _owner(self, key: str) -> CommentedMap:
        if key in (self.mapping.lc.data or {}):
            return self.mapping
        for merged in getattr(self.mapping, "merge", None) or []:
            inner = merged[1] if isinstance(merged, tuple) else merged
            if isinstance(inner, CommentedMap) and key in inner:
                return inner
        return self.mapping

    def has(self, key: str) -> bool:
        return key in self.mapping

    def take(self, key: str) -> Any:
        """The raw value, None where it is absent."""
        self.asked.append(key)
        return self.mapping.get(key)

    def missing(self, key: str, hint: str = "") -> None:
        self.report(self.place, f"{self.what} lacks `{key}`", hint)

    def text(self, key: str, otherwise: str | None = "") -> str:
        """`otherwise` None: the field must be there."""
        value = self.take(key)
        if value is None:
            if otherwise is None:
                self.missing(key)
            return otherwise or ""
        if isinstance(value, CommentedMap | CommentedSeq):
            self.report(self.where(key), f"`{key}` is a text", "")
            return otherwise or ""
        return str(value)

    def fields(self, key: str, what: str, needed: bool = False) -> Fields | None:
        value = self.take(key)
        if value is None:
            if needed:
                self.missing(key)
            return None
        if not isinstance(value, CommentedMap):
            self.report(self.where(key), f"`{key}` is a mapping of fields", "")
            return None
        return Fields(value, self.report, what)

    def items(self, key: str, what: str) -> list[Fields]:
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, CommentedSeq):
            self.report(self.where(key), f"`{key}` is a list", "each entry begins with a dash")
            return []
        found = []
        for i, entry in enumerate(value):
            if isinstance(entry, CommentedMap):
                found.append(Fields(entry, self.report, what))
            else:
                line, column = value.lc.item(i)
                self.report(Place(line + 1, column + 1), f"{what} is a mapping of fields", "")
        return found

    def duration(self, key: str, otherwise: int | None = 0) -> int:
        """Microseconds; `otherwise` None: the field must be there."""
        value = self.take(key)
        if value is None:
            if otherwise is None:
                self.missing(key, "a duration: 30m, 24h, 7d")
            return otherwise or 0
        parsed = duration(str(value))
        if parsed is None:
            self.report(self.where(key), f"{value!r} is not a duration", "write 30m, 24h or 7d")
        return parsed or 0

    def percent(self, key: str, otherwise: int | None = 0) -> int:
        """Parts per million."""
        value = self.take(key)
        if value is None:
            if otherwise is None:
                self.missing(key, "a percentage: 95%")
            return otherwise or 0
        parsed = percent(str(value))
        if parsed is None:
            self.report(self.where(key), f"{value!r} is not a percentage", f"did you mean {value}%?" if number(str(value)) is not None else "write 95%")
        return parsed or 0

    def money(self, key: str, currency: str, otherwise: int | None = None) -> int:
        """Micro-units of the account's currency."""
        value = self.take(key)
        if value is None:
            if otherwise is None:
                self.missing(key, f"an amount: 30 {currency}")
            return otherwise or 0
        return self.amount(self.where(key), str(value), currency)

    def amount(self, place: Place, text: str, currency: str) -> int:
        words = text.split()
        value = number(words[0]) if words else None
        if value is None or len(words) > 2:
            self.report(place, f"{text!r} is not an amount of money", f"write 30 {currency}")
        elif len(words) == 1:
            self.report(place, "money needs its currency", f"did you mean {text} {currency}?")
        elif words[1] != currency:
            self.report(place, f"this account reckons in {currency}, not in {words[1]}", f"write it in {currency}")
        elif (value * MICRO).denominator != 1:
            self.report(place, f"{text!r} is finer than a millionth", "")
        else:
            return int(value * MICRO)
        return 0

    def done(self, later: dict[str, str] | None = None) -> None:
        """Reports every field that nobody asked for; `later` names those that do not exist yet."""
        for key in self.mapping:
            if key in self.asked:
                continue
            if later and key in later:
                self.report(self.where_key(key), f"`{key}` does not exist yet", later[key])
            else:
                self.report(self.where_key(key), f"{self.what} has no field `{key}`", nearest(str(key), self.asked))


def number(text: str) -> Fraction | None:
    try:
        return Fraction(text) if text.replace(".", "", 1).isdigit() and text.isascii() and len(text) < 30 else None
    except ValueError:
        return None


def percent(text: str) -> int | None:
    """Parts per million of "95%"."""
    value = number(text.removesuffix("%").strip()) if text.endswith("%") else None
    scaled = None if value is None else value * 10_000
    return int(scaled) if scaled is not None and scaled.denominator == 1 else None


def duration(text: str) -> int | None:
    """Microseconds of "24h"; "0" is none at all."""
    text = text.strip()
    if text == "0":
        return 0
    if len(text) < 2 or len(text) > 9 or text[-1] not in UNITS or not text[:-1].isdigit() or not text.isascii():
        return None
    return int(text[:-1]) * UNITS[text[-1]]
