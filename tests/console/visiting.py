"""People at the pages: a session over HTTP, the forms of a page read as a browser reads them, and a small world worth looking at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx2

from tests.e2e.running import Running

WEAK, DEAR, FINE = "Summer_v1", '<img src=x onerror="alert(1)"><script>alert(2)</script>', "Autumn_v1"


class Page(HTMLParser):
    """What a page says, links to, loads and asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.forms: dict[str, dict[str, str]] = {}  # action -> named fields
        self._form: dict[str, str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.tags.append((tag, named))
        if tag == "form":
            self._form = self.forms.setdefault(named["action"], {})
        elif tag in ("input", "button", "select") and "name" in named and self._form is not None:
            self._form[named["name"]] = named.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [named for name, named in self.tags if name == tag]


@dataclass
class Visitor:
    """One person with a browser's headers."""

    http: httpx2.AsyncClient
    last: httpx2.Response = field(init=False)

    async def see(self, path: str, status: int = 200) -> Page:
        self.last = await self.http.get(path)
        assert self.last.status_code == status, (path, self.last.status_code, self.last.text[:2000])
        return Page(self.last.text)

    async def send(self, page: Page, action: str, status: int = 303, headers: dict[str, str] | None = None, **fields: str) -> Page:
        """Fills the page's form of this action in and sends it; a redirect is followed."""
        self.last = await self.http.post(action, data={**page.forms[action], **fields}, headers=headers)
        assert self.last.status_code == status, (action, self.last.status_code, self.last.text[:2000])
        return await self.see(self.last.headers["location"]) if status == 303 else Page(self.last.text)


@asynccontextmanager
async def visitor(r: Running, role: str = "admin", name: str = "jana") -> AsyncIterator[Visitor]:
    """Someone of this role, logged in by a link; a stranger without a role."""
    async with httpx2.AsyncClient(base_url=r.trimtab.url, headers={"Accept": "text/html,*/*;q=0.8", "Origin": r.trimtab.url}, timeout=30) as http:
        if role:
            assert (await http.get(await r.trimtab.login(name, role))).status_code == 200
        yield Visitor(http)


async def seed(r: Running) -> tuple[dict[str, Any], dict[str, Any]]:
    """One weak creative has been paused, a dear one with a hostile name waits for people, a third is refused; returns (paused, waiting)."""
    names = {"a1": WEAK, "a2": DEAR, "a3": FINE, "a4": "Winter"}
    await r.report(*({"ad": ad, "status": "active", "name": name} for ad, name in names.items()))
    await r.apply()
    await r.report({"ad": "a1", "impressions": 50_000, "clicks": 100, "spend": "12.50"}, {"ad": "a3", "impressions": 2_000, "clicks": 10})
    [paused] = await r.decisions(1, status="verified")
    await r.report({"ad": "a2", "impressions": 50_000, "clicks": 100, "spend": "400.00"})
    [waiting] = await r.decisions(1, status="waiting")
    return paused, waiting
