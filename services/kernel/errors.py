"""What can go wrong, in four families; each leaf has a short `reason` that is log key, metric label and API code at once.

    TrimtabError
      RejectedInput   the sender is wrong        never retried   HTTP 4xx    quarantine
      Unavailable     a dependency is down       retried         HTTP 503    redelivered
      Misconfigured   the operator is wrong      refuse to start             one clear line
      Bug             we are wrong               not retried     HTTP 500    parked
"""

from __future__ import annotations


class TrimtabError(Exception):
    """The root. `status` is the HTTP status a boundary answers with."""

    reason = "error"
    status = 500

    def __init__(self, message: str, *, reason: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
        if status is not None:
            self.status = status


class RejectedInput(TrimtabError):
    """The sender is wrong: never retried; what was sent is quarantined where it can be."""

    reason = "rejected"
    status = 422


class Unauthorized(RejectedInput):
    """No valid signature, key or session."""

    reason = "unauthorized"
    status = 401


class Forbidden(RejectedInput):
    """The principal is known and may not do this."""

    reason = "forbidden"
    status = 403


class NotFound(RejectedInput):
    """There is no such thing in this workspace."""

    reason = "not_found"
    status = 404


class Conflict(RejectedInput):
    """The thing changed meanwhile; read it again."""

    reason = "conflict"
    status = 409


class Unavailable(TrimtabError):
    """A dependency is down, or too much is asked at once: the sender keeps what it has and tries again, after `retry_after` seconds."""

    reason = "unavailable"
    status = 503

    def __init__(self, message: str, *, reason: str | None = None, status: int | None = None, retry_after: float = 1) -> None:
        super().__init__(message, reason=reason, status=status)
        self.retry_after = retry_after


class Unreadable(Unavailable):
    """Records that the log held are damaged where they are kept; `beyond` is the first offset after them."""

    reason = "log_damaged"

    def __init__(self, message: str, beyond: int) -> None:
        super().__init__(message)
        self.beyond = beyond


class Misconfigured(TrimtabError):
    """The operator is wrong: the process refuses to start with one clear line."""

    reason = "misconfigured"


class Bug(TrimtabError):
    """We are wrong: the work is parked, logged with its traceback, and someone is told."""

    reason = "bug"
