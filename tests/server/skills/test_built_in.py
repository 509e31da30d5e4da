"""Built-in skills in sandboxes of profiles that have them, and of none else."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from server_harness import PROFILES, World, clear, create, shell, world

from bay.server.settings import ProfileSettings
from ship.files.built_in_skills import BUILT_IN

pytestmark = pytest.mark.anyio

SKILL = BUILT_IN[0]


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    skilled = ProfileSettings.model_validate({"start": "lazy", "skills": True})
    try:
        async with world(root, profiles={**PROFILES, "skilled": skilled}) as running:
            yield running
    finally:
        await clear(root)


async def test_each_start_puts_the_skills_back_and_touches_no_others(bay: World) -> None:
    alice = await bay.client()
    box = await create(alice, profile="skilled")
    listed = await shell(alice, box["id"], "ls -A; ls skills/*; echo changed > skills/bay-sandbox/SKILL.md")
    assert listed["output"].split() == ["skills", "SKILL.md"]
    await shell(alice, box["id"], "mkdir skills/mine; echo mine > skills/mine/SKILL.md")
    await alice.post(f"/v1/sandboxes/{box['id']}/stop")
    shown = await shell(alice, box["id"], "cat skills/mine/SKILL.md skills/bay-sandbox/SKILL.md")
    assert shown["output"] == f"mine\n{SKILL.text}"


async def test_a_profile_that_says_nothing_has_an_empty_workspace(bay: World) -> None:
    alice = await bay.client()
    box = await create(alice)
    await shell(alice, box["id"], "true")
    assert os.listdir(bay.workspace(box)) == []
