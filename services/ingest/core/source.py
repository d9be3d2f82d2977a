"""What a sending system has to say about itself: how its deliveries are signed and what events they hold.

A source is one file in services/ingest/sources (or an entry point of the group `trimtab.source`). Its docstring is the user's documentation; its
`SOURCE` is a Webhook, a Reporter, or both; its `example` is a real delivery with what becomes of it, tested by the contract suite unasked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from services.ingest.core import strict_json
from services.kernel.columns import Rows
from services.kernel.errors import Unauthorized
from services.kernel.event import Event

if TYPE_CHECKING:
    from services.ingest.core.report import Shape


@dataclass(frozen=True, slots=True)
class Rejection:
    """One part of a delivery that could not be normalized: it goes to quarantine, with where it stands and why."""

    reason: str
    detail: str
    pointer: str = ""


Item: TypeAlias = Event | Rejection


@dataclass(frozen=True, slots=True)
class Delivery:
    """What was received, untouched. Header names are lower-case; a header sent twice is there twice."""

    source: str
    workspace: str
    body: bytes
    headers: tuple[tuple[str, str], ...]
    received_at: int  # the log's clock, microseconds; of the first receipt, also when it is driven again from quarantine
    method: str = "POST"
    url: str = ""  # as the sender knows it
    seen_at: int = 0  # when it is looked at; 0 is received_at

    @property
    def horizon(self) -> int:
        """The instant that far-future times are measured from."""
        return self.seen_at or self.received_at

    def header(self, name: str) -> str:
        """The header's value, "" without one. Raises Unauthorized where it was sent with two different values: nobody knows which one was meant."""
        name = name.lower()
        values = {v for n, v in self.headers if n == name}
        if len(values) > 1:
            raise Unauthorized(f"the header {name} was sent with two different values", reason="ambiguous_header")
        return next(iter(values), "")

    @property
    def media_type(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()

    def json(self) -> Any:
        return strict_json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Example:
    """A delivery and how many events and rejections it yields; `secret` signs it where the source verifies, `signed_at` is when that was (seconds)."""

    body: bytes
    events: int
    rejections: int = 0
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    received_at: int = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z
    options: dict[str, str] = field(default_factory=dict)  # of a report: currency, account, time_zone


class Source(Protocol):
    name: str
    example: Example


@runtime_checkable
class Webhook(Protocol):
    """A source that pushes. `verify` sees the raw bytes before anything is parsed; `now` is the wall clock in microseconds."""

    name: str
    example: Example

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: int) -> None:
        """Returns where one of the secrets signed exactly these bytes recently; raises Unauthorized otherwise, never anything else."""
        ...

    def sign(self, delivery: Delivery, secret: str, now: int) -> tuple[tuple[str, str], ...]:
        """The headers with which the sender would have signed this; for tests and for people who write senders."""
        ...

    def events(self, delivery: Delivery) -> Iterator[Item]:
        """What the delivery holds, in order; raises Refused where it holds nothing readable."""
        ...


@runtime_checkable
class Columnar(Protocol):
    """A webhook that reads its usual deliveries by columns as well, many times faster."""

    def rows(self, delivery: Delivery) -> Rows | None:
        """Exactly what `events` would yield, where that is events without a rejection; None where anything is unusual, and `events` must look."""
        ...


@runtime_checkable
class Together(Protocol):
    """A columnar webhook that reads several deliveries as one, which for small ones is many times faster again."""

    def rows_of(self, deliveries: Sequence[Delivery]) -> tuple[Rows, list[int]] | None:
        """(what `rows` says of each, in their order; how many events each has), or None where it says None of any."""
        ...


@runtime_checkable
class Reporter(Protocol):
    """A source whose report rows can be pushed or read from files."""

    name: str
    example: Example
    shapes: tuple[Shape, ...]
