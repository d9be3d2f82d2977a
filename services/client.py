"""The command line's way to a running Trimtab: HTTP with the key of the data folder, errors as one clear line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2

from services.adapters.http.calling import KEPT, trust
from services.adapters.log.lock import holder
from services.adapters.settings import Settings, from_environment
from services.kernel.errors import Misconfigured, TrimtabError, Unavailable

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Refused(TrimtabError):
    """The server's own words, with its reason."""

    reason = "refused"


class Client:
    """One server: TRIMTAB_URL, or the one that the data folder says is running, or the default."""

    def __init__(self, settings: Settings) -> None:
        key, kept = settings.key, settings.data / "cli.key"
        if not key and kept.exists():
            key = kept.read_text().strip()
        self.url, where = settings.url, settings.data / "url"
        if "url" not in settings.model_fields_set and where.exists():
            if not holder(settings.data):  # it was killed: what listens there now must not be sent its key
                raise Unavailable(f"no Trimtab runs on {settings.data}: start one with `trimtab up`, or set TRIMTAB_URL")
            self.url = where.read_text().strip()
        if not key.isascii() or not key.isprintable():
            raise Misconfigured("TRIMTAB_KEY is not an API key: make one with `trimtab key NAME`")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            is_here = urlsplit(self.url).hostname in LOOPBACK  # the environment's proxy knows nothing of this machine
            limits, whom = httpx2.Limits(keepalive_expiry=KEPT), trust(self.url, not is_here)
            self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=120, limits=limits, verify=whom, trust_env=not is_here)
        except (httpx2.InvalidURL, ValueError) as error:
            raise Misconfigured(f"TRIMTAB_URL={self.url} is not an address: write http://HOST:PORT") from error

    def get(self, path: str, **parameters: Any) -> Any:
        return self._json(self._answer("GET", path, params=parameters))

    def post(self, path: str, body: Any = None) -> Any:
        return self._json(self._answer("POST", path, json=body or {}))

    def put(self, path: str, body: Any) -> Any:
        return self._json(self._answer("PUT", path, json=body))

    def text(self, path: str) -> str:
        return self._answer("GET", path).text

    def lines(self, path: str, body: Any) -> Iterator[str]:
        """The answer's lines as they come."""
        with self._reached(), self._http.stream("POST", path, json=body) as answer:
            if answer.is_error:
                answer.read()
                raise refusal(answer)
            yield from answer.iter_lines()

    def _answer(self, method: str, path: str, **rest: Any) -> httpx2.Response:
        with self._reached():
            answer = self._http.request(method, path, **rest)
        if answer.is_error:
            raise refusal(answer)
        return answer

    def _json(self, answer: httpx2.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise Refused(f"what answers at {self.url} is no Trimtab: set TRIMTAB_URL") from error

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unavailable(f"no Trimtab answers at {self.url} ({type(error).__name__}): start one with `trimtab up`, or set TRIMTAB_URL") from error


def client() -> Client:
    """The client that the environment asks for."""
    return Client(from_environment(os.environ))


def refusal(answer: httpx2.Response) -> Refused:
    try:
        body = answer.json()
    except ValueError:
        body = None
    told = body if isinstance(body, dict) else {}
    remedy = " (the command line takes its key from TRIMTAB_KEY, or from the data folder TRIMTAB_DATA)" if answer.status_code == 401 else ""
    return Refused(f"{told.get('detail', f'the server answers {answer.status_code}')}{remedy}", reason=str(told.get("reason", "refused")))
