"""The pages and the one address for people and the command line: what is asked of the APIs is passed on to the service that answers it.

It has the database for logins and keys alone; everything else it asks for, in the name of who asks.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from starlette.types import Receive, Scope, Send

from services import console
from services.adapters.http.keys import install_keys
from services.adapters.http.passing import Passing
from services.adapters.http.problem import from_error
from services.adapters.settings import Settings
from services.kernel.errors import Misconfigured, NotFound, TrimtabError
from services.production.service import Service

# The first that fits, else actions. Each route of each service fits its own: a test sees to that.
ROUTES = (
    ("ingest", re.compile(r"/v1/(events|webhooks|reports|quarantine)\b")),
    ("rules", re.compile(r"/v1/(rules|targets|explain|series|engine|partitions?)\b|/v1/decisions/[^/]+/replay$")),
)
OWN = re.compile(r"/v1/(me|login-links|keys(/[^/]+/revoke)?)$")
NOT_HERE = "/v1/imports"


def service_of(path: str) -> str:
    """ingest, rules or actions."""
    return next((name for name, fits in ROUTES if fits.match(path)), "actions")


class Console(Service):
    name = "console"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.urls = {name: getattr(settings, f"{name}_url").rstrip("/") for name in ("ingest", "rules", "actions")}
        if missing := [f"TRIMTAB_{name.upper()}_URL" for name, url in self.urls.items() if not url]:
            raise Misconfigured(f"the pages do not know where the other services are: set {', '.join(missing)} to http://HOST:PORT each")
        self.passing = Passing()
        install_keys(self.app, self.auth, lambda: self.url)
        self.apis = console.Client.within(self.app)
        console.install(self.app, self.apis)

    def layers(self) -> list[Any]:
        return [partial(_ToServices, console=self)]

    async def _open(self) -> None:
        self._cleanup.push_async_callback(self.passing.close)
        self._cleanup.push_async_callback(self.apis.close)


class _ToServices:
    """What is asked of an API is asked of the service that has it, with the credential of who asks."""

    def __init__(self, app: Any, console: Console) -> None:
        self.app, self.console = app, console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith("/v1/") or OWN.match(path) or self.console.why_not_ready:
            await self.app(scope, receive, send)
            return
        try:
            if path == NOT_HERE:
                raise NotFound("files of this machine are read by `trimtab up` alone: send what they hold to POST /v1/reports/{source}")
            name = service_of(path)
            await self.console.passing.on(self.console.urls[name], scope, receive, send, name)
        except TrimtabError as error:
            await from_error(error)(scope, receive, send)
