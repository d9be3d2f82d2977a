"""The state before a record, made again from what the log holds: never from its middle, and no error is lost over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.adapters.progress import Beat
from services.kernel.errors import Unreadable
from services.kernel.record import Poisoned, Stamped, Tick
from services.rules_engine.core.partition import Partition
from services.rules_engine.poison import Poisonous, culprit
from services.rules_engine.restore import Restore
from services.rules_engine.watched import Metrics
from tests.core.world import GUARDS

UNTIL = 7


class Cut:
    """A log of ticks whose records before `begin` and from `end` on are gone."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end

    async def read(self, partition: int, offset: int, limit: int = 1000) -> Sequence[Stamped[Any]]:
        return [Stamped(i, i, Tick()) for i in range(max(offset, self.begin), min(self.end, max(offset, self.begin) + limit))]


def restore(log: Any) -> Restore:
    return Restore(log, log, GUARDS, 0, None, Metrics(CollectorRegistry()), Beat())


async def test_the_state_before_a_record_is_made_of_all_that_came_before_it() -> None:
    assert (await restore(Cut(0, UNTIL)).before(UNTIL, Partition(GUARDS))).offset == UNTIL


@pytest.mark.parametrize(("begin", "end"), [(3, 10), (0, 5), (0, 0)], ids=["its beginning is gone", "its end is gone", "all is gone"])
async def test_where_the_log_does_not_hold_that_any_more_the_error_stands_and_no_record_is_blamed(begin: int, end: int) -> None:
    of, error = restore(Cut(begin, end)), ValueError("what the core said")
    with pytest.raises(Unreadable):
        await of.before(UNTIL, Partition(GUARDS))
    fed = [Stamped(UNTIL, UNTIL, Tick()), Stamped(UNTIL + 1, UNTIL + 1, Tick())]
    assert await culprit(fed, error, lambda until: of.before(until, Partition(GUARDS))) is error


async def test_the_record_that_the_core_raises_on_is_named() -> None:
    of, fed = restore(Cut(0, UNTIL)), [Stamped(UNTIL, UNTIL, Tick()), Stamped(UNTIL + 1, UNTIL + 1, Poisoned("unreadable"))]
    found = await culprit(fed, ValueError("what the core said"), lambda until: of.before(until, Partition(GUARDS)))
    assert isinstance(found, Poisonous) and (found.offset, found.why) == (UNTIL + 1, "ValueError: what the core said")
