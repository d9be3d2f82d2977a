"""Ids are hashes of their causes."""

from __future__ import annotations

from hashlib import blake2b


def digest(*parts: str) -> str:
    """32 hex digits of blake2b over length-prefixed parts, so that no two lists of parts run together."""
    read = [part.encode("utf-8", "surrogatepass") for part in parts]
    return blake2b(b"".join([x for b in read for x in (len(b).to_bytes(8, "little"), b)]), digest_size=16).hexdigest()


def begun(*parts: str) -> blake2b:
    """The hash of `digest` that has read these parts; who hashes many lists that begin alike goes on with copies of it."""
    return blake2b(b"".join(map(part, parts)), digest_size=16)


def part(text: str) -> bytes:
    """What `digest` reads of one part."""
    b = text.encode("utf-8", "surrogatepass")
    return len(b).to_bytes(8, "little") + b


def event_id(source: str, native_id: str) -> bytes:
    """The 16 bytes an event is deduplicated by."""
    return bytes.fromhex(digest("event", source, native_id))


def path_key(path: str) -> bytes:
    """The 16 bytes an entity is known by on the log, beside its path."""
    return blake2b(path.encode("utf-8", "surrogatepass"), digest_size=16, person=b"path").digest()
