"""Suites for backends, drivers and runtimes of your own, which need pytest and anyio."""

import pytest

pytest.register_assert_rewrite("bay.testing.cargo", "bay.testing.drivers", "bay.testing.walls")
