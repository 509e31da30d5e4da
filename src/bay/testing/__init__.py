"""Suites for backends and drivers of your own, `cargo` and `drivers`, which need pytest and anyio."""

import pytest

pytest.register_assert_rewrite("bay.testing.cargo", "bay.testing.drivers")
