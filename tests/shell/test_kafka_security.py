"""Kafka over TLS: passwords by SCRAM, certificates by mTLS, and what an operator is told where one of them does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deploy.kafka.broker import Brokers, Missing
from services.adapters.clock import SystemClock
from services.adapters.log.cluster import Cluster, cluster_of
from services.adapters.log.codec import EVENTS
from services.adapters.log.kafka import KafkaLog
from services.adapters.settings import from_environment
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.record import Ready
from tests.authority import Authority
from tests.brokers import fresh
from tests.parts import lacks

PASSWORD = "correct-horse-battery"


@dataclass(frozen=True)
class Guarded:
    """A broker with a listener for passwords and one for certificates."""

    scram: Cluster
    mtls: Cluster
    stranger: Authority


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    ours, strangers = Authority(folder, "ours"), Authority(folder, "strangers")
    certificate, key = ours.issue("broker")
    (folder / "broker.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
    settings = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ours.ca),
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.scram.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        "listener.name.mtls.ssl.client.auth": "required",
    }
    brokers = Brokers(folder / "brokers", settings=settings, listeners={"SCRAM": "SASL_SSL", "MTLS": "SSL"}, users={"trimtab": PASSWORD})
    try:
        brokers.start()
    except Missing as why:
        lacks("kafka", str(why))
    at = {listener: f"127.0.0.1:{port}" for listener, port in brokers.ports.items()}
    mine = ours.issue("trimtab")
    scram = Cluster(at["SCRAM"], "SASL_SSL", user="trimtab", password=PASSWORD, ca=ours.ca)
    yield Guarded(scram, Cluster(at["MTLS"], "SSL", ca=ours.ca, cert=mine[0], cert_key=mine[1]), strangers)
    brokers.stop(patience=0)


async def passes(cluster: Cluster) -> None:
    """A record goes in and comes out."""
    log = KafkaLog(cluster, EVENTS, SystemClock(), fresh(EVENTS))
    try:
        await log.start()
        await log.append([("a", Ready("a", "1"))])
        assert [s.record for s in await log.read(0, 0)] == [Ready("a", "1")]
    finally:
        await log.close()


async def test_a_password_lets_in_and_a_wrong_one_is_told_and_not_shown(guarded: Guarded) -> None:
    await passes(guarded.scram)
    with pytest.raises(Unavailable, match="no Kafka answers at .*SASL_SSL.*uthentication") as refused:
        await passes(replace(guarded.scram, password="wrong-horse-battery"))
    assert "horse" not in str(refused.value) and "horse" not in repr(guarded.scram)


async def test_a_certificate_lets_in_and_none_or_a_strangers_does_not(guarded: Guarded) -> None:
    await passes(guarded.mtls)
    certificate, key = guarded.stranger.issue("trimtab-too")
    for other in (replace(guarded.mtls, cert=None, cert_key=None), replace(guarded.mtls, cert=certificate, cert_key=key)):
        with pytest.raises(Unavailable, match="no Kafka answers"):
            await passes(other)


async def test_a_broker_that_another_authority_signed_is_not_spoken_to(guarded: Guarded) -> None:
    for cluster in (guarded.scram, guarded.mtls):
        with pytest.raises(Unavailable, match="no Kafka answers.*certificate verify failed"):
            await passes(replace(cluster, ca=guarded.stranger.ca))


async def test_a_file_that_holds_no_certificate_is_one_line(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(Misconfigured, match="TRIMTAB_KAFKA_CA=.*junk holds no certificates"):
        await passes(replace(guarded.scram, ca=tmp_path / "junk"))
    with pytest.raises(Misconfigured, match="TRIMTAB_KAFKA_CERT=.*missing"):
        await passes(replace(guarded.mtls, cert=tmp_path / "missing"))


async def test_the_settings_lead_there(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    environment = {
        "TRIMTAB_KAFKA": guarded.scram.bootstrap,
        "TRIMTAB_KAFKA_SECURITY": "SASL_SSL",
        "TRIMTAB_KAFKA_CA": str(guarded.scram.ca),
        "TRIMTAB_KAFKA_USER": "trimtab",
        "TRIMTAB_KAFKA_PASSWORD_FILE": str(tmp_path / "password"),
    }
    assert cluster_of(from_environment(environment)) == guarded.scram
