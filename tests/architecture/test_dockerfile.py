"""The image: linted, run by a number that is not root's, and made of nothing but what is locked and named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from services import VERSION
from services.adapters.settings import PREFIX, Settings
from tests.dockerfile import ROOT, context, stages

TEXT = (ROOT / "Dockerfile").read_text()
BUILD, IMAGE = stages(TEXT)


def test_hadolint_agrees() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "make setup brings it"
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_runs_as_a_number_that_is_not_root() -> None:
    users = IMAGE.every("USER")
    assert [re.fullmatch(r"([1-9]\d{4,}):([1-9]\d{4,})", user) is not None for user in users] == [True]
    assert f"-o {users[0].replace(':', ' -g ')} {IMAGE.environment['TRIMTAB_DATA']}" in " ".join(IMAGE.every("RUN"))


def test_it_writes_to_its_volume_alone_and_ends_on_the_signal_that_drains() -> None:
    assert IMAGE.environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert [IMAGE.environment["TRIMTAB_DATA"]] == IMAGE.every("VOLUME") == IMAGE.every("WORKDIR")
    assert IMAGE.last("STOPSIGNAL") == "SIGTERM"
    assert IMAGE.last("ENTRYPOINT") == '["trimtab"]'
    assert IMAGE.every("EXPOSE") == [IMAGE.environment["TRIMTAB_PORT"]]


def test_its_settings_are_settings() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert {name for name in IMAGE.environment if name.startswith(PREFIX)} <= known


def test_what_is_installed_is_locked_and_hashed() -> None:
    [install] = [step for step in BUILD.every("RUN") if "pip install" in step]
    assert "--require-hashes" in install and "--only-binary :all:" in install
    assert [stage.base for stage in (BUILD, IMAGE)] == ["python:3.11-slim-bookworm"] * 2, "requirements/base.txt is locked for this Python"
    assert not re.search(r"https?://(?!127\.0\.0\.1)", TEXT)


def test_it_says_what_it_is() -> None:
    assert {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses", "version", "revision", "created")} == set(IMAGE.labels)
    assert f"VERSION={VERSION}" in IMAGE.every("ARG")


def test_only_what_the_image_is_made_of_is_sent_to_the_builder(tmp_path: Path) -> None:
    sent = context((ROOT / ".dockerignore").read_text(), tmp_path)
    assert sorted(p.name for p in sent.iterdir()) == ["deploy", "requirements", "services"]
    assert not list(sent.rglob("__pycache__"))
    assert all((sent / words.split()[0]).exists() for words in BUILD.every("COPY"))
