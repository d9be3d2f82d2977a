"""Ids are hashes of their causes."""

from __future__ import annotations

from hashlib import blake2b


def digest(*parts: str) -> str:
    """32 hex digits of blake2b over length-prefixed parts, so that no two lists of parts run together."""
    h = blake2b(digest_size=16)
    for part in parts:
        b = part.encode("utf-8", "surrogatepass")
        h.update(len(b).to_bytes(8, "little"))
        h.update(b)
    return h.hexdigest()


def event_id(source: str, native_id: str) -> bytes:
    """The 16 bytes an event is deduplicated by."""
    return bytes.fromhex(digest("event", source, native_id))


def path_key(path: str) -> bytes:
    """The 16 bytes an entity is known by on the log, beside its path."""
    return blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16, person=b"path").digest()
