"""A backup taken of a running Trimtab, and one started from it: events go on, and nothing is done at a platform twice."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.backup import restored_at
from services.doctor import OK, examine
from services.kernel.errors import Misconfigured
from tests.shell.commanded import Up, run, until, up
from tests.shell.sandboxed import Sandbox, sandbox

ADS = [f"a{i}" for i in range(1, 7)]
WEAK = {"impressions": 50_000, "clicks": 100}


def path(ad: str) -> str:
    return f"sandbox/demo/c1/g1/{ad}"


@contextmanager
def platform(folder: Path) -> Iterator[Sandbox]:
    with sandbox(folder) as practice:
        practice.load({path(ad): {"status": "active"} for ad in ADS})
        yield practice


def applied(practice: Sandbox) -> Counter[str]:
    return Counter(change["path"][-2:] for change in practice.applied())


def sound(data: Path) -> list[str]:
    return [f"{x.name}: {x.text}" for x in examine({"TRIMTAB_DATA": str(data)}) if x.level != OK]


def settled(trimtab: Up, ad: str) -> dict[str, object]:
    """The decision that fired about an ad and came to its end."""
    return until(lambda: next((d for d in trimtab.get("/v1/decisions", kind="fired", entity=path(ad))["decisions"] if d["status"] != "executing"), None))


def test_from_a_backup_taken_under_load_events_go_on_and_nothing_is_done_twice(tmp_path: Path) -> None:
    data, backups, again = tmp_path / "data", [tmp_path / f"backup{i}" for i in range(3)], tmp_path / "again"
    with platform(tmp_path) as practice:
        with up(data, sandbox_url=practice.url, sandbox_token="sandbox") as trimtab:
            trimtab.report(*({"ad": ad, "status": "active"} for ad in ADS))
            trimtab.apply(tmp_path)
            trimtab.report({"ad": "a1", **WEAK})
            assert settled(trimtab, "a1")["status"] == "verified"
            stop = threading.Event()

            def load() -> None:
                while not stop.is_set():
                    trimtab.report(*({"ad": ad, "impressions": 100, "clicks": 5} for ad in ADS[3:]))

            sender = threading.Thread(target=load)
            sender.start()
            try:
                for folder in backups:
                    trimtab.ok("backup", folder)
            finally:
                stop.set()
                sender.join(30)
            trimtab.report({"ad": "a2", **WEAK})
            assert settled(trimtab, "a2")["status"] == "verified"
            assert trimtab.stop(signal.SIGKILL)[0] == -signal.SIGKILL
        assert applied(practice) == {"a1": 1, "a2": 1}

        said = run("restore", backups[-1], data=str(again))
        assert said.code == 0, said
        assert sound(again) == []
        with up(again, sandbox_url=practice.url, sandbox_token="sandbox") as trimtab:
            assert "verified" in {d["status"] for d in trimtab.get("/v1/decisions", entity=path("a1"))["decisions"]}
            assert trimtab.get("/v1/decisions", kind="fired", entity=path("a2"))["decisions"] == []  # it was decided after the backup
            trimtab.report({"ad": "a2", **WEAK}, {"ad": "a3", **WEAK})
            assert settled(trimtab, "a3")["status"] == "verified"
            repeated = settled(trimtab, "a2")
            assert repeated["reason"] in ("already_there", "precondition")  # the platform was read first
            assert trimtab.get("/v1/audit/verify")["verified"] is True
            assert trimtab.get(f"/v1/decisions/{settled(trimtab, 'a1')['id']}/replay")["identical"] is True
        assert applied(practice) == {"a1": 1, "a2": 1, "a3": 1}
    for folder in backups[:-1]:
        other = tmp_path / f"of {folder.name}"
        assert run("restore", folder, data=str(other)).code == 0
        assert sound(other) == []


def test_a_database_that_is_older_than_the_decisions_executes_none_of_them_again(tmp_path: Path) -> None:
    data, early, late, again = (tmp_path / name for name in ("data", "early", "late", "again"))
    with platform(tmp_path) as practice:
        with up(data, sandbox_url=practice.url, sandbox_token="sandbox") as trimtab:
            trimtab.report(*({"ad": ad, "status": "active"} for ad in ADS))
            trimtab.apply(tmp_path)
            trimtab.ok("backup", early)
            trimtab.report({"ad": "a1", **WEAK})
            assert settled(trimtab, "a1")["status"] == "verified"
            trimtab.ok("backup", late)
        practice.load({path(ad): {"status": "active"} for ad in ADS})  # somebody switched it on again: nothing at the platform would stop us
        (late / "trimtab.db").write_bytes((early / "trimtab.db").read_bytes())
        assert run("restore", late, data=str(again)).code == 0
        with up(again, sandbox_url=practice.url, sandbox_token="sandbox") as trimtab:
            held = settled(trimtab, "a1")
            assert (held["status"], held["reason"]) == ("held", "stale")
            trimtab.report({"ad": "a2", **WEAK})
            assert settled(trimtab, "a2")["status"] == "verified"
        assert applied(practice)["a2"] == 1
        assert applied(practice)["a1"] <= 1


def test_what_waited_when_the_backup_was_taken_has_had_its_time(tmp_path: Path) -> None:
    data, folder, again = (tmp_path / name for name in ("data", "backup", "again"))
    with platform(tmp_path) as practice:
        with up(data, sandbox_url=practice.url, sandbox_token="sandbox") as trimtab:
            trimtab.report(*({"ad": ad, "status": "active"} for ad in ADS))
            trimtab.apply(tmp_path)
            trimtab.ok("kill-switch", "on", "--reason", "a look first")
            trimtab.report({"ad": "a1", **WEAK})
            assert settled(trimtab, "a1")["status"] == "parked"
            trimtab.ok("backup", folder)
            trimtab.ok("kill-switch", "off")
            until(lambda: applied(practice)["a1"])
        practice.load({path(ad): {"status": "active"} for ad in ADS})
        before = applied(practice)["a1"]
        assert run("restore", folder, data=str(again)).code == 0
        with up(again, sandbox_url=practice.url, sandbox_token="sandbox") as trimtab:
            [waited] = trimtab.get("/v1/decisions", kind="fired", entity=path("a1"))["decisions"][-1:]
            ended = until(lambda: d if (d := trimtab.get(f"/v1/decisions/{waited['id']}"))["status"] != "parked" else None)
            assert (ended["status"], ended["reason"]) == ("held", "stale")
        assert before == 1


def test_a_backup_or_a_restore_that_would_overwrite_or_lack_something_is_one_clear_line(tmp_path: Path) -> None:
    data, folder, again = (tmp_path / name for name in ("data", "backup", "again"))
    assert "holds no Trimtab" in run("backup", folder, data=str(data)).refused()
    with up(data) as trimtab:
        trimtab.ok("backup", folder)
    assert "is not empty" in run("backup", folder, data=str(data)).refused()
    assert "is not empty" in run("restore", folder, data=str(data)).refused()
    (folder / "backup.json").rename(tmp_path / "aside")
    assert "is no complete backup" in run("restore", folder, data=str(again)).refused()
    (tmp_path / "aside").rename(folder / "backup.json")
    whole = (folder / "events.db").read_bytes()
    (folder / "events.db").write_bytes(whole[:5000])
    assert "is damaged" in run("restore", folder, data=str(again)).refused()
    assert not again.exists() or list(again.iterdir()) == []
    (folder / "events.db").write_bytes(whole)
    assert run("restore", folder, data=str(again)).code == 0
    assert ((again / "secret").stat().st_mode & 0o777, restored_at(again) > 0) == (0o600, True)


def test_a_restore_that_was_not_finished_is_not_started_from(tmp_path: Path) -> None:
    (tmp_path / "restoring").write_text("backup\n")
    with pytest.raises(Misconfigured, match="was not finished"):
        restored_at(tmp_path)
    assert "was not finished: empty the folder and restore again" in run("up", data=str(tmp_path), port="0").refused()
