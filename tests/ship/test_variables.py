"""The variables of Ship's own environment that are for programs: those of the image that a pod runs."""

import pytest

from ship import settings

pytestmark = pytest.mark.pure

TOLD = {"SHIP_TOKEN": "a-token", "SHIP_SWITCH": "0"}
CLOSURE = {"PYTHONHOME": "/.ship"}


def for_programs(environ: dict[str, str], **told: str) -> dict[str, str]:
    """What is left of such an environment, as a pod's Ship reads it."""
    settings.take_raw(environ)
    return settings.read({**TOLD, **told}, environ).environment


def test_programs_of_a_pod_have_the_variables_of_the_image_and_no_others() -> None:
    image = {"PATH": "/opt/bin:/bin", "LANG": "C.UTF-8", "EMPTY": "", "PYTHONPATH": "/app"}
    added = {
        "KUBERNETES_SERVICE_HOST": "192.0.2.1",
        "KUBERNETES_PORT": "443",
        "HOSTNAME": "work",
        "LD_PRELOAD": "",
        "LD_AUDIT": "",
        "SHIP_LISTEN": "0.0.0.0:1",
        "SHIP_LOCAL": "1",
    }
    assert for_programs({**image, **added, **CLOSURE}) == image


def test_what_bay_says_comes_before_the_image() -> None:
    found = for_programs({"PATH": "/bin", "LANG": "C", **CLOSURE}, SHIP_ENV='{"LANG": "C.UTF-8"}')
    assert found == {"PATH": "/bin", "LANG": "C.UTF-8"}


def test_the_way_to_the_modules_of_a_ship_outside_of_a_bundle_is_not_for_programs() -> None:
    assert for_programs({"PYTHONPATH": "/checkout/src", "PYTHONSAFEPATH": "1", "PATH": "/bin"}) == {
        "PATH": "/bin"
    }
