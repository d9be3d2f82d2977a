"""The shape of conditions: text to a tree with places; what the words mean is for the checker."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from lark import Lark, Token, Transformer, Tree, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken, VisitError

GRAMMAR = r"""
start: or_
?or_: and_ ("or" and_)*
?and_: not_ ("and" not_)*
?not_: "not" not_ -> negation
     | comparison
     | "(" or_ ")"
comparison: sum OP sum (OP sum)*
?sum: product (ADD product)*
?product: atom (MUL atom)*
?atom: "target" "(" NAME ")" -> target
     | NAME ["(" NAME ")"] [window] -> name
     | PERCENT -> percent
     | NUMBER CURRENCY -> money
     | NUMBER -> number
     | STRING -> text
     | "(" sum ")"
window: "[" "since" "change" "]" -> since
      | "[" DURATION "]" -> sliding
OP: "<=" | ">=" | "!=" | "<" | ">" | "="
ADD: "+" | "-"
MUL: "*" | "/"
NAME: /(?!(and|or|not|target|since)\b)[a-z_][a-z0-9_]*/
CURRENCY: /[A-Z]{3}\b/
PERCENT: /\d+(\.\d+)?\s*%/
DURATION: /\d+\s*[smhd]/
NUMBER: /\d+(\.\d+)?/
STRING: /"[^"\n]*"/
%ignore /[ \t\r\n]+/
"""
MOST = 2000  # characters of one condition
DEEPEST = 40  # parts inside one another


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets into the condition's text, end exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Name:
    name: str
    of: str
    window: int | None  # microseconds; 0 is since change; None was not written
    span: Span


@dataclass(frozen=True, slots=True)
class Literal:
    value: Fraction
    unit: str  # ratio | count | a currency
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Goal:
    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Quoted:
    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    op: str
    left: Term
    right: Term
    span: Span


@dataclass(frozen=True, slots=True)
class Comparison:
    op: str
    left: Term
    right: Term
    span: Span


@dataclass(frozen=True, slots=True)
class Joined:
    word: str  # and | or
    terms: tuple[Node, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Negation:
    term: Node
    span: Span


Term: TypeAlias = "Name | Literal | Goal | Quoted | Binary"
Node: TypeAlias = "Comparison | Joined | Negation"
NOTHING = -1  # the width of [0h], which is not the window since the last change
UNITS = {"s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


class NotACondition(Exception):
    """Where the text stops making sense, and why."""

    def __init__(self, span: Span, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.span, self.message, self.hint = span, message, hint


def microseconds(text: str) -> int:
    """24h -> 86,400,000,000"""
    return int(text[:-1]) * UNITS[text[-1]]


@v_args(meta=True)
class Build(Transformer[Token, Any]):
    def start(self, meta: Any, children: list[Any]) -> Any:
        return children[0]

    def or_(self, meta: Any, children: list[Any]) -> Joined:
        return Joined("or", tuple(children), span(meta))

    def and_(self, meta: Any, children: list[Any]) -> Joined:
        return Joined("and", tuple(children), span(meta))

    def negation(self, meta: Any, children: list[Any]) -> Negation:
        return Negation(children[0], span(meta))

    def comparison(self, meta: Any, children: list[Any]) -> Comparison:
        if len(children) > 3:
            raise NotACondition(span(meta), "comparisons cannot be chained", "write both: a < b and b < c")
        return Comparison(str(children[1]), children[0], children[2], span(meta))

    def sum(self, meta: Any, children: list[Any]) -> Any:
        return fold(children)

    product = sum

    def target(self, meta: Any, children: list[Any]) -> Goal:
        return Goal(str(children[0]), span(meta))

    def name(self, meta: Any, children: list[Any]) -> Name:
        return Name(str(children[0]), str(children[1] or ""), children[2], span(meta))

    def percent(self, meta: Any, children: list[Any]) -> Literal:
        return Literal(Fraction(str(children[0])[:-1].strip()) / 100, "ratio", str(children[0]), span(meta))

    def money(self, meta: Any, children: list[Any]) -> Literal:
        return Literal(Fraction(str(children[0])), str(children[1]), f"{children[0]} {children[1]}", span(meta))

    def number(self, meta: Any, children: list[Any]) -> Literal:
        return Literal(Fraction(str(children[0])), "count", str(children[0]), span(meta))

    def text(self, meta: Any, children: list[Any]) -> Quoted:
        return Quoted(str(children[0])[1:-1], span(meta))

    def since(self, meta: Any, children: list[Any]) -> int:
        return 0

    def sliding(self, meta: Any, children: list[Any]) -> int:
        return microseconds("".join(str(children[0]).split())) or NOTHING


def span(meta: Any) -> Span:
    return Span(meta.start_pos, meta.end_pos)


def fold(children: list[Any]) -> Any:
    """a - b - c is (a - b) - c."""
    left = children[0]
    for op, right in zip(children[1::2], children[2::2], strict=True):
        left = Binary(str(op), left, right, Span(left.span.start, right.span.end))
    return left


PARSER = Lark(GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=True)


def parse(text: str) -> Node:
    """The tree of a condition. Raises NotACondition with the place."""
    if len(text) > MOST:
        raise NotACondition(Span(0, 1), f"a condition of {len(text)} characters is too long", f"at most {MOST}; split the rule")
    try:
        shape = PARSER.parse(text)
        if depth(shape) > DEEPEST:
            raise NotACondition(Span(0, len(text.rstrip())), f"more than {DEEPEST} parts inside one another", "split the rule, or do the sums beforehand")
        tree = Build().transform(shape)
    except VisitError as error:
        if isinstance(error.orig_exc, NotACondition):
            raise error.orig_exc from None
        raise
    except UnexpectedInput as error:
        raise unexpected(text, error) from None
    return tree  # type: ignore[no-any-return]  # the transformer's start rule


def depth(tree: Tree[Token]) -> int:
    """How many parts stand inside one another; of a sum or a product each term stands inside the next."""
    deepest, todo = 0, [(tree, 1)]
    while todo:
        at, level = todo.pop()
        deepest = max(deepest, level)
        below = level + (len(at.children) // 2 if at.data in ("sum", "product") else 1)
        todo += [(child, below) for child in at.children if isinstance(child, Tree)]
        if at.data in ("sum", "product"):
            deepest = max(deepest, below)
    return deepest


def unexpected(text: str, error: UnexpectedInput) -> NotACondition:
    if isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        end = len(text.rstrip())
        return NotACondition(
            Span(max(end - 1, 0), max(end, 1)), "the condition ends too early", "a comparison is missing its right side, or a parenthesis its end"
        )
    start = error.pos_in_stream or 0
    if isinstance(error, UnexpectedToken):
        word = str(error.token)
        return NotACondition(Span(start, start + len(word)), f"did not expect {word!r} here", hint_for(word, error))
    assert isinstance(error, UnexpectedCharacters)
    return NotACondition(Span(start, start + 1), f"did not expect {text[start]!r} here", hint_for(text[start], error))


def hint_for(word: str, error: UnexpectedInput) -> str:
    if word in ("=", "==", "!", "<>"):
        return "comparisons are < <= > >= = !="
    if word in ("&", "&&", "|", "||", "AND", "OR", "NOT"):
        return "write and, or, not"
    if word in ("[", "]"):
        return "windows are [24h], [7d], [90m] or [since change]"
    if error.pos_in_stream and "DURATION" in (getattr(error, "expected", None) or getattr(error, "allowed", None) or set()):
        return "windows are [24h], [7d], [90m] or [since change]"
    if word == "'":
        return 'texts stand in double quotes: "active"'
    if word in ("$", "€", "£"):
        return "money is written with its currency's code: 30 EUR"
    if word.isalpha() and word.isupper():
        return "names are written in small letters"
    expected = getattr(error, "expected", None) or getattr(error, "allowed", None) or set()
    if "OP" in expected:
        return "a comparison is missing: metric[window] < value"
    return ""
