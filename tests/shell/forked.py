"""Processes of our own commands, as forks of one that has read all modules: to read them takes longer than most commands do.

Each gets the words, the settings and the files of a process of its own, and runs the same entry point; see `tests.e2e.plug.zygote`.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.e2e.plug.zygote import CLEAN, TRIMTAB, Zygote

SANDBOX = "services.sandbox.__main__"


@cache
def zygote(modules: str | None = None) -> Zygote:
    """One for all commands of this process that find the same modules (PYTHONPATH); it ends with it, and its children with it."""
    made = Zygote(environment=CLEAN | ({} if modules is None else {"PYTHONPATH": modules}))
    atexit.register(made.close)
    return made


class Process:
    """A command that goes on, and what it says."""

    def __init__(self, words: Sequence[str], log: Path, settings: Mapping[str, str], entry: str = TRIMTAB, modules: str | None = None) -> None:
        with tempfile.TemporaryDirectory(prefix="trimtab-says-") as folder:
            pipe = Path(folder) / "out"
            os.mkfifo(pipe)
            file = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # opened before there is a writer
            self._child = zygote(modules).start(settings, log, words, pipe, entry)
            said = select.poll()
            said.register(file, select.POLLIN)
            while not said.poll(20) and self.poll() is None:
                pass  # until it has a writer, the pipe would be at its end for who reads it
        os.set_blocking(file, True)
        self.stdout = os.fdopen(file)

    @property
    def pid(self) -> int:
        return self._child.pid

    def poll(self) -> int | None:
        return self._child.ended()

    def wait(self, seconds: float) -> int:
        code = self._child.ended(seconds)
        if code is None:
            raise AssertionError(f"process {self.pid} did not end within {seconds:g} s")
        return code

    def send_signal(self, sign: signal.Signals) -> None:
        self._child.send(sign)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
