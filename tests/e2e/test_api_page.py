"""Every command on docs/api.md works as it stands, against a whole Trimtab."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.e2e.running import running

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl")
async def test_the_commands_of_the_page_are_all_answered_well(tmp_path: Path) -> None:
    async with running(tmp_path) as r:
        folder = tmp_path / "reader"
        (folder / "var").mkdir(parents=True)
        (folder / "rules").symlink_to(ROOT / "rules")
        (folder / "var/url").write_text(str(r.http.base_url).rstrip("/"))
        (folder / "var/cli.key").write_text((tmp_path / "data/cli.key").read_text())
        script = "set -euo pipefail\n" + "\n".join(BLOCKS).replace("/tmp/pack.json", str(folder / "pack.json"))
        shell = await asyncio.create_subprocess_exec(
            "bash", "-c", script, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={"PATH": "/usr/bin:/bin"}
        )
        async with asyncio.timeout(60):
            out, said = await shell.communicate()
        assert shell.returncode == 0, f"{out.decode()}\n{said.decode()}"
        answers = [json.loads(line) for line in out.decode().splitlines() if line.strip()]
        assert [a["accepted"] for a in answers[:2]] == [1, 1]
        assert answers[2]["valid"] is True
        assert answers[3]["rules"][0]["state"] == "active"
        assert answers[5] == {"targets": 2}
        assert answers[6]["title"].startswith('Left "Summer_v1"')
        assert [a["engaged"] for a in answers[-2:]] == [True, False]


def test_the_page_shows_more_than_a_handful_of_calls() -> None:
    assert "\n".join(BLOCKS).count("call ") >= 12
