"""Named places at which a test ends, halts, disturbs or delays this process; in any other process each of them is one falsy check.

    TRIMTAB_FAULTPOINT=engine.said:3:KILL      the third time the process comes to `engine.said` it is killed, as by kill -9

KILL ends the process at once, STOP halts it until SIGCONT, RAISE raises `Planted` there, DELAY sleeps for half a second, and SLOW does so each time from then
on. `POINTS` is the one list of names.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.kernel.errors import Misconfigured

VARIABLE = "TRIMTAB_FAULTPOINT"
LONG = 0.5  # seconds

POINTS = {
    "start.locked": "the folder is this process's; nothing in it is opened yet",
    "private.begun": "the file of a secret or a key is begun under another name",
    "private.written": "it is whole, under its first name",
    "database.migrated": "the schema is the newest",
    "database.written": "a transaction has made all its statements and is not committed",
    "database.committed": "a transaction is committed; nobody was told",
    "log.prepared": "a log's tables are made and not committed",
    "log.inserted": "a group of records is in its transaction, not committed",
    "log.committed": "a group of records is durable; nobody was told",
    "kafka.sent": "a batch is given to the brokers, not acknowledged",
    "kafka.acknowledged": "a batch is acknowledged by every replica in sync; nobody was told",
    "kafka.sealed": "a segment of a topic is whole in a file of this process; the archive does not hold it",
    "kafka.archived": "the archive holds a segment of a topic; nothing here remembers it",
    "ingest.received": "a delivery is read, verified and parsed; nothing of it is durable",
    "ingest.joined": "deliveries that waited together are one record, not yet given to the log",
    "ingest.appended": "the events are on the log; what else the delivery says is not durable",
    "ingest.changed": "changes by hand are on the log; what platforms said last is not remembered",
    "ingest.declared": "new measures have their level; none of their events is on the log",
    "ingest.accepted": "all of a delivery is durable; its sender has no answer",
    "ingest.answered": "the sender has its 202",
    "ingest.noted": "some outcomes of ours are remembered; that the log was read so far is not",
    "engine.loaded": "a checkpoint is the state; the log after it is not folded",
    "engine.restored": "the log is folded to its end; nothing new was said",
    "engine.fetched": "a page of the log is read, nothing of it folded",
    "engine.rebuilt": "the state was made again for a rule that reads more",
    "engine.stepped": "records are folded and judged; their decisions are not on the log",
    "engine.said": "decisions are on the log; nothing here remembers them",
    "engine.told": "the database knows of an activation",
    "engine.readied": "a rule's `ready` record is on the log",
    "engine.ticked": "an empty record that moves time is on the log",
    "checkpoint.dumped": "the state is copied for a checkpoint; no file is begun",
    "checkpoint.begun": "a checkpoint's file is begun",
    "checkpoint.written": "a checkpoint's file is written, not flushed",
    "checkpoint.flushed": "a checkpoint's file is on the disk, under its first name",
    "checkpoint.renamed": "a checkpoint has its name; the folder is not flushed",
    "checkpoint.kept": "a checkpoint is durable; older ones are not removed",
    "checkpoint.tidied": "one that is not needed any more is removed",
    "actions.taken": "decisions are in the inbox and routed, with the offset behind them, not committed",
    "actions.took": "the same, committed",
    "actions.queued": "one decision is to be executed, not committed",
    "actions.asked": "people are asked about one decision, not committed",
    "actions.parked": "one decision is parked, not committed",
    "actions.released": "one parked decision goes on, not committed",
    "actions.taken_over": "what the last process left is due",
    "actions.claimed": "decisions are claimed under a lease",
    "actions.observed": "the platform was read; no intent is committed",
    "actions.noted": "an intent is in its transaction, not committed",
    "actions.intended": "an intent is committed, its call not made",
    "actions.sent": "a call was answered; nothing of that is durable",
    "actions.looked": "the platform was read back; nothing of that is durable",
    "actions.recorded": "what was read back is durable",
    "actions.ending": "a decision's end and its outcomes are in their transaction, not committed",
    "actions.concluded": "a decision's end is committed, its outcomes not on the events log",
    "actions.appended": "outcomes are on the events log, not marked as sent",
    "actions.published": "outcomes are marked as sent",
    "actions.expiring": "escalations that nobody answered are ended, not committed",
    "ledger.inserted": "entries are in the ledger, its head is the old one, not committed",
    "ledger.appended": "entries and head agree, not committed",
    "people.answering": "an escalation has its answer, not committed",
    "people.approved": "an approval is committed; the person has no answer",
    "people.rejected": "a rejection is committed; the person has no answer",
    "people.cancelled": "decisions are cancelled, and that is committed; the person has no answer",
    "people.undone": "an undo is committed; the person has no answer",
    "people.switched": "the kill switch is committed; the person has no answer",
    "rules.drafted": "rules are kept as drafts; none is on the log",
    "rules.targeted": "targets are on the log; no rule of their pack is",
    "rules.activated": "an activation is on the log; the person has no answer",
    "rules.followed": "an activation is in the database's tables, not committed",
    "stop.begun": "an orderly stop has begun",
    "stop.ended": "everything is closed; the process has not ended",
}

EMBEDDED = tuple(name for name in POINTS if not name.startswith("kafka."))  # those that `trimtab up` can come to


class Planted(Exception):
    """A test asked for an error here."""


@dataclass(slots=True)
class _Plan:
    name: str
    left: int  # times to come here; the last of them does it
    deed: Callable[[], None]

    def reach(self, name: str) -> None:
        if name == self.name and self.left > 0:
            self.left -= 1
            if self.left == 0:
                self.left = int(self.deed is _slow)
                self.deed()


_plan: _Plan | None = None


def faultpoint(name: str) -> None:
    """Nothing, unless a test asked for something here."""
    if _plan is not None:
        _plan.reach(name)


def arm(name: str, hit: int, deed: Callable[[], None]) -> None:
    """The `hit`-th time that this process comes to the point, the deed is done."""
    global _plan
    _plan = _Plan(name, hit, deed)


def disarm() -> None:
    global _plan
    _plan = None


def arm_from(environment: Mapping[str, str]) -> str:
    """What the environment asks for is armed; returns it, "" for nothing. Raises Misconfigured for what cannot be read."""
    wanted = environment.get(VARIABLE, "")
    if not wanted:
        return ""
    name, _, rest = wanted.partition(":")
    hit, _, deed = rest.partition(":")
    if name not in POINTS or not hit.isdigit() or not int(hit) or deed not in DEEDS:
        raise Misconfigured(f"{VARIABLE}={wanted} is not name:hit:deed with a name of {__name__}, a count from 1, and one of {', '.join(DEEDS)}; unset it")
    arm(name, int(hit), DEEDS[deed])
    return wanted


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may take a moment; nothing may go on meanwhile


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _raise() -> None:
    raise Planted("planted by a test")


def _delay() -> None:
    time.sleep(LONG)


def _slow() -> None:
    time.sleep(LONG)


DEEDS: dict[str, Callable[[], None]] = {"KILL": _kill, "STOP": _stop, "RAISE": _raise, "DELAY": _delay, "SLOW": _slow}
