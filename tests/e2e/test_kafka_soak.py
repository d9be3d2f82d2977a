"""A short soak of engines on Kafka; `make kafka-soak` runs longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.kafka.broker import Brokers
from tests.e2e.kafka_soak import Soak


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 4])
async def test_whatever_befalls_engines_and_broker_what_is_decided_is_what_one_engine_decides(fragile: Brokers, tmp_path: Path, seed: int) -> None:
    soak = Soak(seed, fragile, tmp_path)
    await soak.run(6)
    assert len(soak.acknowledged) == 6 * 12 and sum(soak.befell.values()) >= 6
