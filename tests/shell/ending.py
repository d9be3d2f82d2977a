"""A process that ends at a fault point, inside of a test: what it had not made durable by then is gone, and a new one takes over its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from services.adapters import faultpoint as faultpoint


class Crash(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Ends:
    """The process ends the `hit`-th time that it comes to the point."""

    point: str
    hit: int = 1

    def __call__(self) -> None:
        raise Crash(self.point)


@contextmanager
def ending(point: str, hit: int = 1) -> Iterator[None]:
    """What the block does ends at the point; that it never comes there is a failure."""
    faultpoint.arm(point, hit, Ends(point, hit))
    try:
        with pytest.raises(Crash):
            yield
    finally:
        faultpoint.disarm()
