"""`make demo-production`: one broker and one PostgreSQL of their own, on loopback, and on them `trimtab demo --production`; all of it ends with this."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deploy.kafka import broker  # noqa: E402
from deploy.postgres import server  # noqa: E402


def main() -> int:
    with ExitStack() as stack:
        try:
            print("Apache Kafka and PostgreSQL, a process each, on loopback ...", flush=True)
            brokers = broker.Brokers(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-kafka-"))), 1)
            stack.callback(brokers.stop)
            brokers.start()
            database = server.Server()
            stack.callback(database.remove)
            database.start()
        except (broker.Missing, broker.Failed, server.Missing, server.Failed) as why:
            print(str(why), file=sys.stderr)
            return 2
        own = {"TRIMTAB_KAFKA": brokers.bootstrap, "TRIMTAB_KAFKA_REPLICAS": "1", "TRIMTAB_KAFKA_PARTITIONS": "4", "TRIMTAB_DATABASE": database.url()}
        demo = subprocess.Popen([sys.executable, "-m", "services", "demo", "--production", *sys.argv[1:]], cwd=ROOT, env=os.environ | own)
        while True:
            try:
                return demo.wait()
            except KeyboardInterrupt:  # it has heard it too, and ends first
                continue


if __name__ == "__main__":
    sys.exit(main())
