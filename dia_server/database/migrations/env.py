"""What Alembic runs: the migrations, within the transaction that it is given."""

from alembic import context

from dia_server.database.tables import metadata

# SQLite changes a column by making the table anew.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
