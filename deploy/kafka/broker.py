"""Apache Kafka on this machine, without Docker: one broker or three, on free loopback ports, each in a folder of its own, ended by process id.

The jars come from Maven once, into $TRIMTAB_CACHE (or var/kafka); a broker is a Java process that ends with whoever started it. `make kafka` runs it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CLUSTER = "VHJpbXRhYi1sb2NhbC0wMQ"  # any 16 bytes in base64: what is formatted together belongs together
PORTS = range(10_000, 32_000)  # Linux gives those from 32,768 on to whoever connects
JAVA = 17  # the oldest that a broker of this version runs on
STARTS = 60  # seconds in which a broker accepts or has failed
AUTHORIZER = {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users": "User:ANONYMOUS"}
MEMORY = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Missing(Exception):
    """A part that this machine lacks, and how to get it."""


class Failed(Exception):
    """A broker did not start, and what it said last."""


def version() -> str:
    found = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)</version>", (HERE / "pom.xml").read_text())
    assert found is not None
    return found[1]


def cache() -> Path:
    return Path(os.environ.get("TRIMTAB_CACHE") or ROOT / "var" / "kafka")


def java() -> str:
    path = shutil.which("java")
    if path is None:
        raise Missing("there is no Java: apt-get install default-jre-headless")
    said = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < JAVA:
        raise Missing(f"Kafka {version()} needs Java {JAVA} or newer, and {path} is {said.partition(chr(10))[0]}: apt-get install default-jre-headless")
    return path


def jars() -> Path:
    """The folder of the jars, fetched where it is not there yet. Raises Missing."""
    folder = cache() / f"libs-{version()}"
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing("there is no Maven, which fetches Kafka once: apt-get install maven")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "fetching").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            print(f"fetching Kafka {version()} (once, into {folder}) ...", file=sys.stderr, flush=True)
            command = [maven, "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={made}/libs"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode or not list(Path(made).glob("libs/kafka_2.13-*.jar")):
                raise Missing(f"Maven could not fetch Kafka {version()}: {last_lines(done.stdout + done.stderr)}")
            (Path(made) / "libs").rename(folder)
    return folder


def last_lines(text: str, most: int = 5) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-most:])


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on; all are held until all are found, so that none comes twice.

    They lie below those that the system gives to whoever connects: a port of these is still there for a process that is started again on it.
    """
    found: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(found) == number:
                break
            with suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    return found


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Broker:
    """One process: broker and controller."""

    number: int
    folder: Path
    port: int
    controller: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    def signal(self, sign: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(sign)


@dataclass
class Brokers:
    """A cluster of `number` brokers below `folder`. `settings` are added to each broker's, `listeners` to where it listens: name -> protocol.

    Where it `authorizes`, whoever comes with a name may do what ACLs allow it; who comes without one, over PLAINTEXT, anything, as the brokers themselves.
    What was allowed and what was refused is in their logs.
    """

    folder: Path
    number: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    listeners: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)  # SCRAM users with their passwords
    authorizes: bool = False
    every: list[Broker] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)  # of the further listeners, of the first broker

    @property
    def bootstrap(self) -> str:
        return ",".join(b.address for b in self.every)

    def start(self) -> Brokers:
        """Every broker accepts. Raises Missing where this machine lacks a part, Failed with what a broker said last."""
        self.java, self.jars = java(), jars()
        ports = free_ports(2 * self.number + len(self.listeners))
        self.every = [Broker(i + 1, self.folder / str(i + 1), ports[2 * i], ports[2 * i + 1]) for i in range(self.number)]
        self.ports = dict(zip(self.listeners, ports[2 * self.number :], strict=True))
        try:
            self._format()
            for broker in self.every:
                self.launch(broker.number)
            for broker in self.every:
                self.wait(broker.number)
        except BaseException:
            self.stop()
            raise
        return self

    def launch(self, number: int = 1) -> None:
        """A broker is starting, at the port it had, on what it had written. It ends with the thread that started it."""
        broker = self.every[number - 1]
        with broker.log.open("ab") as out:
            command = self._java("kafka.Kafka", str(broker.folder / "server.properties"))
            broker.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=broker.folder)

    def wait(self, number: int = 1) -> None:
        """It accepts. Raises Failed with what it said last."""
        broker = self.every[number - 1]
        assert broker.process is not None
        end = time.monotonic() + STARTS
        while not all(map(accepts, (broker.port, *(self.ports.values() if number == 1 else ())))):
            if broker.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"broker {broker.number} did not start: {last_lines(broker.log.read_text())}")
            time.sleep(0.05)

    def kill(self, number: int = 1) -> None:
        """kill -9"""
        broker = self.every[number - 1]
        broker.signal(signal.SIGKILL)
        assert broker.process is not None
        broker.process.wait()

    def stop(self, patience: float = 10) -> None:
        """All processes have ended: by themselves within `patience` seconds, else not."""
        running = [b.process for b in self.every if b.process is not None and b.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        end = time.monotonic() + patience
        for process in running:
            try:
                process.wait(max(0.01, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # -- one broker --------------------------------------------------------------------------------------------------

    def _properties(self, broker: Broker) -> dict[str, str]:
        further = self.ports if broker.number == 1 else {}
        listeners = {"PLAINTEXT": broker.port, **further}
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT", **self.listeners}
        copies = str(min(3, self.number))
        return {
            "process.roles": "broker,controller",
            "node.id": str(broker.number),
            "controller.quorum.voters": ",".join(f"{b.number}@127.0.0.1:{b.controller}" for b in self.every),
            "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in {**listeners, "CONTROLLER": broker.controller}.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items()),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(broker.folder / "logs"),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "500",
            "default.replication.factor": copies,
            "min.insync.replicas": "2" if self.number > 2 else "1",
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": "1",
            "log.cleaner.dedupe.buffer.size": str(8 << 20),
            **(AUTHORIZER if self.authorizes else {}),
            **self.settings,
        }

    def _format(self) -> None:
        under_way = []
        for broker in self.every:
            broker.folder.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{name}={value}\n" for name, value in self._properties(broker).items())
            (broker.folder / "server.properties").write_text(text)
            scram = [w for name, password in self.users.items() for w in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")]
            words = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER, "-c", str(broker.folder / "server.properties"), *scram]
            under_way.append(subprocess.Popen(self._java(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        for process in under_way:
            said, _ = process.communicate()
            if process.returncode:
                raise Failed(f"the broker's folder could not be formatted: {last_lines(said)}")

    def _java(self, *words: str) -> list[str]:
        with_me = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        told = ["-Drights=DEBUG"] if self.authorizes else []
        return [*with_me, self.java, *MEMORY, *told, f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}", "-cp", f"{self.jars}/*", *words]


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs Apache Kafka on loopback until Ctrl-C.")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    parser.add_argument("--folder", type=Path, help="where the brokers keep their records; by default a new one that goes away with them")
    parser.add_argument("--fetch", action="store_true", help="only get the jars")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if wanted.fetch:
            java()
            print(jars())
            return 0
        with tempfile.TemporaryDirectory(prefix="trimtab-kafka-") as made:
            brokers = Brokers(wanted.folder or Path(made), wanted.brokers)
            try:
                brokers.start()
                print(f"Kafka {version()} is up at {brokers.bootstrap}; Ctrl-C ends it", flush=True)
                one = " TRIMTAB_KAFKA_REPLICAS=1" if wanted.brokers == 1 else ""
                print(f"export TRIMTAB_KAFKA={brokers.bootstrap}{one}", flush=True)
                signal.pause()
            finally:
                brokers.stop()
    except KeyboardInterrupt:
        return 0
    except (Missing, Failed) as error:
        print(str(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
