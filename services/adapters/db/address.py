"""A database's address: what it may say, and what TLS it asks for, in libpq's words.

    sqlite:////var/lib/trimtab/trimtab.db
    postgresql+asyncpg://trimtab@db.example.org:5432/trimtab?sslmode=verify-full&sslrootcert=/etc/trimtab/ca.pem
"""

from __future__ import annotations

import ssl
from ipaddress import ip_address
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from services.kernel.errors import Misconfigured

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
WAYS = "use sqlite:///FILE or postgresql+asyncpg://USER@HOST/NAME"
MODES = ("disable", "require", "verify-ca", "verify-full")
FILES = ("sslrootcert", "sslcert", "sslkey")


def parse(address: str, password: str = "") -> URL:
    """The address with its driver and the password; raises Misconfigured with one clear line, which holds no password."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError) as error:
        raise Misconfigured(f"the database address is not one: {WAYS}") from error
    backend = url.get_backend_name()
    if backend not in DRIVERS or url.drivername not in (backend, DRIVERS[backend]):
        raise Misconfigured(f"databases of kind {url.drivername!r} are not supported: {WAYS}")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise Misconfigured("the SQLite database must be a file: decisions and the ledger have to outlive the process")
    if backend == "sqlite" and password:
        raise Misconfigured("a SQLite database has no password")
    if backend == "postgresql":
        _check_postgresql(url, password)
        url = url.set(password=password) if password else url
    return url.set(drivername=DRIVERS[backend])


def without_tls(url: URL) -> tuple[URL, dict[str, Any]]:
    """The address without its TLS words, and what the driver is told instead. Raises Misconfigured for a file that cannot be used."""
    mode = str(url.query.get("sslmode", "disable"))
    plain = url.difference_update_query(["sslmode", *FILES])
    if mode == "disable":
        return plain, {"ssl": False}
    files = {name: str(url.query[name]) for name in FILES if name in url.query}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_NONE if mode == "require" and "sslrootcert" not in files else ssl.CERT_REQUIRED  # as libpq reads it
    name = "sslrootcert"
    try:
        if name in files:
            context.load_verify_locations(files[name])
        elif mode != "require":
            context.load_default_certs()
        name = "sslcert"
        if name in files:
            context.load_cert_chain(files[name], files.get("sslkey"))
    except OSError as error:
        raise Misconfigured(f"{name}={files.get(name, '')} of the database address cannot be used: {error.strerror or error}") from error
    return plain, {"ssl": context}


def _check_postgresql(url: URL, password: str) -> None:
    if not url.host or not url.database or not url.username:
        raise Misconfigured(f"the database address names no {'host' if not url.host else 'database' if not url.database else 'user'}: {WAYS}")
    if password and url.password:
        raise Misconfigured("the database's password is in its address and in TRIMTAB_DATABASE_PASSWORD: keep one, best as TRIMTAB_DATABASE_PASSWORD_FILE")
    if unknown := sorted(set(url.query) - {"sslmode", *FILES}):
        raise Misconfigured(f"the database address says {unknown[0]}, which is not known; it may say sslmode, {', '.join(FILES)}")
    mode = url.query.get("sslmode")
    if mode is None and not _is_loopback(url.host):
        raise Misconfigured(f"the database is on another machine, {url.host}: say ?sslmode=verify-full, or sslmode=disable where nobody else is on the way")
    if mode is not None and mode not in MODES:
        raise Misconfigured(f"sslmode={mode} of the database address is not one of {', '.join(MODES)}")
    if mode in (None, "disable") and (idle := sorted(set(url.query) & set(FILES))):
        raise Misconfigured(f"{idle[0]} of the database address says nothing without sslmode=verify-full")
    if "sslkey" in url.query and "sslcert" not in url.query:
        raise Misconfigured("sslkey of the database address says nothing without sslcert")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("/")
