"""`trimtab up` in a tenth of the time: a process that has imported everything forks a child that runs the real command, real HTTP and real files.

    {"entry": "services.__main__", "words": ["up"], "settings": {...}, "out": "...", "log": "..."}
        ->  {"number": ..., "pid": ...}  ->  ... ->  {"number": ..., "code": ..., "at": ...}


It forks before any thread or loop exists, as many children as are asked for, and numbers them: a process id is another child's after a while. `Started` is
what both it and the real command give.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[3]
TRIMTAB = "services.__main__"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("TRIMTAB_")} | {"OPENBLAS_NUM_THREADS": "1"}


class Started(Protocol):
    """A Trimtab that was started.

    `ended` waits up to so many seconds for its end: its code (minus the signal's number), None while it runs. `send` sends a signal,
    which is nothing where it has ended already: it may be killed at any moment, also between a look at it and the signal.
    """

    pid: int
    ended_at: float  # of time.time(), once it has

    def ended(self, seconds: float = 0) -> int | None: ...

    def send(self, sign: signal.Signals) -> None: ...


class Command:
    """The real entry point; of another tree's code where `root` says so."""

    def __init__(self, settings: Mapping[str, str], log: Path, words: Sequence[str] = ("up",), root: Path = ROOT) -> None:
        with log.open("a") as file:
            command = [sys.executable, "-m", "services", *words]
            self._process = subprocess.Popen(command, cwd=root, env=CLEAN | dict(settings), stdout=subprocess.DEVNULL, stderr=file)
        self.pid, self.ended_at = self._process.pid, 0.0

    def ended(self, seconds: float = 0) -> int | None:
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self.ended_at = self.ended_at or time.time()
        return code

    def send(self, sign: signal.Signals) -> None:
        self._process.send_signal(sign)


class Zygote:
    """Starts children; of one thread."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", __name__), environment: Mapping[str, str] = CLEAN) -> None:
        self._process = subprocess.Popen(command, cwd=ROOT, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._ended: dict[int, tuple[int, float]] = {}  # a child's number -> (code, when)
        assert self._process.stdout is not None
        self._lines = Lines(self._process.stdout.fileno())

    def start(self, settings: Mapping[str, str], log: Path, words: Sequence[str] = ("up",), out: Path | None = None, entry: str = TRIMTAB) -> Child:
        """What it says goes to `out`, a file or a named pipe, or nowhere; its errors to `log`. `entry` is a module, whose `main` is called."""
        assert self._process.stdin is not None
        wanted = {"settings": dict(settings), "log": str(log), "words": list(words), "out": str(out or os.devnull), "entry": entry}
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._process.stdin.flush()
        while True:
            for said in self._said(30):
                if "code" not in said:
                    return Child(self, said["number"], said["pid"])

    def ended(self, number: int, seconds: float) -> tuple[int, float] | None:
        """How a child ended and when, waited for up to so long."""
        end = time.monotonic() + seconds
        while number not in self._ended:
            left = end - time.monotonic()
            self._said(max(left, 0))
            if left <= 0:
                break
        return self._ended.get(number)

    def _said(self, seconds: float) -> list[dict[str, Any]]:
        """What it says within that time; how children ended is kept."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return []
        lines = self._lines.read()
        assert lines is not None, "the zygote has ended"
        found = [json.loads(line) for line in lines]
        self._ended |= {said["number"]: (said["code"], said["at"]) for said in found if "code" in said}
        return found

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Child:
    def __init__(self, zygote: Zygote, number: int, pid: int) -> None:
        self.number, self.pid, self.ended_at = number, pid, 0.0
        self._zygote = zygote
        self._code: int | None = None

    def ended(self, seconds: float = 0) -> int | None:
        if self._code is None and (end := self._zygote.ended(self.number, seconds)) is not None:
            self._code, self.ended_at = end
        return self._code

    def send(self, sign: signal.Signals) -> None:
        if self.ended() is None:  # afterwards the id may be anybody's
            with suppress(ProcessLookupError):
                os.kill(self.pid, sign)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(warm_up(Path(folder)))
    assert threading.active_count() == 1, "a fork has one thread: none other may exist"
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, children = Lines(sys.stdin.fileno()), dict[int, tuple[int, int]]()  # the file by which each is watched -> (number, pid)
    numbers = count()
    while True:
        ready, _, _ = select.select([asked.file, *children], [], [])
        for watched in [w for w in children if w in ready]:
            number, pid = children.pop(watched)
            os.close(watched)
            _, status = os.waitpid(pid, 0)
            tell(number=number, code=os.waitstatus_to_exitcode(status), at=time.time())
        if asked.file not in ready:
            continue
        lines = asked.read()
        if lines is None:  # whoever asks has ended
            break
        for line in lines:
            wanted = json.loads(line)
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                become(wanted["entry"], wanted["words"], wanted["settings"], wanted["out"], wanted["log"])
            number = next(numbers)
            children[os.pidfd_open(pid)] = number, pid
            tell(number=number, pid=pid)
    for _, pid in children.values():
        os.kill(pid, signal.SIGKILL)


class Lines:
    """What comes over a file, by lines, without anything kept back that could be waited for."""

    def __init__(self, file: int) -> None:
        self.file, self._rest = file, b""

    def read(self) -> list[bytes] | None:
        read = os.read(self.file, 1 << 16)
        if not read:
            return None
        *lines, self._rest = (self._rest + read).split(b"\n")
        return lines


def tell(**said: Any) -> None:
    print(json.dumps(said), flush=True)


async def warm_up(folder: Path) -> None:
    """What a process does once in its life is done: modules read, grammars and schemas made. Nothing of the Trimtab that did it is left."""
    import httpx2

    import services.__main__
    import services.production.actions
    import services.production.console
    import services.production.ingest
    import services.production.rules
    import services.sandbox.__main__  # noqa: F401
    from services.adapters.settings import Settings
    from services.adapters.telemetry import configure
    from services.embedded import Embedded
    from tests.e2e.plug.story import FIRST, SHADOW

    configure("error", "text")
    trimtab = Embedded(Settings(data=folder / "data", port=0))
    await trimtab.start()
    async with trimtab.serving() as url, httpx2.AsyncClient(base_url=url, trust_env=False) as http:
        http.headers["Authorization"] = f"Bearer {(await trimtab.cli_key()).read_text()}"
        for pack in (FIRST, SHADOW):
            (await http.post("/v1/rules/apply", json={"pack": pack})).raise_for_status()
        (await http.get("/v1/escalations")).raise_for_status()
    await trimtab.stop()


def become(entry: str, words: Sequence[str], settings: Mapping[str, str], out: str, log: str) -> None:
    """This process is that command with these words and settings, and ends as it does."""
    command = importlib.import_module(entry).main
    writing = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for place, at in ((os.open(os.devnull, os.O_RDONLY), 0), (os.open(out, writing), 1), (os.open(log, writing), 2)):
        os.dup2(place, at)
        os.close(place)
    os.environ.update(settings)
    sys.argv = ["trimtab", *words]
    code = ended_with(command)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons, as every process does at its end
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ended_with(command: Callable[[], object]) -> int:
    """The code with which Python would end after it."""
    try:
        command()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    else:
        return 0
    return 1


if __name__ == "__main__":
    main()
