"""The pages in Chromium, light and dark, wide and narrow: what a person does there works, and the browser itself finds no fault."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.console.visiting import DEAR, seed
from tests.e2e.running import Running, running
from tests.parts import lacks

pytestmark = pytest.mark.asyncio(loop_scope="module")
GIVEN_UP = "net::ERR_ABORTED"  # by the browser itself, when it leaves a page before the icon has come
SEE_VIOLATIONS = "addEventListener('securitypolicyviolation', e => console.error('policy violated: ' + e.violatedDirective))"

FAINT = """() => {  // texts whose contrast with what lies behind them is below 4.5 : 1
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const bright = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => parse(getComputedStyle(e).backgroundColor);
  const behind = (e) => (!e ? [255, 255, 255] : ground(e)[3] === 0 ? behind(e.parentElement) : ground(e));
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest("title, desc")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [bright(parse(e.closest("svg") ? style.fill : style.color)), bright(behind(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return found;
}"""

NAMELESS = """() => [...document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a[href], [role=region], [role=img]")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 120))"""

RINGLESS = """() => {  // what takes the focus by keyboard and does not show it
  const at = document.activeElement, style = getComputedStyle(at);
  return at !== document.body && style.outlineStyle === "none" && style.boxShadow === "none" ? at.outerHTML.slice(0, 120) : "";
}"""


def chromium() -> str:
    """Where the browser is; without one the test is skipped, or fails where it is required."""
    path = shutil.which("chromium")
    if path is None:
        lacks("browser", "there is no chromium: apt-get install chromium")
    return str(path)


@dataclass
class World:
    r: Running
    browser: Browser
    paused: dict[str, Any]
    waiting: dict[str, Any]
    faults: list[str] = field(default_factory=list)  # what any page complained of

    @asynccontextmanager
    async def person(self, role: str = "reviewer", name: str = "rita", **settings: Any) -> AsyncIterator[Page]:
        """A browser of their own, logged in through a link, at the overview."""
        context = await self.browser.new_context(**settings)
        if settings.get("java_script_enabled", True):
            await context.add_init_script(SEE_VIOLATIONS)
        page = await context.new_page()
        page.on("console", lambda said: self.faults.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url}: {request.failure}") if request.failure != GIVEN_UP else None)
        await page.goto(await self.r.trimtab.login(name, role))
        await page.wait_for_url("**/")
        yield page
        await context.close()

    async def changes(self, path: str, count: int) -> list[str]:
        """What was set at the platform, once so many decisions have come to their end."""
        await self.r.decisions(count, status="verified")
        return [e["after"]["status"] for e in self.r.sandbox.applied() if e["path"] == path]


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    path = chromium()
    async with running(folder) as r, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield World(r, browser, *await seed(r))
        finally:
            await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def still(shared: World) -> World:
    """A world for tests that only look."""
    return replace(shared, faults=[])


@pytest_asyncio.fixture(loop_scope="module")
async def w(tmp_path: Path) -> AsyncIterator[World]:
    """A world for one test that acts."""
    async with world(tmp_path) as made:
        yield made


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_reads_well_in_both_schemes_and_widths_without_a_fault(still: World, scheme: str) -> None:
    ours = (f"/decisions/{still.paused['id']}?replay=yes", f"/decisions/{still.waiting['id']}")
    addresses = ("/", "/?verify=yes", "/escalations", "/decisions", *ours, "/rules", "/rules/pause-weak")
    async with still.person("admin", color_scheme=scheme) as page:
        for width in (1280, 360):
            await page.set_viewport_size({"width": width, "height": 800})
            for address in (*addresses, "/login"):
                answer = await page.goto(still.r.trimtab.url + address)
                assert answer is not None
                assert answer.status == 200, address
                assert await page.evaluate(FAINT) == [], (address, width)
                assert await page.evaluate(NAMELESS) == [], (address, width)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (address, width)
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 21, 26)"}[scheme]
    assert still.faults == []


async def test_the_browser_sees_a_planted_fault(still: World) -> None:
    async with still.person() as page:
        await page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'alert(1)'}))")
        await page.evaluate("document.querySelector('h1').style.color = 'rgb(200, 200, 200)'")
        assert await page.evaluate(FAINT) == ["1.56: Overview"]
        await page.evaluate("document.querySelector('main').append(document.createElement('input'))")
        assert await page.evaluate(NAMELESS) == ["<input>"]
    assert any("policy violated: script-src" in fault for fault in still.faults), still.faults
    assert not any(fault.startswith("dialog") for fault in still.faults)


async def test_a_login_link_works_once_in_a_browser(still: World) -> None:
    link = await still.r.trimtab.login("rita", "reviewer")
    first, second = await still.browser.new_context(), await still.browser.new_context()
    page, late = await first.new_page(), await second.new_page()
    await page.goto(link)
    await page.wait_for_url("**/")
    assert "rita, reviewer" in await page.inner_text("header")
    answer = await late.goto(link)
    assert answer is not None
    assert answer.status == 401
    assert "used or has expired" in await late.inner_text("main")
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/login")
    answer = await page.goto(still.r.trimtab.url)
    assert answer is not None
    assert answer.status == 401


async def test_approving_with_the_keyboard_changes_the_platform_and_a_hostile_name_stays_text(w: World) -> None:
    async with w.person() as page:
        await page.get_by_role("link", name="Escalations", exact=True).click()
        await page.keyboard.press("a")  # nothing is marked yet, so nothing may happen
        ask = page.get_by_role("article")
        assert DEAR in await ask.get_by_role("heading", level=2).inner_text()
        assert await page.locator("main img, main script").count() == 0
        await page.keyboard.press("j")
        assert await page.evaluate("document.activeElement.matches('[data-ask]')")
        await page.keyboard.press("r")
        assert await page.evaluate("document.activeElement === document.querySelector('[data-reject] [name=reason]')")
        await page.keyboard.type("ja")  # letters in a field are letters
        await page.keyboard.press("Escape")
        assert await page.evaluate("document.activeElement.matches('[data-ask]')")
        assert w.r.sandbox.applied()[-1]["path"] == w.paused["path"]
        await page.keyboard.press("a")
        await page.get_by_text("Approved. The platform is read once more").wait_for()
        assert await w.changes(w.waiting["path"], 2) == ["paused"]
        await page.get_by_role("link", name="See the decision").click()
        await page.get_by_text("approved by rita").first.wait_for()
    assert w.faults == []


async def test_rejecting_with_the_keyboard_keeps_the_reason(w: World) -> None:
    async with w.person() as page:
        await page.goto(w.r.trimtab.url + "/escalations")
        await page.keyboard.press("j")
        await page.keyboard.press("r")
        await page.keyboard.press("Enter")  # a reason is required: the browser itself says so
        assert "/escalations" in page.url
        await page.keyboard.type("it is our best seller in Austria")
        await page.keyboard.press("Enter")
        await page.get_by_text("Rejected. Nothing will be changed").wait_for()
        await page.get_by_role("link", name="rejected", exact=True).click()
        await page.get_by_text("it is our best seller in Austria").wait_for()
    assert await w.changes(w.waiting["path"], 1) == []
    assert w.faults == []


async def test_everything_works_without_script_undo_included(w: World) -> None:
    async with w.person(java_script_enabled=False) as page:
        await page.goto(w.r.trimtab.url + "/escalations")
        assert not await page.get_by_text("Keys:").is_visible()
        await page.get_by_label("Reason to approve (optional)").fill("agreed")
        await page.get_by_role("button", name="Approve").click()
        assert "Approved" in await page.inner_text("main")
        assert await w.changes(w.waiting["path"], 2) == ["paused"]
        await page.goto(f"{w.r.trimtab.url}/decisions/{w.waiting['id']}")
        while not await page.get_by_role("button", name="Undo").count():  # the change is at the platform, and may not have been read back yet
            await asyncio.sleep(0.1)
            await page.reload()
        await page.get_by_label("Why (optional)").fill("a mistake")
        await page.get_by_role("button", name="Undo").click()
        assert "rita asked to restore what the platform said before" in await page.inner_text("main")
        assert await w.changes(w.waiting["path"], 3) == ["paused", "active"]
        await page.goto(f"{w.r.trimtab.url}/decisions/{w.waiting['id']}")
        await page.get_by_role("button", name="Replay").click()
        assert "Identical." in await page.inner_text("main")
    assert w.faults == []


async def test_two_reviewers_at_once_one_answers_and_the_other_is_told(w: World) -> None:
    async with w.person(name="rita") as first, w.person(name="tom") as second:
        for page in (first, second):
            await page.goto(w.r.trimtab.url + "/escalations")
        await first.get_by_role("button", name="Approve").click()
        await first.get_by_text("Approved.").wait_for()
        await second.get_by_role("button", name="Approve").click()
        await second.get_by_role("alert").wait_for()
        told = await second.get_by_role("alert").inner_text()
        assert "Nothing was changed. it was approved by rita" in " ".join(told.split())
        assert await w.changes(w.waiting["path"], 2) == ["paused"]
    assert [f for f in w.faults if "409" not in f] == []


async def test_the_focus_is_always_to_be_seen(still: World) -> None:
    async with still.person("admin") as page:
        for address in ("/", "/escalations", f"/decisions/{still.paused['id']}"):
            await page.goto(still.r.trimtab.url + address)
            for _ in range(25):
                await page.keyboard.press("Tab")
                assert await page.evaluate(RINGLESS) == "", address
        await page.goto(still.r.trimtab.url)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"


async def test_a_viewer_has_nothing_to_press_but_what_reads(still: World) -> None:
    async with still.person("viewer", "vera") as page:
        for address in ("/", "/escalations", f"/decisions/{still.paused['id']}"):
            await page.goto(still.r.trimtab.url + address)
            buttons = await page.get_by_role("button").all_inner_texts()
            assert set(buttons) <= {"Log out", "Verify the chain", "Replay"}, (address, buttons)
    assert still.faults == []
