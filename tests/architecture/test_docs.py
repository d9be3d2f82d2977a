"""The documents are true: what the code says is generated, links lead somewhere, packs on the pages are checked and their tests pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from deploy import generate_docs
from services.__main__ import app
from services.actions.core import policy
from services.adapters.settings import PREFIX, Settings
from services.rules_engine.language.pack import definitions, guards, load_pack
from services.rules_engine.trial import run_tests

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
FENCED = re.compile(r"^ *```([a-z]*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rendered() -> dict[str, tuple[str, str]]:
    """page -> (as it stands, as the code says it)."""
    return {named(path): (before, after) for path, before, after in generate_docs.pages()}


def test_no_generated_part_is_stale(rendered: dict[str, tuple[str, str]]) -> None:
    assert [name for name, (before, after) in rendered.items() if before != after] == [], "run `make docs`"


def test_a_stale_part_is_seen() -> None:
    text = "<!-- begin later -->\n| old |\n<!-- end later -->\n"
    assert generate_docs.renewed(text, {}) != text
    assert generate_docs.renewed(generate_docs.renewed(text, {}), {}) == generate_docs.renewed(text, {})


def anchors(text: str) -> set[str]:
    """Of headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head)).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    dead = []
    for target in LINK.findall(FENCED.sub("", path.read_text(encoding="utf-8"))):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            dead.append(target)
    assert dead == []


def test_every_setting_is_documented() -> None:
    text = page("settings.md")
    assert [name for name in Settings.model_fields if f"`{PREFIX}{name.upper()}`" not in text] == []
    assert all(field.description for field in Settings.model_fields.values())


def test_every_command_is_documented() -> None:
    text = page("cli.md")
    known = dict(generate_docs.walk(typer.main.get_command(app), "trimtab"))
    assert len(known) > 15
    assert [name for name, command in known.items() if f"### `{name}" not in text or not command.help] == []


def test_every_metric_of_the_services_is_documented() -> None:
    made = set()
    for path in (ROOT / "services").rglob("*.py"):
        made |= set(re.findall(r'"(trimtab_[a-z_]+)"', path.read_text(encoding="utf-8")))
    made -= {"trimtab_session"}  # the cookie
    text = page("operations.md")
    assert len(made) > 10
    assert sorted(name for name in made if f"`{name}`" not in text) == []


def test_every_reason_of_policy_is_in_the_runbook() -> None:
    text = page("operations.md")
    assert [reason for reason in (*policy.HOLDS, *policy.PARKS, *policy.ESCALATIONS) if f"`{reason}`" not in text] == []


def test_every_metric_and_guard_of_rules_is_documented() -> None:
    text = page("rules.md")
    assert [name for name in definitions() if f"`{name}" not in text] == []
    assert [name for name, guard in guards().items() if f"### {name}\n" not in text or any(f"`{r}`" not in text for r in guard.refusals)] == []


def packs() -> list[object]:
    found = []
    for path in PAGES:
        blocks = [body for kind, body in FENCED.findall(path.read_text(encoding="utf-8")) if kind == "yaml" and body.startswith("pack:")]
        found += [pytest.param(body, id=f"{named(path)}-{i}") for i, body in enumerate(blocks, 1)]
    return found + [pytest.param(p.read_text(encoding="utf-8"), id=named(p)) for p in sorted((ROOT / "rules").glob("*.yaml"))]


@pytest.mark.parametrize("text", packs())
def test_a_pack_that_is_shown_has_tests_and_they_pass(text: str) -> None:
    results = run_tests(load_pack(text), guards())
    assert results
    assert [(r.test, r.failures) for r in results if not r.passed] == []


def test_the_readme_shows_the_first_rule_that_lies_in_the_repository() -> None:
    [shown] = [body for kind, body in FENCED.findall((ROOT / "README.md").read_text(encoding="utf-8")) if kind == "yaml"]
    lines = (ROOT / "rules/first.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    assert shown == "".join(line for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("path", sorted((ROOT / "docs/adr").glob("*.md")), ids=named)
def test_a_decision_record_is_short_and_has_its_three_parts(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert lines[0].startswith(f"# {int(path.name[:4])}. ")
    assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Decision", "## Consequences"]
