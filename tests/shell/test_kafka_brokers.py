"""The project's own brokers, and the machines that cannot have them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.kafka.broker import ROOT, Brokers, Failed, Missing, free_ports, jars, java, version
from tests.parts import lacks


def test_a_machine_without_java_or_maven_is_told_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="no Java: apt-get install default-jre-headless"):
        java()
    with pytest.raises(Missing, match="no Maven.*apt-get install maven"):
        jars()
    for name, text in (("java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2"), ("mvn", "echo nobody answers; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(Missing, match=f"Kafka {version()} needs Java 17 or newer, and .*11.0.2"):
        java()
    with pytest.raises(Missing, match="Maven could not fetch Kafka .*nobody answers"):
        jars()
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith("libs")]


def test_a_missing_part_skips_a_test_and_fails_it_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_REQUIRE", "browser")
    with pytest.raises(pytest.skip.Exception, match="no Java"):
        lacks("kafka", "there is no Java")
    monkeypatch.setenv("TRIMTAB_REQUIRE", "browser,kafka")
    with pytest.raises(pytest.fail.Exception, match="kafka is required: there is no Java"):
        lacks("kafka", "there is no Java")


def test_a_broker_that_cannot_start_says_why(tmp_path: Path, kafka: Brokers) -> None:
    with pytest.raises(Failed, match="could not be formatted|did not start"):
        Brokers(tmp_path, settings={"log.dirs": "/proc/nowhere"}).start()


def test_ports_are_free_and_none_comes_twice() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20


def test_a_port_is_none_that_the_system_may_give_to_whoever_connects() -> None:
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_ports(50)) < least


def test_brokers_end_with_whoever_started_them(tmp_path: Path, kafka: Brokers) -> None:
    words = [sys.executable, "deploy/kafka/broker.py", "--folder", str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        said = started.stdout.readline()
        address = said.split()[5].rstrip(";")
        assert f"Kafka {version()} is up at 127.0.0.1:" in said
        assert f"export TRIMTAB_KAFKA={address} TRIMTAB_KAFKA_REPLICAS=1" in started.stdout.readline()
        [broker] = subprocess.run(["pgrep", "-f", f"kafka.Kafka {tmp_path}"], capture_output=True, text=True, check=True).stdout.split()
        started.kill()
        started.wait()
    Path(f"/proc/{broker}").exists() and subprocess.run(["tail", f"--pid={broker}", "-f", "/dev/null"], check=True, timeout=30)
    assert subprocess.run(["pgrep", "-f", f"kafka.Kafka {tmp_path}"], capture_output=True, check=False).returncode == 1
