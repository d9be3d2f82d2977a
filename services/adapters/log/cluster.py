"""How an Apache Kafka cluster is reached: its addresses, and what proves who speaks on either side."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from services.adapters.settings import Settings
from services.kernel.errors import Misconfigured

DAY_MS = 86_400_000
FORMS = 500  # of lines that are remembered
OFTEN = 30.0  # seconds between two lines of a library that say the same
ENDING = 5.0  # seconds that a producer or consumer is given to end


@dataclass(frozen=True, slots=True)
class Cluster:
    """`security` is one of Kafka's four protocols; with SSL a missing `ca` means the machine's own, and `cert` with `cert_key` is who we are (mTLS)."""

    bootstrap: str
    security: str = "PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"
    user: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None
    cert: Path | None = None
    cert_key: Path | None = None

    def options(self) -> dict[str, Any]:
        """What every client of aiokafka is given. Raises Misconfigured where a file cannot be used."""
        options: dict[str, Any] = {"bootstrap_servers": self.bootstrap.split(","), "security_protocol": self.security}
        if self.security.endswith("SSL"):
            options["ssl_context"] = self._context()
        if self.security.startswith("SASL"):
            options |= {"sasl_mechanism": self.mechanism, "sasl_plain_username": self.user, "sasl_plain_password": self.password}
        return options

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # ssl.SSLError is one
            raise Misconfigured(f"TRIMTAB_KAFKA_CA={self.ca} holds no certificates that can be read (PEM): {error}") from error
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.cert_key)
            except OSError as error:
                raise Misconfigured(
                    f"TRIMTAB_KAFKA_CERT={self.cert} and TRIMTAB_KAFKA_CERT_KEY={self.cert_key} are no certificate with its key (PEM): {error}"
                ) from error
        return context


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it has to be. `retention_ms` -1 keeps records for ever; where the clock is simulated its senders stamp records, not the brokers."""

    name: str
    partitions: int = 12
    replicas: int = 3
    retention_ms: int = -1
    simulated: bool = False

    @property
    def in_sync(self) -> int:
        """How many replicas hold a record before it is acknowledged: one broker may be away where there are three."""
        return max(1, self.replicas - 1)


def cluster_of(settings: Settings) -> Cluster:
    """Raises Misconfigured where no cluster is named."""
    if not settings.kafka:
        raise Misconfigured("no Kafka is named: TRIMTAB_KAFKA=host:port[,host:port]")
    s = settings
    return Cluster(s.kafka, s.kafka_security, s.kafka_mechanism, s.kafka_user, s.kafka_password, s.kafka_ca, s.kafka_cert, s.kafka_cert_key)


def topic_of(settings: Settings, name: str) -> Topic:
    """The topic `events` or `decisions` as the settings want it."""
    retention = round(settings.kafka_retention_days * DAY_MS) or -1
    return Topic(f"{settings.kafka_prefix}.{name}", settings.kafka_partitions, settings.kafka_replicas, retention, simulated=settings.clock is not None)


class Sparing(logging.Handler):
    """Hands on what a library logs, but of lines of one form one in `often` seconds, with how many there were: it logs each attempt while a broker is away."""

    def __init__(self, often: float = OFTEN, stopwatch: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.often, self.stopwatch = often, stopwatch
        self.said: dict[tuple[str, str], tuple[float, int]] = {}  # (logger, form) -> when it was handed on last, how many were not since

    def emit(self, record: logging.LogRecord) -> None:
        form, now = (record.name, str(record.msg)), self.stopwatch()
        last, kept_back = self.said.get(form, (-self.often, 0))
        if now - last < self.often:
            self.said[form] = (last, kept_back + 1)
            return
        if len(self.said) >= FORMS:
            self.said.clear()
        self.said[form] = (now, 0)
        if kept_back:
            record.msg, record.args = f"{record.getMessage()} ({kept_back} more like it before)", None
        logging.getLogger().handle(record)


class Heard(logging.Handler):
    """Remembers the last line that a library logs while it is listened to: aiokafka says there, and nowhere else, why it was not let in."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()

    def __enter__(self) -> Heard:
        logging.getLogger("aiokafka").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("aiokafka").removeHandler(self)


def spare_lines() -> None:
    """From now on aiokafka's lines are handed on sparingly."""
    library = logging.getLogger("aiokafka")
    if not any(isinstance(h, Sparing) for h in library.handlers):
        library.addHandler(Sparing())
        library.propagate = False


async def end_consumer(consumer: AIOKafkaConsumer) -> None:
    """It asks nothing more. In a task of its own: where the consumer ends work that waits for a broker, it raises as if its caller had been cancelled."""
    for close in (consumer.stop, consumer._client.close):
        with suppress(KafkaError, OSError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(ENDING):
                await close()
                return
