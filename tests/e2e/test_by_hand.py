"""What docs/production.md says to enter by hand, entered: the same lines, in terminals of their own, on a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest

from deploy.kafka import broker
from deploy.postgres import server
from tests.parts import lacks

ROOT = Path(__file__).parents[2]
PORTS = {"8420": "console", "8421": "ingest", "8422": "rules", "8423": "actions"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Terminal:
    """A shell that has entered some lines; what it runs ends with it."""

    def __init__(self, tree: Path, lines: str, environment: dict[str, str]) -> None:
        self.said = tree / f"terminal-{time.monotonic_ns()}.txt"
        with self.said.open("w") as out:
            command = ["bash", "-e", "-c", lines]
            self.process = subprocess.Popen(command, cwd=tree, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True)

    def until(self, pattern: str, seconds: float = 90) -> re.Match[str]:
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said.read_text(), re.M)):
            assert self.process.poll() is None and time.monotonic() < end, f"{pattern!r} was not said: {self.said.read_text()[-2000:]}"
            time.sleep(0.1)
        return found

    def end(self) -> None:
        """As closing it: everything that it runs is asked to end."""
        for sign in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
                self.process.wait(30)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The repository as it is, with the virtual environment that is there."""
    for has in (broker.java, broker.jars, server.programs):
        try:
            has()
        except (broker.Missing, server.Missing) as why:
            lacks("kafka" if isinstance(why, broker.Missing) else "postgres", str(why))
    made = tmp_path / "trimtab"
    for name in subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, made / name)  # with its date: `make setup` is to find itself done
    (made / ".venv").symlink_to(ROOT / ".venv")
    return made


@pytest.fixture
def terminals() -> Iterator[ExitStack]:
    with ExitStack() as all_of_them:
        yield all_of_them


def blocks() -> list[str]:
    """The shell blocks below "Try it on one machine", with free ports in the place of its own."""
    text = (ROOT / "docs" / "production.md").read_text().partition("## Try it on one machine")[2].partition("\n## ")[0]
    for port, free in zip(PORTS, broker.free_ports(len(PORTS)), strict=True):
        text = text.replace(port, str(free))
    return re.findall(r"```sh\n(.*?)```", text, re.S)


def test_what_is_to_be_entered_by_hand_makes_a_production_that_answers(tree: Path, terminals: ExitStack) -> None:
    once, parts, settings, services, first = blocks()
    bare = {"PATH": os.environ["PATH"], "HOME": str(tree), "TRIMTAB_CACHE": str(broker.cache())}

    def enter(lines: str) -> Terminal:
        terminal = Terminal(tree, lines, bare)
        terminals.callback(terminal.end)
        return terminal

    assert enter(once).process.wait(120) == 0
    kafka, postgres = (enter(line) for line in parts.splitlines())
    told = "\n".join(part.until(r"^export TRIMTAB_\w+=.*$")[0] for part in (kafka, postgres))
    here = f"{told}\n{settings}"
    assert enter(f"{here}\ntrimtab migrate").process.wait(120) == 0
    running = [enter(f"{here}\n{line}") for line in services.strip().splitlines()]
    assert len(running) == len(PORTS)
    addresses = [terminal.until(r"is at (http://\S+);")[1] for terminal in running]
    for terminal, address in zip(running, addresses, strict=True):
        end = time.monotonic() + 90
        while httpx2.get(f"{address}/readyz").status_code != 200:
            assert terminal.process.poll() is None and time.monotonic() < end, terminal.said.read_text()[-2000:]
            time.sleep(0.2)
    console = addresses[services.strip().splitlines().index(next(line for line in services.splitlines() if "serve console" in line))]
    mine = enter(f"{here}\nexport TRIMTAB_URL={console}\n{first}\necho key $TRIMTAB_KEY\ntrimtab status\ntrimtab doctor")
    assert mine.process.wait(120) == 0, mine.said.read_text()
    said = mine.said.read_text()
    link = re.search(rf"{console}\S+", said)
    assert link is not None and httpx2.get(link[0]).status_code in (200, 303), said
    key = mine.until(r"^key (\S+)$")[1]
    event = {"id": "o-1", "source": "shop", "entity": "shop/acme", "kind": "order", "occurred_at": datetime.now(UTC).isoformat(), "amounts": {"orders": 1}}
    answer = httpx2.post(f"{console}/v1/events", json=event, headers={"authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1), answer.text
