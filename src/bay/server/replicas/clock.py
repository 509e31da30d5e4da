"""The clock of replicas: the database's, which goes on with the host's own between two looks at it."""

from datetime import datetime, timedelta

from bay.clock import since_boot, utc_now


class DatabaseClock:
    """The present of the database, as far as this process knows; of this host until it was told."""

    def __init__(self) -> None:
        self._booted_at = utc_now() - since_boot()
        self._was_told = False

    def __call__(self) -> datetime:
        return self._booted_at + since_boot()

    def set(self, told: datetime, asked_at: timedelta) -> None:
        """The database has told its time, to a question that was sent `asked_at` (see `since_boot`). A late
        answer, of a server or process that slept, says little: the clock moves no further than it must.
        """
        least, most = told - since_boot(), told - asked_at
        if not self._was_told:
            self._booted_at = least + (most - least) / 2
            self._was_told = True
        self._booted_at = min(max(self._booted_at, least), most)
