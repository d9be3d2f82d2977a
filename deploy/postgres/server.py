"""PostgreSQL on this machine from Debian's packages, without a system service: a folder and a free loopback port of its own, ended by process id.

It does not run as root; where root starts it, it is the user `postgres` that Debian's package made. `make postgres` runs it until Ctrl-C.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a command, too

from deploy.kafka.broker import free_ports  # noqa: E402

OLDEST = 15
STARTS = 60  # seconds in which it accepts or has failed
USER = "trimtab"


class Missing(Exception):
    """A part that this machine lacks, and how to get it."""


class Failed(Exception):
    """The server did not start, or refused a statement, and what it said last."""


def programs() -> Path:
    """The folder of initdb and postgres, of the newest version that is there. Raises Missing."""
    found: dict[int, Path] = {}
    on_path = shutil.which("postgres")
    for path in [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), *([Path(on_path).resolve()] if on_path else [])]:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        if version := re.search(r"(\d+)", said):
            found[int(version[1])] = path.parent
    if not found or max(found) < OLDEST:
        raise Missing(f"there is no PostgreSQL {OLDEST} or newer: apt-get install postgresql")
    return found[max(found)]


@dataclass
class Server:
    """One server. `settings` are those of postgresql.conf; with `is_durable` False it forgets what a power cut would, and is faster."""

    settings: Mapping[str, str] = field(default_factory=dict)
    is_durable: bool = True
    port: int = 0
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    folder: Path = field(default_factory=Path)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        """It accepts, empty. Raises Missing or Failed."""
        self.bin = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="trimtab-postgres-"))
        self.port = self.port or free_ports(1)[0]
        given = self.folder / "password"
        given.write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.folder, given):
                shutil.chown(path, "postgres", "postgres")
        data = self.folder / "data"
        options = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={given}", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        made = subprocess.run([self.bin / "initdb", "-D", data, *options], capture_output=True, text=True, check=False, **self._owner())
        if made.returncode:
            raise Failed(made.stderr.strip())
        return self.run()

    def run(self) -> Server:
        """The process of the folder accepts, whatever the last one left."""
        forgetful = {} if self.is_durable else {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        usual = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(self.folder), "max_connections": "200"}
        chosen = [option for name, value in {**usual, **forgetful, **self.settings}.items() for option in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as out:
            self.process = subprocess.Popen([self.bin / "postgres", "-D", self.folder / "data", *chosen], stdout=out, stderr=out, **self._owner())
        until = time.monotonic() + STARTS
        while True:
            with suppress(Failed):
                self.sql("SELECT 1")
                return self
            if self.process.poll() is not None or time.monotonic() > until:
                raise Failed((self.folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends sessions and stops in order; SIGQUIT is `pg_ctl stop -m immediate`: nothing is finished, the next start recovers."""
        if self.process is not None:
            self.process.send_signal(sign)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres", user: str = USER, password: str | None = None, port: int | None = None) -> str:
        return f"postgresql+asyncpg://{user}:{self.password if password is None else password}@127.0.0.1:{port or self.port}/{database}"

    def sql(self, text: str, database: str = "postgres", user: str = USER, password: str | None = None) -> str:
        """What psql prints of the rows. Raises Failed with what the server said."""
        command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", database]
        environment = {"PATH": os.environ["PATH"], "PGPASSWORD": self.password if password is None else password, "PGCONNECT_TIMEOUT": "10"}
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise Failed(done.stderr.strip())
        return done.stdout.strip()

    def _owner(self) -> dict[str, Any]:
        return {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {"cwd": "/"}


def main() -> None:
    server = Server()
    try:
        server.start()
        print(f"PostgreSQL (process {server.process.pid if server.process else 0}) in {server.folder}; Ctrl-C ends it and removes the folder", flush=True)
        print(f"export TRIMTAB_DATABASE={server.url()}", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()
    except KeyboardInterrupt:
        pass
    except (Missing, Failed) as why:
        raise SystemExit(str(why)) from why
    finally:
        server.remove()


if __name__ == "__main__":
    main()
