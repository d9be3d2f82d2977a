"""The one MetaData that every table belongs to; a table's definition lives with the service that owns it.

Rows refer to one another by ids that are hashes of their causes, without foreign keys: a cause may be recorded by another service, or archived.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer, MetaData

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
