"""Structured logs: one event, one line, a constant message and key=value; never a secret. What libraries log takes the same way."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from services.adapters.http.problem import redact

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
CHATTY = ("alembic", "httpx", "httpx2", "httpcore", "aiosqlite")  # libraries that tell at info what only their authors want to know

SHORTEST = 8  # characters of a secret that is taken out by its value: a shorter one is a word that logs need


def configure(level: str, form: str, secrets: Sequence[str] = (), stream: TextIO = sys.stderr) -> None:
    """From now on every log line of this process has this level and form, and none holds one of the secrets."""
    renderer = structlog.processors.JSONRenderer() if form == "json" else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            Redacting(secrets),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, Forgiving(stream))),  # all that a logger asks of it is write and flush
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[Passing()], level=LEVELS[level], force=True)
    logging.captureWarnings(True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


class Forgiving:
    """A stream that loses a line rather than fail the work that the line is about: a log may lie on the very disk that is full.

    A stream that was closed raises ValueError.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self.stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()


class Redacting:
    """Takes known secrets, and whatever looks like one, out of every text of an event."""

    def __init__(self, secrets: Sequence[str]) -> None:
        long = [s for s in secrets if len(s) >= SHORTEST]
        self.secrets = sorted(long, key=len, reverse=True)  # one may contain another

    def __call__(self, _: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {name: value if isinstance(value, int | float | None) else self.told(str(value)) for name, value in event.items()}

    def told(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "[redacted]")
        return redact(text).replace("\r", "\\r")


class Passing(logging.Handler):
    """Hands what libraries log to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        told = structlog.get_logger()
        told.log(record.levelno, record.getMessage(), logger=record.name, **({"exc_info": record.exc_info} if record.exc_info else {}))
