"""What the guards may know of many cells (object, rule) of one shape at once: the circumstances of one candidate, as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from services.kernel.entity import LEVELS
from services.kernel.record import I64
from services.rules_engine.core import evidence
from services.rules_engine.core.keys import Bools
from services.rules_engine.core.shape import Leaf, Shape
from services.rules_engine.core.truth import Judge

if TYPE_CHECKING:
    from services.rules_engine.core.judgement import Judgement
    from services.rules_engine.core.view import View

LEAST = np.iinfo(np.int64).min
CLOSE = 1000  # micro-nats: evidence as close as this to what is needed is computed exactly


class Cells:
    """Every column has one entry a cell. `uncertain` marks cells whose columns may not decide; they are looked at one by one."""

    def __init__(self, judgement: Judgement, shape: Shape, judge: Judge, view: View, rows: I64, places: I64) -> None:
        self.judgement, self.shape, self.judge, self.view, self.rows, self.places = judgement, shape, judge, view, rows, places
        self.now = judgement.now
        self.uncertain: Bools = np.zeros(len(rows), np.bool_)
        self.facts, self.workspace = judgement.workspace.facts, judgement.workspace

    def refusals(self) -> I64 | None:
        """A mask a cell, bit i being the i-th guard's refusal; None where a guard can only be asked cell by cell."""
        mask = np.zeros(len(self.rows), np.int64)
        for i, asked in enumerate(self.shape.program.guards):
            refuses = getattr(self.workspace.guards[asked.guard], "refuses", None)
            answers = None if refuses is None else refuses(self)
            if answers is None:
                return None
            mask |= answers.astype(np.int64) << i
        return mask

    def turn(self) -> int:
        """The next instant at which a guard that compares now with a known instant plus one of its durations may answer differently, 0 for none."""
        durations = [
            self.parameter(asked.guard, name, p.default if isinstance(p.default, int) else 0)
            for asked in self.shape.program.guards
            for name, p in self.workspace.guards[asked.guard].parameters.items()
            if p.kind == "duration"
        ]
        if not durations:
            return 0
        instants = [self.since, self.first_event, self.changed_at, self.changed_by_us_at]
        if self.shape.rules[0].sources:  # where none is read, nothing grows old
            instants.append(self.freshest)
        soonest = 0
        for duration in durations:
            for instant in instants:
                for t in (instant + duration, instant + duration + 1):
                    later = t[t > self.now]
                    if len(later):
                        soonest = min(soonest or int(later.min()), int(later.min()))
        return soonest

    # -- columns -----------------------------------------------------------------------------------------------------

    def parameter(self, guard: str, name: str, otherwise: int = 0) -> I64:
        """The guard's setting in each cell's rule: microseconds, parts per million or a number."""
        return self.shape.parameter(guard, name, otherwise)[self.places]

    def words(self, guard: str, name: str, otherwise: str) -> NDArray[np.str_]:
        """The guard's setting in each cell's rule, where it is a word."""
        return self.shape.words(guard, name, otherwise)[self.places]

    @property
    def since(self) -> I64:
        return self.shape.since.start[self.rows]

    @property
    def first_event(self) -> I64:
        first: I64 = self.facts.entities.first_event[self.rows]
        return first

    @property
    def freshest(self) -> I64:
        """The newest occurred_at or as_of of the source that has been silent longest; 0 where one was never heard; now where no source is read."""
        account = self.facts.entities.account(self.rows)
        sources = self.shape.rules[0].sources
        if not sources:
            return np.full(len(self.rows), self.now, np.int64)
        heard = [np.zeros(len(self.rows), np.int64) if (i := self.facts.sources.get(s)) is None else self.facts.newest[i][account] for s in sources]
        stalest: I64 = np.minimum.reduce(heard)
        return stalest

    @property
    def changed_at(self) -> I64:
        return self.workspace.changed_at[self.rows]

    @property
    def changed_by_us_at(self) -> I64:
        return self.workspace.ours_at[self.rows]

    def has_status(self, status: str) -> Bools:
        """Whether the status is known to be this; unknown is none."""
        is_it, unknown = self.view.attributes_of("status", self.rows, status)
        known: Bools = (is_it == 1) & ~unknown
        return known

    @property
    def status_known(self) -> Bools:
        seen, word, _ = self.facts.attributes.take("status", self.rows)
        known: Bools = seen & (word != 0) & (word != self.facts.attributes.vocabulary.get("", -1))
        return known

    def sample(self, i: int) -> tuple[I64, Bools, I64]:
        """(counted, unknown, least) of the i-th minimum, micro-units."""
        metric = self.shape.program.metrics[self.shape.program.minimums[i].metric]
        counted, unknown = self.view.sums(metric.numerator, self.shape.rules[0].sample_window, self.rows)
        return counted, unknown, self.shape.least[i][self.places]

    def others_staying(self, level: str) -> I64:
        """Siblings below the ancestor of that level that are on and will stay so."""
        depth, above = self.shape.program.depth, LEVELS.index(level) if level in LEVELS else len(LEVELS)
        if above >= depth:
            return np.zeros(len(self.rows), np.int64)
        return self.judgement.others_staying(depth, above, self.rows)

    def not_proven(self) -> Bools | None:
        """Whether evidence is missing or too small, of proportions against numbers; None where it has to be weighed object by object."""
        weigher = self.shape.rules[0].weighers[0]
        if not isinstance(self.shape.when, Leaf) or any(c.metric.family != "proportion" for c in weigher.claims):
            return None if weigher.claims else np.ones(len(self.rows), np.bool_)
        if not weigher.claims:
            return np.ones(len(self.rows), np.bool_)
        [claim] = weigher.claims
        assert claim.metric.denominator is not None
        n, unknown = self.view.sums(claim.metric.numerator, 0, self.rows)
        d, u = self.view.sums(claim.metric.denominator, 0, self.rows)
        p0 = self.shape.tested(self.judge)[self.places]
        fit = ~(unknown | u) & (n <= d) & (p0 > 0) & (p0 < 1)
        log_e = np.full(len(self.rows), LEAST)
        if fit.any():
            million = evidence.MICRO
            log_e[fit] = evidence.proportion_log_e(d[fit] / million, n[fit] / million, p0[fit], claim.side, weigher.coefficients[claim.side])
        needed = self.shape.needed[self.places]
        self.uncertain |= fit & (np.abs(log_e - needed) < CLOSE)
        return log_e < needed

