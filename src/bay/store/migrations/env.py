"""Alembic's entry point: migrates the connection that `bay.store.upgrade` hands over."""

from alembic import context

from bay.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=True,  # SQLite can; Python's driver, left to itself, would commit before each statement
)
with context.begin_transaction():
    context.run_migrations()
