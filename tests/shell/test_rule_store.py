"""Rule versions on either database: numbered without gaps and followed once, however many do it at the same time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from services.adapters.db.database import Database
from services.adapters.db.migrate import migrate
from services.kernel.record import Activation
from services.rules_engine.core.program import Program
from services.rules_engine.language.pack import load_pack
from services.rules_engine.store import RuleStore
from services.rules_engine.tables import rule_events

FIRST = (Path(__file__).parents[2] / "rules" / "first.yaml").read_text()


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[list[RuleStore]]:
    """Two processes' worth."""
    every = [Database(database_url) for _ in range(2)]
    await migrate(every[0])
    yield [RuleStore(d) for d in every]
    for d in every:
        await d.close()


def program(threshold: int) -> Program:
    [rule] = load_pack(FIRST.replace("0.8%", f"0.{threshold}%")).rules
    return rule.program


async def test_versions_drafted_at_once_are_numbered_without_gaps_and_each_once(stores: list[RuleStore]) -> None:
    programs = [program(t) for t in range(1, 9)]
    await asyncio.gather(*(store.draft("main", [p], "rita", 0) for p in programs for store in stores))
    made = await stores[0].versions("main")
    assert [v.number for v in made] == list(range(8, 0, -1))
    assert {v.version for v in made} == {p.version for p in programs}


async def test_an_activation_followed_by_two_is_followed_once_and_one_version_is_active(stores: list[RuleStore]) -> None:
    programs = [program(t) for t in (1, 2)]
    await stores[0].draft("main", programs, "rita", 0)
    activations = [Activation("main", p.rule, p.version, "active", "", "rita") for p in programs]
    for offset, activation in enumerate(activations):
        await asyncio.gather(*(store.follow(activation, 0, offset, 1) for store in stores * 4))
    async with stores[0].database.reading() as connection:
        assert await connection.scalar(select(func.count()).select_from(rule_events)) == 2
    assert {v.version: v.state for v in await stores[1].versions("main")} == {programs[0].version: "retired", programs[1].version: "active"}
    assert (await stores[0].before("main", programs[0].rule)).version == programs[0].version
