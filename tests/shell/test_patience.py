"""Pauses grow while something fails again and again, and begin anew once it has worked for a while."""

from __future__ import annotations

import asyncio

import pytest

from services.adapters.patience import Patience


async def test_what_has_worked_for_a_while_is_begun_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outages lie weeks apart: the last one must not make the next one longer."""
    now = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    patience, pauses = Patience(0.2, 1.0), []
    for lasted in (0.0, 0.1, 1.0, 0.0, 0.9, 1.1, 0.0):
        patience.begin()
        now += lasted
        pauses.append(patience.pause())
    assert pauses == [0.2, 0.4, 0.8, 1.0, 1.0, 0.2, 0.4]
