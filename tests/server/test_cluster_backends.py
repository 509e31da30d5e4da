"""The driver and the cargo backend that the settings name, for a cluster: made, and not yet connected."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from server_harness import settings_in

from bay.cargo.base import (
    CheckpointArchives,
    CheckpointFiles,
    CheckpointsInTwoSteps,
    CheckpointStore,
    CopiesBySessions,
)
from bay.drivers.base import Capabilities, NamedImages
from bay.drivers.fake import FakeDriver
from bay.errors import InvalidArgument
from bay.server import backends
from bay.server.backends import check_replicas, make_claims, make_driver
from bay.server.settings import KubernetesSettings, ObjectStoreSettings

pytestmark = pytest.mark.pure

GIVEN: dict[str, Any] = {"install": "home", "image": "box:1", "ship_image": "ship:1"}


def capabilities(root: Path, **changes: Any) -> Capabilities:
    given = KubernetesSettings.model_validate({**GIVEN, **changes})
    return make_driver(settings_in(root, driver="kubernetes", kubernetes=given)).capabilities


def test_a_cluster_that_says_nothing_promises_nothing(tmp_path: Path) -> None:
    here = capabilities(tmp_path)
    assert here.isolation == ("container",)
    assert (here.egress, here.network, here.network_rules) == ("unenforced", ("open",), False)
    assert (here.pause, here.layered, here.persist) == ("processes", False, ("workspace",))
    assert here.other_images == NamedImages(admitted=())


def test_an_operator_says_what_a_cluster_enforces_and_which_isolations_it_has(tmp_path: Path) -> None:
    here = capabilities(tmp_path, network_enforced=True, isolations={"gvisor": {"runtime_class": "gvisor"}})
    assert here.isolation == ("container", "gvisor")
    assert (here.egress, here.network) == ("enforced", ("none", "open"))


def test_rules_need_the_proxy_and_a_cluster_that_keeps_pods_from_walking_around_it(tmp_path: Path) -> None:
    place = "bay-egress.bay.svc:8701"
    here = capabilities(tmp_path, network_enforced=True, egress_proxy=place)
    assert (here.egress, here.network_rules) == ("proxy", True)
    assert here.network == ("none", "allowlist", "open")
    here = capabilities(tmp_path, egress_proxy=place)
    assert (here.egress, here.network, here.network_rules) == ("unenforced", ("open",), False)


@pytest.mark.parametrize(
    "place", ["bay-egress", "http://bay-egress:1", "10.0.0.1:", ":8701", "a b:1", "::1:8701"]
)
def test_the_place_of_the_proxy_is_a_host_and_a_port(place: str) -> None:
    with pytest.raises(ValidationError):
        KubernetesSettings.model_validate({**GIVEN, "egress_proxy": place})


@pytest.mark.parametrize(
    ("name", "port"),
    [
        ("egress_proxy", 0),
        ("egress_proxy", 65536),
        ("egress_proxy_listen", 65536),
        ("egress_proxy_listen", 99999),
    ],
)
def test_a_port_that_is_none_is_refused_at_the_start(name: str, port: int) -> None:
    with pytest.raises(ValidationError, match="its port is none"):
        KubernetesSettings.model_validate({**GIVEN, name: f"0.0.0.0:{port}"})


def test_the_driver_kubernetes_needs_a_cluster(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, driver="kubernetes")
    with pytest.raises(InvalidArgument, match=r"setting kubernetes: .*`install`"):
        make_driver(settings)
    with pytest.raises(InvalidArgument, match=r"setting kubernetes: .*`install`"):
        make_claims(settings, FakeDriver(run_dir=tmp_path))


def test_the_driver_kubernetes_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing: dict[str, object] = {}
    monkeypatch.setattr(backends.importlib.util, "find_spec", missing.get)
    with pytest.raises(InvalidArgument, match=r"'\.\[kubernetes\]'"):
        capabilities(tmp_path)


def test_only_a_cluster_keeps_files_in_claims(tmp_path: Path) -> None:
    assert make_claims(settings_in(tmp_path, driver="fake"), FakeDriver(run_dir=tmp_path)) is None
    given = KubernetesSettings.model_validate(GIVEN)
    settings = settings_in(tmp_path, driver="kubernetes", kubernetes=given)
    made = make_claims(settings, make_driver(settings))
    assert made is not None
    assert made.name == "volume-claims"
    assert not isinstance(made, CheckpointStore)


def test_claims_have_checkpoints_where_there_is_an_object_store(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, driver="kubernetes", kubernetes=KubernetesSettings.model_validate(GIVEN),
        object_store=ObjectStoreSettings.model_validate({"url": "s3://bucket/bay"}),
    )  # fmt: skip
    made = make_claims(settings, make_driver(settings))
    assert isinstance(made, CheckpointStore)
    assert isinstance(made, CopiesBySessions)
    assert isinstance(made, CheckpointArchives)
    assert not isinstance(made, CheckpointFiles)


@pytest.mark.parametrize("url", [None, "s3://bucket/bay"])
def test_claims_have_checkpoints_where_a_class_of_snapshots_is_named(tmp_path: Path, url: str | None) -> None:
    given = KubernetesSettings.model_validate({**GIVEN, "snapshot_class": "fast"})
    store = None if url is None else ObjectStoreSettings.model_validate({"url": url})
    settings = settings_in(tmp_path, driver="kubernetes", kubernetes=given, object_store=store)
    made = make_claims(settings, make_driver(settings))
    assert isinstance(made, CheckpointStore)
    assert isinstance(made, CheckpointsInTwoSteps)
    assert not isinstance(made, CopiesBySessions)
    assert not isinstance(made, CheckpointArchives)


def test_replicas_may_share_a_cluster(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, driver="kubernetes", kubernetes=KubernetesSettings.model_validate(GIVEN), replicas=True,
        database_url="postgresql://bay@db.example.com/bay",
    )  # fmt: skip
    assert check_replicas(settings, make_driver(settings)) is None


def test_an_operator_says_which_images_callers_may_name(tmp_path: Path) -> None:
    here = capabilities(tmp_path, images=["docker.io/library/", "Registry.Example.com/team"])
    assert here.other_images == NamedImages(admitted=("docker.io/library/", "registry.example.com/team"))
    with pytest.raises(ValueError, match=r"images\n.*does not begin with a registry"):
        KubernetesSettings.model_validate({**GIVEN, "images": ["debian"]})


def test_the_images_that_bay_pulls_on_one_box_are_no_setting_of_a_cluster(tmp_path: Path) -> None:
    given = KubernetesSettings.model_validate(GIVEN)
    settings = settings_in(
        tmp_path, driver="kubernetes", kubernetes=given, images_allow=("docker.io/library/*",)
    )
    with pytest.raises(InvalidArgument, match=r"images_allow: .*`images` of \[kubernetes\]"):
        make_driver(settings)


@pytest.mark.parametrize("install", ["", "Home", "a_b", "-a", "a" * 33])
def test_the_name_of_an_installation_is_a_label(install: str) -> None:
    with pytest.raises(ValueError, match="install"):
        KubernetesSettings.model_validate({**GIVEN, "install": install})
