"""PostgreSQL over TLS: who the server is, who we are, and what an operator is told where one of them does not hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from deploy.postgres.server import USER, Missing, Server
from services.adapters.db.database import Database
from services.kernel.errors import Misconfigured, Unavailable
from tests.authority import Authority
from tests.parts import lacks


@dataclass(frozen=True)
class Guarded:
    """A server that takes nobody without TLS, and its owner by certificate alone where the database is `owned`."""

    server: Server
    ours: Authority
    stranger: Authority
    certificate: tuple[Path, Path]

    def url(self, database: str = "postgres", **words: object) -> str:
        return f"{self.server.url(database)}?{'&'.join(f'{name}={value}' for name, value in words.items())}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    ours, strangers = Authority(folder, "ours"), Authority(folder, "strangers")
    server = Server(is_durable=False)
    try:
        server.start()
    except Missing as why:
        lacks("postgres", str(why))
    try:
        server.sql("CREATE DATABASE owned")
        certificate, key = ours.issue("127.0.0.1")
        files = [server.folder / name for name in ("server.crt", "server.key", "ca.pem")]
        for source, target in zip((certificate, key, ours.ca), files, strict=True):
            shutil.copy(source, target)
            target.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(target, "postgres", "postgres")
        allowed = f"hostssl owned {USER} 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
        (server.folder / "data" / "pg_hba.conf").write_text(allowed)
        server.stop()
        server.settings = {"ssl": "on", "ssl_cert_file": str(files[0]), "ssl_key_file": str(files[1]), "ssl_ca_file": str(files[2])}
        server.run()
        yield Guarded(server, ours, strangers, ours.issue(USER))
    finally:
        server.remove()


async def spoken(url: str) -> str:
    """The TLS version of a session at this address."""
    database = Database(url)
    try:
        async with database.reading() as connection:
            return str(await connection.scalar(text("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()")))
    finally:
        await database.close()


async def test_the_server_is_who_it_says_and_what_is_said_is_encrypted(guarded: Guarded) -> None:
    for words in ({"sslmode": "verify-full", "sslrootcert": guarded.ours.ca}, {"sslmode": "verify-ca", "sslrootcert": guarded.ours.ca}, {"sslmode": "require"}):
        assert (await spoken(guarded.url(**words))).startswith("TLSv1.")


async def test_a_server_that_somebody_else_vouches_for_is_not_spoken_to(guarded: Guarded) -> None:
    for mode in ("verify-full", "verify-ca", "require"):  # as libpq reads it, an authority that is named is asked for in each
        with pytest.raises((Unavailable, Misconfigured)) as refused:
            await spoken(guarded.url(sslmode=mode, sslrootcert=guarded.stranger.ca))
        assert "certificate verify failed" in str(refused.value) and guarded.server.password not in str(refused.value)


async def test_a_server_of_another_name_is_spoken_to_only_where_its_name_does_not_matter(guarded: Guarded) -> None:
    named = guarded.url(sslmode="verify-full", sslrootcert=guarded.ours.ca).replace("@127.0.0.1:", "@localhost:")
    with pytest.raises((Unavailable, Misconfigured), match="localhost"):
        await spoken(named)
    assert (await spoken(named.replace("verify-full", "verify-ca"))).startswith("TLSv1.")


async def test_who_does_not_encrypt_is_refused(guarded: Guarded) -> None:
    with pytest.raises((Unavailable, Misconfigured), match="no pg_hba.conf entry"):
        await spoken(guarded.url(sslmode="disable"))


async def test_a_certificate_says_who_we_are(guarded: Guarded) -> None:
    certificate, key = guarded.certificate
    tls = {"sslmode": "verify-full", "sslrootcert": guarded.ours.ca}
    assert (await spoken(guarded.url("owned", **tls, sslcert=certificate, sslkey=key))).startswith("TLSv1.")
    with pytest.raises((Unavailable, Misconfigured)):
        await spoken(guarded.url("owned", **tls))
    other = guarded.ours.issue("somebody-else")
    with pytest.raises((Unavailable, Misconfigured), match="certificate authentication failed"):
        await spoken(guarded.url("owned", **tls, sslcert=other[0], sslkey=other[1]))
