"""Events of all sandboxes or of one, past and live."""

from collections.abc import AsyncGenerator

from bay.client._async.http import AsyncHttp
from bay.client._events import EventPlace
from bay.models import Event


def events(
    http: AsyncHttp, path: str, since: str | None, *, follow: bool, one_sandbox: bool
) -> AsyncGenerator[Event, None]:
    """The events at one path of the API after the event `since`: the kept ones, or with `follow` live ones.

    Live ones come across reconnects, and end only with the one sandbox they are of.
    """
    if follow:
        return http.followed(EventPlace(path, since, http.config, one_sandbox=one_sandbox))
    return http.paged(Event, path, {"limit": 200}, since)
