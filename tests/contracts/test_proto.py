"""The contracts: lint clean, generated code current, and the reader in place says what the generated class says."""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.adapters.codec import decision as decisions
from services.adapters.codec import record as records
from services.adapters.codec.columns import from_message, read_batch, same, write_batch
from services.adapters.codec.generated.trimtab.v1 import record_pb2 as pb
from services.kernel.columns import keys_of
from services.kernel.decision import Decision, Reading, Verdict
from services.kernel.errors import RejectedInput
from services.kernel.record import Activation, Change, Clock, EventBatch, Outcome, Ready, Skip, Target, Tick

ROOT = Path(__file__).parents[2]
int64 = st.integers(-(2**63), 2**63 - 1)
text = st.text(max_size=8)


@st.composite
def batches(draw: st.DrawFn) -> EventBatch:
    def words(least: int) -> tuple[str, ...]:
        return tuple(draw(st.lists(text, min_size=least, max_size=4)))

    n, amounts, attributes = (draw(st.integers(0, 6)) for _ in range(3))
    some, a, b = int(n > 0), amounts if n else 0, attributes if n else 0
    paths, sources, kinds, measures, names, texts = words(some), words(some), words(some), words(int(a > 0)), words(int(b > 0)), words(0)

    def index(size: int, of: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(0, max(of - 1, 0)), min_size=size, max_size=size)), np.uint32)

    def wide(*shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        return np.array(draw(st.lists(int64, min_size=size, max_size=size)), np.int64).reshape(shape)

    return EventBatch(
        draw(text), paths, sources, kinds, measures, names, texts, wide(n, 2), index(n, len(paths)), index(n, len(sources)), index(n, len(kinds)),
        wide(n), wide(n), wide(n), wide(n), wide(n, 2), index(a, n), index(a, len(measures)), wide(a),
        index(b, n), index(b, len(names)), index(b, len(texts) + 1), wide(b), *([keys_of(paths)] if draw(st.booleans()) else []),
    )  # fmt: skip


@given(batches())
def test_the_reader_in_place_equals_the_generated_class(batch: EventBatch) -> None:
    data = write_batch(batch)
    assert same(read_batch(data), batch)
    assert pb.EventBatch.FromString(data).SerializeToString(deterministic=True) == data
    assert same(from_message(pb.EventBatch.FromString(data)), batch)
    assert same(records.decode(records.encode(batch)), batch)


@given(batches(), batches())
def test_columns_in_pieces_are_read_as_one(first: EventBatch, second: EventBatch) -> None:
    """Two serialized messages in a row are one message whose repeated fields follow one another."""
    data = write_batch(first) + write_batch(second)
    try:
        joined = from_message(pb.EventBatch.FromString(data))
    except RejectedInput:  # one left out what the other wrote, or the joined dictionaries are inconsistent; that is seen either way
        with pytest.raises(RejectedInput):
            read_batch(data)
        return
    assert same(read_batch(data), joined)


@given(batches(), st.data())
def test_damaged_bytes_are_refused_as_poisoned_or_read_as_something_consistent(batch: EventBatch, data: st.DataObject) -> None:
    raw = bytearray(records.encode(batch))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        records.decode(cut)
    except RejectedInput as refused:
        assert refused.reason == "poisoned"


def test_an_index_outside_its_dictionary_is_poisoned() -> None:
    message = pb.EventBatch(workspace="w", paths=["a"], sources=["s"], kinds=["k"], event_id=[1, 2], entity=[1], source=[0], kind=[0])
    for name in ("occurred_at", "interval_start", "interval_end", "as_of"):
        getattr(message, name).append(0)
    message.row_id.extend([0, 0])
    with pytest.raises(RejectedInput, match="entity points outside"):
        read_batch(message.SerializeToString())


OTHERS = st.one_of(
    st.builds(Activation, text, text, text, text, text, text),
    st.builds(Ready, text, text),
    st.builds(Target, text, text, text, int64, text, int64, int64, text),
    st.just(Tick()),
    st.builds(Outcome, text, text, text, text, text, text, text, text),
    st.builds(Change, text, text, text, text, text, int64, text),
    st.builds(Skip, int64, text, text),
    st.builds(Clock, st.booleans(), int64, int64, text),
)


@given(OTHERS)
def test_every_other_record_comes_back_as_it_went(record: object) -> None:
    assert records.decode(records.encode(record)) == record


huge = st.integers(-(10**40), 10**40)
DECISIONS = st.builds(
    Decision, text, text, text, text, int64, int64, text, text, text,
    st.lists(st.builds(Reading, text, text, text, huge, huge, huge, text), max_size=3).map(tuple),
    st.lists(st.builds(Verdict, text, text, st.lists(st.tuples(text, st.one_of(huge, text)), max_size=3).map(tuple)), max_size=3).map(tuple),
    st.one_of(st.none(), int64), int64, st.booleans(),
)  # fmt: skip


@given(DECISIONS)
def test_a_decision_comes_back_as_it_went(decision: Decision) -> None:
    assert decisions.decode(decisions.encode(decision)) == decision


def test_a_decision_whose_id_does_not_fit_its_cause_is_poisoned() -> None:
    decision = Decision("w", "r", "v", "p", 1, 1, "fired", "active", "", (), (), None, 0)
    data = decisions.encode(decision).replace(decision.id.encode(), b"0" * 32)
    with pytest.raises(RejectedInput, match="not the hash"):
        decisions.decode(data)


def test_the_contracts_lint_clean() -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf
    assert subprocess.run([buf, "lint"], cwd=ROOT / "proto", capture_output=True, text=True, timeout=60).stdout == ""


def test_generating_again_changes_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "deploy/generate_proto.py", tmp_path], check=True, timeout=60)
    kept = ROOT / "services/adapters/codec/generated"
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.py*"))
    assert len(names) >= 4
    assert filecmp.cmpfiles(tmp_path, kept, names, shallow=False) == (names, [], [])
