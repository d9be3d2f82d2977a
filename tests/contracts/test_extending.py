"""docs/extending.md keeps its word: each of its files, put into its folder, is found by scanning and passes the contract of the built-in ones."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from services.actions.connect import connect
from services.actions.executors.contract import Step
from services.adapters.settings import Settings
from services.embedded import Embedded
from services.ingest.http import all_sources
from services.kernel.entity import LEVELS
from services.kernel.errors import Misconfigured, Unavailable
from services.kernel.measure import measure
from services.rules_engine.core.guard import Circumstance
from services.rules_engine.core.metric import MONEY, OF_CONVERSION
from services.rules_engine.core.partition import Partition, demand_of
from services.rules_engine.core.program import Asked
from services.rules_engine.language import pack as language
from services.rules_engine.trial import run_tests
from tests.architecture.test_walls import purity_faults
from tests.contracts import test_executors
from tests.core import test_sources
from tests.core.world import DAY, GROUP, HOUR, META, SECOND, START, World, asked, batch, pause_rule
from tests.shell.sandboxed import Sandbox, sandbox

PAGE = Path(__file__).parents[2] / "docs/extending.md"
FILES = dict(re.findall(r"^`(services/[a-z_/]+\.py)`\n\n```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
FOLDERS = ("services.ingest.sources", "services.rules_engine.metrics", "services.rules_engine.guards", "services.actions.executors")


@pytest.fixture(scope="module", autouse=True)
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's files lie in their folders for as long as this module runs."""
    root = tmp_path_factory.mktemp("extended")
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    for folder in FOLDERS:
        import_module(folder).__path__.append(str(root / folder.replace(".", "/")))
    clear()
    yield
    for folder in FOLDERS:
        import_module(folder).__path__.pop()
    for path in FILES:
        sys.modules.pop(module_of(path), None)
    clear()


def clear() -> None:
    language.guards.cache_clear()
    language.definitions.cache_clear()


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def cases(test: Callable[..., Any], **fixed: Any) -> list[dict[str, Any]]:
    """Every case that a parametrized test would be called with, those arguments fixed."""
    axes: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names = mark.args[0].split(",") if isinstance(mark.args[0], str) else list(mark.args[0])
            if not set(names) & set(fixed):
                axes.append([dict(zip(names, values if len(names) > 1 else (values,), strict=True)) for values in mark.args[1]])
    return [{k: v for one in combination for k, v in one.items()} | fixed for combination in itertools.product(*axes)]


def contract(module: Any, argument: str) -> list[Any]:
    """The tests of a contract that are asked for one extension."""
    every = [f for name, f in vars(module).items() if name.startswith("test_")]
    return [pytest.param(f, id=f.__name__) for f in every if argument in inspect.signature(f).parameters]


def test_the_page_has_one_example_of_each_kind() -> None:
    assert {Path(path).parent.as_posix().replace("/", ".") for path in FILES} == set(FOLDERS)


@pytest.mark.parametrize("path", [p for p in FILES if "executors" not in p])
def test_an_example_keeps_the_walls(path: str) -> None:
    assert purity_faults(ast.parse(FILES[path])) == []


# -- metrics --------------------------------------------------------------------------------------------------------------------


def metric_names() -> list[str]:
    folder = Path(import_module("services.rules_engine.metrics").__file__ or "").parent
    return sorted({p.stem for p in folder.glob("[a-z]*.py")} | {Path(p).stem for p in FILES if "/metrics/" in p})


@pytest.mark.parametrize("name", metric_names())
def test_a_metric_is_found_under_the_name_of_its_file_and_is_wholly_defined(name: str) -> None:
    of = language.definitions()[name]
    assert (import_module(f"services.rules_engine.metrics.{name}").__doc__ or "").strip()
    assert of.name == name and of.owner and of.version >= 1 and of.factor >= 1
    assert of.unit in ("ratio", "count", "money")
    assert of.family in ("", "proportion", "rate")
    assert all(measure(kind).base == kind for kind in (of.numerator, of.denominator) if kind)
    assert (of.unit == "money") == (of.numerator in MONEY and of.denominator not in MONEY)
    if of.family == "proportion":
        assert of.denominator and of.unit == "ratio" and of.numerator not in MONEY
    if of.family == "rate":
        assert of.denominator and of.numerator == "spend"  # a rate per exposure: the metric is its reciprocal, a cost


@pytest.mark.parametrize("name", metric_names())
def test_a_rule_on_the_metric_is_checked_and_its_target_is_known(name: str) -> None:
    of = language.definitions()[name]
    written = f"{name}(purchases)" if {of.numerator, of.denominator} & OF_CONVERSION else name
    limit = {"ratio": "50%", "money": "5 EUR", "count": "5"}[of.unit]
    exposure = of.numerator if of.numerator == "spend" else of.denominator or "impressions"
    sample = f"{{{exposure}: {'9 EUR' if exposure == 'spend' else 100}}}"
    target = f"targets: {{{name}: {{default: {limit}}}}}" if of.denominator else ""
    text = f"""
pack: p
account: {{platform: meta_ads, currency: EUR}}
conversions: {{purchases: {{source: meta_ads, action_type: purchase}}}}
{target}
rules:
  - {{rule: r, owner: o, scope: {{level: creative}}, when: "{written}[7d] < {limit}", guards: {{sample: {sample}}}, do: notify}}
"""
    assert [r.program.rule for r in language.load_pack(text).rules] == ["r"]


def test_a_rule_on_the_pages_metric_acts_on_what_it_measures() -> None:
    text = f"""
pack: p
account: {{platform: {META}, currency: EUR}}
rules:
  - {{rule: r, owner: o, scope: {{level: creative}}, when: "vtr[since change] < 20%", guards: {{sample: {{impressions: 100}}, confidence: 95%}}, do: pause}}
"""
    [rule] = language.load_pack(text).rules
    world = World().activate(rule.program).at(1)
    amounts = {"a": {"impressions": 10**9, "video_views": 50 * 10**6}, "b": {"impressions": 10**9, "video_views": 300 * 10**6}}
    world.put(batch(*({"id": ad, "path": f"{GROUP}/{ad}", "at": world.now, "amounts": of} for ad, of in amounts.items()))).at(30).tick()
    assert [(ad, kind) for _, ad, kind, _ in world.told()] == [("a", "refused"), ("a", "fired")]  # after min_runtime


# -- guards ---------------------------------------------------------------------------------------------------------------------


def guard_names() -> list[str]:
    folder = Path(import_module("services.rules_engine.guards").__file__ or "").parent
    return sorted({p.stem for p in folder.glob("[a-z]*.py")} | {Path(p).stem for p in FILES if "/guards/" in p})


def circumstances() -> Iterator[Circumstance]:
    """Rich and poor ones: everything known, and nothing."""
    program = pause_rule()
    totals = (("numerator", 5), ("side", "low"))
    for now, first, changed, status, evidence in itertools.product((START, START + 9 * DAY), (START,), (0, START - HOUR), ("", "active"), (None, 9_000_000)):
        yield Circumstance(program, f"{GROUP}/a", now, START, first, (), evidence, 2_995_732, totals, START, META, changed, "tom", changed, status, {})
        yield Circumstance(program, f"{GROUP}/a", now, START, first, (), evidence, 2_995_732, (), 0, META, 0, "", 0, "", dict.fromkeys(LEVELS, 3))


@pytest.mark.parametrize("name", guard_names())
def test_a_guard_is_documented_and_answers_anything_with_typed_refusals_and_exact_figures(name: str) -> None:
    guard = language.guards()[name]
    module = type(guard).__module__
    assert module.endswith("." + name) and guard.name == name
    assert (import_module(module).__doc__ or "").strip()
    assert guard.refusals
    for parameter in guard.parameters.values():
        assert parameter.kind in ("duration", "percent", "number", "word", "level", "flag") and parameter.help
    written = {p: q.default if q.default is not None else (q.choices[0] if q.choices else 1) for p, q in guard.parameters.items()}
    for of in circumstances():
        verdict = guard.ask(Asked(name, tuple(sorted(written.items()))), of)
        assert verdict == guard.ask(Asked(name, tuple(sorted(written.items()))), of)
        assert verdict.guard == name and verdict.refusal in ("", *guard.refusals)
        assert list(verdict.figures) == sorted(verdict.figures) and all(type(v) in (int, str) for _, v in verdict.figures)


def test_the_pages_guard_holds_a_rule_and_lets_go_by_time_alone() -> None:
    rule = pause_rule(guards=(asked("first_days", at_least=2 * DAY),))
    world = World().activate(rule).at(1).report("a", 1000, 5, status="active").at(100).tick()
    state = Partition(dict(language.guards()), demand_of(world.records))
    told = [(d.kind, d.refusals, d.now - START) for d in state.step(world.records)]
    assert told == [("refused", ("first_days",), HOUR + SECOND), ("fired", (), 49 * HOUR)]


def test_the_pages_guard_is_written_in_a_pack_and_tested_there() -> None:
    text = """
pack: p
account: {platform: meta_ads, currency: EUR}
rules:
  - rule: r
    owner: o
    scope: {level: creative}
    when: ctr[7d] < 1%
    guards: {sample: {impressions: 100}, first_days: 5d}
    do: pause
    tests: [{name: n, series: {every: 1d, impressions: 1000, clicks: 1}, expect: [{at: 4d, held: first_days}, {by: 6d, do: pause}]}]
"""
    assert [r.failures for r in run_tests(language.load_pack(text), language.guards())] == [()]


# -- sources --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", contract(test_sources, "name"))
def test_the_pages_source_keeps_the_contract_of_sources(test: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(test_sources.SOURCES, "stripe", import_module("services.ingest.sources.stripe").SOURCE)
    for case in cases(test, name="stripe"):
        test(**case)


def test_the_pages_source_is_found_by_scanning() -> None:
    assert {"stripe", "web"} <= set(all_sources())


# -- executors ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
async def executor(platform: Sandbox) -> AsyncIterator[Any]:
    platform.client.delete("/faults")
    platform.load({test_executors.AD: {"status": "active", "name": "Summer_v3"}, "sandbox/demo/c1": {"daily_budget": 80_000_000, "status": "active"}})
    one = import_module("services.actions.executors.house_ads").Platform(platform.url, "sandbox", timeout=0.5)
    yield one
    await one.close()


@pytest.mark.parametrize("test", contract(test_executors, "executor"))
async def test_the_pages_executor_keeps_the_contract_of_executors(test: Callable[..., Any], platform: Sandbox, executor: Any) -> None:
    wanted = {name: value for name, value in (("platform", platform), ("executor", executor)) if name in inspect.signature(test).parameters}
    for case in cases(test, **wanted):
        platform.client.delete("/faults")
        platform.load({test_executors.AD: {"status": "active"}})
        await test(**case)


async def test_the_pages_executor_is_connected_by_its_name_and_away_it_is_unavailable() -> None:
    [one] = connect({"house_ads": {"url": "http://127.0.0.1:1", "token": "t"}})
    assert (one.name, one.platforms, one.is_practice) == ("house_ads", frozenset({"house_ads"}), False)
    with pytest.raises(Unavailable):
        await one.read(Step("house_ads/a", "status", None, "paused"))
    await one.close()


async def test_a_whole_trimtab_acts_through_the_executors_that_its_settings_name(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, executors={"house_ads": {"url": "http://127.0.0.1:1", "token": "hidden"}})
    assert settings.secrets() == ("hidden",)
    trimtab = Embedded(settings)
    await trimtab.start()
    try:
        assert set(trimtab.actions.executors) == {"house_ads"}
    finally:
        await trimtab.stop()


@pytest.mark.parametrize(("wanted", "says"), [({"hous_ads": {}}, "no executor; there are house_ads, sandbox"), ({"house_ads": {"url": "x"}}, "token")])
def test_an_executor_that_is_unknown_or_lacks_an_option_stops_the_start_with_one_line(wanted: dict[str, dict[str, str]], says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        connect(wanted)
