"""Plants bugs, one at a time, in a copy of the house; each must turn the tests named beside it red. `make planted` runs it.

A test that never failed proves nothing. What is planted here are the mistakes that would decide otherwise after a restart, act twice, act on what was
not seen, or let a forged fact in. A plant whose text is no longer in its file is stale: find where that line has gone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
COPIED = ("services", "tests", "rules", "proto", "deploy")
AT_ONCE = 2
GREEN, RED = 0, 1  # pytest's exit codes; any other means that the plant broke more than the tests


@dataclass(frozen=True)
class Plant:
    """`text` stands exactly once in `file`; with `bug` in its place, some test of `tests` fails."""

    name: str
    file: str
    text: str
    bug: str
    tests: tuple[str, ...]


def core(name: str) -> str:
    return f"services/rules_engine/core/{name}.py"


def actions(name: str) -> str:
    return f"services/actions/{name}.py"


ENGINE, FACTS, TRUTH, ADMISSION = (f"tests/core/test_{name}.py::" for name in ("engine", "facts", "truth", "admission"))
DETERMINISM, SOURCES, POLICY = (f"tests/core/test_{name}.py::" for name in ("determinism", "sources", "policy"))
ACTIONS, CRASH, LEDGER, WORKER = (f"tests/shell/test_{name}.py::" for name in ("actions", "actions_crash", "ledger", "worker"))
PARKING, RACES, WALK = (f"tests/shell/test_{name}.py::" for name in ("parking", "races", "actions_walk"))
EXECUTORS, LOG = (f"tests/contracts/test_{name}.py::" for name in ("executors", "log"))
NOW = '__import__("time").time_ns() // 1000'

PLANTS = (
    # -- the same log, the same decisions ---------------------------------------------------------------------------------
    Plant(
        "a decision's id is drawn, not derived",
        "services/kernel/decision.py",
        'return digest("decision", self.workspace, self.version, self.path, str(self.boundary))',
        'return __import__("uuid").uuid4().hex',
        (ENGINE + "test_ticks_only_move_time",),
    ),
    Plant(
        "a decision's id holds the time of deriving it",
        "services/kernel/decision.py",
        "str(self.boundary))",
        f"str({NOW}))",
        (ENGINE + "test_ticks_only_move_time",),
    ),
    Plant(
        "the engine reads the machine's clock",
        core("judgement"),
        "valid_until = self.now + program.valid_for",
        f"valid_until = {NOW} + program.valid_for",
        (ENGINE + "test_a_decision_is_valid_for_a_while_from_its_boundary",),
    ),
    Plant(
        "an event moves the clock by what it says of itself",
        core("partition"),
        "            if stamped.stamp > self.now:",
        "            self.now = max(self.now, *getattr(getattr(stamped.record, 'occurred_at', 0), 'tolist', list)(), 0)\n"
        "            if stamped.stamp > self.now:",
        (ENGINE + "test_no_sender_can_push_the_clock",),
    ),
    Plant(
        "an amount lands when its sender says, in the future too",
        core("facts"),
        "landing = origin = np.minimum(e.occurred_at, e.stamp)[of]",
        "landing = origin = e.occurred_at[of]",
        (FACTS + "test_an_amount_dated_ahead_lands_at_its_stamp",),
    ),
    Plant(
        "engine time follows a stamp that steps back",
        core("partition"),
        "if stamped.stamp > self.now:",
        "if stamped.stamp != self.now:",
        (ENGINE + "test_a_record_stamped_back_is_as_late_as_the_latest_before_it",),
    ),
    Plant(
        "a boundary sees the record that is stamped after it",
        core("partition"),
        "            if self.now >= self._soon:\n",
        "            if isinstance(stamped.record, EventBatch):\n                self._workspace(stamped.record.workspace).take(self.now, stamped.record)\n"
        "            if self.now >= self._soon:\n",
        (ENGINE + "test_a_record_on_the_boundary_belongs_to_the_next_one", ENGINE + "test_a_rule_fires_at_the_first_boundary_after_what_makes_it_true"),
    ),
    Plant(
        "a boundary after one that spoke is taken for a no-op",
        core("workspace"),
        "self.fresh = bool(decisions)",
        "self.fresh = False",
        (ADMISSION + "test_five_weak_creatives_do_not_all_see_four_others_live",),
    ),
    Plant(
        "candidates are admitted in the order of a hash",
        core("judgement"),
        "sorted(candidates, key=lambda c: c.order)",
        "sorted(candidates, key=lambda c: hash(c.path))",
        (DETERMINISM + "test_hash_seeds_and_time_zones_of_the_host_change_nothing",),
    ),
    Plant(
        "sums are floats",
        core("window"),
        "self.table: I64 = np.zeros((64, 4), np.int64)",
        "self.table = np.zeros((64, 4))",
        (FACTS + "test_sums_past_what_a_float_can_hold_are_exact",),
    ),
    Plant(
        "evidence sums are floats",
        core("sums"),
        "self._sums = Sums()",
        "self._sums = Sums()\n        self._sums.table = self._sums.table.astype(np.float64)",
        (ENGINE + "test_evidence_past_what_a_float_can_hold_is_exact",),
    ),
    Plant(
        "unknown is read as false by a column",
        core("truth"),
        "result[unknown] = UNKNOWN",
        "result[unknown] = FALSE",
        (TRUTH + "test_a_rate_below_its_threshold",),
    ),
    Plant(
        "unknown is read as false by exact arithmetic",
        core("truth"),
        "if a is None or b is None:\n            return UNKNOWN",
        "if a is None or b is None:\n            return FALSE",
        (TRUTH + "test_exact_arithmetic_keeps_what_is_unknown_unknown",),
    ),
    Plant(
        "unknown switches a rule off",
        core("lifecycle"),
        "else when == FALSE)",
        "else when != TRUE)",
        (ENGINE + "test_unknown_keeps_a_rule_on",),
    ),
    Plant(
        "a verified action does not spend its cause",
        core("workspace"),
        "outcome.status in SPENDING)",
        "outcome.status in SPENDING[1:])",
        (ENGINE + "test_what_was_done_is_not_done_again_for_the_same_cause",),
    ),
    # -- each fact once, where it belongs ---------------------------------------------------------------------------------
    Plant(
        "a snapshot is added instead of replacing",
        core("snapshots"),
        "difference[turn] = value[turn] - self.kept[at, VALUE]",
        "difference[turn] = value[turn]",
        (FACTS + "test_a_restated_day_amends_the_day_it_belongs_to",),
    ),
    Plant(
        "a restated day lands today",
        core("facts"),
        "np.where(end > stamp, stamp, end - 1)",
        "stamp",
        (FACTS + "test_a_restated_day_amends_the_day_it_belongs_to",),
    ),
    Plant(
        "an older row overwrites a newer one",
        core("snapshots"),
        "fits = as_of[turn] > self.kept[at, AS_OF]",
        "fits = as_of[turn] != self.kept[at, AS_OF]",
        (FACTS + "test_a_redelivered_older_row_changes_nothing",),
    ),
    Plant(
        "ids are forgotten when their period ends",
        core("seen"),
        "self.tables[period & 1] = Table()\n",
        "self.tables = [Table(), Table()]\n",
        (FACTS + "test_an_id_is_known_until_the_period_after_its_own_ends",),
    ),
    Plant(
        "the horizon of deduplication is one day",
        core("demand"),
        "HORIZON, AHEAD = 7 * DAY,",
        "HORIZON, AHEAD = DAY,",
        (FACTS + "test_a_delta_counts_for_seven_days_and_once",),
    ),
    Plant(
        "two sources share their ids",
        "services/kernel/ids.py",
        'digest("event", source, native_id)',
        'digest("event", native_id)',
        ("tests/core/test_normalize.py::test_one_id_of_two_sources_is_two_events",),
    ),
    Plant(
        "a restart says again what it said",
        "services/rules_engine/worker.py",
        "if not self.said:",
        "if True:",
        (WORKER + "test_a_restart_derives_again_what_was_said_and_says_none_of_it_again",),
    ),
    Plant(
        "two builds that disagree go on",
        "services/rules_engine/worker.py",
        "elif (before := self.said.pop()) != decision.id:",
        "elif (before := self.said.pop()) is None:",
        (WORKER + "test_two_builds_that_disagree_stop",),
    ),
    Plant(
        "a record stamped ahead of the machine's clock is fed",
        "services/rules_engine/worker.py",
        "if ahead > SKEW:",
        "if ahead > SKEW << 20:",
        (WORKER + "test_a_record_stamped_ahead_stops_the_partition_before_it_is_fed",),
    ),
    Plant(
        "a rule activated today reads today alone",
        "services/rules_engine/worker.py",
        "while wider.offset < until:",
        "while False:",
        (WORKER + "test_a_rule_activated_while_the_worker_runs_reads_the_days_that_the_log_holds",),
    ),
    Plant(
        "a log that is away for a while ends time for good",
        "services/rules_engine/worker.py",
        "except Unavailable as error:  # a full disk",
        "except ZeroDivisionError as error:  # a full disk",
        ("tests/shell/test_operations.py::test_time_goes_on_after_the_log_could_not_be_written_for_a_while",),
    ),
    Plant(
        "events are acknowledged before they are durable",
        "services/adapters/log/writer.py",
        "await asyncio.shield(waiting.done)",
        "await asyncio.sleep(0)",
        (LOG + "test_a_failure_reaches_every_waiting_sender",),
    ),
    # -- one decision, one effect -----------------------------------------------------------------------------------------
    Plant(
        "the inbox does not know what it holds",
        actions("intake"),
        "known = await store.hashes(tx, {d.id for _, d in fresh})",
        "known: dict[str, str] = {}",
        (ACTIONS + "test_a_decision_delivered_again_acts_once",),
    ),
    Plant(
        "the inbox has no unique key",
        "services/adapters/db/migrations/versions/0001_the_first_tables.py",
        'sa.UniqueConstraint("id", name=op.f("uq_decisions_id")),',
        "",
        (ACTIONS + "test_the_database_itself_keeps_a_decision_once",),
    ),
    Plant(
        "a worker claims what another one holds a lease on",
        actions("execute"),
        'and_(intents.c.state == "running", intents.c.lease_until < now))',
        'intents.c.state == "running")',
        (CRASH + "test_a_running_decision_of_another_living_worker_is_left_to_it",),
    ),
    Plant(
        "a worker that lost its lease goes on",
        actions("execute"),
        ".values(lease_until=now + self.pace.lease))).rowcount != 1:",
        ".values(lease_until=now + self.pace.lease))).rowcount < 0:",
        (CRASH + "test_a_stale_token_is_fenced_off", CRASH + "test_a_worker_that_lost_its_lease_writes_nothing_more"),
    ),
    Plant(
        "the fencing token is not compared",
        actions("execute"),
        "intents.c.token == lease.token, ",
        "",
        (CRASH + "test_a_stale_token_is_fenced_off",),
    ),
    Plant(
        "two changes of one object are in flight",
        actions("execute"),
        "if any(row.decision_id != lease.decision_id for row in taken):",
        "if False:",
        (ACTIONS + "test_one_object_has_one_change_in_flight",),
    ),
    Plant(
        "a call without an answer is made again without reading back",
        actions("execute"),
        "        self.metrics.calls.labels(executor.name, answer.kind).inc()\n        return answer",
        '        return answer if answer.kind != "unclear" else await executor.write(step, observed, key)',
        (ACTIONS + "test_a_call_that_never_arrived_is_never_sent_again",),
    ),
    Plant(
        "a 5xx is a definite no",
        actions("executors/sandbox"),
        "if 400 <= answer.status_code < 500:",
        "if answer.status_code >= 400:",
        (EXECUTORS + "test_a_fault_is_told_for_what_it_is",),
    ),
    Plant(
        "a timeout is a definite no",
        actions("executors/sandbox"),
        'return Answer("unclear", type(error).__name__)',
        'return Answer("refused", type(error).__name__)',
        (EXECUTORS + "test_a_timeout_is_unclear_and_a_late_write_counts_once",),
    ),
    Plant(
        "a budget goes over the wire as a difference",
        actions("executors/sandbox"),
        "json={step.attribute: step.desired}",
        "json={step.attribute: step.desired - observed.value if isinstance(step.desired, int) else step.desired}",
        (EXECUTORS + "test_a_status_and_a_budget_are_set_and_read_back",),
    ),
    Plant(
        "the call is made before its intent is committed",
        actions("execute"),
        "        if not await self._intend(lease, draft, key):\n            return False\n"
        '        self.point("intended")\n        answer = await self._write(step, observed, key)\n',
        "        answer = await self._write(step, observed, key)\n        if not await self._intend(lease, draft, key):\n            return False\n"
        '        self.point("intended")\n',
        (ACTIONS + "test_every_call_has_a_committed_intent_with_what_was_read_and_what_was_asked",),
    ),
    Plant(
        "the audit entry is written after the commit",
        actions("execute"),
        'done.effects)\n            await change.write(tx)\n        self.count(change)\n        self.point("concluded")\n',
        'done.effects)\n        self.point("concluded")\n        async with self.database.writing() as tx:\n            await change.write(tx)\n',
        (CRASH + "test_a_pause_is_neither_lost_nor_doubled",),
    ),
    Plant(
        "an outcome counts as sent before the log has it",
        actions("worker"),
        "        await self.events.append([(row.workspace, Outcome(**json.loads(row.body))) for row in rows])\n"
        '        self.point("appended")\n        async with self.database.writing() as tx:\n'
        "            await tx.execute(update(outbox).where(outbox.c.id.in_([row.id for row in rows])).values(sent_at=self.clock.now()))\n",
        "        async with self.database.writing() as tx:\n"
        "            await tx.execute(update(outbox).where(outbox.c.id.in_([row.id for row in rows])).values(sent_at=self.clock.now()))\n"
        '        self.point("appended")\n'
        "        await self.events.append([(row.workspace, Outcome(**json.loads(row.body))) for row in rows])\n",
        (CRASH + "test_a_pause_is_neither_lost_nor_doubled",),
    ),
    # -- nothing without its leave ----------------------------------------------------------------------------------------
    Plant(
        "an approval is not bound to what was seen",
        actions("people"),
        "decision.position, action.steps, valid_until",
        "decision.position, tuple(replace(s, observed=None) for s in action.steps), valid_until",
        (ACTIONS + "test_approving_re_checks_the_platform",),
    ),
    Plant(
        "of two answers to one escalation both count",
        actions("people"),
        'if row.status != "waiting":',
        "if False:",
        (RACES + "test_of_64_people_who_approve_and_reject_at_once_one_is_heard",),
    ),
    Plant(
        "what was undone may be undone again",
        actions("people"),
        'if earlier and earlier[-1] not in ("held", "failed", "cancelled"):',
        "if False:",
        (RACES + "test_of_64_people_who_undo_at_once_one_does",),
    ),
    Plant(
        "a parked decision leaves no entry",
        actions("parking"),
        '    change.note(intent.workspace, "decision.parked", intent.decision_id, intent.by, reason=reason)\n',
        "",
        (WALK + "test_whatever_happens_nothing_is_written_twice_unseen_or_against_the_switch",),
    ),
    Plant(
        "a restore that did nothing is left at that",
        actions("core/progress"),
        "if last.status != FAILED or",
        "if True or",
        (CRASH + "test_a_shift_ends_with_the_sum_it_began_with",),
    ),
    Plant(
        "what changed at the platform meanwhile is overwritten",
        actions("core/progress"),
        "if step.observed is not None and now.value != step.observed:",
        "if step.observed is not None and now.value is None:",
        (ACTIONS + "test_a_platform_changed_since_the_decision_is_left_alone",),
    ),
    Plant(
        "the kill switch is not looked at before a write",
        actions("execute"),
        "so = self.circumstances((await store.kill_switch(tx, lease.workspace)).engaged)",
        "so = self.circumstances(False)",
        (ACTIONS + "test_the_kill_switch_stops_a_change_between_reading_and_writing",),
    ),
    Plant(
        "the operator's hold is not looked at before a write",
        actions("execute"),
        "so = self.circumstances((await store.kill_switch(tx, lease.workspace)).engaged)",
        'so = __import__("dataclasses").replace(self.circumstances((await store.kill_switch(tx, lease.workspace)).engaged), hold=False)',
        (PARKING + "test_what_the_last_process_left_in_the_queue_is_not_written_in_hold_mode",),
    ),
    Plant(
        "under the kill switch a rule fires anew at every boundary",
        actions("core/policy"),
        "        return Park(parked)",
        "        return Hold(parked)",
        ("tests/e2e/test_stopping.py::test_under_the_kill_switch_a_weak_ad_is_decided_about_once_and_paused_when_it_is_released",),
    ),
    Plant(
        "what is parked is held when the engine waits no more",
        actions("core/policy"),
        "return valid_until - min(ROOM, valid_for // 4)",
        "return valid_until",
        (PARKING + "test_what_is_parked_past_its_last_call_is_held_while_the_engine_still_waits",),
    ),
    Plant(
        "a decision that grew stale in the queue is executed",
        actions("execute"),
        "if lease.steps and not has_begun and self.clock.now() > lease.valid_until:",
        "if False:",
        (ACTIONS + "test_a_decision_whose_time_ends_between_reading_and_writing_moves_nothing",),
    ),
    Plant(
        "a decision that arrives stale is executed",
        actions("core/policy"),
        "if so.now > last_call(proposal.valid_until, proposal.action.valid_for):",
        "if False:",
        (POLICY + "test_policy_answers",),
    ),
    Plant(
        "a simulated clock drives a real platform",
        actions("core/policy"),
        "if simulated and not practice:",
        "if False:",
        (POLICY + "test_policy_answers",),
    ),
    # -- no forged fact, no altered record --------------------------------------------------------------------------------
    Plant(
        "the signature is checked over JSON written anew",
        "services/ingest/core/signature.py",
        '.encode("utf-8", "surrogateescape") + delivery.body\n',
        '.encode() + __import__("json").dumps(__import__("json").loads(delivery.body)).encode()\n',
        (SOURCES + "test_reformatted_json_is_not_what_was_signed",),
    ),
    Plant(
        "signatures are compared with ==",
        "services/ingest/core/signature.py",
        'found |= hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogateescape"))',
        "found |= one == other",
        (SOURCES + "test_signatures_are_compared_in_constant_time",),
    ),
    Plant(
        "keys are compared with ==",
        "services/adapters/http/auth.py",
        'hmac.compare_digest(self._digest("key", secret), row.digest if row else NOBODY)',
        'self._digest("key", secret) == (row.digest if row else NOBODY)',
        ("tests/architecture/test_walls.py::test_secrets_are_compared_in_constant_time",),
    ),
    Plant(
        "a signature's time stamp is not checked",
        "services/ingest/core/signature.py",
        "    fresh(whole(stamp) * 1_000_000, now)\n",
        "    whole(stamp)\n",
        (SOURCES + "test_a_signature_further_away_on_either_side_is_stale",),
    ),
    Plant(
        "a stale signature is checked in one direction only",
        "services/ingest/core/signature.py",
        "if abs(now - sent_at) > tolerance:",
        "if now - sent_at > tolerance:",
        (SOURCES + "test_a_signature_further_away_on_either_side_is_stale",),
    ),
    Plant(
        "the ledger's hash leaves out the sequence",
        actions("ledger/chain"),
        '"sequence":{self.sequence},"subject"',
        '"subject"',
        (LEDGER + "test_every_field_is_under_the_hash",),
    ),
    Plant(
        "the verifier takes the last entry's word",
        actions("ledger/chain"),
        "if entry.hash != entry.expected_hash():",
        "if entry.hash != entry.expected_hash() and (head is None or entry.sequence < head.sequence):",
        (LEDGER + "test_tampering_names_the_first_broken_link",),
    ),
    Plant(
        "a cut-off tail is not missed",
        actions("ledger/chain"),
        "if head != last:",
        "if head.sequence < last.sequence:",
        (LEDGER + "test_tampering_names_the_first_broken_link",),
    ),
    # -- what is read by columns means what the careful reading makes of it ----------------------------------------------------
    Plant(
        "a key that stands twice is not seen",
        "services/ingest/core/usual.py",
        "!= 2 * strings:",
        "< 2 * strings:",
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "an hour past the last is read at once",
        "services/ingest/core/usual.py",
        "if of_day.max() >= DAY:",
        "if False:",
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "one measure said twice by one event is counted twice",
        "services/ingest/core/usual.py",
        'if moneys and any("@" in',
        'if False and any("@" in',
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "an entity with a gap belongs to another",
        "services/ingest/sources/sandbox.py",
        "(len(parts) < 4 and _has_a_gap(row.entity))",
        "False",
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "a revoked key is believed on",
        "services/adapters/http/auth.py",
        "self._known.clear()",
        "pass",
        ("tests/shell/test_auth.py",),
    ),
    Plant(
        "a workspace's boundaries move",
        "services/rules_engine/api.py",
        "known.interval not in (0, interval)",
        "known.interval < 0",
        ("tests/shell/test_rules_api.py::test_how_far_boundaries_are_apart_is_settled_by_the_first_activation",),
    ),  # fmt: skip
)


@dataclass(frozen=True)
class Grown:
    """What became of a plant."""

    plant: Plant
    verdict: str  # caught | SURVIVED | STALE | BROKEN
    by: str
    seconds: float


class Garden:
    """A copy of the house in which one bug at a time is planted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.writes = folder, 0
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.db*"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def test(self, tests: tuple[str, ...], patience: int = 90) -> tuple[int, str]:
        """(pytest's exit code, what it says); a run that takes longer than `patience` seconds is red: what hangs is noticed."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")} | {"PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-o", "timeout=60", *tests]
        try:
            done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=patience)
        except subprocess.TimeoutExpired:
            return RED, f"FAILED {tests[0]} - took longer than {patience} s"
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def planted(self, plant: Plant) -> Iterator[bool]:
        """The bug is there for as long as the block lasts; False where its place is not to be found, once and only once."""
        file = self.folder / plant.file
        sound = file.read_text() if file.exists() else ""
        if sound.count(plant.text) != 1:
            yield False
            return
        self._write(file, sound.replace(plant.text, plant.bug))
        try:
            yield True
        finally:
            self._write(file, sound)

    def _write(self, file: Path, text: str) -> None:
        """Every write has a time of its own: compiled code is told from its source by the second."""
        self.writes += 1
        file.write_text(text)
        at = time.time() + self.writes * 2
        os.utime(file, (at, at))

    def grow(self, plant: Plant) -> Grown:
        start = time.monotonic()
        with self.planted(plant) as found:
            if not found:
                return Grown(plant, "STALE", f"the text is not once in {plant.file}", 0)
            code, said = self.test(plant.tests)
        took = time.monotonic() - start
        if code == GREEN:
            return Grown(plant, "SURVIVED", ", ".join(plant.tests), took)
        red = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(.+?)(?: - |$)", said, re.M)
        if code != RED or red is None:
            return Grown(plant, "BROKEN", said.strip().splitlines()[-1][:120], took)
        return Grown(plant, "caught", red[1].replace(".py::", ": ").replace("_", " "), took)


def work(gardens: list[Garden], plants: tuple[Plant, ...], console: Console) -> list[Grown]:
    """Every plant grown, in the order of the list."""
    queue: Queue[Plant] = Queue()
    for plant in plants:
        queue.put(plant)
    grown: dict[str, Grown] = {}

    def dig(garden: Garden) -> None:
        while True:
            try:
                plant = queue.get_nowait()
            except Empty:
                return
            grown[plant.name] = result = garden.grow(plant)
            console.print(f"[{'green' if result.verdict == 'caught' else 'red'}]{result.verdict:8}[/] {plant.name}")

    diggers = [threading.Thread(target=dig, args=(garden,)) for garden in gardens]
    for digger in diggers:
        digger.start()
    for digger in diggers:
        digger.join()
    return [grown[plant.name] for plant in plants]


def sound(gardens: list[Garden], plants: tuple[Plant, ...], console: Console) -> bool:
    """Whether the named tests are green where nothing is planted."""
    tests = sorted({test for plant in plants for test in plant.tests})
    answers: dict[int, tuple[int, str]] = {}

    def ask(i: int) -> None:
        answers[i] = gardens[i].test(tuple(tests[i :: len(gardens)]), patience=240)

    askers = [threading.Thread(target=ask, args=(i,)) for i in range(len(gardens))]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    for code, said in answers.values():
        if code != GREEN:
            console.print("[red]The named tests are not green to begin with:[/]")
            console.print(said.strip(), markup=False)
    return all(code == GREEN for code, _ in answers.values())


def main(words: list[str]) -> int:
    """Exits with 0 where every plant was caught. With words: only the plants whose names hold one of them."""
    console, start = Console(width=170, highlight=False), time.monotonic()
    plants = tuple(p for p in PLANTS if not words or any(w in p.name for w in words))
    with tempfile.TemporaryDirectory(prefix="trimtab-planted-") as folder:
        gardens = [Garden(Path(folder) / str(i)) for i in range(AT_ONCE)]
        if not sound(gardens, plants, console):
            return 1
        console.print(f"{len({t for p in plants for t in p.tests})} named tests are green without a bug; now {len(plants)} bugs, one at a time")
        results = work(gardens, plants, console)
    table = Table("bug", "", "by", "s")
    for r in results:
        table.add_row(r.plant.name, r.verdict if r.verdict == "caught" else f"[bold red]{r.verdict}[/]", r.by, f"{r.seconds:.0f}")
    console.print(table)
    caught = sum(r.verdict == "caught" for r in results)
    console.print(f"{caught} of {len(results)} planted bugs were caught, in {time.monotonic() - start:.0f} s")
    return int(caught < len(results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
