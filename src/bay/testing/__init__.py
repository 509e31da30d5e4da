"""Suites for backends and drivers of your own: `bay.testing.cargo` and `bay.testing.drivers`. They need
pytest and anyio.
"""

import pytest

pytest.register_assert_rewrite("bay.testing.cargo", "bay.testing.drivers")
