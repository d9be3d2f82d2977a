"""A simulated clock is declared in the log's first record, and a folder whose log runs on one kind of clock is not opened with the other (1.9)."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.adapters.clock import ManualClock
from services.adapters.settings import Settings
from services.embedded import Embedded
from services.kernel.errors import Misconfigured
from services.kernel.record import Clock, Record, Tick

NOW = 1_800_000_000_000_000


def practice(folder: Path) -> Embedded:
    return Embedded(Settings(data=folder, port=0), ManualClock(NOW), Clock(True, NOW))


def real(folder: Path) -> Embedded:
    return Embedded(Settings(data=folder, port=0))


async def first(trimtab: Embedded) -> Record:
    """The first record of its log, once it has started; it is stopped again."""
    try:
        await trimtab.start()
        return (await trimtab.events.read(0, 0))[0].record
    finally:
        await trimtab.stop()


async def test_practice_is_declared_once_and_its_folder_is_not_opened_for_real(tmp_path: Path) -> None:
    assert [await first(practice(tmp_path)), await first(practice(tmp_path))] == [Clock(True, NOW)] * 2
    with pytest.raises(Misconfigured, match="runs on a simulated clock: choose another folder"):
        await first(real(tmp_path))


async def test_what_is_real_is_not_opened_for_practice(tmp_path: Path) -> None:
    trimtab = real(tmp_path)
    await trimtab.start()
    await trimtab.events.append([("", Tick())])
    await trimtab.stop()
    with pytest.raises(Misconfigured, match="runs on the world's clock: choose another folder"):
        await first(practice(tmp_path))
    assert await first(real(tmp_path)) == Tick()
