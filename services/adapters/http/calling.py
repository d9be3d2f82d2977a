"""The HTTP client of ours, for whatever we call."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

import httpx2

from services.adapters.clock import elapsed

KEPT = 2.0  # seconds that a connection is kept for the next request: less than servers keep one, for what is sent as they close it has no answer


def under_way_within(seconds: float) -> dict[str, Any]:
    """Extensions of one request that is sent only where its sending begins within so many seconds of now.

    The client's own limits are of one thing each: the wait for a connection, its making, TLS. Here they count together, and the time counts, too, in which
    the process stood still. What comes too late raises ConnectTimeout, and nothing of it was sent; or WriteTimeout, and its head was sent without its body.
    """
    until = elapsed() + int(seconds * 1_000_000)

    async def look(event: str, _: Any) -> None:
        if event.endswith("send_request_headers.started") and elapsed() > until:
            raise httpx2.ConnectTimeout(f"not under way within {seconds} s")
        if event.endswith("send_request_body.started") and elapsed() > until:
            raise httpx2.WriteTimeout(f"only its head was sent within {seconds} s")

    return {"trace": look}


def trust(url: str, by_environment: bool) -> ssl.SSLContext:
    """Whom a client of this address trusts over TLS: nobody where it speaks plain HTTP past any proxy of the environment, for reading whom takes time."""
    return _nobody() if url.startswith("http://") and not by_environment else _known(by_environment)


@cache
def _known(by_environment: bool) -> ssl.SSLContext:
    """As the system trusts, or as `SSL_CERT_FILE` and `SSL_CERT_DIR` say; read once a process."""
    return httpx2.create_ssl_context(trust_env=by_environment)


@cache
def _nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class HttpClient(httpx2.AsyncClient):
    """`httpx2.AsyncClient`, whose errors of the wire are all `httpx2.HTTPError`; it keeps no connection for longer than `KEPT`.

    Where the other side cuts a connection in the moment that it is made, anyio on uvloop asks the peer's name of a socket that is gone, and the client
    would raise an AttributeError. Nothing of the request was sent then: it is a ConnectError.
    """

    def __init__(self, most: int = 100, **options: Any) -> None:
        """`most` is how many connections there are at once; `options` are httpx2's."""
        if not {"verify", "cert", "transport"} & options.keys():
            options["verify"] = trust(str(options.get("base_url", "")), options.get("trust_env", True))
        super().__init__(limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most // 4, keepalive_expiry=KEPT), **options)

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            return await super().send(request, **options)
        except AttributeError as error:
            if error.obj is None and error.name == "getpeername":
                raise httpx2.ConnectError("the connection was cut off as it was made", request=request) from error
            raise
