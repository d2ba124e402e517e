"""The database: writes that go wrong, its schema, and what its errors tell."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from dia_server.database.database import Database, open_database
from dia_server.database.tables import jobs, metadata, runners
from dia_server.errors import SettingsError
from dia_server.settings import Settings


async def test_a_write_that_goes_wrong_harms_no_other(database: Database) -> None:
    async def write(statement: str) -> Any:
        return await database.write(lambda connection: connection.execute(text(statement)).rowcount)

    outcomes = await asyncio.gather(
        write("UPDATE jobs SET progress = 1"),
        write("UPDATE nothing SET progress = 1"),
        write("INSERT INTO runners (name) VALUES ('ann')"),
        write("UPDATE jobs SET progress = 1"),
        return_exceptions=True,
    )
    assert outcomes[0] == outcomes[3] == 0
    assert isinstance(outcomes[1], DBAPIError)
    assert isinstance(outcomes[2], IntegrityError)


async def test_what_somebody_wrote_is_in_no_message(database: Database) -> None:
    values = dict.fromkeys(("name", "machine", "workers", "busy", "seen_at"), "PRIVATE")
    with pytest.raises(Exception, match="runners") as raised:
        await database.write(lambda connection: connection.execute(runners.insert(), [values, {"name": "PRIVATE"}]))
    assert "PRIVATE" not in str(raised.value)


async def test_the_migrations_make_the_tables_that_the_code_expects(database: Database) -> None:
    def differences(connection: Connection) -> Any:
        return compare_metadata(MigrationContext.configure(connection, {"compare_type": True}), metadata)

    async with database.writing.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_schema_of_a_newer_version_is_refused(database_url: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database_url)
    async with open_database(settings, tmp_path) as database:
        newer = text("UPDATE alembic_version SET version_num = '9999'")
        await database.write(lambda connection: connection.execute(newer))
    with pytest.raises(SettingsError, match="schema 9999, made by a newer dia-server"):
        async with open_database(settings, tmp_path):
            pass


async def test_several_processes_may_make_the_tables_at_once(database_url: str, tmp_path: Path) -> None:
    async def use() -> int:
        async with open_database(Settings(database_url=database_url), tmp_path) as database:
            return len(await database.read(select(jobs)))

    assert await asyncio.gather(*(use() for _ in range(4))) == [0, 0, 0, 0]
