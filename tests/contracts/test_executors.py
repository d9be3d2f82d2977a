"""Every executor, over real HTTP: reads, sets absolute values, says what it knows and never more, writes at most once."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from services.actions.executors.contract import Answer, Observed, Step
from services.actions.executors.sandbox import Platform
from services.kernel.errors import Unavailable
from tests.shell.sandboxed import Sandbox, sandbox

AD = "sandbox/demo/c1/g1/a1"
PAUSE = Step(AD, "status", "active", "paused")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
async def executor(platform: Sandbox) -> AsyncIterator[Platform]:
    platform.client.delete("/faults")
    platform.load({AD: {"status": "active", "name": "Summer_v3"}, "sandbox/demo/c1": {"daily_budget": 80_000_000, "status": "active"}})
    one = Platform(platform.url, "sandbox", timeout=0.5)
    yield one
    await one.close()


def count(platform: Sandbox, key: str) -> int:
    return sum(e["key"] == key for e in platform.applied())


async def test_a_status_and_a_budget_are_set_and_read_back(platform: Sandbox, executor: Platform) -> None:
    for step in (PAUSE, Step("sandbox/demo/c1", "daily_budget", 80_000_000, 68_000_000), Step(AD, "status", "paused", "active")):
        seen = await executor.read(step)
        assert seen.value == step.observed
        assert (await executor.write(step, seen, f"k-{step.desired}")).kind == "accepted"
        assert (await executor.read(step)).value == step.desired
    assert [json.loads(line)["after"] for line in platform.journal.read_text().splitlines()[-3:]] == [
        {"status": "paused"},
        {"daily_budget": 68_000_000},
        {"status": "active"},
    ]


async def test_an_unknown_object_has_no_value_and_a_write_to_it_is_refused(executor: Platform) -> None:
    step = Step("sandbox/demo/none", "status", None, "paused")
    assert await executor.read(step) == Observed(None)
    assert (await executor.write(step, Observed(None), "k-none")).kind == "refused"


async def test_what_changed_meanwhile_is_refused_by_its_version(platform: Sandbox, executor: Platform) -> None:
    seen = await executor.read(PAUSE)
    platform.client.post(f"/by-hand/{AD}", json={"name": "Summer_v4"}).raise_for_status()
    answer = await executor.write(PAUSE, seen, "k-meanwhile")
    assert (answer.kind, answer.detail) == ("refused", "412 precondition")
    assert count(platform, "k-meanwhile") == 0


@pytest.mark.parametrize(
    ("fault", "kind", "applied"),
    [
        ("429", "refused", 0),
        ("500_before", "unclear", 0),
        ("500_after", "unclear", 1),
        ("drop_before", "unclear", 0),
        ("drop_after", "unclear", 1),
        ("error_inside", "refused", 0),
        ("garbage", "unclear", 1),
    ],
)
async def test_a_fault_is_told_for_what_it_is(platform: Sandbox, executor: Platform, fault: str, kind: str, applied: int) -> None:
    seen = await executor.read(PAUSE)
    platform.fault(fault)
    assert (await executor.write(PAUSE, seen, f"k-{fault}")).kind == kind
    assert count(platform, f"k-{fault}") == applied


async def test_a_timeout_is_unclear_and_a_late_write_counts_once(platform: Sandbox, executor: Platform) -> None:
    seen = await executor.read(PAUSE)
    platform.fault("latency", seconds=0.9)
    assert (await executor.write(PAUSE, seen, "k-slow")).kind == "unclear"
    assert (await executor.write(PAUSE, seen, "k-slow")).kind in ("accepted", "refused")
    assert count(platform, "k-slow") <= 1


async def test_one_key_is_applied_once(platform: Sandbox, executor: Platform) -> None:
    seen = await executor.read(PAUSE)
    for _ in range(3):
        assert (await executor.write(PAUSE, seen, "k-once")).kind == "accepted"
    assert count(platform, "k-once") == 1


@pytest.mark.parametrize("fault", ["500_before", "drop_before", "429"])
async def test_a_platform_that_cannot_be_read_is_never_guessed(platform: Sandbox, executor: Platform, fault: str) -> None:
    platform.fault(fault, method="GET")
    with pytest.raises(Unavailable):
        await executor.read(PAUSE)


async def test_a_platform_that_is_away_was_not_written(executor: Platform) -> None:
    away = Platform("http://127.0.0.1:1", "sandbox", timeout=0.5)
    assert (await away.write(PAUSE, Observed("active"), "k-away")).kind == "unsent"
    await away.close()


async def test_a_platform_that_takes_no_connection_in_time_was_not_written() -> None:
    """Its queue is full, so that a connection neither stands nor is refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(8):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        away = Platform(f"http://127.0.0.1:{full.getsockname()[1]}", "sandbox", timeout=0.3)
        assert await away.write(PAUSE, Observed("active"), "k-full") == Answer("unsent", "no connection could be made in time")
        await away.close()


def test_a_stranger_is_let_in_nowhere(platform: Sandbox) -> None:
    for method, path in (("GET", f"/objects/{AD}"), ("PATCH", f"/objects/{AD}"), ("GET", "/journal"), ("POST", "/faults")):
        assert platform.client.request(method, path, headers={"Authorization": "Bearer wrong"}, json={}).status_code == 401
