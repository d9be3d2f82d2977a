"""What of a partition is in no checkpoint yet: how much that is, since when, and whether a checkpoint is due."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Often:
    """A checkpoint is due after so many records, or so many seconds if there was any."""

    records: int = 200_000
    seconds: float = 300


class Unsaved:
    """Stamps are the records' own, in microseconds; `now` is in seconds of any clock that goes on."""

    def __init__(self, often: Often) -> None:
        self.often = often
        self.records = 0  # since the last checkpoint was begun
        self.oldest = 0  # stamp of the first record that no checkpoint has, 0 without one
        self._later = 0  # that of the first one that the checkpoint being written will not have
        self._since = 0.0  # when the last checkpoint was begun, or the partition

    def begin(self, now: float) -> None:
        self._since = now

    def met(self, stamp: int) -> None:
        """A record is on the log that is yet to be folded."""
        self.oldest = self.oldest or stamp

    def add(self, stamp: int, records: int) -> None:
        """So many were folded, the first of them with this stamp."""
        self.oldest, self._later = self.oldest or stamp, self._later or stamp
        self.records += records

    def is_due(self, now: float) -> bool:
        return self.records >= self.often.records or (self.records > 0 and now - self._since >= self.often.seconds)

    def begun(self, now: float) -> None:
        """A checkpoint of all that was folded is being written."""
        self.records, self._since, self._later = 0, now, 0

    def failed(self) -> None:
        """It was not written: one is due again in time, though nothing may come meanwhile."""
        self.records = max(1, self.records)

    def written(self) -> None:
        self.oldest = self._later
