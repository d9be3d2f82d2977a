"""Which decisions are carried out side by side: each executor's in a lane of its own, so that a slow platform keeps no other's waiting."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, func, or_, select

from services.actions.executors.contract import Executor
from services.actions.tables import intents


def _due(now: BindParameter[int]) -> ColumnElement[bool]:
    return or_(and_(intents.c.state == "queued", intents.c.due_at <= now), and_(intents.c.state == "running", intents.c.lease_until < now))


class Lane:
    """What of the queue is carried out side by side: that of some platforms, or all but that of some. No lane waits for another.

    The platform of an intent is read off its steps, canonical JSON, where a quotation mark inside of a text is escaped: no text can pass for a path.
    """

    def __init__(self, name: str = "", of: Collection[str] = (), all_but: Collection[str] = ()) -> None:
        self.name = name
        self.beat: Callable[[], None] = lambda: None  # told of each move: a round may take as long as platforms do
        touches = {platform: intents.c.steps.contains(f'"path":"{platform}/', autoescape=True) for platform in (*of, *all_but)}
        ours = [or_(*(touches[platform] for platform in of))] if of else []
        due = and_(_due(bindparam("now")), *ours, *(~touches[platform] for platform in all_but))
        self.where_due = select(intents.c.workspace).where(due).group_by(intents.c.workspace).order_by(func.min(intents.c.position), intents.c.workspace)
        self.any_due = select(intents.c.decision_id).where(due).limit(1)  # asked at each look at the queue, so it is made once
        self.due = select(intents).where(due, intents.c.workspace == bindparam("of")).order_by(intents.c.position).limit(200).with_for_update(skip_locked=True)


def lanes_of(executors: Mapping[str, Executor]) -> tuple[Lane, ...]:
    """One for each executor, so that a platform that takes seconds for a call keeps no other one's decisions waiting; the first has what none serves, too."""
    platforms = {id(executor): sorted(executor.platforms) for _, executor in sorted(executors.items())}
    rest = [platform for many in list(platforms.values())[1:] for platform in many]
    first = Lane(all_but=rest)
    return first, *(Lane(executors[many[0]].name, of=many) for many in list(platforms.values())[1:])
