"""`trimtab log`, and a running Trimtab that keeps its log up: what is pruned is still replayed, explained, backed up and restored."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.__main__ import app
from services.backup import backup, restore
from services.keeping import FIRST, LogUpkeep
from services.kernel.errors import Misconfigured, TrimtabError
from tests.e2e.running import running
from tests.shell.commanded import Said, run, up, up_with_a_platform
from tests.shell.test_operations import numbers

SMALL = {"log_segment_hours": "0.0000001", "log_segment_mb": "0.0001", "log_live_days": "0.0000001"}
REFUSED = "and no valid checkpoint covers what came before it"


def log(*words: object, data: Path, **settings: str) -> Said:
    """The command in this process: starting one takes longer than what it does."""
    environment = {f"TRIMTAB_{k.upper()}": v for k, v in (SMALL | settings | {"data": str(data)}).items()}
    done = CliRunner().invoke(app, ["log", *map(str, words)], env=environment)
    if isinstance(done.exception, TrimtabError):
        return Said(2, "", str(done.exception))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Said(done.exit_code, done.stdout, done.stderr)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.write_bytes(data)


def files(data: Path) -> list[Path]:
    return sorted((data / "archive").glob("*.segment"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A data folder of a Trimtab that has ended, and a decision that it made."""
    folder = tmp_path_factory.mktemp("log")
    with up_with_a_platform(folder) as (trimtab, _):
        trimtab.apply(folder)
        trimtab.report({"ad": "a1", "impressions": 50_000, "clicks": 100}, {"ad": "a2", "impressions": 50_000, "clicks": 900})
        [fired] = trimtab.decisions(1, status="verified")
        assert trimtab.stop()[0] == 0
    return folder / "data", str(fired["id"])


@pytest.fixture
def data(kept: tuple[Path, str], tmp_path: Path) -> Path:
    shutil.copytree(kept[0], tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def pruned(data: Path) -> Path:
    assert log("archive", data=data).code == log("prune", data=data).code == 0
    return data


def test_what_would_be_done_is_said_and_then_done(data: Path) -> None:
    [line] = log("segments", data=data).lines
    assert line.startswith("records          0 to") and line.endswith("open")
    assert log("prune", "--dry-run", data=data).out == "nothing is due\n"
    would = log("archive", "--dry-run", data=data).lines
    assert would and all("would be sealed and archived" in x for x in would) and not files(data)
    done = log("archive", data=data).lines
    assert len([x for x in done if " archived " in x]) == len([x for x in done if x.endswith(" sealed")]) == len(would) == len(files(data))
    assert log("archive", data=data).out == "nothing is due\n"
    would = log("prune", "--dry-run", data=data).lines
    assert "would be pruned" in would[0] and "stay: no valid checkpoint covers it" in would[-1]
    assert log("prune", "--older-than", "1", data=data).out == "nothing is due\n"
    assert log("prune", data=data).lines == [x.replace("would be ", "") for x in would]
    listed = log("segments", data=data).lines
    assert "  pruned    events-0-" in listed[0] and "  archived  events-0-" in listed[-2] and listed[-1] == "no record is open"
    assert log("verify", data=data).out.startswith(f"{len(files(data))} of {len(files(data))} segments are archived and hold, link ")


def test_a_decision_whose_records_were_pruned_is_still_replayed_and_explained(pruned: Path, kept: tuple[Path, str]) -> None:
    shutil.rmtree(pruned / "checkpoints")
    with up(pruned) as trimtab:
        assert trimtab.get(f"/v1/decisions/{kept[1]}/replay")["identical"] is True
        assert "clicks" in str(trimtab.get("/v1/explain", decision=kept[1]))


def test_without_the_archive_and_without_a_checkpoint_a_start_is_refused(pruned: Path) -> None:
    shutil.rmtree(pruned / "checkpoints")
    first = files(pruned)[1]
    flip(first)
    assert first.name in run("up", data=str(pruned), port="0").refused().splitlines()[-1]
    shutil.rmtree(pruned / "archive")
    assert REFUSED in run("up", data=str(pruned), port="0").refused().splitlines()[-1]


def test_a_backup_takes_the_archive_with_it_and_a_restore_brings_it_back(pruned: Path, kept: tuple[Path, str], tmp_path: Path) -> None:
    with up(pruned) as trimtab:
        trimtab.ok("backup", tmp_path / "whole")
    again = tmp_path / "again"
    assert restore(tmp_path / "whole", again).segments == len(files(pruned)) == len(files(again))
    shutil.rmtree(again / "checkpoints")
    with up(again) as trimtab:
        assert trimtab.get(f"/v1/decisions/{kept[1]}/replay")["identical"] is True


def test_a_backup_without_the_archive_needs_it_beside_itself(pruned: Path, tmp_path: Path) -> None:
    slim, again = tmp_path / "slim", tmp_path / "again"
    assert run("backup", "--no-archive", slim, data=str(pruned)).code == 0
    assert files(slim) == []
    restore(slim, again, pruned / "archive")
    found = log("verify", data=again, archive=str(pruned / "archive"))
    assert found.code == 0 and found.out.startswith(f"{len(files(pruned))} of {len(files(pruned))}")
    assert log("verify", data=again).code == 1


def test_a_backup_whose_archive_is_damaged_or_lacks_a_file_is_none(pruned: Path, tmp_path: Path) -> None:
    backup(pruned, tmp_path / "whole")
    broken = files(tmp_path / "whole")[1]
    flip(broken)
    with pytest.raises(Misconfigured, match=f"{broken.name} cannot be used: its hash does not agree"):
        restore(tmp_path / "whole", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    for number, spoil in enumerate((flip, Path.unlink)):
        spoil(files(pruned)[1])
        with pytest.raises(Misconfigured, match="cannot be used: its (hash|file)"):
            backup(pruned, tmp_path / f"other{number}")


def test_a_restore_beside_an_archive_that_went_on_leaves_what_is_there(pruned: Path, tmp_path: Path) -> None:
    """The log parts from what was archived after the backup, and neither overwrites the other."""
    archive = tmp_path / "archive"
    shutil.copytree(pruned / "archive", archive)
    backup(pruned, tmp_path / "whole")
    later = archive / f"events-0-{10**6:020d}-0123456789ab.segment"
    later.write_text("of a log that went on")
    flip(archive / files(pruned)[0].name)
    restore(tmp_path / "whole", tmp_path / "again", archive)
    assert later.read_text() == "of a log that went on"
    assert log("verify", data=tmp_path / "again", archive=str(archive)).code == 0


def test_a_damaged_file_is_named(pruned: Path) -> None:
    flip(files(pruned)[1])
    found = log("verify", data=pruned)
    assert found.code == 1
    assert f"DAMAGED: its hash does not agree  {files(pruned)[1].name}" in found.out


def test_commands_on_a_folder_without_a_log_are_one_clear_line(tmp_path: Path) -> None:
    for words in (["segments"], ["archive"], ["prune"], ["verify"]):
        assert "holds no Trimtab" in log(*words, data=tmp_path / "none").refused()


def test_an_archive_that_cannot_be_written_is_one_clear_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    said = run("log", "archive", data=str(data), archive=str(tmp_path / "file"))
    assert "choose another folder with TRIMTAB_ARCHIVE" in said.refused()


async def test_a_running_trimtab_keeps_its_log_up_beside_its_work(tmp_path: Path) -> None:
    settings = {"log_segment_hours": 1e-7, "log_segment_mb": 1e-4, "log_live_days": 1e-7}
    async with running(tmp_path, **settings) as r:
        assert FIRST >= 30  # a start is not slowed down
        upkeep = r.trimtab.upkeep
        await r.apply()
        await r.report({"ad": "a1", "status": "active", "impressions": 50_000, "clicks": 100}, {"ad": "a2", "status": "active"})
        [fired] = await r.decisions(1, kind="fired")
        await upkeep.once()
        counted = numbers((await r.http.get("/metrics")).text)
        assert counted["trimtab_log_segments_total", "archived"] == counted["trimtab_log_segments_total", "sealed"] > 3
        assert ("trimtab_log_segments_total", "pruned") not in counted  # there is no checkpoint yet
        assert counted["trimtab_log_live_offset",] == 0
        assert counted["trimtab_log_archived_offset",] > 3
        await r.trimtab.worker._save()
        before = await r.trimtab.events.read(0, 0, 3)
        await asyncio.gather(upkeep.once(), *(r.report({"ad": "a2", "impressions": 10, "clicks": 0}) for _ in range(20)))
        counted = numbers((await r.http.get("/metrics")).text)
        assert counted["trimtab_log_segments_total", "pruned"] > 1
        assert counted["trimtab_log_live_offset",] > 1
        assert counted["trimtab_log_upkeep_failures_total",] == 0
        assert [s.offset for s in await r.trimtab.events.read(0, 0, 3)] == [s.offset for s in before]
        assert (await r.get(f"/v1/decisions/{fired['id']}/replay"))["identical"] is True
        upkeep.keeper.archive.folder = tmp_path / "data/url/none"
        (tmp_path / "data/url").write_text("a file where a folder should be")
        await upkeep.once()
        assert numbers((await r.http.get("/metrics")).text)["trimtab_log_upkeep_failures_total",] == 1
        assert (await r.report({"ad": "a2", "impressions": 10, "clicks": 0})).status_code == 202


async def test_upkeep_ends_with_the_process_wherever_it_stands(tmp_path: Path) -> None:
    async with running(tmp_path, log_segment_hours=1e-7, log_segment_mb=1e-4) as r:
        for _ in range(10):
            await r.report({"ad": "a2", "impressions": 10, "clicks": 0})
        upkeep: LogUpkeep = r.trimtab.upkeep
        work = asyncio.create_task(upkeep.once())
        await asyncio.sleep(0)
        upkeep._stop.set()
        await work
        sealed = upkeep.keeper.ends().archived
        upkeep._stop.clear()
        await upkeep.once()
        assert upkeep.keeper.ends().archived > sealed
