"""CloudEvents 1.0 in JSON and in HTTP headers: the envelope gives id, source, time and type, the data is the plain form without them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from services.ingest.core import normalize, strict_json
from services.ingest.core.instant import rfc3339
from services.ingest.core.refused import Refused, at, step
from services.kernel.ids import digest

_ATTRIBUTE = re.compile(r"[a-z0-9]+", re.ASCII)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*", re.ASCII)
_REFERENCE = re.compile(r"[^\s<>\"{}|\\^`]*", re.ASCII)
_MEDIA = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(\s*;.*)?", re.ASCII)
_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_UNSET = object()


@dataclass(frozen=True, slots=True)
class CloudEvent:
    id: str
    source: str
    type: str
    time: str  # as sent, "" without one
    subject: str
    data: Any  # None without data

    def plain(self) -> Any:
        """The plain form: members of data win over the envelope, except the identity, which is the pair (source, id)."""
        if not isinstance(self.data, Mapping):
            raise Refused("data must be an object with entity, amounts and attributes", reason="bad_shape", pointer="/data")
        for name in ("id", "source"):
            if name in self.data:
                raise Refused(f"{name} stands in the envelope, not in data", reason="unknown_member", pointer=f"/data/{name}")
        named = _WORD.fullmatch(self.source) is not None  # a URI cannot be the name of a source, so it becomes part of the id
        made = {"id": self.id if named else digest("cloudevent", self.source, self.id), "kind": self.type[:64]} | dict(self.data)
        if named:
            made["source"] = self.source
        if self.time and "interval" not in made:
            made.setdefault("occurred_at", self.time)
        if self.subject:
            made.setdefault("entity", self.subject)
        return made


def structured(given: Any) -> CloudEvent:
    """A CloudEvent in the JSON format; raises Refused `bad_cloudevent` with a pointer."""
    if not isinstance(given, Mapping):
        raise Refused("a CloudEvent is a JSON object", reason="bad_cloudevent")
    data = given.get("data", _UNSET)
    if "data_base64" in given:
        if data is not _UNSET:
            raise Refused("data and data_base64 exclude one another", reason="bad_cloudevent", pointer="/data_base64")
        data = _decoded(given["data_base64"], given.get("datacontenttype", ""))
    context = {name: value for name, value in given.items() if name not in ("data", "data_base64")}
    return _made(context, None if data is _UNSET else data)


def binary(headers: Mapping[str, str], body: bytes) -> CloudEvent:
    """A CloudEvent whose attributes are ce-* headers and whose body is the data."""
    context: dict[str, Any] = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    if headers.get("content-type"):
        context["datacontenttype"] = headers["content-type"]
    return _made(context, strict_json.loads(body) if body else None)


def _made(context: Mapping[str, Any], data: Any) -> CloudEvent:
    if context.get("specversion") != "1.0":
        raise Refused("specversion must be 1.0", reason="bad_cloudevent", pointer="/specversion")
    for name, value in context.items():
        with at(step("", name)):
            _attribute(name, value)
    texts = {}
    for name in ("id", "source", "type"):
        with at(f"/{name}"):
            texts[name] = normalize.text(context.get(name), name)
    if not _REFERENCE.fullmatch(texts["source"]):
        raise Refused("source must be a URI reference", reason="bad_cloudevent", pointer="/source")
    return CloudEvent(texts["id"], texts["source"], texts["type"], str(context.get("time") or ""), str(context.get("subject") or ""), data)


def _attribute(name: str, value: Any) -> None:
    if not _ATTRIBUTE.fullmatch(name):
        raise Refused(f"the attribute name {name[:40]!r} is not made of a-z and 0-9", reason="bad_cloudevent")
    if value is None:
        return
    if isinstance(value, Mapping | list) or not isinstance(value, str | bool | int):
        raise Refused(f"{name} must be a text, a whole number or a boolean", reason="bad_cloudevent")
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 31) <= value < 1 << 31:
        raise Refused(f"{name} is not a 32-bit number", reason="bad_cloudevent")
    if name in ("time", "subject", "dataschema", "datacontenttype", "id", "source", "type") and (not isinstance(value, str) or not value):
        raise Refused(f"{name} must be a text that is not empty", reason="bad_cloudevent")
    if name == "time":
        rfc3339(value)
    if name == "dataschema" and not _URI.fullmatch(str(value)):
        raise Refused("dataschema must be an absolute URI", reason="bad_cloudevent")
    if name == "datacontenttype" and not _MEDIA.fullmatch(str(value)):
        raise Refused("datacontenttype must be a media type", reason="bad_cloudevent")


def _decoded(value: Any, content_type: Any) -> Any:
    if not isinstance(value, str):
        raise Refused("data_base64 must be a text", reason="bad_cloudevent", pointer="/data_base64")
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("data_base64 is not base64", reason="bad_cloudevent", pointer="/data_base64") from None
    return strict_json.loads(raw) if "json" in str(content_type) else raw
