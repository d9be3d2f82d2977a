"""Sandbox: the practice ad platform over real HTTP.

Writes carry an Idempotency-Key and, as If-Match, the version that was read; none is ever sent twice by this file, and none at all that is not under way in
time, whatever it waited for. What is no clear answer (a timeout, a cut connection, a 5xx, a body that cannot be read) is `unclear`, and the worker reads the
platform back.
"""

from __future__ import annotations

from typing import ClassVar

import httpx2

from services.actions.executors.contract import UNDER_WAY, Answer, Observed, Step, Value
from services.adapters.http.calling import HttpClient, under_way_within
from services.kernel.errors import Unavailable

TIMEOUT = 10.0  # seconds


class Platform:
    """One sandbox at `url`."""

    name: ClassVar[str] = "sandbox"
    platforms: ClassVar[frozenset[str]] = frozenset({"sandbox"})
    attributes: ClassVar[frozenset[str]] = frozenset({"status", "daily_budget"})
    is_practice: ClassVar[bool] = True

    def __init__(self, url: str, token: str, timeout: float = TIMEOUT) -> None:
        patience = httpx2.Timeout(timeout, connect=min(UNDER_WAY, timeout), pool=min(UNDER_WAY, timeout))
        self._client = HttpClient(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=patience)

    async def read(self, step: Step) -> Observed:
        try:
            answer = await self._client.get(f"/objects/{step.path}")
            body = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise Unavailable(f"the sandbox cannot be read: {type(error).__name__}", reason="platform") from error
        if answer.status_code == 404:
            return Observed(None)
        if answer.status_code != 200 or not isinstance(body, dict) or "error" in body:
            raise Unavailable(f"the sandbox answers {answer.status_code}", reason="platform")
        value = body.get(step.attribute)
        return Observed(value if isinstance(value, str | int) else None, answer.headers.get("etag"))

    async def write(self, step: Step, observed: Observed, idempotency_key: str) -> Answer:
        headers = {"Idempotency-Key": idempotency_key} | ({"If-Match": observed.version} if observed.version else {})
        try:
            change = {step.attribute: step.desired}
            answer = await self._client.patch(f"/objects/{step.path}", json=change, headers=headers, extensions=under_way_within(UNDER_WAY))
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            return Answer("unsent", "no connection could be made in time")
        except httpx2.HTTPError as error:
            return Answer("unclear", type(error).__name__)
        return judged(answer, step.attribute, step.desired)

    async def close(self) -> None:
        await self._client.aclose()


def judged(answer: httpx2.Response, attribute: str, desired: Value) -> Answer:
    """What the platform said: a 4xx is a definite no, a 2xx with an error inside too; anything unreadable is unclear."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    reason = str(body["error"].get("reason", "")) if isinstance(body, dict) and isinstance(body.get("error"), dict) else ""
    if 400 <= answer.status_code < 500:
        return Answer("refused", f"{answer.status_code} {reason}".strip())
    if answer.status_code != 200 or not isinstance(body, dict):
        return Answer("unclear", f"{answer.status_code}, not readable" if body is None else str(answer.status_code))
    if reason or "error" in body:
        return Answer("refused", reason or "an error inside the answer")
    return Answer("accepted") if body.get(attribute) == desired else Answer("unclear", "the answer shows another value")
