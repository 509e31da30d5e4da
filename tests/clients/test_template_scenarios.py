"""Both SDKs build and freeze templates: scenarios on a Bay with the oci driver and a registry."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import image_bay
import pytest
import real_bay
import registry
import sdk_words
import test_scenarios
from image_files import ImageFile, layer_of_tree
from image_roots import busybox_root

from bay.images import fetch_cage

pytestmark = [pytest.mark.clients, pytest.mark.long]

PROFILES = {"python-default": {}, "build": {"persist": "machine", "cpus": 1, "memory_mb": 512, "pids": 64}}
SCENARIOS = [one for one in test_scenarios.ALL if one.get("templates")]


@dataclass(frozen=True)
class Live:
    """A Bay, and an image that its registry has."""

    url: str
    image: str


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registry.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    root = tmp_path_factory.mktemp("busybox")
    busybox_root(root)
    config = {"config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]}}
    with registry.registry(tmp_path_factory.mktemp("registry")) as hub:
        small = hub.push(ImageFile(layers=(layer_of_tree(root),), config=config), "small/box", "1")
        with image_bay.environment_for(hub) as own:
            own |= {"BAY_API_KEY": real_bay.KEY, "BAY_PROFILES": json.dumps(PROFILES)}
            with image_bay.serving(own) as url:
                yield Live(url, small)


def with_image(steps: Any, image: str) -> Any:
    return json.loads(json.dumps(steps).replace("SMALL", image))


@pytest.mark.parametrize("sdk", test_scenarios.SDKS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=test_scenarios.name_of)
def test_a_scenario_with_templates_is_the_same_in_both_sdks(
    live: Live, sdk: str, scenario: dict[str, Any]
) -> None:
    steps = with_image(scenario["steps"], live.image)
    with sdk_words.speaking(sdk) as words:
        results = words.perform(live.url, test_scenarios.bare(steps))
    assert test_scenarios.failures(steps, results) == []
