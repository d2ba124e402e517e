"""The tables. Times are seconds since 1970; those of jobs are by the clock of the database, which several may use."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)

# SQLite numbers rows by itself only where the type is INTEGER to the letter.
_Number = BigInteger().with_variant(Integer(), "sqlite")

jobs = Table(
    "jobs",
    metadata,
    # The order of acceptance, in which jobs are run.
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False),
    # The handler that runs it.
    Column("kind", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    # The one that speaks; empty where none does.
    Column("model", Text(), nullable=False, default=""),
    Column("voice", String(64)),
    # What was asked for, as JSON to show.
    Column("request", Text(), nullable=False),
    # What the handler gets; nothing in it has to be looked up again.
    Column("payload", LargeBinary(), nullable=False),
    # Names of the blobs that the payload refers to, separated by blanks.
    Column("blobs", Text(), nullable=False, default=""),
    Column("idempotency_key", String(64)),
    # Tells whether the same key came with the same request.
    Column("request_hash", String(64)),
    Column("created_at", Double(), nullable=False),
    # It couldn't be done, and is not to be tried again before then.
    Column("not_before", Double(), nullable=False, default=0.0),
    Column("started_at", Double()),
    Column("completed_at", Double()),
    Column("progress", Double(), nullable=False, default=0.0),
    # Runners that had it, less those that are not to blame.
    Column("attempts", Integer(), nullable=False, default=0),
    # Grows with every claim; a runner writes only while it is what it was at its own.
    Column("lease", Integer(), nullable=False, default=0),
    Column("lease_until", Double()),
    Column("runner", String(100)),
    # The file that came of it, by name; gone once its time is over.
    Column("file", String(100)),
    # What else is known of what came of it, as JSON.
    Column("result", Text()),
    Column("error", Text()),
    UniqueConstraint("id"),
    UniqueConstraint("idempotency_key"),
    Index(None, "status", "number"),
    Index(None, "kind", "number"),
    Index(None, "kind", "status", "number"),
    Index(None, "completed_at"),
)

# The processes that run jobs.
runners = Table(
    "runners",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("machine", String(64), nullable=False),
    # Empty in SQLite, which lies in the home, and where an older version doesn't say.
    Column("home", String(36), nullable=False, default=""),
    Column("workers", Integer(), nullable=False),
    Column("busy", Integer(), nullable=False),
    Column("seen_at", Double(), nullable=False),
)

# One row for each clip that was made whole.
generations = Table(
    "generations",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False),
    Column("created_at", Double(), nullable=False),
    Column("text", Text(), nullable=False),
    Column("processed_text", Text(), nullable=False),
    Column("voice", String(64), nullable=False),
    Column("audio_prompt", String(64)),
    Column("seconds", Double(), nullable=False),
    # Of the saved clip, relative to the home.
    Column("file", String(200)),
    Column("file_size", BigInteger()),
    Column("blobs", Text(), nullable=False, default=""),
    Index(None, "id"),
    Index(None, "created_at"),
)


class database_time(GenericFunction[float]):  # noqa: N801 - a function in SQL
    """Seconds since 1970, when the statement runs."""

    type = Double()
    inherit_cache = True


@compiles(database_time, "sqlite")
def _sqlite_time(element: database_time, compiler: SQLCompiler, **options: Any) -> str:
    del element, compiler, options
    # To the millisecond that it has, so that what is shown of it is never later.
    return "round((julianday('now') - 2440587.5) * 86400.0, 3)"


@compiles(database_time, "postgresql")
def _postgresql_time(element: database_time, compiler: SQLCompiler, **options: Any) -> str:
    del element, compiler, options
    return "extract(epoch from clock_timestamp())::double precision"
