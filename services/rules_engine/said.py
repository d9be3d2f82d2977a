"""What a partition has said: the decisions that its log holds. One that is derived again is recognised, not said again; what is new is appended."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import structlog

from services.adapters.codec.decision import encode
from services.adapters.faultpoint import faultpoint
from services.adapters.progress import Beat
from services.kernel.decision import Decision
from services.kernel.errors import Bug
from services.kernel.ports import Log
from services.rules_engine.checkpoint import Arrays
from services.rules_engine.core.state import Pieces
from services.rules_engine.patiently import patiently
from services.rules_engine.watched import Metrics

BATCH = 1000  # decisions read at once
ID = 16  # bytes of a decision's id
log = structlog.get_logger("rules_engine")


class Said:
    """`beat` is told that reading and waiting go on."""

    def __init__(self, decisions: Log[Decision], partition: int, metrics: Metrics, beat: Beat) -> None:
        self.decisions, self.number, self.metrics, self.beat = decisions, partition, metrics, beat
        self.place: dict[str, int] = {}  # decision id -> offset on the decisions log, in that order
        self.to_repeat: list[tuple[str, bytes]] = []  # (id, content; b"" if deleted) said, but not derived again yet; the next one last

    async def recall(self) -> None:
        """What the log holds beyond what is known is to be derived again."""
        new = {decision_id: found for decision_id, found in (await self._on_the_log(len(self.place))).items() if decision_id not in self.place}
        self.place |= {decision_id: offset for decision_id, (offset, _) in new.items()}
        self.to_repeat = [(decision_id, content) for decision_id, (_, content) in reversed(new.items())]

    async def recall_all(self) -> None:
        """All that is known to have been said is to be derived again."""
        there = await self._on_the_log(0)
        self.to_repeat = [(decision_id, there[decision_id][1] if decision_id in there else b"") for decision_id in reversed(self.place)]

    async def _on_the_log(self, at: int) -> dict[str, tuple[int, bytes]]:
        """(offset, content) of decisions from `at` on. One that a worker believed dead has repeated stands there twice.

        With repetitions the number of those known lies before the first unknown one, never after it.
        """
        there: dict[str, tuple[int, bytes]] = {}
        while page := await self.decisions.read(self.number, at, BATCH):
            for stamped in page:
                if stamped.record.id not in there:
                    there[stamped.record.id] = stamped.offset, content_of(stamped.record)
            at = page[-1].offset + 1
            self.beat()
        return there

    async def decision(self, decision_id: str) -> Decision | None:
        """A decision of this partition, or None."""
        offset = self.place.get(decision_id)
        return None if offset is None else (await self.decisions.read(self.number, offset, 1))[0].record

    async def say(self, decided: list[Decision]) -> None:
        """Appends what is new; what the log already holds must be what was derived again."""
        fresh = []
        for decision in decided:
            if not self.to_repeat:
                fresh.append(decision)
                continue
            before, content = self.to_repeat.pop()
            if before != decision.id:
                raise Bug(f"this build decides {decision.id} where the log holds {before}: two builds disagree", reason="decisions_differ")
            if content and content != content_of(decision):
                raise Bug(f"the log holds {before} with other content than this build gives it: two builds disagree", reason="decisions_differ")
        if not fresh:
            return
        await patiently(lambda attempt: self._append(fresh, attempt), self.number, self.beat)
        faultpoint("engine.said")
        for d in fresh:
            self.metrics.decisions.labels(d.rule_id, d.kind, d.mode).inc()
            for guard in d.refusals:
                self.metrics.refusals.labels(d.rule_id, guard).inc()
            log.info("decided", decision=d.id, rule=d.rule_id, entity=d.path, kind=d.kind, refusals=",".join(d.refusals))

    async def _append(self, fresh: list[Decision], attempt: int) -> None:
        """They are on the decisions log once, also where an append that failed had got through."""
        there = {decision_id: offset for decision_id, (offset, _) in (await self._on_the_log(len(self.place))).items()} if attempt else {}
        missing = [d for d in fresh if d.id not in there]
        places = await self.decisions.append([(d.workspace, d) for d in missing]) if missing else ()
        there |= {d.id: offset for d, (_, offset) in zip(missing, places, strict=True)}
        self.place |= {d.id: there[d.id] for d in fresh}

    def require_derived(self) -> None:
        """Raises Bug where the log holds what was not derived again."""
        if self.to_repeat:
            raise Bug(f"the decisions log holds {self.to_repeat[-1][0]}, which this build does not derive: two builds disagree", reason="decisions_differ")

    def dump(self) -> Pieces:
        """Every decision's id and place, for a checkpoint: a start would have to read the log from its beginning for them."""
        ids = np.frombuffer(bytes.fromhex("".join(self.place)), np.uint8).reshape(-1, ID)
        return {"said": [ids], "said_at": [np.array(list(self.place.values()), np.int64)]}

    def load(self, arrays: Arrays) -> None:
        """What was dumped is known again, and taken out of the arrays."""
        ids = arrays.pop("said").tobytes().hex()
        offsets = arrays.pop("said_at").tolist() if "said_at" in arrays else range(len(ids) // (2 * ID))
        self.place = {ids[2 * ID * i : 2 * ID * (i + 1)]: offset for i, offset in enumerate(offsets)}


def content_of(decision: Decision) -> bytes:
    """Equal for equal decisions alone."""
    return blake2b(encode(decision), digest_size=ID).digest()
