"""Brokers that are not Apache Kafka as it is today, and proxies in front of brokers."""

from __future__ import annotations

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion

from services.adapters.log.cluster import Cluster, Topic
from services.adapters.log.rights import DESCRIBE, READ, WRITE, lacking
from services.adapters.log.topics import ensure
from services.kernel.errors import Misconfigured


@pytest.mark.parametrize("error", [NotImplementedError("Support for _Topic v7 has not yet been added"), IncompatibleBrokerVersion("_Topic cannot be used")])
async def test_brokers_that_are_too_old_are_refused_in_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answers(*_: object) -> None:
        return None

    async def refuses(*_: object) -> None:
        raise error

    for name, stand_in in (("start", answers), ("close", answers), ("_send_request", refuses)):
        monkeypatch.setattr(AIOKafkaAdminClient, name, stand_in)
    said = r"^the brokers at 127.0.0.1:1 are too old \(.*_Topic.*\): the log needs Apache Kafka 3.9 or later; see TRIMTAB_KAFKA$"
    with pytest.raises(Misconfigured, match=said):
        await ensure(Cluster("127.0.0.1:1"), Topic("trimtab.events", 1))


@pytest.mark.parametrize("told", [-(2**31), 0], ids=["brokers that do not say", "proxies that say nothing at all"])
def test_who_is_not_told_what_we_may_do_finds_out_later(told: int) -> None:
    assert lacking([READ, WRITE], told) == []
    assert lacking([READ, WRITE], 1 << DESCRIBE | 1 << READ) == [WRITE]
