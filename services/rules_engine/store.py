"""Rule versions: all queries in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import func, insert, select, update

from services.adapters.db.database import Database, again
from services.adapters.faultpoint import faultpoint
from services.kernel.errors import Conflict, NotFound
from services.kernel.record import Activation
from services.rules_engine.core.program import Program
from services.rules_engine.tables import rule_events, rule_versions


@dataclass(frozen=True, slots=True)
class Version:
    rule: str
    number: int
    version: str
    state: str
    by: str
    created_at: int
    program: str


COLUMNS = [rule_versions.c[name] for name in ("rule", "number", "version", "state", "by", "created_at", "program")]


def _turn(workspace: str) -> str:
    """Versions are numbered, and activations followed, one after the other."""
    return f"rules of {workspace}"


class RuleStore:
    def __init__(self, database: Database) -> None:
        self.database = database

    @again
    async def draft(self, workspace: str, programs: Sequence[Program], by: str, now: int) -> list[Version]:
        """Each program is a version of its rule; one that is already there keeps its number and state."""
        made = []
        async with self.database.writing(_turn(workspace)) as connection:
            for program in programs:
                mine = (rule_versions.c.workspace == workspace) & (rule_versions.c.rule == program.rule)
                known = (await connection.execute(select(*COLUMNS).where(mine, rule_versions.c.version == program.version))).one_or_none()
                if known is not None:
                    made.append(Version(*known))
                    continue
                last = (await connection.execute(select(func.max(rule_versions.c.number)).where(mine))).scalar() or 0
                version = Version(program.rule, last + 1, program.version, "draft", by, now, program.to_json())
                await connection.execute(insert(rule_versions).values(workspace=workspace, **asdict(version)))
                made.append(version)
        return made

    async def versions(self, workspace: str, rule: str | None = None) -> list[Version]:
        """By rule, newest first."""
        query = select(*COLUMNS).where(rule_versions.c.workspace == workspace).order_by(rule_versions.c.rule, rule_versions.c.number.desc())
        if rule is not None:
            query = query.where(rule_versions.c.rule == rule)
        async with self.database.reading() as connection:
            return [Version(*row) for row in await connection.execute(query)]

    async def find(self, workspace: str, rule: str, wanted: str) -> Version:
        """The version called v3, 3, or by at least six digits of its hash; "" is the newest. Raises NotFound, or Conflict where several fit."""
        every = await self.versions(workspace, rule)
        if not every:
            raise NotFound(f"there is no rule {rule!r} here; `trimtab rules list` names them")
        number = wanted.removeprefix("v")
        fitting = [v for v in every if not wanted or (number.isdigit() and v.number == int(number)) or (len(wanted) >= 6 and v.version.startswith(wanted))]
        if not fitting:
            raise NotFound(f"rule {rule!r} has no version {wanted!r}; it has {', '.join(f'v{v.number} ({v.version[:8]})' for v in every)}")
        if wanted and len(fitting) > 1:
            raise Conflict(f"several versions of {rule!r} begin with {wanted!r}; write more digits")
        return fitting[0]

    async def before(self, workspace: str, rule: str) -> Version:
        """The version that was active before the present one."""
        query = select(rule_events.c.version).where(rule_events.c.workspace == workspace, rule_events.c.rule == rule, rule_events.c.state == "active")
        async with self.database.reading() as connection:
            activated = [v for (v,) in await connection.execute(query.order_by(rule_events.c.id.desc()))]
        earlier = [v for v in activated if v != activated[0]] if activated else []
        if not earlier:
            raise NotFound(f"rule {rule!r} has no earlier active version to roll back to")
        return await self.find(workspace, rule, earlier[0])

    async def followed(self, partition: int) -> int:
        """The offset of the last activation that `follow` took in, -1 for none."""
        query = select(func.max(rule_events.c.offset)).where(rule_events.c.partition == partition)
        async with self.database.reading() as connection:
            last = await connection.scalar(query)
        return -1 if last is None else int(last)

    @again
    async def follow(self, activation: Activation, partition: int, offset: int, stamp: int) -> None:
        """The table says what the log says; a record seen before changes nothing."""
        w, rule, version = activation.workspace, activation.rule_id, activation.version
        async with self.database.writing(_turn(w)) as connection:
            seen = select(rule_events.c.id).where(rule_events.c.partition == partition, rule_events.c.offset == offset)
            if (await connection.execute(seen)).one_or_none() is not None:
                return
            values = {"workspace": w, "rule": rule, "version": version, "state": activation.state, "by": activation.by}
            await connection.execute(insert(rule_events).values(**values, at=stamp, partition=partition, offset=offset))
            mine = update(rule_versions).where(rule_versions.c.workspace == w, rule_versions.c.rule == rule)
            if activation.state != "retired":
                await connection.execute(mine.where(rule_versions.c.state == activation.state).values(state="retired"))
            await connection.execute(mine.where(rule_versions.c.version == version).values(state=activation.state))
            faultpoint("rules.followed")
