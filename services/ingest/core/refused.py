"""A refusal points: what is wrong, and where in the body (a JSON Pointer, or a line of a file)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.kernel.errors import RejectedInput


class Refused(RejectedInput):
    """One place of a delivery cannot be normalized."""

    def __init__(self, message: str, *, reason: str, pointer: str = "", status: int = 422) -> None:
        super().__init__(message, reason=reason, status=status)
        self.pointer = pointer


def step(pointer: str, part: str | int) -> str:
    """The JSON Pointer (RFC 6901) of a member or element below `pointer`."""
    return f"{pointer}/{str(part).replace('~', '~0').replace('/', '~1')}"


@contextmanager
def at(pointer: str) -> Iterator[None]:
    """What is rejected inside points here, unless it points deeper already."""
    try:
        yield
    except RejectedInput as error:
        if getattr(error, "pointer", ""):
            raise
        raise Refused(str(error), reason=error.reason, pointer=pointer, status=error.status) from None
