"""How long from an event to the decision it brings about, over HTTP, on a whole installation: log, engine and actions in one process, on SQLite.

Open loop: events are due at a fixed rate, and a latency counts from the instant its event was due. Some events are the first of their creative, which
makes a rule fire; its decision counts as there once it is durable on the decisions log. With boundaries 1 s apart an event waits half a second on
average for the next one: what is above that is ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import TypeAlias

import httpx2
import uvloop

from benchmarks.figure import Figure
from benchmarks.ingest import JSON, _instant, _path
from benchmarks.load import apart, open_loop, request

Probes: TypeAlias = list[tuple[int, str]]  # (the number of a request, the creative that it is the first of)

SECONDS = 15.0
PROBES = 20  # a second, at most
GOALS = {1_000: (0.7, 1.5), 100: (None, 0.35)}  # interval in ms -> p50 and p99 at most, in seconds
RULES = "".join(
    f"""
  - rule: dear-{n}
    owner: load@acme.example
    scope: {{level: creative}}
    when: cpc[24h] > {n + 20} EUR
    guards: {{sample: {{spend: {n + 50} EUR}}}}
    do: notify"""
    for n in range(20)
)
PACK = f"""
pack: load
account: {{platform: meta_ads, currency: EUR, time_zone: UTC, interval: INTERVALms}}
rules:
  - rule: first-click
    owner: load@acme.example
    scope: {{level: creative}}
    when: clicks[1h] > 0
    do: notify{RULES}
"""


def serve(cpu: int, folder: str) -> None:
    """A whole installation until its standard input ends; then of each decision of first-click when it was durable, and when its boundary was."""
    import structlog

    from services.adapters.settings import Settings
    from services.embedded import Embedded

    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    async def run() -> None:
        trimtab = Embedded(Settings.model_validate({"data": Path(folder), "port": 0}))
        await trimtab.start()
        seen: dict[str, tuple[float, float]] = {}
        ahead = time.time() - time.perf_counter()

        async def watch() -> None:
            async for page in trimtab.decisions.follow(0, 0):
                now = time.perf_counter()
                first = {s.record.path: s.record.now for s in page if s.record.rule_id == "first-click" and s.record.path not in seen}
                seen.update({path: (now, boundary / 1e6 - ahead) for path, boundary in first.items()})

        watching = asyncio.create_task(watch())
        async with trimtab.serving() as url:
            print(url, (await trimtab.cli_key()).read_text(), flush=True)
            await asyncio.to_thread(sys.stdin.read)
        watching.cancel()
        print(json.dumps(seen), flush=True)
        await trimtab.stop()

    uvloop.run(run())


def sent(rate: int, size: int, seconds: float, key: str) -> tuple[list[bytes], Probes]:
    """(requests, which of them is the first of which creative)."""
    rnd, now = random.Random(11), time.time_ns() // 1000
    headers = (JSON, ("authorization", f"Bearer {key}"))
    made: list[bytes] = []
    probes: Probes = []
    count = int(rate / size * seconds)
    every = max(1, count // int(PROBES * seconds))
    for r in range(count):
        events = []
        for i in range(size):
            path, kind, amounts = _path(rnd.randrange(1_250)), "impression", {"impressions": 1}
            if i == 0 and r % every == 0 and r > count // 10:  # the first tenth warms up
                path, kind, amounts = _path(10_000 + r), "click", {"clicks": 1}
                probes.append((r, path))
            at = _instant(now + int(r * size / rate * 1_000_000) - 5_000_000)
            events.append({"id": f"l-{r}-{i}", "source": "meta_ads", "entity": path, "kind": kind, "occurred_at": at, "amounts": amounts})
        made.append(request("POST", "/v1/events", json.dumps(events).encode(), headers))
    return made, probes


def measure(rate: int, size: int, interval: int, seconds: float = SECONDS, is_told: bool = True) -> Iterator[Figure]:
    """`interval` in milliseconds. Where the time goes follows, where it `is_told`."""
    with tempfile.TemporaryDirectory() as folder, apart() as core:
        arguments = [sys.executable, "-m", "benchmarks.latency", "serve", str(core), folder]
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdin is not None
        url, key = process.stdout.readline().split()
        applied = httpx2.post(f"{url}/v1/rules/apply", json={"pack": PACK.replace("INTERVAL", str(interval))}, headers={"Authorization": f"Bearer {key}"})
        applied.raise_for_status()
        requests, probes = sent(rate, size, seconds, key)
        measured, began = uvloop.run(open_loop(int(url.rpartition(":")[2]), requests, rate / size))
        time.sleep(2 * interval / 1000 + 1)
        process.stdin.close()
        seen: dict[str, tuple[float, float]] = json.loads(process.stdout.readline())
        process.wait(60)
    if measured.refused:
        raise RuntimeError(f"the server answered {measured.refused[0]!r}")
    case = f"events/s={rate} interval={interval}ms decisions={len(probes)}"
    yield from told(case, probes, {path: at for path, (at, _) in seen.items()}, began, size / rate, GOALS[interval])
    yield Figure("latency", f"{case} acknowledged p99", measured.quantile(0.99), "s", at_most=True)
    if is_told:
        waited = [seen[path][1] - (began + r * size / rate) for r, path in probes]
        decided = [at - boundary for at, boundary in (seen[path] for _, path in probes)]
        stages = (("acknowledged", measured.quantile(0.5)), ("waiting for its boundary", median(waited)))
        for name, value in (*stages, ("from the boundary to the durable decision", median(decided))):
            yield Figure("latency", f"{case} stage {name} p50", value, "s", at_most=True)


def told(
    case: str, probes: Probes, seen: Mapping[str, float], began: float, apart: float, goals: tuple[float | None, float | None], benchmark: str = "latency"
) -> Iterator[Figure]:
    """p50 and p99; requests were due `apart` seconds from one another, the first when it `began`. Raises RuntimeError where a decision is missing."""
    missing = [path for _, path in probes if path not in seen]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(probes)} decisions did not come in time, first {missing[0]}")
    took = sorted(seen[path] - (began + r * apart) for r, path in probes)
    for name, q, goal in (("p50", 0.5, goals[0]), ("p99", 0.99, goals[1])):
        value = took[min(int(len(took) * q), len(took) - 1)]
        yield Figure(benchmark, f"{case} event to decision {name}", value, "s", goal, at_most=True)


CASES = ((100, 1, 1_000), (1_000, 10, 1_000), (5_000, 25, 1_000), (1_000, 10, 100))


def figures(quick: bool = False) -> Iterator[Figure]:
    for rate, size, interval in CASES:
        yield from measure(rate, size, interval, 4.0 if quick else SECONDS, is_told=not quick)
    if quick:
        print("latency  where the time goes: skipped, it is told in whole sizes only", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        for figure in figures():
            print(figure, flush=True)
