"""Logs on brokers of this machine, each with topics of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, TypeVar

from deploy.kafka.broker import Brokers
from services.adapters.clock import SystemClock
from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.codec import Codec
from services.adapters.log.kafka import KafkaLog

T = TypeVar("T")


def fresh(codec: Codec[Any], **wanted: Any) -> Topic:
    """A topic that nobody else has."""
    return Topic(**({"name": f"t{os.urandom(4).hex()}.{codec.topic}", "partitions": 1, "replicas": 1} | wanted))


async def on_kafka(brokers: Brokers, codec: Codec[T], topic: Topic | None = None, *, partitions: int = 1, **options: Any) -> KafkaLog[T]:
    log = KafkaLog(Cluster(brokers.bootstrap), codec, SystemClock(), topic or fresh(codec, partitions=partitions), **options)
    await log.start()
    return log


async def restarted(brokers: Brokers, number: int = 1) -> None:
    brokers.launch(number)
    await asyncio.to_thread(brokers.wait, number)


async def until(holds: Callable[[], object], patience: float = 60) -> None:
    async with asyncio.timeout(patience):
        while not holds():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.05)
