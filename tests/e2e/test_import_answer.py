"""An import answers while it works: what goes wrong later is its last line, and a fault of ours is one that our log tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services import embedded
from services.kernel.errors import TrimtabError, Unavailable
from tests.e2e.running import running


@pytest.mark.parametrize(
    ("fault", "last", "is_logged"),
    [
        (Unavailable("the disk is full", reason="disk"), {"error": "the disk is full", "reason": "disk"}, False),
        (ZeroDivisionError("secret"), {"error": "something is wrong on our side; the log of the server says what", "reason": "bug"}, True),
    ],
)
async def test_a_fault_in_the_middle_is_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Exception, last: dict[str, str], is_logged: bool
) -> None:
    async def half(paths: Any, mapping: Any, sink: Any, tell: Any, **_: Any) -> Any:
        tell(1, 2)
        raise fault

    monkeypatch.setattr(embedded, "ingest_files", half)
    file = tmp_path / "rows.csv"
    file.write_text("Day,Cost\n")
    async with running(tmp_path) as r:
        answer = await r.http.post("/v1/imports", json={"paths": [str(file)]})
    assert [json.loads(line) for line in answer.text.splitlines()] == [{"done": 1, "total": 2}, last]
    assert ("import failed" in capsys.readouterr().out) is is_logged
    assert isinstance(fault, TrimtabError) is not is_logged
