"""Whether a Bay can serve: its database answers."""

from dataclasses import dataclass

from bay.store.engine import Store


@dataclass(kw_only=True, eq=False)
class Readiness:
    """The service behind `/health/ready`."""

    store: Store

    async def check(self) -> None:
        """Return when the database answers. Raises DatabaseUnavailable; for a damaged one InternalError."""
        async with self.store.read() as db:
            await db.exec_driver_sql("SELECT 1")
