"""How pages are drawn: every value is escaped, and what could hide or reorder the text around a hostile name is made visible."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from services.console import words

CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF]
VISIBLE = dict.fromkeys(CONTROLS, "\ufffd") | {9: "\t", 10: "\n", 13: "\r"}


class Pages:
    def __init__(self) -> None:
        loader = PackageLoader("services.console", "templates")
        self.templates = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=plain)
        spelled = (words.count, words.money, words.ratio, words.span, words.spoken, words.why, when, segment)
        self.templates.filters.update({f.__name__: f for f in spelled})
        self.templates.globals.update(
            tone=words.TONES, doing=words.DOING, verdict=words.verdict, evidence=words.evidence, setting=words.setting, ancestry=ancestry
        )

    def draw(self, name: str, /, **values: Any) -> str:
        return self.templates.get_template(name).render(values)

    def page(self, name: str, status: int = 200, /, **values: Any) -> Response:
        return HTMLResponse(self.draw(name, **values), status)

    def problem(self, status: int, problem: dict[str, Any]) -> str:
        """An error as a page; it says no more than the problem did."""
        return self.draw("problem.html", visit=None, here="", status=status, title=HTTPStatus(status).phrase, detail=problem.get("detail", ""))


def plain(value: Any) -> Any:
    """As a template shows it: nothing for None, control characters as a replacement sign."""
    if value is None:
        return ""
    return value.translate(VISIBLE) if isinstance(value, str) and not isinstance(value, Markup) else value


def when(value: str | float, with_seconds: bool = True) -> Markup:
    return Markup('<time datetime="{}">{}</time>').format(words.machine(value), words.instant(value, with_seconds))


def segment(name: str) -> str:
    """As one segment of an address."""
    return quote(name, safe="")


def ancestry(path: str) -> list[list[tuple[str, str]]]:
    """Of each object of a path (a pair has two): (name, path) level by level, for links to everything below it."""
    return [[(name, "/".join(names[: i + 1])) for i, name in enumerate(names)] for names in (one.split("/") for one in path.split("|"))]
