"""What a cut connection is to the callers of our HTTP client. The server and the loop (uvloop, as in production) are real."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvloop
from httpx2._transports import default as transports

from services.actions.executors.contract import Observed, Step
from services.actions.executors.sandbox import Platform
from services.adapters.http import calling, serving
from services.adapters.http.calling import HttpClient
from services.adapters.http.passing import Passing
from services.console.client import Client
from services.kernel.errors import Unavailable

NOBODY = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
STEP = Step("acme/1", "status", "live", "paused")


@pytest.fixture
def cut_at_once(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Each connection is made and is cut before the client has looked at it; what was sent over one all the same."""
    sent: list[bytes] = []
    really = anyio.connect_tcp

    async def connect(*places: Any, **options: Any) -> anyio.abc.SocketStream:
        stream = await really(*places, **options)
        stream._transport.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0.01)
        return stream

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    return sent


def against_a_server(sent: list[bytes], called: Callable[[str], Awaitable[Any]]) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.append(await reader.read())
        writer.close()

    async def main() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, asyncio.timeout(10):
            return await called(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    return uvloop.run(main())


def test_a_connection_cut_off_as_it_is_made_is_one_that_was_not_made(cut_at_once: list[bytes]) -> None:
    async def called(url: str) -> None:
        async with HttpClient(trust_env=False) as http:
            await http.get(url)

    with pytest.raises(httpx2.ConnectError, match="cut off as it was made"):
        against_a_server(cut_at_once, called)
    assert b"".join(cut_at_once) == b""


def test_a_platform_that_cuts_it_off_was_not_written_to(cut_at_once: list[bytes]) -> None:
    """Were it unclear, somebody would have to look; were it a fault of the worker's, the action would wait for its next start."""

    async def called(url: str) -> Any:
        platform = Platform(url, "token")
        try:
            with pytest.raises(Unavailable, match="cannot be read: ConnectError"):
                await platform.read(STEP)
            return await platform.write(STEP, Observed("live", '"1"'), "key-1")
        finally:
            await platform.close()

    answer = against_a_server(cut_at_once, called)
    assert (answer.kind, answer.detail) == ("unsent", "no connection could be made in time")
    assert b"".join(cut_at_once) == b""


@pytest.mark.parametrize(
    ("took", "kind", "sent"), [((0, 0), "unclear", True), ((1.4, 0), "unclear", True), ((1.6, 0), "unsent", False), ((0, 1.6), "unclear", False)]
)
def test_a_write_that_is_not_under_way_in_time_is_not_sent(took: tuple[float, float], kind: str, sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it waited for: until its head, and between that and its body. Without a body nothing was asked for, but that is the platform's to say."""
    before_the_head, before_the_body = took
    told = iter([0, before_the_head, before_the_head + before_the_body])
    monkeypatch.setattr(calling, "elapsed", lambda: int(next(told) * 1_000_000))
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(1 << 16))
        if b"paused" not in came[-1]:
            came.append(await reader.read(1 << 16))
        writer.close()

    async def main() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        platform = Platform(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "token")
        async with server, asyncio.timeout(10):
            try:
                return await platform.write(STEP, Observed("live", '"1"'), "key-1")
            finally:
                await platform.close()

    answer = uvloop.run(main())
    assert (answer.kind, b"paused" in b"".join(came)) == (kind, sent)
    assert sent or kind != "unsent" or b"".join(came) == b""


def test_a_page_and_a_process_say_that_the_other_does_not_answer(cut_at_once: list[bytes]) -> None:
    scope = {"type": "http", "method": "GET", "raw_path": b"/v1/x", "query_string": b"", "headers": []}

    async def called(url: str) -> None:
        page, passing = Client.at(url), Passing()
        with pytest.raises(Unavailable, match="does not answer"):
            await page.call("session", "GET", "/v1/x")
        with pytest.raises(Unavailable, match="send it again"):
            await passing.on(url, scope, None, None)  # type: ignore[arg-type]
        with pytest.raises(Unavailable, match="does not answer"):
            await passing.get(url, {})
        await page.close()
        await passing.close()

    against_a_server(cut_at_once, called)


async def test_a_connection_that_a_server_may_be_about_to_close_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made
        made += 1
        while await reader.readline() != b"":
            if await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    assert calling.KEPT <= serving.KEEP / 2
    monkeypatch.setattr(calling, "KEPT", 0.2)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, HttpClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        connections = []
        for pause in (0, 0, 0.4):
            await asyncio.sleep(pause)
            assert (await http.get(url)).text == "ok"
            connections.append(made)
    assert connections == [1, 1, 2]


async def test_any_other_fault_stays_what_it_is() -> None:
    class Broken(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            raise AttributeError("'Broken' object has no attribute 'x'", name="x", obj=self)

    async with HttpClient(transport=Broken()) as http:
        with pytest.raises(AttributeError, match="no attribute 'x'"):
            await http.get("http://127.0.0.1:1")


@pytest.fixture
def trusts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ssl.SSLContext]:
    """Makes a client, as it is made outside of tests; returns whom it trusts."""
    made: list[ssl.SSLContext] = []

    def make(*of: Any, **options: Any) -> ssl.SSLContext:
        made.append(httpx2.create_ssl_context(*of, **options))
        return made[-1]

    monkeypatch.setattr(transports, "create_ssl_context", make)

    def client(**options: Any) -> ssl.SSLContext:
        made.clear()
        HttpClient(**options)
        return made[0]

    return client


def test_clients_share_what_they_trust_and_it_is_no_less(trusts: Callable[..., ssl.SSLContext]) -> None:
    first, second, by_environment = trusts(trust_env=False), trusts(base_url="https://ads.example", trust_env=False), trusts()
    assert first is second is not by_environment
    for whom in (first, by_environment, trusts(base_url="http://ads.example")):  # a proxy may be asked over TLS
        assert whom.verify_mode == ssl.CERT_REQUIRED and whom.check_hostname and whom.get_ca_certs()


def test_who_speaks_plain_http_trusts_nobody_over_tls(trusts: Callable[..., ssl.SSLContext]) -> None:
    whom = trusts(base_url="http://127.0.0.1:8080", trust_env=False)
    assert (whom.verify_mode, whom.check_hostname, whom.get_ca_certs()) == (ssl.CERT_REQUIRED, True, [])


@pytest.mark.filterwarnings("ignore:`cert=")
def test_what_a_client_shows_of_itself_no_other_shows(trusts: Callable[..., ssl.SSLContext], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[ssl.SSLContext] = []
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda of, *_, **__: shown.append(of))
    alone = trusts(trust_env=False, cert=("ours.crt", "ours.key"))
    assert shown == [alone] and alone is not trusts(trust_env=False)


def test_whom_the_environment_names_is_trusted_where_it_is_asked(
    trusts: Callable[..., ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nobody.pem").write_text(NOBODY)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nobody.pem"))
    calling._known.cache_clear()
    with pytest.raises(ssl.SSLError):
        trusts()
    assert trusts(trust_env=False).get_ca_certs()
