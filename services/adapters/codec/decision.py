"""Decisions to bytes and back; equal decisions give equal bytes."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from services.adapters.codec.columns import poisoned
from services.adapters.codec.generated.trimtab.v1 import decision_pb2 as pb
from services.kernel.decision import Decision, Reading, Verdict

PLAIN = ("workspace", "rule_id", "version", "path", "boundary", "now", "kind", "mode", "action", "valid_until", "simulated")


def encode(decision: Decision) -> bytes:
    message = pb.Decision(id=decision.id, **{name: getattr(decision, name) for name in PLAIN})
    if decision.evidence is not None:
        message.evidence = decision.evidence
    for r in decision.readings:
        numbers = {"numerator": str(r.numerator), "denominator": str(r.denominator), "threshold": str(r.threshold)}
        message.readings.add(text=r.text, metric=r.metric, window=r.window, truth=r.truth, **numbers)
    for v in decision.verdicts:
        figures = [pb.Figure(name=n, text=f) if isinstance(f, str) else pb.Figure(name=n, number=str(f)) for n, f in v.figures]
        message.verdicts.add(guard=v.guard, refusal=v.refusal, figures=figures)
    return message.SerializeToString(deterministic=True)


def decode(data: bytes) -> Decision:
    """Raises RejectedInput(poisoned) where the bytes hold no decision, or one whose id is not the hash of its cause."""
    try:
        message = pb.Decision.FromString(data)
        readings = tuple(Reading(r.text, r.metric, r.window, int(r.numerator), int(r.denominator), int(r.threshold), r.truth) for r in message.readings)
        verdicts = tuple(Verdict(v.guard, v.refusal, tuple((f.name, _value(f)) for f in v.figures)) for v in message.verdicts)
    except (DecodeError, ValueError) as error:
        raise poisoned(str(error)) from None
    evidence = message.evidence if message.HasField("evidence") else None
    decision = Decision(**{n: getattr(message, n) for n in PLAIN}, readings=readings, verdicts=verdicts, evidence=evidence)
    if decision.id != message.id:
        raise poisoned("the decision's id is not the hash of its cause")
    return decision


def _value(figure: pb.Figure) -> int | str:
    return figure.text if figure.WhichOneof("value") == "text" else int(figure.number)
