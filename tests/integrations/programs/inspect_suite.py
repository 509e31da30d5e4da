"""Inspect's own suite for providers of sandboxes, on Bay's."""

from collections.abc import AsyncIterator

import pytest
from inspect_ai.util import SandboxEnvironment
from inspect_ai.util._sandbox.registry import registry_find_sandboxenv
from inspect_ai.util._sandbox.self_check import *  # noqa: F403

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def sandbox_env() -> AsyncIterator[SandboxEnvironment]:
    kind = registry_find_sandboxenv("bay")
    made = await kind.sample_init("suite", None, {})
    yield made["default"]
    await kind.sample_cleanup("suite", None, made, False)
