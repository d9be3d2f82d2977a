"""The command line's way to a running Trimtab: HTTP with the key of the data folder, errors as one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2

from services.adapters.settings import Settings
from services.kernel.errors import TrimtabError, Unavailable


class Refused(TrimtabError):
    """The server's own words."""

    reason = "refused"


class Client:
    def __init__(self, settings: Settings) -> None:
        key = settings.key
        path = settings.data / "cli.key"
        if not key and path.exists():
            key = path.read_text().strip()
        self.url = settings.url
        where = settings.data / "url"
        if "url" not in settings.model_fields_set and where.exists():
            self.url = where.read_text().strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=120)

    def get(self, path: str, **parameters: Any) -> Any:
        return self._answer("GET", path, params=parameters)

    def post(self, path: str, body: Any = None) -> Any:
        return self._answer("POST", path, json=body or {})

    def put(self, path: str, body: Any) -> Any:
        return self._answer("PUT", path, json=body)

    def _answer(self, method: str, path: str, **rest: Any) -> Any:
        try:
            answer = self._http.request(method, path, **rest)
        except httpx2.HTTPError as error:
            raise Unavailable(f"no Trimtab answers at {self.url} ({type(error).__name__}): start one with `trimtab up`, or set TRIMTAB_URL") from error
        if answer.is_error:
            raise Refused(detail(answer))
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text

    def lines(self, path: str, body: Any) -> Iterator[str]:
        """The answer's lines as they come."""
        try:
            with self._http.stream("POST", path, json=body) as answer:
                if answer.is_error:
                    answer.read()
                    raise Refused(detail(answer))
                yield from answer.iter_lines()
        except httpx2.HTTPError as error:
            raise Unavailable(f"no Trimtab answers at {self.url} ({type(error).__name__}): start one with `trimtab up`, or set TRIMTAB_URL") from error


def detail(answer: httpx2.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return f"the server answers {answer.status_code}"
    return str(body.get("detail", f"the server answers {answer.status_code}"))
