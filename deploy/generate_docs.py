"""Regenerates the parts of docs/ that the code itself says, between <!-- begin NAME --> and <!-- end NAME -->, and docs/asyncapi.yaml whole.

With --check it only names what is stale.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DOCS = ROOT / "docs"
SERVICES = ROOT / "services"
MARKED = re.compile(r"(<!-- begin (?P<name>[a-z-]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    cells = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {row} |" for row in cells)]) + "\n"


def code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def trees(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Every module below these folders of services/, parsed, in order of its path."""
    for folder in folders:
        for path in sorted((SERVICES / folder).rglob("*.py")):
            if "generated" not in path.parts:
                yield path, ast.parse(path.read_text(encoding="utf-8"))


# -- rules ----------------------------------------------------------------------------------------------------------------


def metrics() -> str:
    from services.rules_engine.core.metric import MONEY, OF_CONVERSION
    from services.rules_engine.language.pack import definitions

    def measure(kind: str) -> str:
        return kind + (":DEFINITION" if kind in OF_CONVERSION else "") + ("@CURRENCY" if kind in MONEY else "")

    rows = []
    for name, d in definitions().items():
        words = (import_module(f"services.rules_engine.metrics.{name}").__doc__ or "").partition("\n")[0]
        value = measure(d.numerator) + (f" / {measure(d.denominator)}" if d.denominator else "") + (f" × {d.factor}" if d.factor != 1 else "")
        written = f"{name}(definition)" if d.takes_conversion else f"{name}` or `{name}(definition)" if d.may_take_conversion else name
        rows.append((code(written), words, code(value), d.unit, d.family or "none", str(d.version)))
    return table(("metric", "what", "value", "unit", "evidence", "version"), rows)


def guards() -> str:
    from services.rules_engine.language.pack import guards as found

    parts = []
    for name, guard in found().items():
        lines = (inspect.getdoc(sys.modules[type(guard).__module__]) or "").splitlines()
        parts.append("\n".join([f"### {name}", "", *lines, ""]))
        if guard.parameters:
            rows = [(code(p) + (" (alone)" if q.sole else ""), q.kind, shown(q), q.help) for p, q in guard.parameters.items()]
            parts.append(table(("parameter", "written as", "default", "meaning"), rows))
        parts.append(table(("refusal", "says"), [(code(reason), says) for reason, says in guard.refusals.items()]))
    return "\n".join(parts)


def shown(parameter: Any) -> str:
    """A default as an author would write it."""
    value = parameter.default
    if parameter.choices:
        least = f"one of {', '.join(parameter.choices)}"
        return least if value is None else f"{amount(parameter.kind, value)}; {least}"
    return "must be written" if value is None else amount(parameter.kind, value)


def amount(kind: str, value: int | str) -> str:
    if kind == "duration" and isinstance(value, int):
        unit, letter = next(((u, x) for u, x in ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m")) if value and value % u == 0), (1_000_000, "s"))
        return "24h" if value == 86_400_000_000 else f"{value // unit}{letter}"
    if kind == "percent" and isinstance(value, int):
        return f"{value / 10_000:g}%"
    return {0: "false", 1: "true"}[int(value)] if kind == "flag" else str(value)


def attributes() -> str:
    from services.rules_engine.language.checker import ATTRIBUTES

    return table(("attribute", "holds"), [(code(name), kind) for name, kind in ATTRIBUTES.items()])


def later() -> str:
    from services.rules_engine.language.rule import LATER

    return table(("field", "instead"), [(code(name), hint) for name, hint in LATER.items()])


# -- settings, commands, metrics of the services --------------------------------------------------------------------------


def settings() -> str:
    from services.adapters.settings import PREFIX, Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        rows.append((code(PREFIX + name.upper()), code(default) if default not in ("", {}, [], None) else "", field.description or ""))
    return table(("variable", "default", "meaning"), rows)


def commands() -> str:
    import typer

    from services.__main__ import app

    return "\n".join(entry(name, command) for name, command in walk(typer.main.get_command(app), "trimtab"))


def faultpoints() -> str:
    from services.adapters.faultpoint import POINTS

    return table(("point", "what is so when the process ends there"), [(code(name), meaning) for name, meaning in POINTS.items()])


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word in sorted(inner):
        yield from walk(inner[word], f"{name} {word}")


def entry(name: str, command: Any) -> str:
    usage, rows = [name], []
    for p in command.params:
        if p.param_type_name == "argument":
            word = (p.metavar or p.name).upper().strip("[]{}") + ("..." if p.nargs == -1 else "")
            usage.append(word if p.required else f"[{word}]")
            if getattr(p, "help", None):
                rows.append((code(word), "", p.help))
        elif "--help" not in p.opts:
            default = "" if p.default in (None, "", (), []) or callable(p.default) else "no" if p.default is False else str(p.default)
            rows.append((code(" / ".join([*p.opts, *p.secondary_opts])), default, getattr(p, "help", "") or ""))
    if any(p.param_type_name == "option" and "--help" not in p.opts for p in command.params):
        usage.append("[OPTIONS]")
    words = " ".join((command.help or "").split())
    return f"### `{' '.join(usage)}`\n\n{words}\n" + ("\n" + table(("option", "default", "meaning"), rows) if rows else "")


def prometheus() -> str:
    """Every metric that a service creates, as the code creates it."""
    rows = {}
    for _, tree in trees("."):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Counter", "Gauge", "Histogram")):
                continue
            if len(node.args) >= 2 and all(isinstance(a, ast.Constant) for a in node.args[:2]):
                name, words = (a.value for a in node.args[:2] if isinstance(a, ast.Constant))
                labels = [e.value for a in node.args[2:3] if isinstance(a, ast.List) for e in a.elts if isinstance(e, ast.Constant)]
                rows[str(name)] = (code(name), node.func.id.lower(), ", ".join(code(x) for x in labels), str(words))
    return table(("metric", "kind", "labels", "meaning"), [rows[name] for name in sorted(rows)])


# -- HTTP -----------------------------------------------------------------------------------------------------------------


def routes() -> str:
    rows = []
    for route in sorted(asyncio.run(every_route()), key=lambda r: (r.path, sorted(r.methods))):
        words = route.summary or (route.endpoint.__doc__ or "").partition("\n")[0] or route.name.replace("_", " ").capitalize()
        rows += [(code(f"{method} {route.path}"), who_may(route), words) for method in sorted(route.methods)]
    return table(("route", "role", "what"), rows)


async def every_route() -> list[Any]:
    """The routes of a whole Trimtab in an empty folder."""
    import structlog
    from fastapi.routing import APIRoute

    from services.adapters.settings import Settings
    from services.embedded import Embedded

    with tempfile.TemporaryDirectory() as folder, structlog.testing.capture_logs():
        trimtab = Embedded(Settings(data=Path(folder)))
        try:
            await trimtab.start()
            return [r for r in flat_routes(trimtab.app.router) if isinstance(r, APIRoute) and r.path.startswith("/v1/")]
        finally:
            await trimtab.stop()


def flat_routes(router: Any) -> Iterator[Any]:
    for route in router.routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        yield from flat_routes(inner) if inner is not None else (route,)


def who_may(route: Any) -> str:
    """The role a route asks for: of its dependency, or as its own body says it, or that of what it calls."""
    for dependency in route.dependant.dependencies:
        if role := inspect.getclosurevars(dependency.call).nonlocals.get("role"):
            return str(role)
    called = [f for f in inspect.getclosurevars(route.endpoint).nonlocals.values() if inspect.isfunction(f)]
    source = "".join(map(inspect.getsource, (route.endpoint, *called)))
    for word, role in (("pusher(", "source"), ("door.verified(", "signature"), ('may("admin")', "admin"), ('"editor")', "editor"), ('"viewer")', "viewer")):
        if word in source:
            return role
    return "any"


DEFAULTS = {
    "RejectedInput": "422", "Refused": "422", "Unauthorized": "401", "Forbidden": "403", "NotFound": "404", "Conflict": "409", "Unavailable": "503",
    "Bug": "500", "Rejection": "quarantine",
}  # fmt: skip


def reasons() -> str:
    """Every reason that an answer or a place in quarantine may carry, with what is said beside it."""
    from services.adapters.http.problem import HTTP_REASONS

    said: dict[str, list[str]] = defaultdict(list)
    statuses: dict[str, set[str]] = defaultdict(set)
    for error, status in kernel_reasons():
        statuses[error.reason].add(status)
        said[error.reason].append((error.__doc__ or "").partition("\n")[0])
    for _, tree in trees("kernel", "adapters/http", "adapters/log", "adapters/db", "ingest", "rules_engine", "actions"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and (given := class_reason(node)) and given not in said:
                said[given].append((ast.get_docstring(node) or "").partition("\n")[0])
                statuses[given].add(next((DEFAULTS[b.id] for b in node.bases if isinstance(b, ast.Name) and b.id in DEFAULTS), "500"))
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            name, keywords = node.func.id, {k.arg: k.value for k in node.keywords}
            given = keywords.get("reason") if name in DEFAULTS else None
            words = node.args[0] if node.args else None
            status = keywords.get("status", ast.Constant(DEFAULTS.get(name, "")))
            if name == "Rejection" and len(node.args) > 1:
                given, words = node.args[0], node.args[1]
            if name == "problem" and len(node.args) > 2:
                status, given, words = node.args[:3]
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                said[given.value].append(template(assigned(tree, words)))
                statuses[given.value].add(str(status.value) if isinstance(status, ast.Constant) else "4xx")
    for number, reason in HTTP_REASONS.items():
        said[reason] += []
        statuses[reason].add(str(number))
    rows = [(code(reason), ", ".join(sorted(statuses[reason])), told(said[reason])) for reason in sorted(said) if reason not in ("error", "misconfigured")]
    return table(("reason", "status", "says"), rows)


def class_reason(node: ast.ClassDef) -> str:
    """The reason that every error of a class has, "" without one."""
    given = [s.value for s in node.body if isinstance(s, ast.Assign) and getattr(s.targets[0], "id", "") == "reason"]
    return next((str(v.value) for v in given if isinstance(v, ast.Constant)), "")


def kernel_reasons() -> list[tuple[Any, str]]:
    from services.kernel import errors

    every = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.TrimtabError)]
    return [(e, str(e.status)) for e in every if "reason" in vars(e)]


def assigned(tree: ast.Module, words: ast.AST | None) -> ast.AST | None:
    """What a name was last given before it is used; anything else as it is."""
    if not isinstance(words, ast.Name):
        return words
    before = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and n.lineno < words.lineno and getattr(n.targets[0], "id", "") == words.id]
    return max(before, key=lambda n: n.lineno).value if before else None


def template(words: ast.AST | None) -> str:
    """A message with an ellipsis where a value stands."""
    if isinstance(words, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in words.values)
    if isinstance(words, ast.BinOp):
        return template(words.left) + template(words.right)
    return str(words.value) if isinstance(words, ast.Constant) else ""


def told(messages: list[str]) -> str:
    kept = [m for m in dict.fromkeys(messages) if m.strip("… ")]
    return "; ".join(kept[:2])


# -- topics ---------------------------------------------------------------------------------------------------------------


def kafka_topics() -> str:
    from services.adapters.log.cluster import Topic
    from services.adapters.log.topics import settings_of

    why = {
        "cleanup.policy": "records are never compacted away",
        "message.timestamp.type": "the broker stamps: no sender can push engine time; `CreateTime` on a simulated clock, which nothing real runs on",
        "retention.ms": "for ever, or at least `TRIMTAB_KAFKA_RETENTION_DAYS`",
        "retention.bytes": "no record goes because others came",
        "min.insync.replicas": "`TRIMTAB_KAFKA_REPLICAS` - 1, at least 1: so many have a record before it is acknowledged",
        "max.message.bytes": "at least: one record, and one batch",
        "unclean.leader.election.enable": "a replica that lacks records never becomes leader",
    }
    return table(("setting", "value", "why"), [(code(name), code(value), why[name]) for name, value in settings_of(Topic("")).items()])


def kafka_rights() -> str:
    from services.adapters.log.rights import RIGHTS, WHO

    rows = []
    for who, rights in RIGHTS.items():
        for right in rights:
            name = f"{right.kind} {code(f'trimtab.{right.name}')}{', with `TRIMTAB_KAFKA_EACH`' if right.each else ''}"
            rows.append((WHO[who], name, ", ".join(operation.word for operation in right.operations), right.purpose))
        if not rights:
            rows.append((WHO[who], "nothing", "", "asks the other services"))
    return table(("who", "on", "needs", "for"), rows)


def record_headers() -> str:
    from services.adapters.log.kafka import HEADERS

    return table(("header", "holds"), [(code(name), words) for name, words in HEADERS.items()])


def each_headers() -> str:
    from services.adapters.log.kafka import EACH_HEADERS

    return table(("header", "holds"), [(code(name), words) for name, words in EACH_HEADERS.items()])


def asyncapi() -> str:
    """The topics as AsyncAPI 3 describes such."""
    from ruamel.yaml import YAML

    from services import VERSION
    from services.adapters.codec.each import SCHEMA
    from services.adapters.codec.record import FIELDS
    from services.adapters.log.cluster import Topic
    from services.adapters.log.codec import DECISIONS, EACH, EVENTS
    from services.adapters.log.kafka import EACH_HEADERS, HEADERS
    from services.adapters.log.topics import settings_of
    from services.kernel import record
    from services.kernel.decision import Decision

    summaries = dict(re.findall(r"^    (\w+) +(.+)$", record.__doc__ or "", re.MULTILINE))
    summaries["Decision"] = (Decision.__doc__ or "").partition("\n")[0]
    summaries["Event"] = "one event of an EventBatch"
    carried = {EVENTS.topic: ["EventBatch", *(kind.__name__ for kind in FIELDS)], DECISIONS.topic: ["Decision"], EACH.topic: ["Event"]}
    words = {
        EVENTS.topic: "Every fact that the engine may know, in order.",
        DECISIONS.topic: "What the engine concluded, in order.",
        EACH.topic: "The events of the events topic one a record, in its order, each at least once; only where TRIMTAB_KAFKA_EACH is set.",
    }
    protos = {EVENTS.topic: "record", DECISIONS.topic: "decision"}
    defaults = Topic("")

    def key_of(name: str) -> str:
        return name.replace(".e", "E")

    def channel(name: str) -> dict[str, Any]:
        configuration = {k: [v] if k == "cleanup.policy" else int(v) if v.lstrip("-").isdecimal() else v for k, v in settings_of(defaults).items()}
        kafka = {"topic": f"trimtab.{name}", "partitions": defaults.partitions, "replicas": defaults.replicas, "topicConfiguration": configuration}
        messages = {kind: {"$ref": f"#/components/messages/{kind}"} for kind in carried[name]}
        return {
            "address": f"trimtab.{name}",
            "description": f"{words[name]} The key is the workspace, UTF-8; the partition is murmur2 of the key, as Kafka's clients do by default.",
            "messages": messages,
            "bindings": {"kafka": {**kafka, "bindingVersion": "0.5.0"}},
        }

    def message(name: str, kind: str) -> dict[str, Any]:
        if kind == "Event":
            key = {"type": "string", "description": "the workspace"}
            about = {"name": "trimtab.v1.Event", "title": kind, "summary": summaries[kind], "contentType": "application/json"}
            headers = {"headers": {"$ref": "#/components/schemas/EventHeaders"}, "payload": SCHEMA}
            return {**about, **headers, "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}}}
        schema = {"schemaFormat": "application/vnd.google.protobuf;version=3", "schema": {"$ref": f"../proto/trimtab/v1/{protos[name]}.proto"}}
        return {
            "name": f"trimtab.v1.{kind}",
            "title": kind,
            "summary": summaries[kind],
            "contentType": "application/protobuf",
            "headers": {"$ref": "#/components/schemas/" + ("UnkeyedHeaders" if kind in ("Tick", "Skip", "Clock") else "Headers")},
            "payload": schema,
            "bindings": {"kafka": {"key": {"type": "string", "description": "the workspace, where it is of one"}, "bindingVersion": "0.5.0"}},
        }

    def headers(told: dict[str, str]) -> dict[str, Any]:
        return {"type": "object", "required": list(told), "properties": {name: {"type": "string", "description": words} for name, words in told.items()}}

    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Trimtab's log on Kafka",
            "version": VERSION,
            "description": "Generated by `make docs` from what the code sends; docs/kafka.md tells the rest.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/protobuf",
        "channels": {key_of(name): channel(name) for name in carried},
        "operations": {
            f"{action}{name.title().replace('.', '')}": {"action": action, "channel": {"$ref": f"#/channels/{key_of(name)}"}}
            for name in carried
            for action in ("send", "receive")
        },
        "components": {
            "messages": {kind: message(name, kind) for name, kinds in carried.items() for kind in kinds},
            "schemas": {
                "Headers": headers(HEADERS),
                "UnkeyedHeaders": headers({name: words for name, words in HEADERS.items() if name != "ce_workspace"}),
                "EventHeaders": headers(EACH_HEADERS),
            },
        },
    }
    yaml, text = YAML(), StringIO()
    yaml.width = 150
    yaml.representer.ignore_aliases = lambda _: True  # type: ignore[method-assign]
    yaml.dump(document, text)
    return text.getvalue()


SECTIONS: dict[str, Callable[[], str]] = {
    "metrics": metrics,
    "guards": guards,
    "attributes": attributes,
    "later": later,
    "settings": settings,
    "commands": commands,
    "prometheus": prometheus,
    "routes": routes,
    "reasons": reasons,
    "faultpoints": faultpoints,
    "kafka-topics": kafka_topics,
    "kafka-rights": kafka_rights,
    "record-headers": record_headers,
    "each-headers": each_headers,
}


def renewed(text: str, made: dict[str, str]) -> str:
    """The page with every marked part as the code says it today."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in made:
            made[name] = SECTIONS[name]()
        return f"{match[1]}{made[name].rstrip()}\n{match[3]}"

    return MARKED.sub(fill, text)


def pages() -> list[tuple[Path, str, str]]:
    """(page, as it stands, as it should stand)."""
    made: dict[str, str] = {}
    found = []
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        found.append((path, text, renewed(text, made)))
    missing = sorted(set(SECTIONS) - set(made))
    if missing:
        raise SystemExit(f"no page of docs/ holds <!-- begin {missing[0]} -->")
    whole = DOCS / "asyncapi.yaml"
    return [*found, (whole, whole.read_text(encoding="utf-8") if whole.exists() else "", asyncapi())]


def main() -> int:
    stale = [(path, text) for path, before, text in pages() if before != text]
    if "--check" in sys.argv:
        print("\n".join(f"{path.relative_to(ROOT)} is stale: make docs" for path, _ in stale) or "docs/ says what the code says")
        return len(stale)
    for path, text in stale:
        path.write_text(text, encoding="utf-8")
        print(f"renewed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
