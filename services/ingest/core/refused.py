"""A refusal points: what is wrong, and where in the body (a JSON Pointer, or a line of a file)."""

from __future__ import annotations

from types import TracebackType

from services.kernel.errors import RejectedInput


class Refused(RejectedInput):
    """One place of a delivery cannot be normalized."""

    def __init__(self, message: str, *, reason: str, pointer: str = "", status: int = 422) -> None:
        super().__init__(message, reason=reason, status=status)
        self.pointer = pointer


def step(pointer: str, part: str | int) -> str:
    """The JSON Pointer (RFC 6901) of a member or element below `pointer`."""
    return f"{pointer}/{str(part).replace('~', '~0').replace('/', '~1')}"


class at:
    """What is rejected inside points here, unless it points deeper already. The pointer is only put together when it is needed."""

    __slots__ = ("pointer", "parts")

    def __init__(self, pointer: str, *parts: str | int) -> None:
        self.pointer, self.parts = pointer, parts

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, RejectedInput) or getattr(error, "pointer", None):
            return
        pointer = self.pointer
        for part in self.parts:
            pointer = step(pointer, part)
        raise Refused(str(error), reason=error.reason, pointer=pointer, status=error.status) from None
