"""A YAML file read with places: who asks for a field gets its value and where it stands; what nobody asked for is reported by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, ScalarEvent
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.tag import Tag

from services.rules_engine.language.grammar import UNITS
from services.rules_engine.language.problem import Place, Problem, RuleError, nearest

LARGEST_FILE = 1 << 16  # characters
LONGEST_VALUE = 4000
DEEPEST = 40
MOST_NODES = 10_000  # with every alias counted as what it stands for
MICRO = 1_000_000
LARGEST = Fraction(1 << 53, MICRO)  # of an amount, in natural units
LONGEST = 3660 * 86_400_000_000  # of a duration
Report = Callable[[Place, str, str], None]


class Excess(MarkedYAMLError):
    """YAML that is well formed and more than a pack can mean."""


class Bounded(Composer):
    """Composes a document of bounded depth and size, aliases counted as what they stand for; refuses the rest before it costs anything."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self.level = self.nodes = 0
        self.sizes: dict[int, int] = {}  # of nodes that are complete, by identity

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        alias, start = isinstance(event, AliasEvent), event.start_mark
        if isinstance(event, ScalarEvent) and len(event.value) > LONGEST_VALUE:
            raise Excess(None, None, f"a value of {len(event.value):,} characters is too long", start)
        if isinstance(event, ScalarEvent) and any((c < " " and c not in "\n\t\a") or "\ud800" <= c <= "\udfff" for c in event.value):  # \a: the reader's mark
            raise Excess(None, None, "a value with a control character, or half a character, in it", start, "delete it")
        if not alias and event.tag is not None:
            raise Excess(None, None, f"a tag, {brief(event.tag)}", start, "a pack needs none: texts, numbers, true and false are told apart by themselves")
        self.level += 1
        if self.level > DEEPEST:
            raise Excess(None, None, f"nested more than {DEEPEST} levels deep", start)
        before = self.nodes
        node = super().compose_node(parent, index)
        self.level -= 1
        if alias and id(node) not in self.sizes:
            raise Excess(None, None, "a field that contains itself", start)
        self.nodes += self.sizes[id(node)] if alias else 1
        self.sizes.setdefault(id(node), self.nodes - before)
        if self.nodes > MOST_NODES:
            raise Excess(None, None, f"more than {MOST_NODES:,} fields and values, aliases counted as what they stand for", start)
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        """A day is a text like any other here: 2027-03-31."""
        node = super().compose_scalar_node(anchor)
        if str(node.ctag) == "tag:yaml.org,2002:timestamp":
            node.ctag = Tag(suffix="tag:yaml.org,2002:str")
        return node


def load(text: str, filename: str) -> CommentedMap:
    """The document's mapping. Raises RuleError where it is no YAML, too large, or not a mapping of named fields."""
    if len(text) > LARGEST_FILE:
        raise RuleError(
            [Problem(Place(1, 1), f"a pack of {len(text):,} characters is too large", f"at most {LARGEST_FILE:,}; split it")], text[:1000], filename
        )
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.Composer = Bounded
    try:
        document = yaml.load(text)
    except DuplicateKeyError as error:
        raise RuleError([Problem(mark(error), "this field is written twice", "keep one")], text, filename) from None
    except Excess as error:
        raise RuleError([Problem(mark(error), str(error.problem), error.note or "a pack is small and flat")], text, filename) from None
    except MarkedYAMLError as error:
        raise RuleError([Problem(mark(error), f"not YAML: {error.problem or error.context}", yaml_hint(error))], text, filename) from None
    except ReaderError as error:
        raise RuleError([Problem(place_at(text, error.position), "this character cannot stand in YAML", "delete it")], text, filename) from None
    except (YAMLError, ValueError, TypeError, LookupError, AttributeError, AssertionError, NotImplementedError) as error:
        # what the YAML library itself trips over: odd keys, odd numbers
        raise RuleError([Problem(Place(1, 1), f"not YAML: {type(error).__name__}: {brief(error)}")], text, filename) from None
    if not isinstance(document, CommentedMap):
        raise RuleError([Problem(Place(1, 1), "a pack is a mapping of fields", "it begins with `pack: name`")], text, filename)
    if unnamed := list(names_that_are_none(document)):
        raise RuleError(unnamed, text, filename)
    return document


def mark(error: MarkedYAMLError) -> Place:
    at = error.problem_mark or error.context_mark
    return Place(at.line + 1, at.column + 1) if at else Place(1, 1)


def place_at(text: str, offset: int) -> Place:
    """The place of a character of the text."""
    before = text[:offset].splitlines(keepends=True)
    if before and before[-1] != before[-1].rstrip("\r\n"):
        before.append("")
    return Place(max(len(before), 1), len(before[-1]) + 1 if before else 1)


def yaml_hint(error: MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "'\\t'" in problem:
        return "indent with spaces"
    if "undefined alias" in problem:
        return "an alias (*name) needs its anchor (&name) above it"
    if "another document" in problem:
        return "one pack a file"
    if "but got '['" in problem:
        return "between { and } a text with [ ] stands in quotes"
    if "mapping values are not allowed" in problem:
        return "a text with a colon stands in quotes"
    return ""


def names_that_are_none(document: CommentedMap) -> Iterator[Problem]:
    """Every field whose name is no text: 12, true, a list."""
    todo, seen = [document], set()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, CommentedMap):
            for key in value:
                if not isinstance(key, str) and key in (value.lc.data or {}):
                    line, column = value.lc.key(key)
                    yield Problem(Place(line + 1, column + 1), f"a field's name is a text, not {brief(key)}", "put it in quotes")
        if isinstance(value, CommentedMap | CommentedSeq):
            todo += value.values() if isinstance(value, CommentedMap) else value


def spelled(source: str, place: Place, value: str, start: int, end: int) -> Place:
    """Where the characters start..end of a text stand in the file, whether it is written plain, quoted or over several lines."""
    lines = source.splitlines(keepends=True)
    at = sum(map(len, lines[: place.line - 1])) + place.column - 1
    if source[at : at + 1] in ("|", ">"):
        at = source.find("\n", at) + 1
    found: list[int] = []
    for c in value[:end]:
        here = at if c.isspace() else source.find(c, at)
        if here < 0:
            return place
        found.append(here)
        at = here if c.isspace() else here + 1
    first = found[start] if start < len(found) else at
    begun = place_at(source, first)
    line = lines[begun.line - 1].rstrip("\r\n") if begun.line <= len(lines) else ""
    return Place(begun.line, begun.column, max(1, min((found[-1] if found else first) + 1 - first, len(line) - begun.column + 1)))


def brief(value: object) -> str:
    """A value as it may be shown in a message."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


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
        if value is None or (otherwise is None and isinstance(value, str) and not value.strip()):
            if otherwise is None:
                self.missing(key)
            return otherwise or ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self.report(self.where(key), f"`{key}` is a text", "put it in quotes" if isinstance(value, bool) else "")
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
            self.report(self.where(key), f"{brief(value)!r} is not a duration", "write 30m, 24h or 7d")
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
            self.report(self.where(key), f"{brief(value)!r} is not a percentage", f"did you mean {value}%?" if number(str(value)) is not None else "write 95%")
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
            self.report(place, f"{brief(text)!r} is not an amount of money", f"write 30 {currency}")
        elif len(words) == 1:
            self.report(place, "money needs its currency", f"did you mean {text} {currency}?")
        elif words[1] != currency:
            self.report(place, f"this account reckons in {currency}, not in {brief(words[1])}", f"write it in {currency}")
        elif (value * MICRO).denominator != 1:
            self.report(place, f"{text!r} is finer than a millionth", "")
        elif value > LARGEST:
            self.report(place, f"{text!r} is more than a sum can hold", f"at most {int(LARGEST):,} {currency}")
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
    """Parts per million of "95%", up to 10,000 %."""
    value = number(text.removesuffix("%").strip()) if text.endswith("%") else None
    scaled = None if value is None or value > 10_000 else value * 10_000
    return int(scaled) if scaled is not None and scaled.denominator == 1 else None


def duration(text: str) -> int | None:
    """Microseconds of "24h", up to ten years; "0" is none at all."""
    text = text.strip()
    if text == "0":
        return 0
    if len(text) < 2 or len(text) > 9 or text[-1] not in UNITS or not text[:-1].isdigit() or not text.isascii():
        return None
    micros = int(text[:-1]) * UNITS[text[-1]]
    return micros if micros <= LONGEST else None
