"""Signatures over raw bytes: compared in constant time, with several active secrets, and fresh in both directions."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256

from services.ingest.core.source import Delivery
from services.kernel.errors import Unauthorized

TOLERANCE = 300_000_000  # microseconds, before and after
MOST_SIGNATURES = 5  # more in one header is no rotation, it is a search


def standard_webhooks(delivery: Delivery, secrets: Sequence[str], now: int) -> None:
    """Returns where the delivery carries a valid Standard Webhooks signature (webhook-* or svix-* headers) by any of the secrets; raises Unauthorized."""
    prefix = "webhook" if delivery.header("webhook-signature") else "svix"
    message, stamp, given = (delivery.header(f"{prefix}-{part}") for part in ("id", "timestamp", "signature"))
    if not (message and stamp and given):
        raise Unauthorized("the delivery is not signed: webhook-id, webhook-timestamp and webhook-signature are needed", reason="missing_signature")
    fresh(whole(stamp) * 1_000_000, now)
    signed = f"{message}.{stamp}.".encode("utf-8", "surrogateescape") + delivery.body
    offered = [part.partition(",") for part in given.split(" ")[: 4 * MOST_SIGNATURES]]
    signatures = [value for version, _, value in offered if version == "v1"][:MOST_SIGNATURES]
    matches((base64.b64encode(mac(key, signed)).decode() for key in keys(secrets)), signatures)


def sign_standard_webhooks(delivery: Delivery, secret: str, now: int, message: str = "") -> tuple[tuple[str, str], ...]:
    """The three headers a Standard Webhooks sender adds."""
    stamp = str(now // 1_000_000)
    message = message or "msg_" + sha256(delivery.body).hexdigest()[:24]
    (key,) = keys([secret])
    value = base64.b64encode(mac(key, f"{message}.{stamp}.".encode() + delivery.body)).decode()
    return (("webhook-id", message), ("webhook-timestamp", stamp), ("webhook-signature", f"v1,{value}"))


def keys(secrets: Iterable[str]) -> list[bytes]:
    """The keys of Standard Webhooks secrets, `whsec_` or bare base64; an empty or unreadable one opens nothing."""
    made = []
    for secret in secrets:
        try:
            key = base64.b64decode(secret.strip().removeprefix("whsec_"), validate=True)
        except (ValueError, binascii.Error):
            continue
        if key:
            made.append(key)
    return made


def plain_keys(secrets: Iterable[str]) -> list[bytes]:
    """Secrets that are keys as they stand; an empty or blank one opens nothing."""
    return [secret.encode() for secret in secrets if secret.strip()]


def mac(key: bytes, signed: bytes) -> bytes:
    return hmac.new(key, signed, sha256).digest()


def fresh(sent_at: int, now: int, tolerance: int = TOLERANCE) -> None:
    """Raises Unauthorized for a time stamp further than the tolerance from now, on either side."""
    if abs(now - sent_at) > tolerance:
        late = "old" if sent_at < now else "in the future"
        raise Unauthorized(f"the signature's time stamp is more than {tolerance // 1_000_000} s {late}", reason="stale_signature")


def matches(expected: Iterable[str], given: Sequence[str]) -> None:
    """Returns where some expected signature was given; every pair is compared, so the time taken tells nothing. Raises Unauthorized."""
    found = False
    for one in expected:
        for other in given:
            found |= hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogateescape"))
    if not found:
        raise Unauthorized("no active secret made this signature for these bytes", reason="wrong_signature")


def whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise Unauthorized("the signature's time stamp is not a whole number", reason="missing_signature")
    return int(text)
