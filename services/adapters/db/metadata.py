"""The one MetaData that every table belongs to; a table's definition lives with the service that owns it.

Rows refer to one another by ids that are hashes of their causes, without foreign keys: a cause may be recorded by another service, or archived.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Micros = BigInteger  # an instant or an amount, in millionths
Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts by itself only in a column called INTEGER


def Words(length: int) -> Any:
    """A text that people chose. SQLite never minds its length; PostgreSQL would refuse a longer one when it is too late to tell them."""
    return Text().with_variant(String(length), "sqlite")


commits = Table(  # on PostgreSQL: transactions that were committed of late, for whoever lost the answer
    "commits",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", Micros, nullable=False),  # by the database's clock; below 0: this one was found not to be committed, and cannot be any more
)

leases = Table(  # who alone does something, until when
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", String(128), nullable=False),
    Column("until", Micros, nullable=False),
)
