"""The practice ad platform as a process of its own, and what the demo asks of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from services.adapters.http.calling import HttpClient
from services.kernel.errors import Misconfigured, Unavailable

ROOT = Path(__file__).parents[2]
TOKEN = "sandbox"  # the platform's own default; it listens on loopback and holds nothing of worth
PATIENCE = 30.0  # seconds until a process that says nothing counts as not started


@dataclass(frozen=True, slots=True)
class Platform:
    url: str
    http: httpx2.AsyncClient

    async def load(self, objects: dict[str, dict[str, Any]]) -> None:
        await self._answer("PUT", objects)

    async def running(self) -> set[str]:
        """The paths whose status is active now: a paused creative is shown to nobody."""
        return {path for path, attributes in (await self._answer("GET")).items() if attributes.get("status") == "active"}

    async def _answer(self, method: str, body: Any = None) -> Any:
        try:
            answer = await self.http.request(method, "/objects", json=body)
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise Unavailable(f"the practice ad platform does not answer ({type(error).__name__}): its process has ended") from error
        return answer.json()


def started(journal: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.sandbox", "--port", "0", "--token", TOKEN, "--journal", str(journal.resolve())]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


@asynccontextmanager
async def sandbox(journal: Path) -> AsyncIterator[Platform]:
    """The platform, on a free port, for as long as the block lasts. A Ctrl-C of the terminal reaches only the demo, which ends it in its turn."""
    process = started(journal)
    assert process.stdout is not None
    try:
        line = ""
        with suppress(TimeoutError):
            line = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE)
        if not line.startswith("sandbox listening on "):
            raise Misconfigured("the practice ad platform (python -m services.sandbox) did not start; what it said stands above")
        url = line.split()[-1]
        async with HttpClient(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20, trust_env=False) as http:
            yield Platform(url, http)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
        process.stdout.close()
