"""The schema, by Alembic's migrations."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from dia_server.errors import SettingsError

# The newest in migrations/versions. Alembic itself is only imported where there is something to do.
REVISION = "0003"
MIGRATIONS = Path(__file__).parent / "migrations"
# Any number that no other program locks.
LOCK = 0x64_69_61


async def bring_up_to_date(engine: AsyncEngine) -> None:
    """Make the tables, or change them to what this version has; processes that start at once wait for each other.

    Raises:
        SettingsError: a newer version has been here.
    """
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)


def one_at_a_time(connection: Connection) -> None:
    """Let processes that start at once do this one after the other; SQLite has one writer as it is."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))


def _upgrade(connection: Connection) -> None:
    one_at_a_time(connection)
    found = _revision(connection)
    if found == REVISION:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise SettingsError(
            f"The database has schema {found}, made by a newer dia-server; this one knows {REVISION}. Install that one "
            "again, or name another database by database_url"
        )
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found
