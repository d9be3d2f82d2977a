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
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Queue

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
COPIED = ("services", "tests", "rules", "proto", "deploy", "docs", "benchmarks", "requirements", "helm")
FILES = ("pyproject.toml", "Dockerfile", ".dockerignore")
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
AHEAD = "tests/core/test_ahead.py::"
DETERMINISM, SOURCES, POLICY = (f"tests/core/test_{name}.py::" for name in ("determinism", "sources", "policy"))
CANCELLING = "tests/shell/test_cancelling.py::"
ACTIONS, CRASH, LEDGER, WORKER = (f"tests/shell/test_{name}.py::" for name in ("actions", "actions_crash", "ledger", "worker"))
MANY, POSTGRES = (f"tests/shell/test_{name}.py::" for name in ("many_workers", "postgres"))
PARKING, RACES, WALK = (f"tests/shell/test_{name}.py::" for name in ("parking", "races", "actions_walk"))
ROLLED = "tests/e2e/test_rolled.py::test_while_each_process_is_replaced_every_event_that_is_acknowledged_counts_once"
WATCHED, BEFORE = "tests/shell/test_ledger_watch.py::", "tests/shell/test_schema_before.py::"
SHOWN = "tests/e2e/test_demo_production.py::"
BENCH_CHECK, BENCH_CASES = "tests/architecture/test_bench_check.py::", "tests/architecture/test_bench_cases.py::"
ALIVE, CLOCKS = (f"tests/shell/test_{name}.py::" for name in ("livez", "clocks"))
BUCKET = "tests/shell/test_bucket.py::"
EXAMINED = "tests/shell/test_doctor_production.py::"
SEQUENCE = "tests/shell/test_sequence.py::"
CHECKPOINTS = "tests/shell/test_checkpoints.py::"
FAULTS = "tests/e2e/test_faults.py::"
PLUG = "tests/e2e/plug/test_plug.py::test_a_process_killed_several_times_leaves_everything_as_it_would_have_been"
LETTER = "tests/core/test_letter.py::"
FRONT, ROOM = (f"tests/shell/test_{name}.py::" for name in ("front", "room"))
EXECUTORS, LOG = (f"tests/contracts/test_{name}.py::" for name in ("executors", "log"))
SEGMENTS, ARCHIVED, COMMANDS = (f"tests/shell/test_{name}.py::" for name in ("segments", "archived_start", "log_commands"))
KEEPER, ARCHIVE, SEGMENT = (f"services/adapters/log/{name}.py" for name in ("keeper", "archive", "segment"))
EACH = "tests/shell/test_each.py::"
SHELF, TOPICS = "services/adapters/log/shelf.py", "tests/shell/test_kafka_archive.py::"
SCHEDULES = "tests/simulation/test_simulation.py::test_whatever_befalls_the_services_all_is_as_it_must_be"
KAFKA, ON_KAFKA = "services/adapters/log/kafka.py", "tests/shell/test_kafka_log.py::"
READER, BATCHES = "services/adapters/log/reader.py", "tests/shell/test_kafka_batch.py::"
CALLING = "services/adapters/http/calling.py"
UNPACKED = "services/adapters/log/unpacked.py"
FOLLOWING, PRODUCTION, SERVED = "services/adapters/log/following.py", "services/production", "tests/shell/test_services.py::"
RIGHTS = "tests/shell/test_kafka_rights.py::"
SHARE, SHARED = "services/rules_engine/share.py", "tests/shell/test_share.py::"
IMAGE, COMPOSE, CHART = (f"tests/architecture/test_{name}.py::" for name in ("dockerfile", "compose", "chart"))
PODS, TEMPLATES = "helm/trimtab/templates/_helpers.tpl", "helm/trimtab/templates"
NOW = '__import__("time").time_ns() // 1000'

PLANTS = (
    # -- alive ----------------------------------------------------------------------------------------------------------------
    Plant(
        "a follower is ended by its reader's end, which cancels whoever waits for it",
        "services/adapters/log/cluster.py", "TimeoutError, asyncio.CancelledError):", "TimeoutError):",
        (ON_KAFKA + "test_a_consumer_that_raises_at_its_end_cancels_nobody_who_waits_for_it",),
    ),
    Plant(
        "a loop that has ended is taken for one that is at work",
        "services/adapters/progress.py", "for task in self.tasks if task.done()", "for task in self.tasks if False",
        (ALIVE + "test_a_partition_whose_task_is_gone_is_told_at_once",),
    ),
    Plant(
        "a restore that takes long is taken for one that hangs",
        "services/rules_engine/worker.py", "self.done = fed[-1].offset + 1\n            self.beat()\n", "self.done = fed[-1].offset + 1\n",
        (ALIVE + "test_a_restore_beats_page_by_page_however_long_all_of_it_takes",),
    ),
    Plant(
        "the delay is that of the last record, however long ago it was fed",
        "services/rules_engine/worker.py", "return max(0, overdue, self._lag) / 1e6", "return max(0, self._lag) / 1e6",
        (ALIVE + "test_the_delay_grows_while_something_is_due_and_time_stands",),
    ),
    # -- clocks that differ ----------------------------------------------------------------------------------------------------
    Plant(
        "leases go by each machine's own clock",
        "services/adapters/db/clock.py", "OfTheMachine(own) if database.is_sqlite else OfTheDatabase()", "OfTheMachine(own)",
        (CLOCKS + "test_whatever_clocks_say_nobody_takes_what_another_that_lives_has",),
    ),
    Plant(
        "what elapses goes by a clock that may be set",
        "services/adapters/db/clock.py", "OfTheMachine(own) if database.is_sqlite", "Own(own) if database.is_sqlite",
        (CLOCKS + "test_the_time_that_all_share_is_the_databases_and_what_elapses_is_nobodys_to_set",),
    ),
    Plant(
        "what is put back waits for years",
        actions("execute"), "state=\"queued\", due_at=now + (self", "state=\"queued\", due_at=self.clock.now() + 10**15 + (self",
        (CLOCKS + "test_what_waits_for_another_look_waits_by_the_clock_that_all_share",),
    ),
    Plant(
        "a database that was put back is believed until the next look at its witness",
        actions("ledger/comparing"), "if self._good.connected < newest:", "if False:",
        (WATCHED + "test_nothing_is_written_over_a_connection_that_is_newer_than_the_last_look_at_the_witness",),
    ),
    Plant(
        "a comparison vouches for connections that were made while it ran",
        actions("ledger/comparing"),
        "            self._last = self._good = Compared(number, connected)\n",
        "            self._last = self._good = Compared(number, self._connected())\n",
        ("tests/shell/test_comparing.py::test_many_at_once_share_two_comparisons_though_each_comparison_and_each_of_them_makes_a_connection",),
    ),
    Plant(
        "an intent is withdrawn that another worker has taken over",
        actions("execute"),
        "intents.c.token == lease.token, intents.c.state == \"running\")\n            tries",
        "intents.c.state != \"\")\n            tries",
        (CRASH + "test_a_worker_that_stood_still_until_another_took_over_withdraws_nothing",),
    ),
    Plant(
        "an end waits for its checkpoint for as long as storage likes",
        "services/rules_engine/worker.py", "async with asyncio.timeout(self.leaving):", "async with asyncio.timeout(None):",
        (SHARED + "test_a_checkpoint_that_storage_does_not_take_keeps_nobody_from_taking_over",),
    ),
    Plant(
        "what came last is in no checkpoint for as long as nothing comes after it",
        "services/rules_engine/worker.py",
        "            self._save_when_due()  # where nothing comes any more, what came last is in one all the same\n", "",
        (CHECKPOINTS + "test_what_came_last_is_in_a_checkpoint_though_nothing_comes_after_it",),
    ),
    Plant(
        "a checkpoint is as old as its writing, whatever came meanwhile",
        "services/rules_engine/unsaved.py", "self.oldest = self._later", "self.oldest = 0",
        (CHECKPOINTS + "test_what_came_while_a_checkpoint_was_written_is_not_in_it",),
    ),
    Plant(
        "of a partition that has moved its old process still tells how old its checkpoint is",
        "services/rules_engine/watched.py", "self.stopped, self.saved, self.unsaved):", "self.stopped, self.saved):",
        (SHARED + "test_workers_come_and_go_as_the_group_says_and_offsets_follow_acknowledged_decisions",),
    ),
    Plant(
        "how far a restore is, is told of folding alone",
        "services/rules_engine/worker.py", "            self._get_on(LOOKED, begin, page[-1].offset + 1, end)\n", "",
        (SHARED + "test_while_a_partition_is_restored_it_is_told_how_far_that_is",),
    ),
    Plant(
        "doctor takes an old stamp for a clock that is behind",
        "services/doctor/production.py", "if end > ends[n][1] else ():", "if end else ():",
        (EXAMINED + "test_of_the_brokers_clocks_no_more_is_said_than_was_compared",),
    ),
    # -- many processes -------------------------------------------------------------------------------------------------------
    Plant(
        "a partition that was given to another goes on being followed",
        FOLLOWING, "            if number not in ours:\n", "            if False:\n",
        (SERVED + "test_each_partition_of_ours_is_followed_once_while_it_is_ours",),
    ),
    Plant(
        "a partition that is given back while it is let go is followed by nobody",
        FOLLOWING, "if number in self.ours and task.cancelled():", "if False:",
        (SERVED + "test_each_partition_of_ours_is_followed_once_while_it_is_ours",),
    ),
    Plant(
        "who stops begins what the group gives it meanwhile",
        FOLLOWING, "        if self._is_stopping:  # we are", "        if False:  # we are",
        (SERVED + "test_each_partition_of_ours_is_followed_once_while_it_is_ours",),
    ),
    Plant(
        "an engine that stops begins what the group gives it meanwhile",
        SHARE, "        if self._is_stopping:  # we are", "        if False:  # we are",
        (SHARED + "test_what_the_group_gives_while_we_stop_is_not_begun",),
    ),
    Plant(
        "who waits for a partition that is taken away waits for ever",
        "services/rules_engine/worker.py", "or self.stopped or self._is_gone)", "or self.stopped)",
        (SHARED + "test_who_waits_for_a_partition_that_is_taken_away_is_told_to_ask_again",),
    ),
    Plant(
        "a partition that goes on after a skip is taken down all the same",
        SHARE, "                if worker.stopped:\n                    return\n", "                return\n",
        (SHARED + "test_a_partition_that_stopped_at_a_record_goes_on_once_somebody_passes_over_it",),
    ),
    Plant(
        "requests are taken before what they need is there",
        PRODUCTION + "/service.py", "if (why := self.service.why_not_ready) and scope", "if (why := \"\") and scope",
        (SERVED + "test_while_what_it_needs_is_away_it_waits_says_so_and_takes_nothing",),
    ),
    Plant(
        "a service begins to work on a schema that is older than it needs",
        "services/adapters/db/migrate.py", "    elif there != newest:\n        raise Unavailable", "    elif False:\n        raise Unavailable",
        (SERVED + "test_a_schema_that_is_older_is_waited_for_and_one_of_a_newer_build_is_worked_with",),
    ),
    Plant(
        "while a new version replaces the old one the old one cannot start any more",
        "services/adapters/db/migrate.py", "    if not is_known:\n        log.warning", "    if False:\n        log.warning",
        (SERVED + "test_a_schema_that_is_older_is_waited_for_and_one_of_a_newer_build_is_worked_with",),
    ),
    Plant(
        "replays are asked of a service that has none",
        PRODUCTION + "/console.py", "|/v1/decisions/[^/]+/replay$", "",
        (SERVED + "test_what_is_asked_goes_to_the_service_that_has_it",),
    ),
    Plant(
        "what a request asks for gets lost where it is passed on",
        "services/adapters/http/passing.py", 'if scope["query_string"]:', "if False:",
        (SERVED + "test_a_request_is_passed_on_as_it_is_and_its_answer_back",),
    ),
    Plant(
        "a request loses its credential where it is passed on",
        "services/adapters/http/passing.py", 'frozenset({b"connection",', 'frozenset({b"authorization", b"connection",',
        (SERVED + "test_a_request_is_passed_on_as_it_is_and_its_answer_back",),
    ),
    Plant(
        "two processes pass a request to each other without end",
        PRODUCTION + "/rules.py", 'if any(name == self.HEADER for name, _ in scope["headers"]):', "if False:",
        (SERVED + "test_what_another_process_has_is_asked_of_that_one_once_and_what_is_ours_of_ourselves",),
    ),
    Plant(
        "a process answers for a workspace that another one has",
        PRODUCTION + "/rules.py", "            if partition in self.rules.share.ours:\n", "            if True:\n",
        (SERVED + "test_what_another_process_has_is_asked_of_that_one_once_and_what_is_ours_of_ourselves",),
    ),
    Plant(
        "people are answered from a state that is being restored",
        PRODUCTION + "/rules.py", "if worker is None or not (worker.restored or worker.stopped):", "if worker is None:",
        (SERVED + "test_nobody_is_answered_from_a_state_that_is_not_whole",),
    ),
    Plant(
        "a closed log looks like one that nothing is in",
        KAFKA, '            raise Unavailable("the log is closed", reason="log_closed")\n        async with self._readers.one',
        "            return []\n        async with self._readers.one",
        (SERVED + "test_a_closed_log_on_kafka_says_so_and_not_that_nothing_is_there",),
    ),
    Plant(
        "records that were read before a damaged one are lost with it",
        READER, "                if kept:  #", "                if not kept:  #",
        (ON_KAFKA + "test_what_was_read_before_a_damaged_record_is_not_lost_with_it",),
    ),
    Plant(
        "a batch that does not get smaller is said to be compressed",
        "services/adapters/log/batch.py", "    if len(made) >= len(batch):\n        return batch\n",
        "    if len(made) >= len(batch):\n        made = batch[:]\n",
        (BATCHES + "test_what_would_get_no_smaller_is_sent_as_it_is",),
    ),
    Plant(
        "a batch that is sent again is compressed once more",
        "services/adapters/log/batch.py", "        if self._buffer is None:\n", "        if True:\n",
        (BATCHES + "test_a_batch_that_is_sent_again_is_the_same",),
    ),
    Plant(
        "a batch's checksum is looked at by nobody",
        "services/adapters/log/checksum.py", " or checksum(self._data, begin, self._at) != CRC.unpack_from(self._data, begin + CRC_AT)[0]:", ":",
        (BATCHES + "test_a_bit_that_turned_anywhere_in_a_batch_is_found_before_a_record_of_it_is_read",),
    ),
    Plant(
        "a follower's consumer is lent to readers, too",
        READER, "            self.idle.remove(found)\n        return found", "            pass\n        return found",
        (ON_KAFKA + "test_who_reads_a_partition_and_then_follows_it_does_so_with_one_consumer",),
    ),
    Plant(
        "an answer in which nothing is ends its consumer",
        "services/adapters/log/checksum.py", "    def size_in_bytes(self) -> int:\n", "    def size(self) -> int:\n",
        (ON_KAFKA + "test_a_follower_hears_what_comes_after_answers_in_which_nothing_was",),
    ),
    Plant(
        "only the first batch of an answer is looked at",
        "services/adapters/log/checksum.py", "            self._at = begin + COUNTED + LENGTH.unpack_from(self._data, begin + LENGTH_AT)[0]\n",
        "            self._at = self._at or COUNTED + LENGTH.unpack_from(self._data, begin + LENGTH_AT)[0]\n",
        (BATCHES + "test_batches_whose_checksums_hold_are_read",),
    ),
    Plant(
        "our clients trust whoever answers",
        CALLING, "    return httpx2.create_ssl_context(trust_env=by_environment)", "    return httpx2.create_ssl_context(False)",
        ("tests/shell/test_calling.py::test_clients_share_what_they_trust_and_it_is_no_less",),
    ),
    Plant(
        "each client reads for itself whom it trusts",
        CALLING, "            options[\"verify\"] = trust(", "            trust(",
        ("tests/shell/test_calling.py::test_clients_share_what_they_trust_and_it_is_no_less",),
    ),
    Plant(
        "the certificate that one client shows is shown by all",
        CALLING, '{"verify", "cert", "transport"} & options.keys()', '{"verify", "transport"} & options.keys()',
        ("tests/shell/test_calling.py::test_what_a_client_shows_of_itself_no_other_shows",),
    ),
    Plant(
        "a record that was read already is given again, where its batch is fetched anew",
        UNPACKED, ">= self.next_fetch_offset:  #", ">= 0:  #",
        (BATCHES + "test_a_record_as_its_batch_has_it_says_what_aiokafkas_own_says",),
    ),
    Plant(
        "a consumer stands for ever before records that were compacted away",
        UNPACKED, "            self.next_fetch_offset = batch.next_offset  #", "            batch.next_offset  #",
        (BATCHES + "test_a_record_as_its_batch_has_it_says_what_aiokafkas_own_says",),
    ),
    Plant(
        "what Kafka notes of transactions is taken for a record of ours",
        UNPACKED, "            if not batch.is_control_batch:\n", "            if True:\n",
        (BATCHES + "test_a_record_as_its_batch_has_it_says_what_aiokafkas_own_says",),
    ),
    Plant(
        "whoever reads in this process is given records without their topic",
        UNPACKED, "    if of_value is not as_it_is:\n", "    if False:\n",
        (BATCHES + "test_only_a_consumer_that_asks_for_it_is_given_records_as_their_batches_have_them",),
    ),
    Plant(
        "deliveries that are joined keep their own numbers of words",
        "services/kernel/columns.py", " + np.repeat(first, [len(part) for part in parts])", " + np.repeat(first * 0, [len(part) for part in parts])",
        (LOG + "test_words_that_are_numbered_already_are_joined_and_cut_as_those_that_are_not",),
    ),
    Plant(
        "a webhook's secret opens another workspace than its own",
        "services/adapters/settings.py", "self.workspace if isinstance(given, list) else name, {}", "self.workspace, {}",
        ("tests/shell/test_settings.py::test_webhook_secrets_may_name_workspaces",),
    ),
    # -- the same log, the same decisions ---------------------------------------------------------------------------------
    Plant(
        "equal keys in one column are two where their bucket fills up between them",
        core("keys"), "(bucket + ~room)[lost]", "(bucket + (table.taken[bucket] == LANES))[lost]",
        ("tests/core/test_keys.py::test_equal_keys_in_one_column_are_one_key_where_their_bucket_fills_up_meanwhile",),
    ),
    Plant(
        "a key is taken for another of its hash",
        core("keys"), "equal = halves[:, 0] & halves[:, 1]", "equal = halves[:, 0] | True",
        ("tests/core/test_keys.py::test_keys_of_one_hash_are_told_apart",),
    ),
    Plant(
        "keys that have yet to move to the larger table are not found",
        core("keys"), "if self._before is not None and len(rest", "if self._before is None and len(rest",
        ("tests/core/test_keys.py::test_a_table_that_grows_does_not_wait_for_all_its_keys",),
    ),
    Plant(
        "what stands behind a record that cannot be read is accepted together with what stands before it",
        core("partition"), "elif not isinstance(record, Tick):", "elif False:",
        (ENGINE + "test_events_behind_a_poisoned_record_count_once_it_is_passed_over",),
    ),
    Plant(
        "events of a page are folded at the first boundary in it",
        core("workspace"), "self.facts.fold(self._arrivals, self._folded, self._taken, self._foreseen is not None)",
        "self.facts.fold(self._arrivals, self._folded, self._arrivals.records if not self._folded else self._folded, self._foreseen is not None)",
        (DETERMINISM + "test_no_split_into_batches_changes_a_decision",),
    ),
    Plant(
        "a record is taken to be laid out like the one before it",
        "services/adapters/codec/page.py", "            if data[start:stop] != said:\n", "            if len(data) < stop:\n",
        ("tests/contracts/test_pages.py::test_what_is_read_together_says_what_each_says_alone",),
    ),
    Plant(
        "records read together are all stamped like the last of them",
        "services/kernel/page.py", "np.fromiter((s for s, _ in batches[at:end])", "np.fromiter((batches[end - 1][0] for _ in batches[at:end])",
        ("tests/contracts/test_pages.py::test_the_engine_decides_the_same_on_what_was_read_together",),
    ),
    Plant(
        "an index outside its dictionary hides in a page",
        "services/adapters/codec/page.py", "if (filled[name] >= np.repeat(most, record[table])).any():", "if filled[name] is None:",
        ("tests/contracts/test_pages.py::test_an_index_outside_its_dictionary_is_found_in_the_record_that_has_it",),
    ),
    Plant(
        "a value next to a rule's number is sieved out",
        core("sieve"), "MARGIN = 1e-8", "MARGIN = -1e-8",
        ("tests/core/test_panel.py::test_a_value_next_to_a_rules_number_is_compared_exactly",),
    ),
    Plant(
        "what a rule multiplies a metric by is multiplied into its number",
        core("sieve"), "expression, bound = inner, bound / (a / b)", "expression, bound = inner, bound * (a / b)",
        ("tests/core/test_panel.py::test_a_metric_times_a_number_is_compared_exactly",),
    ),
    Plant(
        "a rule that stays forgets which objects it was asking about",
        core("panel"), "if was in before.asking:", "if was in before.pending:",
        ("tests/core/test_panel.py::test_a_rule_that_is_joined_by_another_goes_on_asking",),
    ),
    Plant(
        "what was folded ahead of a boundary leaves its window a boundary late",
        core("ahead"), "by = oldest.searchsorted(", "by = 1 + oldest.searchsorted(",
        (AHEAD + "test_what_is_worked_out_together_is_what_event_by_event_comes_to",),
    ),
    Plant(
        "what lands too late for a window is counted ahead all the same",
        core("ahead"), "return None if within.all() else within.nonzero()[0], left", "return None, left",
        (AHEAD + "test_what_is_worked_out_together_is_what_event_by_event_comes_to",),
    ),
    Plant(
        "what is worked out ahead begins with nothing instead of what the table holds",
        core("pairs"), "before = held - total[:, self._begin]", "before = -total[:, self._begin]",
        (AHEAD + "test_what_is_worked_out_together_is_what_event_by_event_comes_to",),
    ),
    Plant(
        "what was shown of a pane is not kept to leave it",
        core("window"), "self.panes[width].put(pane, part, rows)", "pass",
        (AHEAD + "test_what_is_worked_out_together_is_what_event_by_event_comes_to",),
    ),
    Plant(
        "so many boundaries are worked out at once that nothing of them stays in the cache",
        core("ahead"), "return events <= MOST_EVENTS and", "return",
        (AHEAD + "test_no_more_is_worked_out_at_once_than_is_worth_it_and_it_comes_to_the_same",),
    ),
    Plant(
        "boundaries are worked out at once though more moves in each than is worth it",
        core("ahead"), "moved <= BUSY * (end - at) and", "",
        (AHEAD + "test_no_more_is_worked_out_at_once_than_is_worth_it_and_it_comes_to_the_same",),
    ),
    Plant(
        "a quiet night after a busy day is worked out at once, whatever memory it takes",
        core("ahead"), "rows * (end - at) <= LARGEST and", "",
        (AHEAD + "test_no_more_is_worked_out_at_once_than_is_worth_it_and_it_comes_to_the_same",),
    ),
    Plant(
        "a report row's total is added ahead of its boundary",
        core("workspace"), "self.interval and not self._arrivals.events.as_of.any()", "self.interval > 0",
        (AHEAD + "test_what_is_worked_out_together_is_what_event_by_event_comes_to",),
    ),
    Plant(
        "a window is foreseen to begin before the first pane",
        core("window"), "return np.maximum((instants - self.width) // self.panes.width, self.first)", "return (instants - self.width) // self.panes.width",
        (AHEAD + "test_before_time_has_passed_the_width_of_a_window_nothing_leaves_it",),
    ),
    Plant(
        "where a sieve lets nearly everything through some of it is not looked at",
        core("glance"), "                return False\n", "                return True\n",
        (AHEAD + "test_a_sieve_that_lets_nearly_everything_through_is_asked_boundary_by_boundary",),
    ),
    Plant(
        "what comes on by turns is not looked at where its boundary was foreseen",
        core("judgement"), "if self._dirty is not None and len(self._dirty):", "if self._dirty is None:",
        (AHEAD + "test_what_comes_on_and_clears_by_turns_does_so_within_a_run",),
    ),
    Plant(
        "of two platforms' objects one's are looked at for the other's rules",
        core("glance"), "if not mine.all():", "if False:",
        (AHEAD + "test_what_is_worked_out_together_is_what_event_by_event_comes_to",),
    ),
    Plant(
        "rules since a change are foreseen from windows",
        core("panel"), "if self.sieve.reads_changes or len", "if len",
        (AHEAD + "test_rules_that_read_since_a_change_stand_beside",),
    ),
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
        "an event that is stamped back is as early as its stamp",
        core("partition"),
        "            if stamped.stamp > now:\n",
        "            if stamped.stamp != now:\n",
        (ENGINE + "test_a_record_stamped_back_is_as_late_as_the_latest_before_it",),
    ),
    Plant(
        "engine time follows a stamp that steps back",
        core("partition"),
        "if stamped.stamp > self.now:",
        "if stamped.stamp != self.now:",
        (ENGINE + "test_a_record_stamped_back_is_as_late_as_the_latest_before_it",),
    ),
    Plant(
        "engine time goes back with a stamp inside a stretch of events",
        core("partition"),
        "            if stamp > now:\n                if stamp >= soon:\n",
        "            if stamp != now:\n                if stamp >= soon:\n",
        (ENGINE + "test_of_events_that_are_fed_together_each_moves_time_and_is_seen_by_the_boundaries_after_it",),
    ),
    Plant(
        "a stretch of events is taken in past a boundary",
        core("partition"),
        "                if stamp >= soon:\n",
        "                if False:\n",
        (ENGINE + "test_of_events_that_are_fed_together_each_moves_time_and_is_seen_by_the_boundaries_after_it",),
    ),
    Plant(
        "events of several workspaces are taken in by the last of them",
        core("partition"),
        "if len(batches) == end - first else None",
        "if batches else None",
        ("tests/shell/test_partitions.py::test_each_workspace_is_decided_on_as_if_it_had_a_log_to_itself",),
    ),
    Plant(
        "the state before a record is made of the log's middle",
        "services/rules_engine/restore.py", "            require_whole(page, before.offset)\n", "            if not page:\n                return before\n",
        ("tests/shell/test_restore.py::test_where_the_log_does_not_hold_that_any_more_the_error_stands_and_no_record_is_blamed",),
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
        "nothing divided by nothing is above every number",
        core("truth"),
        "if above > 0 else UNKNOWN",
        "if above >= 0 else UNKNOWN",
        ("tests/core/test_readings.py::test_what_is_divided_by_nothing_lies_above_every_number_and_nothing_by_nothing_is_unknown",),
    ),
    Plant(
        "a threshold half way between two nano-units is rounded up",
        core("readings"),
        "and whole & 1 == 1)",
        "and whole >= 0)",
        ("tests/core/test_readings.py::test_a_threshold_in_nano_units_is_rounded_as_a_fraction_is",),
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
    Plant(
        "evidence is cut to micro-nats where it was rounded: a bit that no example shows",
        core("evidence"),
        "np.rint(log_e * MICRO)",
        "np.floor(log_e * MICRO)",
        ("tests/core/test_histories.py::test_what_was_decided_is_decided_again_byte_for_byte",),
    ),
    Plant(
        "a record that was there before tells why histories decide otherwise",
        "tests/histories/__init__.py",
        'if adr <= max(before["adr"], before["newest_adr"]):',
        'if adr < before["adr"]:',
        ("tests/core/test_histories.py::test_only_a_new_state_and_a_new_record_that_speaks_of_it_tell_a_change",),
    ),
    Plant(
        "a history that was removed is recorded anew, whatever is decided now",
        "tests/histories/__init__.py",
        'if not was_kept and (name in names() or name in before["files"]):',
        "if not was_kept and name in names():",
        ("tests/core/test_histories.py::test_a_history_that_was_removed_or_edited_is_no_new_one",),
    ),
    Plant(
        "a late word that nothing was done gives nothing back",
        core("lifecycle"),
        "return decision_id in (self.flight, self.missed)",
        "return decision_id == self.flight",
        (LETTER + "test_a_late_word_that_a_decision_was_not_carried_out_gives_its_cause_back",),
    ),
    Plant(
        "a late word about an old cause ends the wait for another",
        core("lifecycle"),
        'self.spent, self.outlived, self.missed = False, True, ""',
        "self.spent, self.outlived = False, True",
        (LETTER + "test_a_late_word_about_an_old_cause_ends_no_wait_for_another",),
    ),
    Plant(
        "new semantics take effect by a deployment",
        core("workspace"),
        "or flight.rule.program.semantics < GIVEN_BACK:",
        "or flight.rule.program.semantics < 1:",
        (LETTER + "test_a_rule_of_the_first_semantics_keeps_its_causes_spent",),
    ),
    Plant(
        "money that is not known is taken for a number, and moved without asking",
        core("propose"),
        "if program.semantics >= SPEND_UNKNOWN and any(unknown for _, unknown in each):",
        "if False:",
        (LETTER + "test_money_that_is_not_known_is_never_moved_without_asking_where_an_amount_asks",),
    ),
    Plant(
        "of two objects the money of one that is known stands for both",
        core("propose"),
        "any(unknown for _, unknown in each)",
        "all(unknown for _, unknown in each)",
        (LETTER + "test_of_two_objects_money_is_not_known_where_that_of_one_is_not",),
    ),
    Plant(
        "a rule of earlier semantics asks where it did not",
        core("propose"),
        "program.semantics >= SPEND_UNKNOWN",
        "program.semantics >= 1",
        (LETTER + "test_a_rule_of_earlier_semantics_takes_an_unknown_spend_for_its_sum",),
    ),
    Plant(
        "a trial does what people would be asked about, where the money is not known",
        "services/rules_engine/trial.py",
        "(spent is None or spent > approve[\"above\"])",
        "spent is not None and spent > approve[\"above\"]",
        ("tests/shell/test_told.py::test_each_text_reads_word_for_word_as_it_should",),
    ),
    Plant(
        "a restart forgets whose deadline has spent a cause",
        core("state"),
        " | MISSED * bool(life.missed)",
        "",
        (LETTER + "test_a_late_word_gives_the_cause_back_after_a_restart_too",),
    ),
    # -- the letter, sentence by sentence -------------------------------------------------------------------------------
    Plant(
        "refusals are told once, and not when they change",
        core("judgement"),
        "if refusals == life.emitted:",
        "if life.emitted is not None:",
        (ADMISSION + "test_a_weak_creative_goes_only_once_it_is_proven_weak",),
    ),
    Plant(
        "refusals that became fewer are not told",
        core("judgement"),
        "if refusals == life.emitted:",
        "if life.emitted is not None and set(refusals) <= set(life.emitted):",
        (ADMISSION + "test_freshness_refuses_after_its_time_and_equal_passes",),
    ),
    Plant(
        "refusals are counted where they should be compared",
        core("judgement"),
        "if refusals == life.emitted:",
        "if len(refusals) == len(life.emitted or ()):",
        (ADMISSION + "test_five_weak_creatives_do_not_all_see_four_others_live",),
    ),
    Plant(
        "what columns refuse is looked at once, and not when it changes",
        core("judgement"),
        "(mask != told_before)",
        "(told_before < 0)",
        (ADMISSION + "test_freshness_refuses_after_its_time_and_equal_passes",),
    ),
    Plant(
        "of what fired nobody is told that it cleared",
        core("lifecycle"),
        "told = self.emitted is not None and not self.flight",
        "told = bool(self.emitted) and not self.flight",
        (ENGINE + "test_a_verified_outcome_is_a_change_from_its_stamp_and_sets_the_attribute",),
    ),
    Plant(
        "what nobody was told of is said to have cleared",
        core("lifecycle"),
        "told = self.emitted is not None and not self.flight",
        "told = not self.flight",
        (LETTER + "test_a_spent_cause_stays_spent_though_the_object_leaves_the_scope_and_comes_back",),
    ),
    Plant(
        "what was told of one cause counts as told of the next",
        core("lifecycle"),
        "self.on, self.since, self.emitted = False, -1, None",
        "self.on, self.since = False, -1",
        (LETTER + "test_a_spent_cause_stays_spent_though_the_object_leaves_the_scope_and_comes_back",),
    ),
    Plant(
        "a spent cause is forgotten while its object is out of scope",
        core("lifecycle"),
        "return not self.on and self.since < 0 and not self.flight and not self.spent",
        "return not self.on and self.since < 0 and not self.flight",
        (LETTER + "test_a_spent_cause_stays_spent_though_the_object_leaves_the_scope_and_comes_back",),
    ),
    Plant(
        "a rule asks on though its cause is spent",
        core("lifecycle"),
        "return self.on and when == TRUE and not self.spent and not self.flight",
        "return self.on and when == TRUE and not self.flight",
        (LETTER + "test_a_spent_cause_stays_spent_though_the_object_leaves_the_scope_and_comes_back",),
    ),
    Plant(
        "an approval ends the wait",
        core("lifecycle"),
        '"held", "expired", "cancelled")',
        '"held", "expired", "cancelled", "approved")',
        (LETTER + "test_what_spends_a_cause_and_what_does_not",),
    ),
    Plant(
        "in shadow a pair fires at every boundary",
        core("judgement"),
        "c.life.spent = True",
        "c.life.spent = False",
        (LETTER + "test_a_pair_fires_in_shadow_once_a_cause",),
    ),
    Plant(
        "versions of a rule share the ids of their decisions",
        "services/kernel/decision.py",
        "self.workspace, self.version, self.path",
        "self.workspace, self.rule_id, self.path",
        (LETTER + "test_the_id_of_a_decision_is_that_of_workspace_version_path_and_boundary",),
    ),
    Plant(
        "whoever was admitted changes nothing for those after it",
        core("judgement"),
        "held or (switched and c.rule.counts_siblings and any(",
        "held or (False and any(",
        (ADMISSION + "test_five_weak_creatives_do_not_all_see_four_others_live",),
    ),
    Plant(
        "whoever is about to leave still counts for those after it",
        core("judgement"),
        "counts[int(e.lineage[row, above])] -= 1",
        "counts[int(e.lineage[row, above])] -= 0",
        (ADMISSION + "test_the_strongest_evidence_is_admitted_first",),
    ),
    Plant(
        "whose pausing is in flight counts as staying",
        core("judgement"),
        'if row is not None and self.workspace.flights[decision_id].rule.program.action.kind == "pause":',
        "if False:",
        (ADMISSION + "test_five_weak_creatives_do_not_all_see_four_others_live",),
    ),
    Plant(
        "an object is among the others that stay",
        core("judgement"),
        "counts[e.lineage[rows, above]] - staying[rows]",
        "counts[e.lineage[rows, above]]",
        (ADMISSION + "test_five_weak_creatives_do_not_all_see_four_others_live",),
    ),
    Plant(
        "whose budget was admitted counts as leaving",
        core("judgement"),
        '                if c.rule.program.action.kind == "pause":\n',
        "                if True:\n",
        (LETTER + "test_whose_budget_is_changed_stays_on",),
    ),
    Plant(
        "whose budget is in flight counts as leaving",
        core("judgement"),
        'if row is not None and self.workspace.flights[decision_id].rule.program.action.kind == "pause":',
        "if row is not None:",
        (LETTER + "test_whose_budget_is_changed_stays_on",),
    ),
    Plant(
        "two rules act on one object at one boundary",
        core("judgement"),
        'held = any(path in self.workspace.held for path in c.path.split("|"))',
        "held = False",
        (ENGINE + "test_one_object_has_one_decision_in_flight",),
    ),
    Plant(
        "a pair acts on an object that another rule holds",
        core("judgement"),
        'held = any(path in self.workspace.held for path in c.path.split("|"))',
        "held = c.path in self.workspace.held",
        (LETTER + "test_a_pair_one_of_which_is_held_is_outranked",),
    ),
    Plant(
        "whom another stopped is not said to be outranked",
        core("judgement"),
        "(*c.verdicts, OUTRANKED)",
        "c.verdicts",
        (ADMISSION + "test_five_weak_creatives_do_not_all_see_four_others_live",),
    ),
    Plant(
        "what people rejected is proposed again for its cause",
        core("workspace"),
        "outcome.status in SPENDING)",
        'outcome.status in SPENDING and outcome.status != "rejected")',
        (LETTER + "test_what_spends_a_cause_and_what_does_not",),
    ),
    Plant(
        "what failed is tried again for its cause",
        core("workspace"),
        "outcome.status in SPENDING)",
        'outcome.status in SPENDING and outcome.status != "failed")',
        (LETTER + "test_what_spends_a_cause_and_what_does_not",),
    ),
    Plant(
        "what may have been done is done again for its cause",
        core("workspace"),
        "outcome.status in SPENDING)",
        'outcome.status in SPENDING and outcome.status != "unknown")',
        (LETTER + "test_what_spends_a_cause_and_what_does_not",),
    ),
    Plant(
        "what was held is never proposed again",
        core("workspace"),
        "outcome.status in SPENDING)",
        'outcome.status in (*SPENDING, "held"))',
        (LETTER + "test_what_spends_a_cause_and_what_does_not",),
    ),
    Plant(
        "what nobody answered is never proposed again",
        core("workspace"),
        "outcome.status in SPENDING)",
        'outcome.status in (*SPENDING, "expired"))',
        (LETTER + "test_what_spends_a_cause_and_what_does_not",),
    ),
    Plant(
        "a deadline spends nothing",
        core("workspace"),
        "self._land(decision_id, spends=True)",
        "self._land(decision_id, spends=False)",
        (ENGINE + "test_a_deadline_counts_as_unknown",),
    ),
    Plant(
        "a deadline leaves people no time",
        core("workspace"),
        "deadline = decision.now + within + rule.program.valid_for",
        "deadline = decision.now + rule.program.valid_for",
        (LETTER + "test_an_object_is_held_until_the_deadline_to_the_boundary",),
    ),
    Plant(
        "a deadline leaves what people approved no time",
        core("workspace"),
        "deadline = decision.now + within + rule.program.valid_for",
        "deadline = decision.now + (within or rule.program.valid_for)",
        (LETTER + "test_an_object_is_held_until_the_deadline_to_the_boundary",),
    ),
    Plant(
        "where an amount asks people have no time",
        core("workspace"),
        "within = approve.within if approve.always or approve.above >= 0 else 0",
        "within = approve.within if approve.always else 0",
        (LETTER + "test_an_object_is_held_until_the_deadline_to_the_boundary",),
    ),
    Plant(
        "a deadline waits for people that nobody asks",
        core("workspace"),
        "within = approve.within if approve.always or approve.above >= 0 else 0",
        "within = approve.within",
        (LETTER + "test_an_object_is_held_until_the_deadline_to_the_boundary",),
    ),
    Plant(
        "a deadline passes one boundary late",
        core("workspace"),
        "self.deadlines[0][0] <= now",
        "self.deadlines[0][0] < now",
        (LETTER + "test_an_object_is_held_until_the_deadline_to_the_boundary",),
    ),
    Plant(
        "a stretch of truth goes on while the truth is unknown",
        core("lifecycle"),
        "if when != TRUE:\n            self.spent",
        "if when == FALSE:\n            self.spent",
        (LETTER + "test_an_unknown_truth_ends_a_cause",),
    ),
    Plant(
        "how a decision ends spends the next cause",
        core("lifecycle"),
        "spends and not self.outlived",
        "spends",
        (LETTER + "test_how_a_decision_ends_spends_nothing_of_the_next_cause",),
    ),
    Plant(
        "that it cleared is said while a decision waits",
        core("lifecycle"),
        "told = self.emitted is not None and not self.flight",
        "told = self.emitted is not None",
        (LETTER + "test_nothing_is_said_while_a_decision_waits_not_even_that_it_cleared",),
    ),
    Plant(
        "guards are asked before `for` has passed",
        core("lifecycle"),
        "return self.on and when == TRUE",
        "return (self.on or self.since >= 0) and when == TRUE",
        (ENGINE + "test_for_needs_when_true_at_every_boundary",),
    ),
    Plant(
        "unknown acts where a rule is on",
        core("lifecycle"),
        "return self.on and when == TRUE",
        "return self.on and when != FALSE",
        (ENGINE + "test_a_window_forgets_what_left_it",),
    ),
    Plant(
        "the largest priority comes first",
        core("judgement"),
        "return self.rule.program.priority, e is None",
        "return -self.rule.program.priority, e is None",
        (LETTER + "test_of_several_candidates_priority_comes_first_then_evidence_then_path_then_rule",),
    ),
    Plant(
        "what has no evidence comes before what has some",
        core("judgement"),
        "e is None, -(e or 0)",
        "e is not None, -(e or 0)",
        (LETTER + "test_of_several_candidates_priority_comes_first_then_evidence_then_path_then_rule",),
    ),
    Plant(
        "the weakest evidence comes first",
        core("judgement"),
        "e is None, -(e or 0)",
        "e is None, (e or 0)",
        (ADMISSION + "test_the_strongest_evidence_is_admitted_first",),
    ),
    Plant(
        "paths are ordered without their case",
        core("judgement"),
        "self.path.encode(), self.rule.program.rule, self.rule.mode",
        "self.path.lower().encode(), self.rule.program.rule, self.rule.mode",
        (LETTER + "test_of_equal_candidates_paths_go_by_their_bytes_whatever_rule_they_are_of",),
    ),
    Plant(
        "rules come before paths",
        core("judgement"),
        "self.path.encode(), self.rule.program.rule, self.rule.mode",
        "self.rule.program.rule.encode(), self.path, self.rule.mode",
        (LETTER + "test_of_equal_candidates_paths_go_by_their_bytes_whatever_rule_they_are_of",),
    ),
    Plant(
        "rules are ordered by their versions' hashes",
        core("judgement"),
        "self.path.encode(), self.rule.program.rule, self.rule.mode",
        "self.path.encode(), self.rule.version, self.rule.mode",
        (LETTER + "test_of_several_candidates_priority_comes_first_then_evidence_then_path_then_rule",),
    ),
    Plant(
        "the strongest of several comparisons proves them all",
        core("claims"),
        "strength.log_e < before.log_e",
        "strength.log_e > before.log_e",
        (LETTER + "test_evidence_is_the_smallest_over_the_comparisons_and_not_is_pushed_into_them",),
    ),
    Plant(
        "a comparison that cannot be weighed is left out",
        core("claims"),
        "(before is not None and (strength is None or strength.log_e < before.log_e))",
        "(strength is not None and (before is None or strength.log_e < before.log_e))",
        (LETTER + "test_a_comparison_that_cannot_be_weighed_leaves_the_others_unproven",),
    ),
    Plant(
        "evidence equal to what is needed is too little",
        "services/rules_engine/guards/confidence.py",
        "of.evidence >= of.needed",
        "of.evidence > of.needed",
        (LETTER + "test_evidence_equal_to_what_is_needed_is_enough",),
    ),
    Plant(
        "evidence that grew to what is needed is too little",
        core("cells"),
        "self.uncertain |= fit & (np.abs(log_e - needed) < CLOSE)\n        return log_e < needed",
        "return log_e <= needed",
        (LETTER + "test_evidence_that_grows_to_what_is_needed_is_enough",),
    ),
    Plant(
        "`or` between two metrics is taken under confidence",
        "services/rules_engine/language/rule.py",
        "if either(condition):",
        "if False:",
        ("tests/core/test_language.py::test_what_is_wrong_is_shown_where_it_stands[or_under_confidence]",),
    ),
    Plant(
        "a row read at the same instant overwrites what was read",
        core("snapshots"),
        "fits = as_of[turn] > self",
        "fits = as_of[turn] >= self",
        (FACTS + "test_a_redelivered_older_row_changes_nothing",),
    ),
    Plant(
        "an interval that ends now is still open",
        core("facts"),
        "np.where(end > stamp, stamp, end - 1)",
        "np.where(end >= stamp, stamp, end - 1)",
        (LETTER + "test_a_row_of_an_open_interval_lands_when_it_comes_and_of_a_closed_one_at_its_end",),
    ),
    Plant(
        "a closed interval's difference lands at its end, outside of it",
        core("facts"),
        "np.where(end > stamp, stamp, end - 1)",
        "np.where(end > stamp, stamp, end)",
        (FACTS + "test_a_restated_day_amends_the_day_it_belongs_to",),
    ),
    Plant(
        "history moves with a re-parented object",
        core("snapshots"),
        "np.zeros(n, np.int64), self.kept[number, ROW]",
        "np.zeros(n, np.int64), row",
        (LETTER + "test_a_restated_row_lands_on_the_ancestors_it_was_first_folded_with",),
    ),
    Plant(
        "nobody looks at the object on which a restatement lands",
        core("facts"),
        "            self.dirty[self.entities.lineage[touched, depth]] = True\n",
        "            pass\n",
        (LETTER + "test_a_restated_row_lands_on_the_ancestors_it_was_first_folded_with",),
    ),
    Plant(
        "the measures of a row share their last value",
        core("snapshots"),
        "        keys[:, 0] ^= word\n",
        "",
        (LETTER + "test_each_measure_of_a_row_has_a_last_value_of_its_own",),
    ),
    Plant(
        "rows of one delivery are all read as its first",
        "services/ingest/core/reading.py",
        "        shape = shape_of[header] if header in shape_of else report.detect(header, shapes)\n",
        "        shape = next(iter(shape_of.values()), None) or report.detect(header, shapes)\n",
        ("tests/shell/test_ingest_reports.py::test_each_row_is_read_by_its_own_columns_however_many_kinds_of_rows_there_are",),
    ),
    Plant(
        "the end of all years is a fault of ours",
        "services/ingest/core/instant.py",
        "    except (ValueError, OverflowError):",
        "    except ValueError:",
        ("tests/core/test_normalize.py::test_what_is_no_day_is_refused_every_time",),
    ),
    Plant(
        "an older status of many replaces a newer one",
        "services/ingest/intake.py",
        "where=known_attributes.c.occurred_at <= said.occurred_at",
        "where=None",
        ("tests/shell/test_ingest_crash.py::test_of_two_outcomes_of_one_part_the_later_one_is_known",),
    ),
    Plant(
        "what the database broke off waits for its lease to end",
        actions("execute"),
        '            if error.reason == "database":\n',
        "            if False:\n",
        (f"{CRASH}test_what_the_database_broke_off_is_gone_on_with_under_its_lease",),
    ),
    Plant(
        "while the database is away it is tried as fast as it goes",
        actions("broken_off"),
        "self.wall.elapsed() + (self.again << times))",
        "0)",
        (f"{CRASH}test_while_the_database_stays_away_it_is_tried_less_and_less_often_and_no_platform_is_asked",),
    ),
    Plant(
        "a report's names may grow with their depth",
        "services/ingest/core/report.py",
        "        if len(prefix) + len(name) > LARGEST:\n",
        "        if False:\n",
        ("tests/shell/test_ingest_reports.py::test_names_that_grow_with_their_depth_are_refused",),
    ),
    Plant(
        "a row of a report may have any number of columns",
        "services/ingest/core/report.py",
        "        if len(made) > COLUMNS:\n",
        "        if False:\n",
        ("tests/shell/test_ingest_reports.py::test_names_that_grow_with_their_depth_are_refused",),
    ),
    Plant(
        "of two rows of one id and different breakdowns one vanishes",
        "services/ingest/intake.py",
        "event.amounts, event.attributes, event.path, event.occurred_at, event.snapshot,",
        "event.amounts, event.attributes, event.path, event.occurred_at, known.snapshot,",
        ("tests/shell/test_ingest_reports.py::test_two_rows_of_one_id_that_differ_in_what_they_are_about_are_twins",),
    ),
    Plant(
        "an attribute and an amount of one name and value are the same",
        core("body"),
        'words.of(f"attribute {n}")',
        "words.of(n)",
        (FACTS + "test_whatever_else_an_event_says_under_a_known_id_is_a_conflict",),
    ),
    Plant(
        "all that the database broke off is gone on with at once",
        actions("broken_off"),
        "        return [b.lease for b in due[:most]]\n",
        "        return [b.lease for b in due]\n",
        (f"{CRASH}test_of_many_that_were_broken_off_no_more_are_gone_on_with_at_once_than_there_are_places",),
    ),
    Plant(
        "an older lease that was broken off takes the newer one's place",
        actions("broken_off"),
        "        if newer is None or newer.lease.token < lease.token:\n",
        "        if True:\n",
        (f"{CRASH}test_of_two_leases_that_were_broken_off_the_newer_one_is_gone_on_with",),
    ),
    Plant(
        "what was claimed when the database went is left lying",
        actions("execute"),
        "            lost = error\n",
        "            raise\n",
        (f"{CRASH}test_what_is_claimed_when_the_database_goes_is_carried_out",),
    ),
    Plant(
        "platforms are asked before the database is back",
        actions("execute"),
        "                await self._still_ours(lease)\n",
        "                pass\n",
        (f"{CRASH}test_while_the_database_stays_away_it_is_tried_less_and_less_often_and_no_platform_is_asked",),
    ),
    Plant(
        "a report of an old day is late",
        core("facts"),
        "late = (e.as_of == 0) & (e.occurred_at < e.stamp - self.horizon)",
        "late = e.occurred_at < e.stamp - self.horizon",
        (LETTER + "test_a_row_may_be_restated_however_old_its_interval_is",),
    ),
    Plant(
        "conflicts are not counted",
        core("facts"),
        'counts["conflicting"] += conflicts',
        'counts["conflicting"] += 0',
        (FACTS + "test_of_two_events_with_one_id_the_first_counts_and_the_conflict_is_counted",),
    ),
    Plant(
        "other attributes under a known id are no conflict",
        core("body"),
        "            if len(b.attribute_event):\n",
        "            if False:\n",
        (FACTS + "test_whatever_else_an_event_says_under_a_known_id_is_a_conflict",),
    ),
    Plant(
        "another interval under a known id is no conflict",
        core("body"),
        "            body += start * np.int64(37) + end * np.int64(41) + rows[:, 0]",
        "            body += rows[:, 0]",
        (FACTS + "test_whatever_else_a_report_row_says_under_a_known_id_is_a_conflict",),
    ),
    Plant(
        "the same event in another record is a conflict",
        core("body"),
        "                value = b.attribute_number ^ texts[b.attribute_text]\n",
        "                value = b.attribute_number ^ b.attribute_text\n",
        (FACTS + "test_what_an_event_says_is_the_same_in_another_record",),
    ),
    Plant(
        "conflicts with the period before are not counted",
        core("seen"),
        "return fresh, conflicts + more",
        "return fresh, more",
        (FACTS + "test_whatever_else_an_event_says_under_a_known_id_is_a_conflict",),
    ),
    Plant(
        "another amount under a known id is no conflict",
        core("body"),
        "said = (amount * MIX) ^ measures[place]",
        "said = measures[place]",
        (FACTS + "test_whatever_else_an_event_says_under_a_known_id_is_a_conflict",),
    ),
    Plant(
        "another measure under a known id is no conflict",
        core("body"),
        "said = (amount * MIX) ^ measures[place]",
        "said = amount * MIX",
        (FACTS + "test_whatever_else_an_event_says_under_a_known_id_is_a_conflict",),
    ),
    Plant(
        "another object under a known id is no conflict",
        core("body"),
        "path ^ (e.occurred_at * MIX)",
        "(e.occurred_at * MIX)",
        (FACTS + "test_whatever_else_an_event_says_under_a_known_id_is_a_conflict",),
    ),
    Plant(
        "another instant under a known id is no conflict",
        core("body"),
        "path ^ (e.occurred_at * MIX)",
        "path",
        (FACTS + "test_whatever_else_an_event_says_under_a_known_id_is_a_conflict",),
    ),
    Plant(
        "of two events with one id in one record the last counts",
        core("keys"),
        "pending = new.nonzero()[0][::-1]",
        "pending = new.nonzero()[0]",
        (FACTS + "test_an_id_is_new_once",),
    ),
    Plant(
        "an edited threshold begins the evidence anew",
        core("workspace"),
        "if anchor not in self.born:",
        "if True:",
        (ENGINE + "test_a_threshold_edited_keeps_the_evidence_and_another_scope_restarts_it",),
    ),
    Plant(
        "another `where` keeps the evidence",
        core("program"),
        "[self.depth, to_plain(self.where), to_plain",
        "[self.depth, to_plain",
        (ENGINE + "test_a_threshold_edited_keeps_the_evidence_and_another_scope_restarts_it",),
    ),
    Plant(
        "another `except` keeps the evidence",
        core("program"),
        "to_plain(self.unless), ",
        "",
        (LETTER + "test_scope_metrics_and_name_are_what_evidence_belongs_to",),
    ),
    Plant(
        "another level keeps the evidence",
        core("program"),
        "scope = [self.depth, ",
        "scope = [",
        (LETTER + "test_another_level_is_another_scope",),
    ),
    Plant(
        "other metrics keep the evidence",
        core("program"),
        ", to_plain(self.metrics)]",
        "]",
        (LETTER + "test_scope_metrics_and_name_are_what_evidence_belongs_to",),
    ),
    Plant(
        "other pairs keep the evidence",
        core("program"),
        "to_plain(self.pair and (self.pair.within, self.pair.same)), ",
        "",
        (LETTER + "test_which_objects_are_paired_is_part_of_the_scope",),
    ),
    Plant(
        "rules of one scope share the begin of their evidence",
        core("program"),
        'digest("anchor", self.rule, canonical(scope))',
        'digest("anchor", canonical(scope))',
        (LETTER + "test_scope_metrics_and_name_are_what_evidence_belongs_to",),
    ),
    Plant(
        "edited guards begin the evidence anew",
        core("program"),
        "scope = [self.depth, ",
        "scope = [to_plain(self.guards), self.depth, ",
        (LETTER + "test_scope_metrics_and_name_are_what_evidence_belongs_to",),
    ),
    Plant(
        "another action begins the evidence anew",
        core("program"),
        "scope = [self.depth, ",
        "scope = [to_plain(self.action), self.depth, ",
        (LETTER + "test_scope_metrics_and_name_are_what_evidence_belongs_to",),
    ),
    Plant(
        "a change from before a rule begins its evidence before it",
        core("sums"),
        "start = max(self.born, changed)",
        "start = changed",
        (LETTER + "test_a_change_from_before_the_rule_leaves_the_start_where_it_is",),
    ),
    Plant(
        "an earlier change takes the place of the last one",
        core("workspace"),
        "if known is None or known.when <= change.when:",
        "if True:",
        (LETTER + "test_a_change_earlier_than_the_last_one_known_is_ignored",),
    ),
    Plant(
        "an amount of a change's instant is baseline once it is recounted",
        core("history"),
        "table = table[:, table[ORIGIN] >= start]",
        "table = table[:, table[ORIGIN] > start]",
        (LETTER + "test_an_amount_of_the_instant_of_a_change_is_evidence",),
    ),
    Plant(
        "an amount of a change's instant is baseline where evidence is weighed",
        core("history"),
        "(table[ORIGIN] >= start)",
        "(table[ORIGIN] > start)",
        (LETTER + "test_an_amount_of_the_instant_of_a_change_is_evidence",),
    ),
    Plant(
        "an amount of a change's instant is baseline where it comes after it",
        core("sums"),
        "origin[:, None] >= self.start[above]",
        "origin[:, None] > self.start[above]",
        (LETTER + "test_an_amount_of_the_instant_of_a_change_is_evidence",),
    ),
    Plant(
        "amounts that come late are evidence whatever they are of",
        core("sums"),
        "if self.latest > int(origin.min()):",
        "if False:",
        (LETTER + "test_a_row_whose_interval_began_before_the_change_belongs_to_the_baseline",),
    ),
    Plant(
        "what is below an object is left out where it is recounted",
        core("facts"),
        "self.history.totals(self.below(row), ",
        "self.history.totals(np.array([row], np.int64), ",
        (LETTER + "test_a_change_of_an_ad_group_is_none_of_its_creatives_and_theirs_none_of_it",),
    ),
    Plant(
        "a row of an interval yet to begin is no evidence",
        core("facts"),
        "if future.any():",
        "if False:",
        (LETTER + "test_a_row_of_an_interval_yet_to_begin_is_evidence_of_a_rule_activated_before_it",),
    ),
    Plant(
        "a change dated ahead is believed",
        core("workspace"),
        "Changed(min(record.occurred_at, stamp), record.by, False)",
        "Changed(record.occurred_at, record.by, False)",
        (LETTER + "test_a_change_counts_from_what_it_says_and_never_from_later_than_its_stamp",),
    ),
    Plant(
        "a change counts from when it was heard of",
        core("workspace"),
        "Changed(min(record.occurred_at, stamp), record.by, False)",
        "Changed(stamp, record.by, False)",
        (ENGINE + "test_a_change_dated_back_moves_the_line_back",),
    ),
    Plant(
        "a change of an object is one of all below it",
        core("workspace"),
        "            self.facts.restart(row, change.when)\n",
        "            for each in self.facts.below(row).tolist():\n                self.facts.restart(each, change.when)\n",
        (LETTER + "test_a_change_of_an_ad_group_is_none_of_its_creatives_and_theirs_none_of_it",),
    ),
    Plant(
        "what failed is a change",
        core("workspace"),
        'if outcome.status == "verified" and outcome.path:',
        'if outcome.status in ("verified", "failed") and outcome.path:',
        (LETTER + "test_only_a_verified_outcome_of_ours_is_a_change",),
    ),
    Plant(
        "what may have been done is a change",
        core("workspace"),
        'if outcome.status == "verified" and outcome.path:',
        'if outcome.status in ("verified", "unknown") and outcome.path:',
        (LETTER + "test_only_a_verified_outcome_of_ours_is_a_change",),
    ),
    Plant(
        "a row belongs to the evidence by when it landed",
        core("facts"),
        "np.where(end > stamp, stamp, end - 1), start",
        "np.where(end > stamp, stamp, end - 1), np.where(end > stamp, stamp, end - 1)",
        (LETTER + "test_a_row_whose_interval_began_before_the_change_belongs_to_the_baseline",),
    ),
    Plant(
        "the first sight of an attribute is a change",
        "services/ingest/core/change.py",
        "return None if known is None or known.value == value else known.value",
        'return None if known is not None and known.value == value else (known.value if known else "")',
        ("tests/core/test_normalize.py::test_the_first_sight_is_no_change_and_a_different_value_is_one",),
    ),
    Plant(
        "an older value is a change",
        "services/ingest/core/change.py",
        "if known is not None and occurred_at < known.occurred_at:",
        "if False:",
        ("tests/core/test_normalize.py::test_an_older_value_is_no_news",),
    ),
    Plant(
        "what we failed to do is taken for ours",
        "services/ingest/core/change.py",
        'if outcome.status == "verified" and outcome.path',
        "if outcome.path",
        ("tests/core/test_normalize.py::test_an_outcome_that_is_not_verified_changed_nothing",),
    ),
    Plant(
        "what is not known to be in scope is in it",
        core("judgement"),
        "fits = judge.truth(p.where, each) == TRUE",
        "fits = judge.truth(p.where, each) != FALSE",
        (ENGINE + "test_a_status_never_seen_is_unknown",),
    ),
    Plant(
        "what is not known to be excepted is excepted",
        core("judgement"),
        "fits &= judge.truth(p.unless, each, absent=FALSE) != TRUE",
        "fits &= judge.truth(p.unless, each, absent=FALSE) == FALSE",
        (LETTER + "test_except_excludes_only_where_it_is_true",),
    ),
    Plant(
        "of a pair what is not known to be in scope is in it",
        core("judgement"),
        "fits = (judge.truth(program.where, rows) == TRUE)",
        "fits = (judge.truth(program.where, rows) != FALSE)",
        (LETTER + "test_of_a_pair_both_are_in_scope",),
    ),
    Plant(
        "of a pair what is excepted is moved",
        core("judgement"),
        " & (judge.truth(program.unless, rows, absent=FALSE) != TRUE)",
        "",
        (LETTER + "test_of_a_pair_both_are_in_scope",),
    ),
    Plant(
        "a number never seen is 0",
        core("view"),
        "return number, ~seen | (word != 0)",
        "return number, (word != 0)",
        (LETTER + "test_an_attribute_never_seen_or_of_another_kind_is_unknown",),
    ),
    Plant(
        "a text is a number, and 0",
        core("view"),
        "return number, ~seen | (word != 0)",
        "return number, ~seen",
        (LETTER + "test_an_attribute_never_seen_or_of_another_kind_is_unknown",),
    ),
    Plant(
        "a number is another text than any",
        core("view"),
        "~seen | (word == 0)",
        "~seen",
        (LETTER + "test_an_attribute_never_seen_or_of_another_kind_is_unknown",),
    ),
    Plant(
        "where as many stay as must nobody goes",
        "services/rules_engine/guards/keep_active.py",
        '"" if others >= least',
        '"" if others > least',
        (LETTER + "test_a_survivor_exists_is_known_to_be_active_and_is_not_about_to_leave",),
    ),
    Plant(
        "where one fewer stays than must one more goes",
        "services/rules_engine/guards/keep_active.py",
        '"" if others >= least',
        '"" if others + 1 >= least',
        (LETTER + "test_a_survivor_exists_is_known_to_be_active_and_is_not_about_to_leave",),
    ),
    Plant(
        "once as many stay as must nobody is asked again",
        "services/rules_engine/guards/keep_active.py",
        'return others < cells.parameter(self.name, "at_least", 1)',
        'return others <= cells.parameter(self.name, "at_least", 1)',
        (LETTER + "test_a_guard_that_refused_agrees_as_soon_as_it_may",),
    ),
    Plant(
        "once a sample is large enough nobody is asked again",
        "services/rules_engine/guards/sample.py",
        "unknown | (counted < least)",
        "unknown | (counted <= least)",
        (LETTER + "test_a_guard_that_refused_agrees_as_soon_as_it_may",),
    ),
    Plant(
        "whose status fits again is not asked again",
        "services/rules_engine/guards/status.py",
        "return cells.status_known & ~cells.has_status(wanted)",
        "return cells.status_known",
        (LETTER + "test_a_guard_that_refused_agrees_as_soon_as_it_may",),
    ),
    Plant(
        "what no event was ever of survives",
        core("judgement"),
        " & (e.first_event[active] != NEVER)",
        "",
        (LETTER + "test_a_survivor_exists_is_known_to_be_active_and_is_not_about_to_leave",),
    ),
    Plant(
        "an ad group survives among its creatives",
        core("judgement"),
        "(e.depth[active] == depth) & ",
        "",
        (LETTER + "test_a_survivor_exists_is_known_to_be_active_and_is_not_about_to_leave",),
    ),
    Plant(
        "what is on in another ad group survives in this one",
        core("judgement"),
        "LEVELS[d]: int(self.others_staying(depth, d, one)[0])",
        "LEVELS[d]: int(self.others_staying(depth, 1, one)[0])",
        (LETTER + "test_a_survivor_exists_is_known_to_be_active_and_is_not_about_to_leave",),
    ),
    Plant(
        "what was stale and is as old as it may be is not asked again",
        "services/rules_engine/guards/fresh.py",
        "cells.now - freshest > cells",
        "cells.now - freshest >= cells",
        (LETTER + "test_what_was_stale_and_is_as_old_as_it_may_be_passes",),
    ),
    Plant(
        "what is as old as it may be is stale",
        "services/rules_engine/guards/fresh.py",
        "age <= within else",
        "age < within else",
        (LETTER + "test_what_was_stale_and_is_as_old_as_it_may_be_passes",),
    ),
    Plant(
        "one source that is fresh is enough",
        core("judgement"),
        "freshest, stalest = min(heard)",
        "freshest, stalest = max(heard)",
        (LETTER + "test_freshness_asks_the_source_that_was_silent_longest_in_the_objects_account",),
    ),
    Plant(
        "news of another account is news",
        core("facts"),
        "int(self.newest[known][account])",
        "int(self.newest[known].max())",
        (LETTER + "test_news_is_the_newest_of_what_was_accepted_from_a_source_in_the_account",),
    ),
    Plant(
        "a report is no news",
        core("facts"),
        "np.maximum(occurred, np.minimum(e.as_of, stamp))",
        "occurred",
        (LETTER + "test_freshness_asks_the_source_that_was_silent_longest_in_the_objects_account",),
    ),
    Plant(
        "a report dated ahead is news from then",
        core("facts"),
        "np.maximum(occurred, np.minimum(e.as_of, stamp))",
        "np.maximum(occurred, e.as_of)",
        (LETTER + "test_nothing_is_news_from_later_than_its_stamp",),
    ),
    Plant(
        "an event dated ahead is news from then",
        core("facts"),
        "np.maximum(occurred, np.minimum(e.as_of, stamp))",
        "np.maximum(e.occurred_at, np.minimum(e.as_of, stamp))",
        (LETTER + "test_nothing_is_news_from_later_than_its_stamp",),
    ),
    Plant(
        "the last to come is the newest",
        core("facts"),
        "np.maximum.at(self.newest[s], account[mine], heard[mine])",
        "self.newest[s][account[mine]] = heard[mine]",
        (LETTER + "test_news_is_the_newest_of_what_was_accepted_from_a_source_in_the_account",),
    ),
    Plant(
        "what is set aside is news",
        core("facts"),
        "row, stamp, source, heard = row[accepted], stamp[accepted], source[accepted], heard[accepted]",
        "pass",
        (LETTER + "test_news_is_the_newest_of_what_was_accepted_from_a_source_in_the_account",),
    ),
    Plant(
        "what was never heard of is fresh",
        "services/rules_engine/guards/fresh.py",
        'return Verdict(self.name, "never_heard", (("source", of.stalest),))',
        'return Verdict(self.name, "", ())',
        (LETTER + "test_freshness_asks_the_source_that_was_silent_longest_in_the_objects_account",),
    ),
    Plant(
        "the source of what is divided by may be silent",
        core("running"),
        "(program.metrics[r.metric].numerator, program.metrics[r.metric].denominator) if m",
        "(program.metrics[r.metric].numerator,) if m",
        (LETTER + "test_freshness_asks_the_source_that_was_silent_longest_in_the_objects_account",),
    ),
    Plant(
        "a pane leaves before its window has",
        core("window"),
        "return (now - self.width) // self.panes.width",
        "return -(-(now - self.width) // self.panes.width)",
        (LETTER + "test_a_pane_belongs_whole_until_all_of_it_has_left",),
    ),
    Plant(
        "a pane leaves one pane late",
        core("window"),
        "(order[at] + 1) * self.panes.width + self.width",
        "(order[at] + 2) * self.panes.width + self.width",
        (LETTER + "test_a_pane_leaves_with_its_end_not_with_each_amount",),
    ),
    Plant(
        "a sum over nothing is unknown",
        core("sieve"),
        "if len(rows) and (int(read.min()) < 0 or int(read.max()) > LARGEST_SUM):\n                floats[at : at + len(columns)][(read < 0)",
        "if True:\n                floats[at : at + len(columns)][(read <= 0)",
        (LETTER + "test_the_sum_over_a_window_without_rows_is_nothing_not_unknown",),
    ),
    Plant(
        "euros are known beside dollars side by side",
        core("sieve"),
        "(table[others] != 0).any(axis=0)] = np.nan",
        "(table[others] < 0).any(axis=0)] = np.nan",
        (LETTER + "test_what_is_not_known_of_a_sum_is_unknown_in_a_condition",),
    ),
    Plant(
        "a sum past what is believed is known side by side",
        core("sieve"),
        "[(read < 0) | (read > LARGEST_SUM)] = np.nan",
        "[read < 0] = np.nan",
        (LETTER + "test_what_is_not_known_of_a_sum_is_unknown_in_a_condition",),
    ),
    Plant(
        "a negative sum is known side by side",
        core("sieve"),
        "[(read < 0) | (read > LARGEST_SUM)] = np.nan",
        "[read > LARGEST_SUM] = np.nan",
        (LETTER + "test_what_is_not_known_of_a_sum_is_unknown_in_a_condition",),
    ),
    Plant(
        "each rule brings its own boundaries",
        core("workspace"),
        "        if not self.interval:\n            self.interval = ",
        "        if True:\n            self.interval = ",
        (LETTER + "test_a_workspace_keeps_the_interval_of_its_first_activation",),
    ),
    Plant(
        "a rule takes effect before its state is there",
        core("workspace"),
        "        self.activated[activation.version] = activation\n",
        "        self.activated[activation.version] = activation\n        self.effective.append(activation)\n",
        (LETTER + "test_a_rule_takes_effect_after_its_ready_record",),
    ),
    Plant(
        "one ready record is for all rules that wait",
        core("workspace"),
        "                if version in self.activated:\n                    self.effective.append(self.activated.pop(version))",
        "                self.effective += self.activated.values()\n                self.activated.clear()",
        (LETTER + "test_what_is_retired_before_it_is_ready_never_takes_effect_and_a_ready_record_is_of_its_version_alone",),
    ),
    Plant(
        "what was retired before it was ready takes effect",
        core("workspace"),
        "            self.activated.pop(activation.version, None)\n",
        "",
        (LETTER + "test_what_is_retired_before_it_is_ready_never_takes_effect_and_a_ready_record_is_of_its_version_alone",),
    ),
    Plant(
        "of two activations that wait both take effect",
        core("workspace"),
        "if (a.rule_id, a.state) != same}",
        "if a.version != activation.version}",
        (LETTER + "test_of_two_activations_that_wait_the_later_counts",),
    ),
    Plant(
        "retiring a version stops all of the rule",
        core("workspace"),
        "if r.version != activation.version}",
        "if r.program.rule != activation.rule_id}",
        (LETTER + "test_retiring_a_version_leaves_the_others_at_work",),
    ),
    Plant(
        "of two objects one order is judged",
        core("judgement"),
        "for b in takers if a != b and",
        "for b in takers if a < b and",
        (LETTER + "test_every_ordered_pair_of_different_objects_below_one_ancestor_is_judged",),
    ),
    Plant(
        "an object is paired with itself",
        core("judgement"),
        "for b in takers if a != b and",
        "for b in takers if",
        (LETTER + "test_every_ordered_pair_of_different_objects_below_one_ancestor_is_judged",),
    ),
    Plant(
        "objects of two ad groups are paired",
        core("judgement"),
        " and e.lineage[a, program.pair.within] == e.lineage[b, program.pair.within]",
        "",
        (LETTER + "test_every_ordered_pair_of_different_objects_below_one_ancestor_is_judged",),
    ),
    Plant(
        "guards are asked of the first of two",
        core("judgement"),
        "next((a for a in answers if a.refusal), answers[0])",
        "answers[0]",
        (LETTER + "test_every_guard_is_asked_of_both_sides_of_a_pair",),
    ),
    Plant(
        "guards are asked of the second of two",
        core("judgement"),
        "next((a for a in answers if a.refusal), answers[0])",
        "answers[-1]",
        (LETTER + "test_every_guard_is_asked_of_both_sides_of_a_pair",),
    ),
    Plant(
        "the evidence of two is the larger",
        core("judgement"),
        "min(e for e in known if e is not None)",
        "max(e for e in known if e is not None)",
        (LETTER + "test_the_evidence_of_a_pair_is_the_smaller",),
    ),
    Plant(
        "the evidence of one stands for both",
        core("judgement"),
        "weakest = None if None in known else min(e for e in known if e is not None)",
        "weakest = min((e for e in known if e is not None), default=None)",
        (LETTER + "test_the_evidence_of_a_pair_is_the_smaller",),
    ),
    Plant(
        "of two objects the first is held",
        core("workspace"),
        'paths = tuple(decision.path.split("|"))',
        'paths = (decision.path.split("|")[0],)',
        (LETTER + "test_a_pair_rule_judges_every_ordered_pair_and_holds_both",),
    ),
    Plant(
        "of two objects the second is held",
        core("workspace"),
        'paths = tuple(decision.path.split("|"))',
        'paths = (decision.path.split("|")[-1],)',
        (LETTER + "test_a_pair_rule_judges_every_ordered_pair_and_holds_both",),
    ),
    Plant(
        "what is known of neither is the same",
        core("judgement"),
        "return all(x is not None and x == y for x, y in known)",
        "return all(x == y for x, y in known)",
        (LETTER + "test_a_pair_shares_what_same_names_and_unknown_is_not_shared",),
    ),
    Plant(
        "what is known of both need not be the same",
        core("judgement"),
        "return all(x is not None and x == y for x, y in known)",
        "return all(x is not None and y is not None for x, y in known)",
        (LETTER + "test_a_pair_shares_what_same_names_and_unknown_is_not_shared",),
    ),
    Plant(
        "a pair goes on when the second's condition has ended",
        core("judgement"),
        "when = both([giver[first], taker[second]])",
        "when = both([giver[first]])",
        (LETTER + "test_a_pair_waits_for_its_time_and_clears_when_either_condition_ends",),
    ),
    Plant(
        "a pair waits for nothing",
        core("judgement"),
        "None if clear is None else int(clear[i]), program.hold, self.now",
        "None if clear is None else int(clear[i]), 0, self.now",
        (LETTER + "test_a_pair_waits_for_its_time_and_clears_when_either_condition_ends",),
    ),
    Plant(
        "another lag table is the same version",
        core("program"),
        '        del plain["source"]\n',
        '        del plain["source"], plain["lag"]\n',
        (LETTER + "test_a_version_hashes_what_the_program_says_and_neither_its_text_nor_its_targets",),
    ),
    Plant(
        "other coefficients are the same version",
        core("program"),
        '        del plain["source"]\n',
        '        del plain["source"], plain["coefficients"]\n',
        (LETTER + "test_a_version_hashes_what_the_program_says_and_neither_its_text_nor_its_targets",),
    ),
    Plant(
        "other metrics are the same version",
        core("program"),
        '        del plain["source"]\n',
        '        del plain["source"], plain["metrics"]\n',
        (LETTER + "test_a_version_hashes_what_the_program_says_and_neither_its_text_nor_its_targets",),
    ),
    Plant(
        "a comment makes another version",
        core("program"),
        '        del plain["source"]\n',
        "",
        (LETTER + "test_a_version_hashes_what_the_program_says_and_neither_its_text_nor_its_targets",),
    ),
    Plant(
        "the shallowest target wins",
        core("workspace"),
        "dict(sorted(levels.items()))",
        "dict(sorted(levels.items(), reverse=True))",
        (LETTER + "test_the_deepest_target_counts_and_of_two_there_the_later_record",),
    ),
    Plant(
        "the account's target wins",
        core("workspace"),
        "amount = np.where(deeper != NEVER, deeper, amount)",
        "amount = np.where((deeper != NEVER) & (amount == NEVER), deeper, amount)",
        (LETTER + "test_the_deepest_target_counts_and_of_two_there_the_later_record",),
    ),
    Plant(
        "of two targets the earlier record wins",
        core("workspace"),
        "amount = valid[-1].amount if valid[-1].unit",
        "amount = valid[0].amount if valid[0].unit",
        (LETTER + "test_the_deepest_target_counts_and_of_two_there_the_later_record",),
    ),
    Plant(
        "a target that has ended hides the one before it",
        core("workspace"),
        "valid = [t for t in many if",
        "valid = [t for t in many[-1:] if",
        (LETTER + "test_a_later_target_counts_while_it_is_valid_and_the_one_before_it_again_once_it_is_not",),
    ),
    Plant(
        "a target counts at the instant at which it ends",
        core("workspace"),
        "if t.valid_from <= now and not (t.valid_until and t.valid_until <= now)]",
        "if t.valid_from <= now and not (t.valid_until and t.valid_until < now)]",
        (LETTER + "test_a_target_that_begins_or_ends_turns_the_truth_without_a_record",),
    ),
    Plant(
        "a target does not count at the instant at which it begins",
        core("workspace"),
        "if t.valid_from <= now and not (t.valid_until and t.valid_until <= now)]",
        "if t.valid_from < now and not (t.valid_until and t.valid_until <= now)]",
        (LETTER + "test_a_target_that_begins_or_ends_turns_the_truth_without_a_record",),
    ),
    Plant(
        "euros are compared with percents",
        core("workspace"),
        " if valid[-1].unit == asked.unit else NOT_COMPARABLE",
        "",
        (LETTER + "test_a_target_in_another_unit_is_unknown",),
    ),
    Plant(
        "an amount past what is believed counts",
        core("facts"),
        "LARGEST = 1 << 53",
        "LARGEST = 1 << 54",
        (FACTS + "test_a_delta_past_the_horizon_a_future_one_and_a_huge_one_are_set_aside_visibly",),
    ),
    Plant(
        "the largest amount that is believed is set aside",
        core("facts"),
        "large = np.abs(amount) > LARGEST",
        "large = np.abs(amount) >= LARGEST",
        (FACTS + "test_sums_past_what_a_float_can_hold_are_exact",),
    ),
    Plant(
        "an amount that takes away more than is believed counts",
        core("facts"),
        "large = np.abs(amount) > LARGEST",
        "large = amount > LARGEST",
        (FACTS + "test_a_delta_past_the_horizon_a_future_one_and_a_huge_one_are_set_aside_visibly",),
    ),
    Plant(
        "a sum past what is believed is known",
        core("view"),
        "unknown = (sums < 0) | (sums > LARGEST_SUM)",
        "unknown = sums < 0",
        (LETTER + "test_what_is_not_known_of_a_sum_is_unknown_in_a_condition",),
    ),
    Plant(
        "a negative sum is known",
        core("view"),
        "unknown = (sums < 0) | (sums > LARGEST_SUM)",
        "unknown = sums > LARGEST_SUM",
        (LETTER + "test_what_is_not_known_of_a_sum_is_unknown_in_a_condition",),
    ),
    Plant(
        "euros are known beside dollars",
        core("view"),
        "unknown = unknown | (self._column(table, other, rows) != 0)",
        "pass",
        (LETTER + "test_what_is_not_known_of_a_sum_is_unknown_in_a_condition",),
    ),
    Plant(
        "an event of tomorrow counts today",
        core("facts"),
        "ahead = e.occurred_at > e.stamp + self.ahead",
        "ahead = e.occurred_at > e.stamp + 24 * self.ahead",
        (FACTS + "test_a_delta_past_the_horizon_a_future_one_and_a_huge_one_are_set_aside_visibly",),
    ),
    Plant(
        "an hour ahead is too far for the engine",
        core("facts"),
        "ahead = e.occurred_at > e.stamp + self.ahead",
        "ahead = e.occurred_at >= e.stamp + self.ahead",
        (LETTER + "test_the_horizons_of_the_first_activation_hold_for_good",),
    ),
    Plant(
        "two hours ahead are believed at the door",
        "services/ingest/core/normalize.py",
        "AHEAD = HOUR  #",
        "AHEAD = 2 * HOUR  #",
        ("tests/core/test_normalize.py::test_what_is_wrong_with_an_event_has_a_reason_and_a_place",),
    ),
    Plant(
        "an hour ahead is too far at the door",
        "services/ingest/core/normalize.py",
        "if instant > horizon + AHEAD:",
        "if instant >= horizon + AHEAD:",
        ("tests/core/test_normalize.py::test_an_hour_ahead_is_still_believed",),
    ),
    Plant(
        "days are cut by the zone's first offset",
        core("claims"),
        "(landing + self.zone_offset[at]) // DAY",
        "(landing + self.zone_offset[0]) // DAY",
        (LETTER + "test_days_are_those_of_the_offset_of_their_own_instant",),
    ),
    Plant(
        "days are cut in UTC",
        core("claims"),
        "(landing + self.zone_offset[at]) // DAY",
        "landing // DAY",
        (LETTER + "test_days_of_spend_are_those_of_the_rules_zone",),
    ),
    Plant(
        "a pack's offsets do not travel",
        "services/rules_engine/language/pack.py",
        "return Account(platform, currency, zone, rules, interval)",
        "return Account(platform, currency, zone, (), interval)",
        ("tests/rules/test_packs.py::test_spend_without_a_sale_is_stopped_on_the_second_day_at_the_second_it_is_proven",),
    ),
    Plant(
        "a declared clock is not believed",
        core("partition"),
        "self.simulated = record.simulated",
        "self.simulated = False",
        (LETTER + "test_a_simulated_clock_is_said_in_every_decision",),
    ),
    Plant(
        "decisions do not say that their clock is simulated",
        core("judgement"),
        "evidence, valid_until, w.simulated,",
        "evidence, valid_until, False,",
        (LETTER + "test_a_simulated_clock_is_said_in_every_decision",),
    ),
    Plant(
        "a restart forgets that the clock is simulated",
        core("state"),
        'Workspace(name, guards, partition.demand, of["simulated"])',
        "Workspace(name, guards, partition.demand, False)",
        (LETTER + "test_a_simulated_clock_is_said_in_every_decision",),
    ),
    Plant(
        "a test's row lands at its interval's end, and counts a boundary later",
        "services/rules_engine/trial.py",
        "self.start + number * series.every - 1",
        "self.start + number * series.every",
        ("tests/rules/test_packs.py::test_a_weak_creative_is_paused_after_fifty_six_hours",),
    ),
    Plant(
        "tests start at midnight in UTC",
        "services/rules_engine/trial.py",
        "tzinfo=ZoneInfo(pack.account.zone)",
        'tzinfo=ZoneInfo("UTC")',
        ("tests/rules/test_packs.py::test_spend_without_a_sale_is_stopped_on_the_second_day_at_the_second_it_is_proven",),
    ),
    Plant(
        "a test's siblings are not known to be on",
        "services/rules_engine/trial.py",
        'self._known(f"sibling-{i + 1}", {"status": "active"})',
        'self._known(f"sibling-{i + 1}", {})',
        ("tests/rules/test_packs.py::test_a_weak_creative_is_paused_after_fifty_six_hours",),
    ),
    Plant(
        "a test's object is not known to be on",
        "services/rules_engine/trial.py",
        '{"status": "active", "name": s.name',
        '{"name": s.name',
        ("tests/rules/test_packs.py::test_a_weak_creative_is_paused_after_fifty_six_hours",),
    ),
    Plant(
        "rows of another level are added",
        "services/ingest/core/report.py",
        "if known is not None and known != label:",
        "if False:",
        ("tests/core/test_normalize.py::test_a_measure_reported_at_one_level_is_refused_at_another",),
    ),
    Plant(
        "rows of another breakdown are added",
        "services/ingest/core/report.py",
        "label = level_of(event.path) + (f\" by {', '.join(names)}\" if names else \"\")",
        "label = level_of(event.path)",
        ("tests/core/test_normalize.py::test_a_measure_reported_at_one_level_is_refused_at_another",),
    ),
    Plant(
        "the level at which a measure is reported first is not kept",
        "services/ingest/core/report.py",
        "self.declared[event.source, name] = self.news",
        "self.news",
        ("tests/core/test_normalize.py::test_a_measure_reported_at_one_level_is_refused_at_another",),
    ),
    Plant(
        "one source's level binds another",
        "services/ingest/core/report.py",
        "known = self.declared.get((event.source, name))",
        "known = next((level for (_, n), level in self.declared.items() if n == name), None)",
        ("tests/core/test_normalize.py::test_a_measure_reported_at_one_level_is_refused_at_another",),
    ),
    Plant(
        "of an event the amounts stay behind in the record before",
        "services/kernel/columns.py",
        "here = (event >= start) & (event < start + most)",
        "here = (event >= start) & (event < start + most - 1)",
        (LOG + "test_what_is_merged_or_split_says_the_same",),
    ),
    Plant(
        "an event is in two records",
        "services/kernel/columns.py",
        "yield batch(workspace, events[i : i + most])",
        "yield batch(workspace, events[i : i + most + 1])",
        ("tests/core/test_normalize.py::test_no_event_and_many_events_make_records_of_bounded_size",),
    ),
    Plant(
        "practice is not declared on its log",
        "services/embedded.py",
        '            await self.events.append([("", self.simulated)])\n',
        "            pass\n",
        ("tests/shell/test_declared.py::test_practice_is_declared_once_and_its_folder_is_not_opened_for_real",),
    ),
    Plant(
        "a folder is opened with the other kind of clock",
        "services/embedded.py",
        "if declared != (self.simulated is not None):",
        "if False:",
        ("tests/shell/test_declared.py::test_what_is_real_is_not_opened_for_practice",),
    ),
    Plant(
        "what was approved late is held as stale",
        actions("people"),
        "valid_until = last_call(so.now + action.valid_for, action.valid_for)",
        "valid_until = last_call(decision.valid_until, action.valid_for)",
        (ACTIONS + "test_an_approved_escalation_is_executed",),
    ),
    Plant(
        "what was approved is valid for good",
        actions("people"),
        "valid_until = last_call(so.now + action.valid_for, action.valid_for)",
        "valid_until = last_call(so.now + action.valid_for, action.valid_for) << 1",
        (ACTIONS + "test_an_approval_is_valid_for_its_time_only",),
    ),
    Plant(
        "a negated `and` between two metrics is taken under confidence",
        "services/rules_engine/language/rule.py",
        "joins = isinstance(condition, And) is negated",
        "joins = isinstance(condition, Or)",
        ("tests/core/test_language.py::test_an_or_between_two_metrics_is_refused_under_confidence_inside_an_and_and_as_a_negated_and_too",),
    ),
    Plant(
        "an `or` inside an `and` is taken under confidence",
        "services/rules_engine/language/rule.py",
        " or any(either(t, negated) for t in terms)",
        "",
        ("tests/core/test_language.py::test_an_or_between_two_metrics_is_refused_under_confidence_inside_an_and_and_as_a_negated_and_too",),
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
        "self.tables[period & 1] = Table(max(512, len(self.tables[self.period & 1].ids)))",
        "self.tables = [Table(), Table()]",
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
        "only a changed status restarts evidence",
        "services/ingest/core/change.py",
        'WATCHED = ("status", "daily_budget", "bid", "targeting")',
        'WATCHED = ("status",)',
        ("tests/core/test_changes_by_hand.py::test_each_of_status_budget_bid_and_targeting_counts_unless_we_did_it",),
    ),
    Plant(
        "a start forgets at which level a source reports",
        "services/ingest/intake.py",
        "everything = select(c.source, c.measure, c.level).where(c.workspace == workspace)",
        'everything = select(c.source, c.measure, c.level).where(c.workspace == "")',
        ("tests/shell/test_ingest_reports.py::test_rows_of_another_level_are_not_added",),
    ),
    Plant(
        "of two objects of one name the first gets the target",
        "services/rules_engine/answers.py",
        'raise Conflict(f"{len(fitting)} objects are called',
        'str(f"{len(fitting)} objects are called',
        ("tests/shell/test_rules_api.py::test_a_target_for_a_name_that_two_objects_have_is_refused",),
    ),
    Plant(
        "a restart says again what it said",
        "services/rules_engine/said.py",
        "if not self.to_repeat:",
        "if True:",
        (WORKER + "test_a_restart_derives_again_what_was_said_and_says_none_of_it_again",),
    ),
    Plant(
        "two builds that disagree go on",
        "services/rules_engine/said.py",
        "if before != decision.id:",
        "if False:",
        (WORKER + "test_two_builds_that_disagree_stop",),
    ),
    Plant(
        "of two builds that disagree only the causes are compared",
        "services/rules_engine/said.py",
        "if content and content != content_of(decision):",
        "if False:",
        (
            WORKER + "test_two_builds_that_give_one_cause_other_content_stop",
            CHECKPOINTS + "test_a_wider_demand_compares_what_was_said_with_what_is_derived_again",
        ),
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
        "services/rules_engine/restore.py",
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
    Plant(
        "what could not be appended to Kafka is sent behind the sender's back once a broker is there again",
        KAFKA, "        lent.retired = True\n        if self._producer is lent:", "        if self._producer is None:",
        (ON_KAFKA + "test_what_failed_while_the_broker_was_dead_is_not_sent_once_it_is_back",),
    ),
    Plant(
        "who waits behind an append that Kafka does not answer waits for one failure after the other",
        KAFKA, "behind, self._waiting[number] = self._waiting[number], []", "behind: list[_Waiting] = []",
        (ON_KAFKA + "test_who_waits_behind_an_append_that_fails_does_not_wait_for_a_failure_of_his_own",),
    ),
    Plant(
        "a producer whose sequence the broker has lost is kept",
        KAFKA, "WEDGED = (OutOfOrderSequenceNumber, ", "WEDGED = (",
        (ON_KAFKA + "test_a_producer_whose_sequence_the_broker_does_not_know_is_replaced_and_nobody_notices",),
    ),
    Plant(
        "Kafka's milliseconds are taken for microseconds",
        KAFKA, "Stamped(offset, timestamp * 1000, record)", "Stamped(offset, timestamp, record)",
        (ON_KAFKA + "test_records_are_stamped_by_the_broker_in_whole_milliseconds",),
    ),
    Plant(
        "records that their senders stamped are believed",
        KAFKA, "if stamped_by != by:", "if stamped_by > by:",
        (ON_KAFKA + "test_records_that_others_stamped_are_not_read",),
    ),
    Plant(
        "a topic of which all was deleted looks like a new one",
        READER, "                if begin >= end:\n", "                if begin > end:\n",
        (ON_KAFKA + "test_a_truncated_topic_is_read_from_where_it_begins_and_never_followed_over_the_gap",),
    ),
    Plant(
        "the engine starts on a topic of which all was deleted",
        "services/rules_engine/restore.py", "if oldest > 0 or why:", "if oldest > 0:",
        (ON_KAFKA + "test_the_engine_does_not_start_on_a_truncated_topic_without_a_checkpoint",),
    ),
    Plant(
        "a record that Kafka would refuse is sent all the same",
        KAFKA, "if len(value) + OVERHEAD > LARGEST:", "if len(value) + OVERHEAD < 0:",
        (ON_KAFKA + "test_what_is_larger_than_the_log_takes_is_refused_before_anything_is_sent",),
    ),
    Plant(
        "topics are made so that senders stamp",
        "services/adapters/log/topics.py", '"CreateTime" if topic.simulated else "LogAppendTime"', '"CreateTime"',
        (ON_KAFKA + "test_records_are_stamped_by_the_broker_in_whole_milliseconds",),
    ),
    Plant(
        "a topic that forgets sooner than it must is accepted",
        "services/adapters/log/topics.py", "int(found) >= int(wanted))", "int(found) <= int(wanted))",
        (ON_KAFKA + "test_more_than_is_needed_is_no_fault",),
    ),
    Plant(
        "a workspace is not where other clients of Kafka put it",
        "services/adapters/log/codec.py", "h = 0x9747B28C ^ len(data)", "h = 0x9747B28C",
        (ON_KAFKA + "test_a_workspace_is_where_every_other_client_of_kafka_puts_it",),
    ),
    Plant(
        "the group is told of records whose decisions are not acknowledged",
        SHARE, "{n: w.done for n, w in self.workers.items() if n in self.ours and w.restored and self._told.get(n) != w.done}",
        "{n: w.partition.offset for n, w in self.workers.items() if n in self.ours and w.restored}",
        (SHARED + "test_no_offset_is_told_before_what_was_decided_there_is_acknowledged",),
    ),
    Plant(
        "a partition that went to another is worked on",
        SHARE, "                task.cancel()\n\n    def _keep", "                pass\n\n    def _keep",
        (SHARED + "test_workers_come_and_go_as_the_group_says_and_offsets_follow_acknowledged_decisions",),
    ),
    Plant(
        "whenever partitions are shared out anew, all begin anew",
        SHARE, "            if number not in ours:\n", "            if number >= 0:\n",
        (SHARED + "test_workers_come_and_go_as_the_group_says_and_offsets_follow_acknowledged_decisions",),
    ),
    Plant(
        "a partition that could not be restored is given up",
        SHARE, "partition=number)\n            await asyncio.sleep(self.again)", "partition=number)\n            await asyncio.Event().wait()",
        (SHARED + "test_a_partition_that_cannot_be_restored_is_told_and_tried_again_while_the_other_goes_on",),
    ),
    Plant(
        "a start does not ask which rights on the topics it has",
        f"{PRODUCTION}/service.py", "wanted=wanted, ", "",
        (RIGHTS + "test_a_start_that_lacks_a_right_ends_with_the_line_that_names_it[actions]",),
    ),
    Plant(
        "a start does not ask whether it may be in its group",
        f"{PRODUCTION}/service.py", "                    await group.check()\n", "                    pass\n",
        (RIGHTS + "test_a_start_that_lacks_a_right_ends_with_the_line_that_names_it[actions]",),
    ),
    Plant(
        "who may not know of a topic waits for its records for ever",
        "services/adapters/log/kafka.py", "                await reader.known()\n", "",
        (RIGHTS + "test_a_right_that_is_taken_away_later_is_named_where_it_is_missed",),
    ),
    Plant(
        "actions may write decisions",
        "services/adapters/log/rights.py", 'Right(TOPIC, "decisions", (READ, CONFIGS), "takes', 'Right(TOPIC, "decisions", (READ, WRITE, CONFIGS), "takes',
        (RIGHTS + "test_decisions_are_written_by_the_engine_alone_and_topics_created_by_no_service",),
    ),
    Plant(
        "ingest is granted less than it uses",
        "services/adapters/log/rights.py",
        'Right(TOPIC, "events.each", (READ, WRITE, CONFIGS), "appends',
        'Right(TOPIC, "events.each", (WRITE, CONFIGS), "appends',
        (RIGHTS + "test_every_service_as_a_user_of_its_own_does_the_main_job_and_uses_each_of_its_rights",),
    ),
    Plant(
        "the console has a right that it does not use",
        "services/adapters/log/rights.py", '    "console": (),\n', '    "console": (Right(TOPIC, "events", (READ, CONFIGS), ""),),\n',
        (RIGHTS + "test_every_service_as_a_user_of_its_own_does_the_main_job_and_uses_each_of_its_rights",),
    ),
    Plant(
        "a member of the group fetches what is read apart",
        "services/adapters/log/group.py", "            kafka.pause(partition)\n", "",
        (SHARED + "test_partitions_are_shared_and_what_is_decided_is_what_one_engine_decides",),
    ),
    Plant(
        "the state is restored while the group waits for it",
        "services/adapters/log/group.py", "        self._given(numbers)\n", "        __import__('time').sleep(2)\n        self._given(numbers)\n",
        (SHARED + "test_a_restore_that_takes_longer_than_a_session_loses_no_partition",),
    ),
    Plant(
        "ticks go where records of no workspace go, not to the worker's partition",
        "services/rules_engine/worker.py", '[("", Tick())], self.number)', '[("", Tick())])',
        (WORKER + "test_in_a_log_of_several_partitions_time_moves_in_its_own",),
    ),
    Plant(
        "what was pruned is not found where something is appended meanwhile",
        "services/adapters/log/sqlite.py", "live = rows[0][0] if rows else following", "live = rows[0][0] if rows else self._next[partition]",
        (LOG + "test_what_was_pruned_is_read_also_while_something_is_appended",),
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
        actions("lanes"),
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
        "this = and_(intents.c.decision_id == lease.decision_id, intents.c.token == lease.token)",
        "this = intents.c.decision_id == lease.decision_id",
        (CRASH + "test_a_stale_token_is_fenced_off",),
    ),
    Plant(
        "the lease is not looked at right before the call",
        actions("execute"),
        'return looked, "" if is_ours else "lease_lost"',
        'return looked, ""',
        (PARKING + "test_whoever_has_no_lease_any_more_when_it_looks_last_sends_nothing",),
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
        "one look is enough where the platform never said yes",
        "services/actions/core/progress.py",
        'sure = 1 if attempt.answer == "accepted" else 2',
        "sure = 1",
        (ACTIONS + "test_a_value_from_before_the_change_that_is_undone_is_not_taken_for_the_undo",),
    ),
    Plant(
        "a restore believes the first value it reads",
        actions("execute"),
        'if takes_back and await self._later(lease, "maybe_old"):',
        "if False:",
        (ACTIONS + "test_a_restore_does_not_believe_a_value_from_before_the_change",),
    ),
    Plant(
        "tries at one step are counted for the next",
        actions("execute"),
        "                await tx.execute(update(intents).where(intents.c.decision_id == lease.decision_id).values(tries=0))\n",
        "",
        (ACTIONS + "test_a_restore_does_not_believe_a_value_from_before_the_change",),
    ),
    Plant(
        "tries of one step that did not go out are counted for the next",
        actions("execute"), "sum((b[\"step\"], b[\"role\"], b[\"reason\"]) == (attempt.step, attempt.role, reason) for b in bodies)", "len(bodies)",
        (CRASH + "test_each_step_has_tries_of_its_own_and_what_was_done_is_taken_back",),
    ),
    Plant(
        "an end takes as long as what holds it up",
        "services/running.py", "                end_within(DRAIN, service)\n", "",
        ("tests/shell/test_draining.py::test_who_cannot_drain_is_gone_at_the_end_of_its_time_and_says_so",),
    ),
    Plant(
        "what may have been sent is cancelled",
        actions("people"), "if any(a.answer != \"unsent\" for a in await store.attempts_of(tx, row.id)):", "if False:",
        (CANCELLING + "test_what_may_have_been_sent_goes_on_to_its_end", CANCELLING + "test_half_a_change_is_not_left_half_by_cancelling_it"),
    ),
    Plant(
        "what is cancelled can still be approved",
        actions("people"), '        answer = {"status": "cancelled", "answered_by"', '        answer = {"status": "waiting", "answered_by"',
        (CANCELLING + "test_the_question_to_people_ends_with_it",),
    ),
    Plant(
        "all of a rule is all of every workspace",
        actions("people"), "        its = (decisions.c.workspace == who.workspace) & (decisions.c.rule == rule)", "        its = (decisions.c.rule == rule)",
        (CANCELLING + "test_all_of_a_rule_and_nothing_else",),
    ),
    Plant(
        "all of a rule is all of a workspace",
        actions("people"), " & (decisions.c.rule == rule) & (decisions.c.undoes", " & (decisions.c.undoes",
        (CANCELLING + "test_all_of_a_rule_and_nothing_else",),
    ),
    Plant(
        "a person's undo is cancelled with the rule that it undoes",
        actions("people"), ' & (decisions.c.undoes == "")\n', '\n',
        (CANCELLING + "test_an_undo_of_a_rules_decision_is_a_persons_and_stays",),
    ),
    Plant(
        "cancelling leaves no word of who and why",
        actions("people"), '        change.note(who.workspace, "decision.cancelled", row.id, who.name, reason=reason, was=row.status)\n', "",
        (CANCELLING + "test_what_is_cancelled_never_begins_and_the_engine_hears_of_it",),
    ),
    Plant(
        "a viewer may cancel what reviewers decide on",
        actions("api"), "cancel(decision_id: str, body: Reason, who: Reviewer)", "cancel(decision_id: str, body: Reason, who: Viewer)",
        ("tests/console/test_acting.py::test_a_viewer_who_sends_a_form_anyway_is_told_that_it_is_not_theirs",),
    ),
    Plant(
        "a replay that goes round a damaged archive does not say so",
        "services/rules_engine/replay.py",
        "replace(await self._from_a_checkpoint(instant, lost), why=str(lost))",
        "await self._from_a_checkpoint(instant, lost)",
        ("tests/shell/test_archived_start.py::test_a_hole_in_the_archive_is_gone_round_by_a_checkpoint_after_it",),
    ),
    Plant(
        "all of a rule is cancelled in one transaction",
        actions("people"), ".order_by(decisions.c.position).limit(AT_ONCE)", ".order_by(decisions.c.position)",
        (CANCELLING + "test_many_are_cancelled_a_few_at_a_time_so_that_the_switch_waits_for_none",),
    ),
    Plant(
        "a write that did not go out has failed",
        actions("execute"), "if answer.kind == \"unsent\":", "if answer.kind == \"never\":",
        (CRASH + "test_what_did_not_go_out_is_withdrawn_and_made_once_it_can_be",),
    ),
    Plant(
        "a write that does not go out is tried for ever, once a second",
        actions("execute"), "1 + await self._withdrawn(tx, lease, attempt, reason) if is_a_try else 0", "int(is_a_try)",
        (CRASH + "test_what_does_not_go_out_waits_longer_each_time", CRASH + "test_what_never_goes_out_has_failed_after_six_tries_and_says_so"),
    ),
    Plant(
        "a write that did not go out is said to be refused",
        "services/actions/executors/sandbox.py", "Answer(\"unsent\", \"no c", "Answer(\"refused\", \"no c",
        ("tests/contracts/test_executors.py::test_a_platform_that_is_away_was_not_written",),
    ),
    Plant(
        "what is as decided already is written",
        actions("execute"),
        "step.observed in (None, step.desired)",
        "step.observed is None",
        (ACTIONS + "test_what_was_decided_to_be_as_it_is_needs_no_call",),
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
        "change = {step.attribute: step.desired}",
        "change = {step.attribute: step.desired - observed.value if isinstance(step.desired, int) else step.desired}",
        (EXECUTORS + "test_a_status_and_a_budget_are_set_and_read_back",),
    ),
    Plant(
        "the call is made before its intent is committed",
        actions("execute"),
        '        if not await self._intend(lease, draft, key):\n'
        '            return False\n'
        '        faultpoint("actions.intended")\n'
        '        if why := await self._why_not_sent(lease, move, begun):\n'
        '            await self._withdraw(lease, draft, why)\n'
        '            return False\n'
        '        answer = await self._write(step, observed, key)\n',
        '        answer = await self._write(step, observed, key)\n'
        '        if not await self._intend(lease, draft, key):\n'
        '            return False\n'
        '        faultpoint("actions.intended")\n'
        '        if why := await self._why_not_sent(lease, move, begun):\n'
        '            await self._withdraw(lease, draft, why)\n'
        '            return False\n',
        (ACTIONS + "test_every_call_has_a_committed_intent_with_what_was_read_and_what_was_asked",),
    ),
    Plant(
        "the audit entry is written after the commit",
        actions("execute"),
        'done.effects)\n            await change.write(tx)\n            faultpoint("actions.ending")\n'
        '        self.metrics.count(change)\n        faultpoint("actions.concluded")\n',
        'done.effects)\n        faultpoint("actions.concluded")\n        async with self.database.writing() as tx:\n            await change.write(tx)\n',
        (CRASH + "test_a_pause_is_neither_lost_nor_doubled",),
    ),
    Plant(
        "an outcome counts as sent before the log has it",
        actions("worker"),
        "                for rows in _by_workspace(page).values():\n",
        "                if page:\n                    await self._mark_sent([row.id for row in page])\n"
        "                for rows in _by_workspace(page).values():\n",
        (CRASH + "test_a_pause_is_neither_lost_nor_doubled",),
    ),
    Plant(
        "a partition that is away keeps what the others took from being known as sent",
        actions("worker"),
        "                if there := [row.id for error, rows in ended if error is None for row in rows]:\n",
        "                if there := [] if failed else [row.id for error, rows in ended if error is None for row in rows]:\n",
        (ACTIONS + "test_while_a_partition_is_away_the_outcomes_of_others_are_sent_once",),
    ),
    Plant(
        "outcomes of a partition that is away fill the page of what is sent",
        actions("worker"),
        "UNSENT.where(others) if under_way or failed else UNSENT, ",
        "UNSENT, ",
        (ACTIONS + "test_a_workspace_whose_partition_is_away_does_not_fill_the_page_of_what_is_sent",),
    ),
    Plant(
        "behind a page of outcomes nobody looks until the log has answered for all of it",
        actions("worker"),
        "timeout=0 if len(page) == BATCH else None, return_when=asyncio.FIRST_COMPLETED",
        "return_when=asyncio.ALL_COMPLETED",
        (ACTIONS + "test_a_partition_that_does_not_answer_keeps_nothing_of_another_unsent",),
    ),
    Plant(
        "what is parked is looked at when a process starts, and never again",
        actions("worker"),
        "        if so.hold:\n            return 0\n",
        "        if True:\n            return 0\n",
        (PARKING + "test_what_a_process_that_holds_parks_after_the_start_of_one_that_does_not_is_carried_out",),
    ),
    Plant(
        "what is parked is released at each look at the queue",
        actions("worker"),
        "self._released + self.conduct.pace.audit / 1e6",
        "self._released",
        (PARKING + "test_a_process_looks_for_what_others_have_parked_now_and_then",),
    ),
    Plant(
        "processes correct each other's word for why something is parked",
        actions("parking"),
        "        if says_why and why != decision.reason:\n",
        "        if why != decision.reason:\n",
        (PARKING + "test_processes_that_may_not_carry_it_out_do_not_dispute_why",),
    ),
    # -- a process that ends anywhere -------------------------------------------------------------------------------------
    Plant(
        "decisions are sent, and nobody waits for them to be there",
        "services/rules_engine/worker.py",
        "            await self.said.say(decided)\n",
        "            self._unsaid = asyncio.create_task(self.said.say(decided))\n",
        (CHECKPOINTS + "test_no_checkpoint_claims_decisions_that_are_not_on_their_log",),
    ),
    Plant(
        "a checkpoint claims what is derived and not said",
        "services/rules_engine/worker.py",
        "self.done != self.partition.offset or self.said.to_repeat",
        "self.said.to_repeat",
        (CHECKPOINTS + "test_no_checkpoint_claims_decisions_that_are_not_on_their_log",),
    ),
    Plant(
        "an older checkpoint wins",
        "services/rules_engine/checkpoint.py",
        "key=lambda k: (k.partition, -k.offset)",
        "key=lambda k: (k.partition, k.offset)",
        (CHECKPOINTS + "test_a_start_folds_what_the_checkpoint_has_not_and_reads_the_logs_from_there",),
    ),
    Plant(
        "a damaged checkpoint is believed",
        "services/rules_engine/checkpoint.py",
        '    verify(path)\n    with path.open("rb") as file:',
        '    with path.open("rb") as file:',
        (CHECKPOINTS + "test_a_damaged_checkpoint_is_passed_over_for_an_older_one",),
    ),
    Plant(
        "a checkpoint has its name before it is whole",
        "services/rules_engine/checkpoint.py",
        "begun = final.with_suffix(self.begun)",
        "begun = final",
        (CHECKPOINTS + "test_a_process_that_ends_while_it_writes_a_checkpoint_leaves_a_whole_one_or_none",),
    ),
    Plant(
        "the newest checkpoints are the ones removed",
        "services/rules_engine/checkpoint.py",
        "kept[: self.last]",
        "kept[-self.last :]",
        (CHECKPOINTS + "test_the_newest_three_stay_and_one_of_each_of_seven_days",),
    ),
    Plant(
        "a log without its beginning is followed on an empty state",
        "services/rules_engine/restore.py",
        "        if oldest > 0 or why:\n",
        "        if oldest < 0:\n",
        (CHECKPOINTS + "test_a_log_without_its_beginning_is_refused_where_no_checkpoint_covers_the_gap",),
    ),
    Plant(
        "doctor takes the checkpoint of another log for a good one",
        "services/doctor/checkpoints.py",
        "(header.offset > end or not is_marked(header, before))",
        "header.offset > end",
        (EXAMINED + "test_a_checkpoint_of_another_log_is_a_failure",),
    ),
    Plant(
        "doctor finds nothing amiss where no checkpoint covers what is gone",
        "services/doctor/checkpoints.py",
        "if header is None and first > 0:",
        "if header is None and first > end:",
        (EXAMINED + "test_no_checkpoint_is_a_failure_where_the_topic_has_lost_its_beginning",),
    ),
    Plant(
        "a rule whose ready record was not written waits for something else to happen",
        "services/rules_engine/worker.py",
        '        await self._declare_ready()\n        log.info("restored"',
        '        log.info("restored"',
        (CHECKPOINTS + "test_a_process_that_ends_before_it_says_that_a_rule_is_ready_leaves_it_to_the_next",),
    ),
    Plant(
        "a delivery is acknowledged before the log has it",
        "services/ingest/intake.py",
        "                await self.append_rows(delivery.workspace, rows)\n",
        "                self._unsaid = asyncio.ensure_future(self.append_rows(delivery.workspace, rows))\n",
        (PLUG + "[private.begun-ingest.joined-engine.stepped-actions.intended]",),
    ),
    Plant(
        "what a platform said last is remembered before the log has the change",
        "services/ingest/intake.py",
        '        faultpoint("ingest.appended")\n',
        "        async with self.database.writing() as tx:\n"
        "            for row in _rows(delivery.workspace, detector.take_news() if detector else {}):\n"
        "                await tx.execute(self._newer(row))\n"
        '        faultpoint("ingest.appended")\n',
        ("tests/shell/test_ingest_crash.py::test_a_delivery_that_is_repeated_is_there_once",),
    ),
    Plant(
        "the log counts as read before our own outcomes are remembered",
        "services/ingest/intake.py",
        "                await self.ours((outcome, stamp) for _, outcome, stamp in part)\n",
        "                await self._noted(partition, part[-1][0] + 1)\n"
        "                await self.ours((outcome, stamp) for _, outcome, stamp in part)\n",
        ("tests/shell/test_ingest_crash.py::test_what_we_did_ourselves_is_never_taken_for_a_change_by_hand",),
    ),
    Plant(
        "a page of outcomes is one piece of work",
        "services/ingest/intake.py",
        "for part in (outcomes[i : i + PART] for i in range(0, len(outcomes), PART)):",
        "for part in filter(None, [outcomes]):",
        ("tests/shell/test_ingest_crash.py::test_a_page_of_outcomes_is_gone_through_in_parts_and_gone_on_with_where_it_was_left",),
    ),
    Plant(
        "what the last process had under way waits for its lease",
        actions("execute"),
        ".values(lease_until=0))\n",
        ".values(lease_until=intents.c.lease_until))\n",
        (CRASH + "test_what_the_last_process_of_this_name_had_under_way_waits_for_no_lease",),
    ),
    Plant(
        "a cancelled transaction keeps the lock until garbage is collected",
        "services/adapters/db/database.py",
        '    event.listen(engine.sync_engine, "invalidate", _roll_back)\n',
        "",
        ("tests/shell/test_database.py::test_a_task_that_is_cancelled_while_it_reads_in_its_transaction_leaves_no_lock_behind",),
    ),
    Plant(
        "the server's secret is written where it is read",
        "services/adapters/private.py",
        'begun = path.with_name(f"{path.name}.begun")',
        "begun = path",
        ("tests/shell/test_auth.py::test_a_process_that_ends_while_it_makes_the_secret_leaves_none",),
    ),
    Plant(
        "the offset of the inbox is committed before the decisions",
        actions("worker"),
        "        async with self.database.writing(store.inbox(partition), *turns) as tx:\n            taken = await take_in(",
        "        async with self.database.writing() as tx:\n            start = await store.next_offset(tx, partition)\n"
        "            await store.set_next_offset(tx, partition, page[-1].offset + 1)\n"
        "        async with self.database.writing() as tx:\n            await store.set_next_offset(tx, partition, start)\n            taken = await take_in(",
        (CRASH + "test_a_pause_is_neither_lost_nor_doubled",),
    ),
    Plant(
        "a gap in the decisions is not noticed between two pages",
        actions("intake"),
        "    expected = [start, *(offset",
        "    expected = [fresh[0][0] if fresh else 0, *(offset",
        (SEQUENCE + "test_what_was_skipped_is_noticed_once_and_in_the_ledger",),
    ),
    Plant(
        "a log that was filled again up to the reader's place is taken for the one that was read",
        actions("worker"),
        "page[0].record.id == place.last",
        "page[0].offset == place.offset - 1",
        (SEQUENCE + "test_a_log_that_lost_its_end_is_read_again_from_its_beginning",),
    ),
    Plant(
        "a chain that became shorter is gone on from",
        "services/actions/ledger/audit.py",
        "    if head.sequence >= check.sequence:\n",
        "    if True:\n",
        (WATCHED + "test_a_chain_that_was_cut_or_made_anew_is_not_what_was_verified",),
    ),
    Plant(
        "the ledger is never verified from its first entry again",
        "services/actions/ledger/audit.py",
        "        is_whole = check.workspace in self._whole or now - check.whole_at >= DAY\n",
        "        is_whole = check.workspace in self._whole or not check.whole_at\n",
        (WATCHED + "test_an_old_entry_that_was_altered_is_found_within_the_day",),
    ),
    Plant(
        "one person releases what the witness has set",
        actions("people"),
        "        if before.first == who.name:\n",
        "        if False:\n",
        (WATCHED + "test_an_older_database_executes_nothing_until_two_people_release_it",),
    ),
    Plant(
        "whoever sets the switch again takes the witness's cause from it",
        actions("people"),
        "        return replace(before, kept=own)  # on top",
        "        return own  # on top",
        (WATCHED + "test_an_older_database_executes_nothing_until_two_people_release_it",),
    ),
    Plant(
        "a person's switch is gone once the witness holds, too",
        actions("people"),
        "own = before.kept if before.cause == store.WITNESS else before if before.engaged else None",
        "own = before.kept if before.cause == store.WITNESS else None",
        (WATCHED + "test_a_persons_switch_remains_once_the_witnesss_hold_is_released",),
    ),
    Plant(
        "a hold that the witness says anew forgets the person's switch beneath it",
        actions("people"),
        "own = before.kept if before.cause == store.WITNESS else before if before.engaged else None",
        "own = before if before.engaged and before.cause != store.WITNESS else None",
        (WATCHED + "test_a_persons_switch_remains_once_the_witnesss_hold_is_released",),
    ),
    Plant(
        "two people release a switch of a third person's with the witness's hold",
        actions("people"),
        "    return before.kept or own\n",
        "    return own\n",
        (
            WATCHED + "test_a_persons_switch_remains_once_the_witnesss_hold_is_released",
            WATCHED + "test_a_switch_that_is_engaged_while_the_witness_holds_is_kept_and_noted",
        ),
    ),
    Plant(
        "what a process of the version before releases lets a person's switch go, too",
        actions("store"),
        "    if kept and not row.engaged:\n",
        "    if kept and not row.engaged and False:\n",
        (WATCHED + "test_a_process_of_the_version_before_that_releases_the_hold_leaves_the_persons_switch",),
    ),
    Plant(
        "going down a version lets a person's switch go",
        "services/adapters/db/migrations/versions/0007_kept_switch.py",
        "    op.execute(REMAINS)\n",
        "",
        (WATCHED + "test_a_process_of_the_version_before_that_releases_the_hold_leaves_the_persons_switch",),
    ),
    Plant(
        "a migration asks for a column that the version before does not give",
        "services/adapters/db/migrations/versions/0006_ledger_checks.py",
        'sa.Column("cause", sa.String(16), nullable=False, server_default="")',
        'sa.Column("cause", sa.String(16), nullable=False)',
        (
            BEFORE + "test_each_migration_only_adds_to_what_the_version_before_knows",
            BEFORE + "test_what_the_version_before_writes_and_reads_goes_on_after_each_migration",
        ),
    ),
    Plant(
        "a migration demands what the version before does not keep to",
        "services/adapters/db/migrations/versions/0007_kept_switch.py",
        '    op.add_column("kill_switches", sa.Column("kept_at", sa.BigInteger, nullable=False, server_default="0"))\n',
        '    op.add_column("kill_switches", sa.Column("kept_at", sa.BigInteger, nullable=False, server_default="0"))\n'
        '    op.create_index("ix_kill_switches_at", "kill_switches", ["at"], unique=True)\n',
        (BEFORE + "test_each_migration_only_adds_to_what_the_version_before_knows",),
    ),
    Plant(
        "the witness's signature is not looked at",
        "services/actions/ledger/witness.py",
        "hmac.compare_digest(str(signature), self._sign(said)) and ",
        "",
        (WATCHED + "test_a_witness_that_is_not_as_it_was_written_holds_too",),
    ),
    Plant(
        "a service acts before it has asked the witness",
        actions("worker"),
        "        await self.compare()\n        await self.execution.take_over()\n",
        "        await self.execution.take_over()\n",
        (WATCHED + "test_a_service_whose_witness_cannot_be_read_does_not_start",),
    ),
    Plant(
        "a service that is told to end is gone at once",
        "services/running.py",
        "                end_within(DRAIN, service)\n",
        "                end_within(0, service)\n",
        (ROLLED,),
    ),
    Plant(
        "a service that starts or ends says that it is broken",
        f"{PRODUCTION}/service.py",
        'await problem(503, "stopping" if is_ending',
        'await problem(500, "stopping" if is_ending',
        (ROLLED,),
    ),
    Plant(
        "a platform that does not answer keeps the others' decisions waiting",
        actions("lanes"),
        "    return first, *(",
        "    return Lane(), *(",
        (ACTIONS + "test_a_platform_that_does_not_answer_keeps_no_other_platforms_decisions_waiting",),
    ),
    Plant(
        "the workspace that has waited longest takes every place",
        actions("execute"),
        "-(-(self.pace.at_once - len(leases)) // (len(somewhere) - number))",
        "self.pace.at_once - len(leases) + 0 * number",
        (ACTIONS + "test_a_workspace_with_many_decisions_leaves_places_for_the_others",),
    ),
    Plant(
        "a text that looks like a path leads a decision to another platform",
        actions("lanes"),
        """contains(f'"path":"{platform}/', autoescape=True)""",
        """contains(f'{platform}/', autoescape=True)""",
        (ACTIONS + "test_a_platform_that_does_not_answer_keeps_no_other_platforms_decisions_waiting",),
    ),
    Plant(
        "a panel asks for a metric that is no more",
        "deploy/grafana/trimtab.json",
        "max by (instance) (trimtab_outcomes_unsent{",
        "max by (instance) (trimtab_outcomes_waiting{",
        ("tests/architecture/test_dashboard.py::test_the_file_is_what_the_code_says",),
    ),
    Plant(
        "a checkpoint of a bucket is sent in the place of whatever was the newest",
        "services/rules_engine/bucket.py",
        '        name = f"{header.partition}-{header.offset:020d}.checkpoint"\n        with self._scratch()',
        '        name = f"{header.partition}-{0:020d}.checkpoint"\n        with self._scratch()',
        (BUCKET + "test_the_newest_comes_first_and_an_older_one_replaces_nothing",),
    ),
    Plant(
        "what was fetched from a bucket is not checked",
        "services/rules_engine/checkpoint.py",
        '        if file.read() != digest.digest():\n            raise Unusable("its hash does not agree',
        '        if False:\n            raise Unusable("its hash does not agree',
        (BUCKET + "test_what_is_damaged_or_foreign_is_passed_over_and_named",),
    ),
    Plant(
        "a store that is away is a bucket without checkpoints",
        "services/adapters/blobs.py",
        '        raise Unavailable(f"{what}: {_short(error)}", reason=reason) from error\n',
        "        return\n",
        (BUCKET + "test_a_store_that_is_away_is_said_and_leaves_nothing",),
    ),
    # -- many processes on one database -----------------------------------------------------------------------------------
    Plant(
        "writers of PostgreSQL take no turns",
        "services/adapters/db/database.py",
        "keys = sorted(turn_key(turn) for turn in set(turns))",
        "keys: list[int] = sorted([])",
        (MANY + "test_the_same_log_read_by_several_is_taken_in_once", POSTGRES + "test_who_takes_the_same_turn_sees_all_that_those_before_it_committed"),
    ),
    Plant(
        "turns are taken in whatever order they are named",
        "services/adapters/db/database.py",
        "keys = sorted(turn_key(turn) for turn in set(turns))",
        "keys = [turn_key(turn) for turn in turns]",
        (POSTGRES + "test_turns_are_taken_in_one_order_whoever_names_them",),
    ),
    Plant(
        "a COMMIT whose answer was lost counts as not done",
        "services/adapters/db/database.py",
        "if not await self._is_committed(commit):",
        "if True:",
        (POSTGRES + "test_a_commit_whose_answer_is_lost_is_found_to_have_been_done",),
    ),
    Plant(
        "a COMMIT whose answer was lost counts as done",
        "services/adapters/db/database.py",
        "if not await self._is_committed(commit):",
        "if False:",
        (POSTGRES + "test_a_commit_that_never_arrived_is_found_not_to_have_been_done_and_can_be_done_again",),
    ),
    Plant(
        "whether a transaction was committed is looked up without keeping it from committing later",
        "services/adapters/db/database.py",
        '                        await connection.execute(FENCED, {"id": commit})\n',
        "                        pass\n",
        (POSTGRES + "test_whoever_was_found_not_to_have_committed_cannot_commit_any_more",),
    ),
    Plant(
        "a reader sees what is committed while it reads",
        "services/adapters/db/database.py",
        'isolation_level="REPEATABLE READ", postgresql_readonly=True',
        'isolation_level="READ COMMITTED", postgresql_readonly=True',
        (POSTGRES + "test_a_reader_sees_one_moment_and_writes_nothing",),
    ),
    Plant(
        "outcomes are published by whoever comes",
        actions("store"),
        "    if row.owner != owner and row.until >= now:\n        return False\n",
        "",
        (MANY + "test_outcomes_that_another_process_is_publishing_are_left_to_it",),
    ),
    Plant(
        "versions of a rule are numbered by whoever drafts",
        "services/rules_engine/store.py",
        "        async with self.database.writing(_turn(workspace)) as connection:\n",
        "        async with self.database.writing() as connection:\n",
        ("tests/shell/test_rule_store.py::test_versions_drafted_at_once_are_numbered_without_gaps_and_each_once",),
    ),
    Plant(
        "an intent is committed without the workspace's turn",
        actions("execute"),
        "        async with self.database.writing(store.turn(lease.workspace)) as tx:\n            change = store.Change(self.clock.now())\n"
        "            await self._hold_lease(tx, lease)\n            stop =",
        "        async with self.database.writing() as tx:\n            change = store.Change(self.clock.now())\n"
        "            await self._hold_lease(tx, lease)\n            stop =",
        (MANY + "test_an_intent_waits_for_the_switch_that_is_about_to_be_committed",),
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
        "an undo fails at the first step that is not there",
        actions("execute"),
        "takes_back = move.role != APPLY or await self._is_undo(lease)",
        "takes_back = move.role != APPLY",
        (ACTIONS + "test_the_undo_of_a_shift_whose_second_step_never_happened_takes_back_the_first",),
    ),
    Plant(
        "an undo takes back what was restored already",
        actions("core/progress"),
        "if (restored := _restored(by, a.step)) is None or restored.status != VERIFIED)",
        "if True)",
        (ACTIONS + "test_the_undo_of_a_half_that_was_partly_restored_takes_back_the_rest",),
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
        "a switch that is engaged after the intent stops nothing",
        actions("execute"),
        "                if why:\n                    return why\n",
        "",
        (PARKING + "test_what_stops_a_change_after_its_intent_stops_the_write",),
    ),
    Plant(
        "a second step whose time ended after its intent is taken",
        actions("execute"),
        "has_begun=move.role != APPLY)",
        "has_begun=True)",
        (PARKING + "test_a_second_step_that_becomes_too_late_after_its_intent_is_not_taken_and_the_first_is_restored",),
    ),
    Plant(
        "the last look at the switch is believed however old it is",
        actions("execute"),
        "if now <= looked + self.pace.fresh:",
        "if True:",
        (PARKING + "test_nothing_is_sent_on_a_look_at_the_switch_that_is_old_by_now",),
    ),
    Plant(
        "a write is sent however long it waited for its connection",
        "services/adapters/http/calling.py",
        'if event.endswith("send_request_headers.started") and elapsed() > until:',
        "if False:",
        ("tests/shell/test_calling.py::test_a_write_that_is_not_under_way_in_time_is_not_sent",),
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
        '"sequence":{sequence},"subject"',
        '"subject"',
        (LEDGER + "test_every_field_is_under_the_hash",),
    ),
    Plant(
        "the verifier takes the fifth entry's word",
        actions("ledger/chain"),
        "if kept != expected:",
        "if kept != expected and number != 5:",
        (LEDGER + "test_tampering_names_the_first_broken_link",),
    ),
    Plant(
        "a cut-off tail is not missed",
        actions("ledger/chain"),
        "if head != self.last:",
        "if head.sequence < self.last.sequence:",
        (LEDGER + "test_tampering_names_the_first_broken_link",),
    ),
    Plant(
        "each page of a chain is verified as a chain of its own",
        actions("ledger/chain"),
        "if previous != before:",
        "if previous != before and number != self.last.sequence + 1:",
        (LEDGER + "test_a_chain_walked_in_parts_is_found_to_be_what_it_is_as_a_whole",),
    ),
    # -- what is pruned is not lost ---------------------------------------------------------------------------------------------
    Plant(
        "a segment is pruned before its file is read again",
        KEEPER,
        "if fault := self.archive.fault(r):",
        "if fault := None and self.archive.fault(r):",
        (SEGMENTS + "test_a_file_damaged_while_its_records_live_is_not_pruned_and_is_written_again",),
    ),
    Plant(
        "a file is registered without being read back",
        KEEPER,
        "if SegmentFile(begun, written.sha256).verify(self.paused) != r.segment:",
        "if not begun.exists():",
        (SEGMENTS + "test_a_file_that_reads_back_otherwise_is_not_registered",),
    ),
    Plant(
        "a segment is pruned that is not archived",
        KEEPER,
        "            if not r.file:\n                yield",
        "            if r.file is None:\n                yield",
        (SEGMENTS + "test_segments_are_pruned_only_from_the_archive",),
    ),
    Plant(
        "pruning goes past what a checkpoint needs",
        KEEPER,
        "if r.segment.last >= lowest:",
        "if r.segment.last >= 10**9 + lowest:",
        (SEGMENTS + "test_nothing_that_a_checkpoint_needs_is_pruned",),
    ),
    Plant(
        "pruning looks at the newest checkpoint instead of the oldest",
        "services/rules_engine/checkpoint.py",
        "return min(usable, default=0)",
        "return max(usable, default=0)",
        (ARCHIVED + "test_the_floor_is_that_of_the_oldest_checkpoint_that_a_start_could_go_on_from",),
    ),
    Plant(
        "a checkpoint that nobody can go on from lets the log be pruned",
        "services/rules_engine/checkpoint.py",
        "if (header := self.verify(kept)).state == STATE:",
        "if header := self.verify(kept):",
        (ARCHIVED + "test_the_floor_is_that_of_the_oldest_checkpoint_that_a_start_could_go_on_from",),
    ),
    Plant(
        "an archive's hash is not compared",
        SEGMENT,
        "        if file.read() != digest.digest():",
        "        if len(file.read()) != digest.digest_size:",
        (SEGMENTS + "test_any_bit_that_turned_in_a_segment_is_noticed",),
    ),
    Plant(
        "a file put in the place of another is believed",
        SEGMENT,
        "if sha256 and self.sha256 != sha256:",
        "if sha256 and not self.sha256:",
        (SEGMENTS + "test_a_file_put_in_the_place_of_another_is_never_read_from",),
    ),
    Plant(
        "what cannot be read of the archive is read over",
        ARCHIVE,
        "                    return rows  # up to the damage; who reads on is told\n                raise\n",
        "                    return rows\n                at = r.segment.last + 1\n",
        (SEGMENTS + "test_a_damaged_file_is_never_read_from_and_is_named",),
    ),
    Plant(
        "a hole in the archive is read over",
        ARCHIVE,
        "if r.segment.last < reach - 1 or not self.lies(r):\n                break",
        "if not self.lies(r):\n                continue",
        (SEGMENTS + "test_where_files_are_gone_the_log_begins_after_the_last_of_them",),
    ),
    Plant(
        "a past is recomputed from a checkpoint that was taken after it",
        "services/rules_engine/checkpoint.py",
        "return before is not None and header is not None and header.engine_time >= before",
        "return before is not None and header is not None and header.engine_time > before + DAY",
        (ARCHIVED + "test_where_the_logs_beginning_is_gone_the_past_is_recomputed_from_the_checkpoint_before_it",),
    ),
    Plant(
        "a past is recomputed from the middle of the log on an empty state",
        "services/rules_engine/replay.py",
        "        if page[0].offset > offset:\n            raise",
        "        if page[0].offset > offset > 0:\n            raise",
        (ARCHIVED + "test_where_the_logs_beginning_is_gone_the_past_is_recomputed_from_the_checkpoint_before_it",),
    ),
    Plant(
        "a past is recomputed from a checkpoint of another log",
        "services/rules_engine/replay.py",
        "            why = await unfit(self.log, found, first)\n",
        "            why = ''\n",
        (ARCHIVED + "test_a_checkpoint_that_does_not_hold_is_passed_over_by_a_replay",),
    ),
    Plant(
        "a past is recomputed from a checkpoint that keeps less than was read",
        "services/rules_engine/replay.py",
        "and state.lacks(a) is not None:",
        "and state.lacks(a) is not None and state.offset == 0:",
        (ARCHIVED + "test_a_replay_does_not_go_on_from_a_checkpoint_that_keeps_less_than_a_rule_reads",),
    ),
    Plant(
        "what is skipped by a later word is not skipped in an explanation",
        "services/rules_engine/replay.py",
        "        skipped = self.skipped | skips_of(stretch.particular)",
        "        skipped = skips_of(stretch.particular)",
        (CHECKPOINTS + "test_a_poisoned_record_stops_the_partition_until_it_is_skipped_and_stays_skipped",),
    ),
    Plant(
        "a start does not look for damage",
        "services/embedded.py", "            await asyncio.to_thread(require_whole, folder / name)\n", "            pass\n",
        (FAULTS + "test_a_file_whose_pages_turned_is_named_in_one_line_and_starts_when_restored",),
    ),
    Plant(
        "of a large database the tables are not looked into",
        "services/adapters/disk.py", '        if kind == "table":\n', '        if kind == "table":\n            continue\n        if kind == "":\n',
        (FAULTS + "test_the_first_page_of_any_table_or_index_that_turned_keeps_a_start_from_beginning",),
    ),
    Plant(
        "a log that cannot be counted is a fault of ours",
        "services/adapters/log/sqlite.py",
        "            self._next = [self._count(p) for p in range(partitions)]\n        except sqlite3.Error as error:\n",
        "            self._next = []\n        except sqlite3.Error as error:\n",
        (FAULTS + "test_a_log_that_cannot_count_its_segments_is_one_clear_line",),
    ),
    Plant(
        "a full disk is told as damage",
        "services/running.py", "    with room_named(wanted.data):\n", "    if True:\n",
        (FAULTS + "test_a_start_on_a_full_disk_names_the_space_in_one_line_and_with_room_again_nothing_is_lost",),
    ),
    Plant(
        "a clock that leaps is told to nobody",
        "services/embedded.py", "and leap > LEAP:", "and leap > 365 * LEAP:",
        (FAULTS + "test_a_start_long_after_the_newest_record_says_that_the_clock_may_be_ahead",),
    ),
    Plant(
        "a log that was pruned whole begins anew",
        "services/adapters/log/sqlite.py",
        "return max(-1 if last is None else int(last), -1 if sealed is None else int(sealed)) + 1",
        "return (-1 if last is None else int(last)) + 1",
        (SEGMENTS + "test_a_log_all_of_whose_records_were_pruned_goes_on_where_it_ended",),
    ),
    Plant(
        "a backup does not look at the archive that it took",
        "services/backup.py",
        "if (r.segment.first < live or held.lies(r)) and (fault := held.fault(r)):",
        "if not held.lies(r) and (fault := held.fault(r)) and not fault:",
        (COMMANDS + "test_a_backup_whose_archive_is_damaged_or_lacks_a_file_is_none",),
    ),
    Plant(
        "a segment in the archive of a topic is written over by whoever comes second",
        "services/adapters/blobs.py", "                    os.link(begun, final)", "                    begun.replace(final)",
        (TOPICS + "test_a_shorter_segment_takes_no_ones_place_and_a_longer_one_neither",),
    ),
    Plant(
        "reading from the archive passes over what was lost",
        SHELF, "        if r.last < reach - 1:\n            break\n", "",
        (TOPICS + "test_what_was_deleted_before_it_was_archived_is_said_and_remembered",),
    ),
    Plant(
        "the archive of another log is gone on with",
        "services/adapters/log/archiver.py", "                await self._agree(partition, file)\n", "                pass\n",
        (TOPICS + "test_the_archive_of_another_log_is_refused_and_left_alone",),
    ),
    Plant(
        "an archive that lists no file of a taken name holds archiving up for good",
        "services/adapters/log/archiver.py", ".blob.name == name), None)\n", ".blob.name == name))\n",
        (TOPICS + "test_a_name_that_is_taken_and_not_listed_is_said_and_tried_again",),
    ),
    Plant(
        "how long a record waits for the archive stands still while nobody comes round",
        "services/adapters/log/archiver.py", "        overdue.set_function(lambda: max(0, self._overdue(partition)) / SECOND)\n",
        "        overdue.set(max(0, self._overdue(partition)) / SECOND)\n",
        (TOPICS + "test_how_long_the_oldest_record_waits_is_counted_on_while_nobody_comes_round",),
    ),
    Plant(
        "checkpoints of each day of all prefixes lie in one place",
        "services/adapters/settings.py", "/{self.kafka_prefix}{DAILY}", "/checkpoints",
        (TOPICS + "test_a_log_that_is_begun_anew_under_another_prefix_does_not_take_the_checkpoints_of_the_old_one",),
    ),
    Plant(
        "the copies of a process that lives are swept as those of one that was killed",
        "services/adapters/log/scratch.py", "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "            pass\n",
        (TOPICS + "test_what_a_killed_process_left_on_this_machine_goes_and_what_a_living_one_has_stays",),
    ),
    Plant(
        "a full disk of this machine is told as a fault of the archive",
        SHELF, "            if isinstance(error, OSError) and (", "            if False and (",
        (TOPICS + "test_a_full_disk_of_this_machine_is_said_and_no_fault_of_the_archive",),
    ),
    Plant(
        "records are archived in pages of so many, however large each is",
        "services/adapters/log/archiver.py", "min(PAGE, end - at), PAGE_BYTES)", "min(PAGE, end - at))",
        (TOPICS + "test_large_records_are_read_a_few_at_a_time",),
    ),
    Plant(
        "a segment is cut where a reader's page happened to end",
        "services/adapters/log/archiver.py", "is_cut = len(rows) < len(page) or at", "is_cut = True or at",
        (TOPICS + "test_how_records_are_paged_does_not_say_where_a_segment_ends",),
    ),
    Plant(
        "whoever goes on telling events one by one begins after the record of the last one",
        "services/adapters/log/each.py", "        return offset, index + 1\n", "        return offset + 1, 0\n",
        (EACH + "test_whoever_goes_on_begins_after_the_last_one_also_within_a_record", EACH + "test_a_writer_that_is_killed_leaves_nothing_out"),
    ),
    Plant(
        "an event told twice has two ids",
        "services/adapters/log/codec.py", 'return About("trimtab.v1.Event", e.id, ', 'return About("trimtab.v1.Event", e.id + e.sequence, ',
        (EACH + "test_events_are_told_one_by_one_as_cloud_events_in_the_order_of_the_log",),
    ),
    # -- under more than it can take it says so ------------------------------------------------------------------------------
    Plant(
        "connections are not bounded",
        "services/adapters/http/front.py",
        "if len(self.open) > self.bounds.connections:",
        "if len(self.open) > 1_000_000:",
        (FRONT + "test_where_all_connections_are_taken_the_longest_idle_makes_room",),
    ),
    Plant(
        "a client that sends a byte a second has all the time",
        "services/adapters/http/front.py",
        "if now - since < self.seconds[name]:",
        "if now - since < self.seconds[name] * 1_000:",
        (FRONT + "test_a_head_that_comes_a_byte_at_a_time_is_a_408_and_other_clients_do_not_notice",),
    ),
    Plant(
        "an endless head is read to its end",
        "services/adapters/http/front.py",
        "if self._head > self.front.bounds.head_bytes and not",
        "if self._head < 0 and not",
        (FRONT + "test_an_endless_head_is_a_431",),
    ),
    Plant(
        "a body is read before its size is looked at",
        "services/ingest/http.py",
        "        if size > self.max_body_bytes:\n            raise self._too_large()\n",
        "",
        (FRONT + "test_the_rest_of_a_body_that_is_refused_is_not_read_for_ever",),
    ),
    Plant(
        "nobody is told when to come back",
        "services/adapters/http/problem.py",
        'headers = {"Retry-After": str(ceil(retry_after))} if status in (429, 503) else {}',
        "headers = dict[str, str]()",
        (ROOM + "test_past_its_rate_a_sender_is_told_when_to_come_back",),
    ),
    Plant(
        "one sender may take the whole room",
        "services/ingest/room.py",
        "if of[0] >= self.most // 2:",
        "if of[0] >= self.most:",
        (ROOM + "test_a_flood_of_one_sender_is_a_429_and_another_is_answered",),
    ),
    Plant(
        "the bytes of bodies are not bounded",
        "services/ingest/room.py",
        "if room.bytes + size > room.most_bytes:",
        "if room.bytes + size < 0:",
        (ROOM + "test_bodies_have_half_of_the_bytes_for_one_sender",),
    ),
    Plant(
        "a delivery on the short way keeps its place for ever",
        "services/ingest/http.py",
        "begun.done.add_done_callback(lambda _: place.leave())",
        "assert place is not None",
        (ROOM + "test_a_flood_of_one_sender_is_a_429_and_another_is_answered",),
    ),
    # -- what is read by columns means what the careful reading makes of it ----------------------------------------------------
    Plant(
        "an id that is twice in one delivery passes beside other deliveries",
        "services/ingest/core/usual.py",
        "if len(set(ids)) != n and any(",
        "if len(of) == 1 and len(set(ids)) != n and any(",
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "of deliveries read together the latest says what is far in the future",
        "services/ingest/core/usual.py",
        "read(bodies, min([d.horizon for d in deliveries]))",
        "read(bodies, max([d.horizon for d in deliveries]))",
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "deliveries of two workspaces are read as one",
        "services/ingest/together.py",
        "self._waiting.setdefault((delivery.workspace, delivery.source, route), [])",
        'self._waiting.setdefault(("", delivery.source, route), [])',
        ("tests/shell/test_together.py",),
    ),
    Plant(
        "what took the short way is acknowledged before it is durable",
        "services/ingest/intake.py",
        "await self.append_rows(delivery.workspace, rows)",
        "asyncio.ensure_future(self.append_rows(delivery.workspace, rows)).add_done_callback(lambda done: done.exception())",
        ("tests/shell/test_together.py",),
    ),
    Plant(
        "a key that stands twice is not seen",
        "services/ingest/core/usual.py",
        "!= 2 * strings + quotes:",
        "< 2 * strings + quotes:",
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "a measure that stands twice in amounts is not seen",
        "services/ingest/core/usual.py",
        "!= 2 * strings:",
        "< 2 * strings:",
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "every row is taken to stand at the level of the first",
        "services/kernel/columns.py",
        "+ levels.index[paths.index]",
        "+ levels.index[:1].repeat(len(rows))",
        ("tests/core/test_usual.py::test_what_rows_report_is_each_measure_at_the_level_that_it_stands_at",),
    ),
    Plant(
        "a row of the sandbox knows an interval before it began",
        "services/ingest/sources/sandbox.py",
        "if as_of <= max(start, 0):",
        "if False:",
        ("tests/core/test_usual.py::test_an_odd_row_of_the_sandbox_is_left_to_the_careful_reading",),
    ),
    Plant(
        "amounts written over two lines are taken for those of two events",
        "services/ingest/core/usual.py",
        "if len(texts) != len(written):",
        "if False:",
        ("tests/core/test_usual.py",),
    ),
    Plant(
        "an event that says several things says those of its neighbour",
        "services/ingest/core/usual.py",
        "if len(measures) != n:",
        "if False:",
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
    # -- what schedules of faults show --------------------------------------------------------------------------------------
    Plant(
        "a worker that stood still before the call calls all the same",
        actions("execute"),
        "if now > begun + self.pace.lease - self.pace.call:",
        "if False:",
        (CRASH + "test_a_worker_that_stood_still_between_its_intent_and_the_call_sends_nothing_and_tries_again",),
    ),
    Plant(
        "a decision that was repeated is looked for at its number",
        "services/rules_engine/said.py",
        'offsets = arrays.pop("said_at").tolist() if "said_at" in arrays else range(len(ids) // (2 * ID))',
        'offsets = list(range(len(ids) // (2 * ID)))\n        arrays.pop("said_at", None)',
        ("tests/shell/test_checkpoints.py::test_repeated_decisions_keep_their_places_and_ends_in_a_checkpoint",),
    ),
    Plant(
        "ticks fill a log whose clock is behind",
        "services/rules_engine/worker.py",
        "                if self.partition.now < due:  # the log's clock",
        "                if False:  # the log's clock",
        (WORKER + "test_time_that_the_log_lags_behind_is_waited_for_and_not_filled_with_ticks",),
    ),
    Plant(
        "a start that fails after a skip looks like one under way",
        "services/rules_engine/worker.py",
        '                await self._halt(f"{type(error).__name__}: {error}")\n                raise\n',
        "                raise\n",
        ("tests/shell/test_checkpoints.py::test_a_start_that_fails_after_a_skip_says_so_and_does_not_look_like_one_under_way",),
    ),
    Plant(
        "an unclear answer is answered by sending again",
        actions("execute"),
        '        faultpoint("actions.sent")\n',
        '        if answer.kind == "unclear":\n'
        "            answer = await self._write(step, observed, key)\n"
        '        faultpoint("actions.sent")\n',
        (SCHEDULES,),
    ),
    Plant(
        "outcomes are marked as sent before they are on the log",
        actions("worker"),
        "                for rows in _by_workspace(page).values():\n",
        "                if page:\n                    await self._mark_sent([row.id for row in page])\n"
        "                for rows in _by_workspace(page).values():\n",
        (SCHEDULES,),
    ),
    Plant(
        "another content under a known id is taken for a repetition",
        actions("intake"),
        "        if before == content:\n",
        "        if before:\n",
        (SCHEDULES,),
    ),
    Plant(
        "the offset is stored before what was read up to it",
        actions("worker"),
        "        async with self.database.writing(store.inbox(partition), *turns) as tx:\n"
        "            taken = await take_in(",
        "        async with self.database.writing() as tx:\n"
        "            await store.set_next_offset(tx, partition, page[-1].offset + 1)\n"
        "        async with self.database.writing() as tx:\n"
        "            taken = await take_in(",
        (SCHEDULES,),
    ),
    Plant(
        "the call is made before its intent is committed (simulated)",
        actions("execute"),
        "        if not await self._intend(lease, draft, key):\n"
        "            return False\n",
        "        await self._write(step, observed, key)\n"
        "        if not await self._intend(lease, draft, key):\n"
        "            return False\n",
        (SCHEDULES,),
    ),
    Plant(
        "the switch is not asked when a write is due",
        actions("execute"),
        "        so = self.circumstances((await store.kill_switch(tx, lease.workspace)).engaged)\n",
        "        so = self.circumstances(False)\n",
        (SCHEDULES,),
    ),
    Plant(
        "an approval is taken after its time",
        actions("people"),
        "        if row.expires_at < self.circumstances(False).now:\n",
        "        if False:\n",
        (SCHEDULES,),
    ),
    Plant(
        "senders are answered before their events are durable",
        "services/adapters/log/writer.py",
        "        await asyncio.shield(waiting.done)",
        "        waiting.done.add_done_callback(lambda f: f.exception())",
        (SCHEDULES,),
    ),
    Plant(
        "one stale look says that nothing was done",
        "services/actions/core/progress.py",
        "if len(attempt.seen) < enough or",
        "if len(attempt.seen) < 2 or",
        (SCHEDULES,),
    ),
    Plant(
        "a failed second step leaves the first",
        "services/actions/core/progress.py",
        "            return _restore(steps, by, tried)\n",
        "            return _done(steps, by, FAILED, tried.reason)\n",
        (SCHEDULES,),
    ),
    Plant(
        "a rule activated late reads nothing of before",
        "services/rules_engine/worker.py",
        "                self.partition = await self.restore.rebuilt(demand, page[at].offset, self.partition.skipped, self._stride)\n",
        "                self.partition = Partition(self.guards, demand, self.partition.skipped)\n"
        "                self.partition.offset = page[at].offset\n",
        (SCHEDULES,),
    ),
    Plant(
        "an append of decisions that failed is taken for done",
        "services/rules_engine/said.py",
        "        places = await self.decisions.append([(d.workspace, d) for d in missing]) if missing else ()\n",
        "        try:\n"
        "            places = await self.decisions.append([(d.workspace, d) for d in missing]) if missing else ()\n"
        "        except Unavailable:\n"
        "            places = [(0, 0)] * len(missing)\n",
        (SCHEDULES,),
    ),
    Plant(
        "a lease that ran out is not claimed again",
        actions("lanes"),
        'and_(intents.c.state == "running", intents.c.lease_until < now)',
        'and_(intents.c.state == "running", intents.c.lease_until < 0)',
        (SCHEDULES,),
    ),
    Plant(
        "an outcome that the database did not take is forgotten by ingest",
        "services/ingest/intake.py",
        "                await asyncio.sleep(patience.pause())\n",
        "                return\n",
        (SCHEDULES,),
    ),
    Plant(
        "a skip does not outlive the process",
        "services/rules_engine/restore.py",
        "            skips |= {s.record.offset for s in page if isinstance(s.record, Skip)}\n",
        "            skips |= set()\n",
        (SCHEDULES,),
    ),
    Plant(
        "the ledger lacks what a decision came to",
        actions("store"),
        '        self.note(outcome.workspace, "outcome", outcome.decision_id, outcome.by, **body)\n',
        "",
        (SCHEDULES,),
    ),
    # -- what starts it in production -------------------------------------------------------------------------------------
    Plant("the image runs as root", "Dockerfile", "USER 10001:10001", "USER 0:0", (f"{IMAGE}test_it_runs_as_a_number_that_is_not_root",)),
    Plant(
        "the image holds what nobody has checked the hashes of",
        "Dockerfile", " --require-hashes", "",
        (f"{IMAGE}test_what_is_installed_is_locked_and_hashed",),
    ),
    Plant(
        "compose starts two engines at one address",
        "deploy/compose.yaml", "TRIMTAB_ADVERTISE: http://rules-2:8420", "TRIMTAB_ADVERTISE: http://rules-1:8420",
        (f"{COMPOSE}test_addresses_lead_to_services",),
    ),
    Plant(
        "compose misspells a setting",
        "deploy/compose.yaml", "TRIMTAB_ACTIONS_URL:", "TRIMTAB_ACTION_URL:",
        (f"{COMPOSE}test_a_process_is_started_with_settings_that_there_are",),
    ),
    Plant(
        "compose reads the server's secret from where nothing is",
        "deploy/compose.yaml", "TRIMTAB_SECRET_FILE: /run/secrets/secret", "TRIMTAB_SECRET_FILE: /run/secrets/secrets",
        (f"{COMPOSE}test_a_process_is_started_with_settings_that_there_are",),
    ),
    Plant(
        "the chart asks where nothing answers whether a pod is ready",
        PODS, "httpGet: {path: /readyz, port: http}", "httpGet: {path: /healthz, port: http}",
        (f"{CHART}test_a_process_is_asked_where_it_answers_and_has_the_time_to_end",),
    ),
    Plant(
        "the chart restarts pods while the database is away",
        PODS, "    livenessProbe: # its loops come round, whether or not Kafka and the database answer: no restart would mend those\n"
        "      httpGet: {path: /livez,",
        "    livenessProbe:\n      httpGet: {path: /readyz,",
        (f"{CHART}test_a_process_is_asked_where_it_answers_and_has_the_time_to_end",),
    ),
    Plant(
        "the chart kills a pod that drains",
        PODS, "terminationGracePeriodSeconds: 30 #", "terminationGracePeriodSeconds: 10 #",
        (f"{CHART}test_a_process_is_asked_where_it_answers_and_has_the_time_to_end",),
    ),
    Plant(
        "the chart's pods run as root",
        PODS, "runAsUser: 10001", "runAsUser: 0",
        (f"{CHART}test_nothing_runs_as_root_gains_rights_or_writes_beside_its_volumes",),
    ),
    Plant(
        "the chart's pods are told of Services in variables that look like settings",
        PODS, "enableServiceLinks: false # a Service", "enableServiceLinks: true # a Service",
        (f"{CHART}test_nothing_runs_as_root_gains_rights_or_writes_beside_its_volumes",),
    ),
    Plant(
        "the chart misspells a setting",
        PODS, "TRIMTAB_KAFKA_REPLICAS: {{", "TRIMTAB_KAFKA_REPLICA: {{",
        (f"{CHART}test_a_process_is_started_with_settings_that_there_are",),
    ),
    Plant(
        "the chart misspells a field",
        PODS, "      periodSeconds: 10\n", "      periodSecond: 10\n",
        (f"{CHART}test_what_it_makes_is_valid_to_the_last_field",),
    ),
    Plant(
        "the chart gives the signing secrets to the wrong service",
        PODS, '{{- if eq .service "ingest" -}}', '{{- if eq .service "console" -}}',
        (f"{CHART}test_every_secret_that_is_given_reaches_who_needs_it_and_nobody_else",),
    ),
    Plant(
        "the chart migrates after the new build has started",
        f"{TEMPLATES}/migrate.yaml", "helm.sh/hook: pre-install,pre-upgrade", "helm.sh/hook: post-install,post-upgrade",
        (f"{CHART}test_the_schema_is_migrated_before_anything_else_by_its_owner",),
    ),
    Plant(
        "a service's own user of Kafka comes with the password of all",
        PODS, "(((.values).kafka).passwordKey | default $keys.kafkaPassword)", "$keys.kafkaPassword",
        (CHART + "test_a_user_of_its_own_comes_with_its_own_password_and_with_no_other",),
    ),
    Plant(
        "the chart scales engines by the lag of others",
        f"{TEMPLATES}/keda.yaml", "consumerGroup: {{ $kafka.prefix }}.rules", "consumerGroup: {{ $kafka.prefix }}.actions",
        (f"{CHART}test_who_scales_by_load_is_not_told_a_number_and_the_engine_scales_by_its_lag",),
    ),
    Plant(
        "the chart keeps engines from one another",
        f"{TEMPLATES}/networkpolicies.yaml", '"rules" (list "console" "rules" "test")', '"rules" (list "console" "test")',
        (f"{CHART}test_only_those_who_need_to_reach_a_service",),
    ),
    Plant(
        "the chart takes values that there are not",
        "helm/trimtab/values.schema.json", '  "additionalProperties": false,\n  "properties": {\n    "global"', '  "properties": {\n    "global"',
        (f"{CHART}test_a_wrong_value_is_refused_by_its_name",),
    ),
    # -- what is measured is right before it is fast ----------------------------------------------------------------------
    Plant(
        "a benchmark's engine may be fed fewer events than are counted",
        "benchmarks/kafka.py",
        "    if fed_events != events:",
        "    if fed_events > events:",
        ("tests/e2e/test_bench_kafka.py::test_a_record_that_is_lost_or_comes_twice_is_no_measurement",),
    ),
    Plant(
        "a benchmark's engine does not begin at the log's beginning",
        "benchmarks/kafka.py",
        "aclosing(log.follow(number, 0))",
        "aclosing(log.follow(number, 1))",
        ("tests/e2e/test_bench_kafka.py::test_what_is_said_is_what_was_decided_in_order",),
    ),
    Plant(
        "a benchmark's senders send every part each",
        "benchmarks/kafka.py",
        "        for part in waiting:",
        "        for part in parts:",
        ("tests/e2e/test_bench_kafka.py::test_parts_are_written_each_once",),
    ),
    Plant(
        "what is measured in seconds is compared with what is measured in those of processor",
        "benchmarks/against.py",
        """    return f"{figure['case']} {figure['unit']}"\n""",
        """    return str(figure["case"])\n""",
        (f"{BENCH_CHECK}test_a_case_in_seconds_and_in_those_of_processor_is_two_figures",),
    ),
    Plant(
        "what only the tree before has is passed over in silence",
        "benchmarks/against.py",
        "        for figure in now + before:\n",
        "        for figure in now:\n",
        (f"{BENCH_CHECK}test_what_is_not_compared_is_named_and_why",),
    ),
    Plant(
        "what seems slower by chance is named after six turns",
        "benchmarks/against.py",
        "        _measure(cases, here, there, range(2 * turns, 4 * turns))\n",
        "        pass\n",
        (f"{BENCH_CHECK}test_what_every_turn_calls_slower_needs_no_more_of_them_and_what_only_most_do_is_measured_again_twice_as_often",),
    ),
    Plant(
        "too few decisions are no goal missed",
        "benchmarks/engine.py",
        "    goal = DECISIONS_GOAL if case.held == HELD else None\n",
        "    goal = None\n",
        (f"{BENCH_CASES}test_fewer_decisions_than_one_in_a_thousand_events_are_a_goal_missed",),
    ),
    Plant(
        "half a million entities are measured without known ids",
        "benchmarks/engine.py",
        "    Case(creatives=400_000, goal=200e3),\n",
        "    Case(creatives=400_000, goal=200e3, held=0),\n",
        (f"{BENCH_CASES}test_every_case_of_the_engine_holds_as_many_ids_as_the_page_says_and_has_a_name_of_its_own",),
    ),
    Plant(
        "guards off still asks for a sample",
        "benchmarks/account.py",
        "                guards=tuple(sorted(guards, key=lambda a: a.guard)), lag=None,",
        "                guards=tuple(sorted(guards or USUAL_GUARDS, key=lambda a: a.guard)), lag=None,",
        (f"{BENCH_CASES}test_guards_off_is_no_guard_at_all",),
    ),
    Plant(
        "decisions about nothing count as the same",
        "benchmarks/rivals/__init__.py",
        " if one | other else 0.0\n",
        " if one | other else 1.0\n",
        (f"{BENCH_CASES}test_where_nothing_held_nothing_was_compared",),
    ),
    Plant(
        "a small comparison leaves sources out",
        "benchmarks/ingest.py",
        "    for source, size, connections in CASES:\n",
        "    for source, size, connections in CASES[: 2 if quick else None]:\n",
        (f"{BENCH_CASES}test_small_sizes_have_every_case_of_ingest_and_of_latency",),
    ),
    Plant(
        "the load shares the server's core",
        "benchmarks/load.py",
        "    os.sched_setaffinity(0, cores[1:])\n",
        "    os.sched_setaffinity(0, cores[:1])\n",
        (f"{BENCH_CASES}test_the_load_keeps_off_the_server_s_core_and_may_use_it_again_afterwards",),
    ),
    Plant(
        "a real topic is taken for one on a simulated clock",
        "services/adapters/log/kafka.py",
        "        by = SENDERS if self.topic.simulated else BROKERS\n",
        "        by = rows[0][2] if rows else BROKERS\n",
        (f"{SHOWN}test_records_of_a_simulated_topic_have_its_clocks_stamps_and_no_other_process_takes_it_for_real",),
    ),
    Plant(
        "what the log lacks is folded over in silence",
        "services/rules_engine/restore.py",
        "if page[0].offset == begin and page[-1].offset == begin + len(page) - 1:",
        "if page[0].offset >= begin and page[-1].offset >= begin + len(page) - 1:",
        ("tests/shell/test_worker.py::test_nothing_is_decided_on_a_log_that_lacks_a_record",),
    ),
    Plant(
        "a demo of production is given production's archive and witness",
        "services/demo/fleet.py",
        "    given = {name: value for name, value in os.environ.items() if name not in ours}\n",
        "    given = dict(os.environ)\n    own = {k: v for k, v in own.items() if f\"{PREFIX}{k.upper()}\" not in given}\n",
        (f"{SHOWN}test_nothing_that_is_set_for_production_reaches_the_demo",),
    ),
    Plant(
        "real decisions and simulated ones may share a database",
        "services/production/service.py",
        "bool(simulated) != (self.settings.clock is not None)",
        "False",
        (f"{SHOWN}test_what_is_decided_in_production_is_what_one_process_decides_whoever_is_killed",),
    ),
    Plant(
        "real platforms may be acted on while the clock is simulated",
        "services/adapters/settings.py",
        "if settings.clock and settings.executors:",
        "if settings.clock and not settings.executors:",
        (f"{SHOWN}test_on_a_simulated_clock_nothing_real_can_be_acted_on",),
    ),
    Plant(
        "services on a shared clock date their records by the world's",
        "services/production/service.py",
        "SharedClock(settings.clock) if settings.clock else self.wall",
        "self.wall",
        (f"{SHOWN}test_what_is_decided_in_production_is_what_one_process_decides_whoever_is_killed",),
    ),
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
        for name in FILES:
            shutil.copy(ROOT / name, folder)

    def test(self, tests: tuple[str, ...], patience: int = 90) -> tuple[int, str]:
        """(pytest's exit code, what it says); a run that takes longer than `patience` seconds is red: what hangs is noticed."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")} | {"PYTHONHASHSEED": "0"}
        environment.setdefault("TRIMTAB_CACHE", str(ROOT / "var" / "kafka"))  # the jars of Kafka are not copied
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
            result = garden.grow(plant)
            if result.verdict in ("SURVIVED", "BROKEN"):  # some need a turn of events that does not come every time: said, so that the test is made surer
                console.print(f"[yellow]{result.verdict:8}[/] {plant.name}: {result.by}; once more")
                again = garden.grow(plant)
                result = replace(again, by=f"{again.by}, the second time")
            grown[plant.name] = result
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
        mine = tuple(tests[i :: len(gardens)])
        answers[i] = gardens[i].test(mine, patience=240 + 10 * len(mine))

    askers = [threading.Thread(target=ask, args=(i,)) for i in range(min(len(gardens), len(tests)))]  # named no test, pytest would run them all
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    for code, said in answers.values():
        if code != GREEN:
            console.print("[red]The named tests are not green to begin with:[/]")
            console.print(said.strip(), markup=False)
    return all(code == GREEN for code, _ in answers.values())


def chosen(words: list[str]) -> tuple[Plant, ...]:
    if len(words) == 1 and (part := re.fullmatch(r"(\d+)/(\d+)", words[0])):
        return PLANTS[int(part[1]) - 1 :: int(part[2])]
    return tuple(p for p in PLANTS if not words or any(w in p.name for w in words))


def main(words: list[str]) -> int:
    """Exits with 0 where every plant was caught. With words: only the plants whose names hold one of them; with 2/3: every third, from the second on."""
    console, start = Console(width=170, highlight=False), time.monotonic()
    plants = chosen(words)
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
    missed = [r for r in results if r.verdict != "caught"]
    for r in results:
        if r.verdict == "caught" and r.by.endswith("the second time"):
            console.print(f"[yellow]unsure[/] {r.plant.name}: {r.by}")
    console.print(f"{len(results) - len(missed)} of {len(results)} planted bugs were caught, in {time.monotonic() - start:.0f} s")
    for r in missed:
        console.print(f"[bold red]{r.verdict}[/] {r.plant.name}: {r.by}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
