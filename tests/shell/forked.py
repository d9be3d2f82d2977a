"""Processes of our own commands, as forks of one that has read all modules: to read them takes longer than most commands do.

Each gets the words, the settings and the files of a process of its own, and runs the same entry point; see `tests.e2e.plug.zygote`.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.e2e.plug.zygote import CLEAN, TRIMTAB, Zygote

SANDBOX = "services.sandbox.__main__"


STARTS = 60.0  # seconds until a command says something


def zygote(modules: str | None = None) -> Zygote:
    """One for all commands of this process that find the same modules (PYTHONPATH); it ends with it, and its children with it."""
    return _zygote(CLEAN.get("PYTHONPATH") if modules is None else modules)


@cache
def _zygote(modules: str | None) -> Zygote:
    made = Zygote(environment=CLEAN | ({} if modules is None else {"PYTHONPATH": modules}))
    atexit.register(made.close)
    return made


class Process:
    """A command that goes on, and what it says."""

    def __init__(self, words: Sequence[str], log: Path, settings: Mapping[str, str], entry: str = TRIMTAB, modules: str | None = None) -> None:
        """It has said something, or has ended. Raises AssertionError, and it is killed, where it says nothing for too long."""
        with tempfile.TemporaryDirectory(prefix="trimtab-says-") as folder:
            pipe = Path(folder) / "out"
            os.mkfifo(pipe)
            self.stdout = os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))  # opened before there is a writer
            self._child = zygote(modules).start(settings, log, words, pipe, entry)
            try:
                self._hear()
            except BaseException:
                self.kill()
                self.stdout.close()
                raise
        os.set_blocking(self.stdout.fileno(), True)

    def _hear(self) -> None:
        """Until it has a writer, the pipe would be at its end for who reads it."""
        said, until = select.poll(), time.monotonic() + STARTS
        said.register(self.stdout, select.POLLIN)
        while not said.poll(20) and self.poll() is None:
            assert time.monotonic() < until, f"process {self.pid} has said nothing within {STARTS:g} s"

    @property
    def pid(self) -> int:
        return self._child.pid

    def poll(self) -> int | None:
        return self._child.ended()

    def rest(self, seconds: float) -> tuple[int, str]:
        """(exit code, what it still says) of one that ends within so many seconds; it is heard meanwhile, for a full pipe would keep it."""
        said: list[str] = []
        hearing = threading.Thread(target=lambda: said.append(self.stdout.read()), daemon=True)
        hearing.start()
        code = self.wait(seconds)
        hearing.join(seconds)
        return code, "".join(said)

    def wait(self, seconds: float) -> int:
        code = self._child.ended(seconds)
        if code is None:
            raise AssertionError(f"process {self.pid} did not end within {seconds:g} s")
        return code

    def send_signal(self, sign: signal.Signals) -> None:
        self._child.send(sign)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
