"""Rights on a broker of this machine, as kafka-acls.sh grants them: read from the commands that `trimtab log rights` prints."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from aiokafka.protocol.admin import CreateAclsRequest_v1
from aiokafka.protocol.api import Request

from services.adapters.log.cluster import Cluster
from services.adapters.log.rights import Operation
from services.adapters.log.topics import administering

TYPES = {"topic": 2, "group": 3}
LITERAL, ALLOW, EVERY_HOST = 3, 3, "*"
OPERATIONS = {o.word: o for o in Operation}
AUDITED = re.compile(r"Principal = (\S+) is Allowed operation = (\w+) from host = \S+ on resource = (Topic|Group|Cluster):LITERAL:(\S+) for request = ")
Grant = tuple[str, str, str, str]  # principal, operation, topic or group, its name


class _Grants(Request[CreateAclsRequest_v1]):  # type: ignore[misc]
    """aiokafka's own asks for one at a time."""

    API_KEY = 30

    def __init__(self, grants: Iterable[Grant]) -> None:
        self.rows = [(TYPES[kind], name, LITERAL, who, EVERY_HOST, int(OPERATIONS[operation]), ALLOW) for who, operation, kind, name in grants]

    def build(self, request_struct_class: type[CreateAclsRequest_v1]) -> CreateAclsRequest_v1:
        return request_struct_class(self.rows)


def grants_of(printed: str) -> Iterator[Grant]:
    """What these commands of kafka-acls.sh add. A word that it does not know ends the test."""
    parser = argparse.ArgumentParser(prog="kafka-acls.sh", allow_abbrev=False)
    for option in ("--bootstrap-server", "--allow-principal", "--command-config", *(f"--{kind}" for kind in TYPES)):
        parser.add_argument(option)
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--operation", action="append", choices=OPERATIONS)
    for line in printed.splitlines():
        program, *words = shlex.split(line, comments=True) or ["kafka-acls.sh"]
        assert program == "kafka-acls.sh", line
        if words:
            wanted = parser.parse_args(words)
            assert wanted.add and wanted.bootstrap_server, line
            [(kind, name)] = [(kind, getattr(wanted, kind)) for kind in TYPES if getattr(wanted, kind)]
            yield from ((wanted.allow_principal, operation, kind, name) for operation in wanted.operation)


async def grant(bootstrap: str, grants: Iterable[Grant]) -> None:
    """The brokers have these rights in their log; each enforces them a moment later, all of them at once."""
    async with administering(Cluster(bootstrap)) as admin:
        answer = await admin._send_to_controller(_Grants(grants))
        assert not any(code for code, _ in answer.creation_responses), answer


def used(broker_log: Path, principals: str) -> set[Grant]:
    """What the broker was asked to do, and did, of those whose names begin so."""
    found = {m.groups() for m in AUDITED.finditer(broker_log.read_text(errors="replace"))}
    return {(who, word.title().replace("_", ""), kind.lower(), name) for who, word, kind, name in found if who.startswith(principals)}
