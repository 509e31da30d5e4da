"""One Bay for each file of tests: its programs make sandboxes of their own, and remove them."""

from collections.abc import Iterator

import pytest
from client_programs import ClientHost, client_host


@pytest.fixture(scope="module")
def host() -> Iterator[ClientHost]:
    with client_host() as host:
        yield host
