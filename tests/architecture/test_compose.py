"""The compose file: of the form that compose reads, with settings, commands, addresses and secrets that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from deploy.kafka import broker
from services import VERSION, production
from services.__main__ import app
from services.adapters.settings import PREFIX, Settings, from_environment
from services.sandbox.__main__ import parser
from tests.dockerfile import ROOT, stages
from tests.parts import lacks

FILE = ROOT / "deploy" / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("trimtab:")}
PRACTICE = {"TRIMTAB_SANDBOX_TOKEN"}  # opens the practice platform alone


def ours(service: str) -> Any:
    return pytest.mark.parametrize("name", [n for n, s in OURS.items() if s["command"][0] == service])


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets")
    subprocess.run(["bash", str(ROOT / "deploy" / "secrets.sh"), str(folder)], check=True, capture_output=True)
    return folder


def environment(name: str, secrets: Path) -> dict[str, str]:
    """What a process of this service is started with, its secrets where they were made."""
    files = {f"/run/secrets/{key}": str(secrets / Path(secret["file"]).name) for key, secret in COMPOSE["secrets"].items() if key in OURS[name]["secrets"]}
    told = stages((ROOT / "Dockerfile").read_text())[-1].environment | OURS[name]["environment"]
    return {variable: files.get(value, value) for variable, value in told.items()}


def test_it_is_of_the_form_that_compose_reads() -> None:
    check = shutil.which("check-jsonschema", path=str(Path(sys.executable).parent))
    assert check is not None, "make setup brings it"
    done = subprocess.run([check, "--builtin-schema", "vendor.compose-spec", str(FILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [n for n in OURS if n != "sandbox"])
def test_a_process_is_started_with_settings_that_there_are(name: str, secrets: Path) -> None:
    settings = from_environment(environment(name, secrets))
    assert settings.database_password and settings.host == "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize("name", [n for n in OURS if n != "sandbox"])
def test_a_process_is_started_by_a_command_that_there_is(name: str) -> None:
    command, *words = OURS[name]["command"]
    assert command in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if command == "serve":
        assert words[0] in production.NAMES and name.split("-")[0] == words[0]


def test_every_service_of_production_runs_and_those_that_share_run_twice() -> None:
    many: dict[str, int] = {}
    for service in OURS.values():
        if service["command"][0] == "serve":
            many[service["command"][1]] = many.get(service["command"][1], 0) + service.get("deploy", {}).get("replicas", 1)
    assert many == dict.fromkeys(production.NAMES, 1) | {"rules": 2, "actions": 2}


def test_the_practice_platform_understands_how_it_is_started() -> None:
    sandbox = SERVICES["sandbox"]
    assert sandbox["entrypoint"] == ["python3", "-m", "services.sandbox"]
    asked = parser().parse_args(sandbox["command"])
    assert f"http://sandbox:{asked.port}" == SERVICES["actions"]["environment"]["TRIMTAB_SANDBOX_URL"]
    assert asked.token == SERVICES["actions"]["environment"]["TRIMTAB_SANDBOX_TOKEN"]


def test_addresses_lead_to_services() -> None:
    names = set(SERVICES) | {a for s in SERVICES.values() for n in (s.get("networks") or {}).values() for a in n["aliases"]}
    found = [(v, urlsplit(a)) for s in OURS.values() for v, a in s.get("environment", {}).items() if v.endswith(("_URL", "_ADVERTISE"))]
    assert len(found) > 5
    for variable, url in found:
        assert url.hostname in names | {"127.0.0.1"} and url.port == (8080 if "SANDBOX" in variable else 8420), variable
    for name in ("rules-1", "rules-2"):
        assert SERVICES[name]["environment"]["TRIMTAB_ADVERTISE"] == f"http://{name}:8420"


def test_secrets_are_files_that_are_made_once(secrets: Path) -> None:
    secret = {PREFIX + name.upper() for name, field in Settings.model_fields.items() if not field.repr} - PRACTICE
    assert [(n, v) for n, s in OURS.items() for v in s.get("environment", {}) if v in secret] == []
    assert sorted(Path(s["file"]).name for s in COMPOSE["secrets"].values()) == sorted(p.name for p in secrets.iterdir())
    before = {p.name: p.read_text() for p in secrets.iterdir()}
    subprocess.run(["bash", str(ROOT / "deploy" / "secrets.sh"), str(secrets)], check=True, capture_output=True)
    assert {p.name: p.read_text() for p in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", OURS)
def test_a_process_can_write_nowhere_else_and_has_the_time_to_end(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 25


def test_what_is_not_ours_is_pinned_and_of_the_versions_that_are_tested() -> None:
    pinned = {name: service["image"].split(":") for name, service in SERVICES.items() if name not in OURS}
    assert all(re.fullmatch(r"v?\d+\.\d+\.\d+[\w.-]*|\d+\.\d+[\w.-]*", tag) for _, tag in pinned.values())
    assert pinned["kafka"][1] == broker.version()
    assert {s["image"] for s in OURS.values()} == {f"trimtab:{VERSION}"}
    assert f"docker build -t trimtab:{VERSION} ." in FILE.read_text()


def test_prometheus_asks_every_service_and_knows_the_alerts() -> None:
    folder = ROOT / "deploy" / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yaml").read_text())
    [job] = config["scrape_configs"]
    assert job["job_name"] == "trimtab", "the alerts say so"
    assert sorted(job["dns_sd_configs"][0]["names"]) == sorted(production.NAMES)
    promtool = shutil.which("promtool")
    if promtool is None:
        lacks("promtool", "promtool is not installed: apt-get install prometheus")
    done = subprocess.run([str(promtool), "check", "config", "prometheus.yaml"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
