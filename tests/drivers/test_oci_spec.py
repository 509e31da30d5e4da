"""The generated OCI specification, line by line against what `security-facts` learned."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bay.drivers.base import ImageRoot, ImageUser, SessionSpec
from bay.drivers.oci import seccomp
from bay.drivers.oci.runc import RuntimeVersion, reads_mappings
from bay.drivers.oci.spec import (
    CAPABILITIES,
    CLOSURE,
    SOCKET_DIR,
    RuntimePlacement,
    build,
    environment,
    ship_command,
)
from bay.models import Resources

pytestmark = pytest.mark.host

PLACE = RuntimePlacement(
    rootfs=Path("/run/bay/x/stage/root"),
    userns="/proc/1/fd/7",
    cgroup="/bay/x/sess-1",
    machine="x86_64",
    seccomp=seccomp.profile("x86_64"),
)


def spec_of(**changes: Any) -> SessionSpec:
    given: dict[str, Any] = {
        "session_id": "sess-1",
        "sandbox_id": "sandbox-1",
        "image": "host",
        "isolation": "container",
        "resources": Resources(cpus=1.5, memory=256 << 20, pids=100),
        "workspace": Path("/var/lib/bay/ws"),
        "token": "t" * 32,
    }
    return SessionSpec(**{**given, **changes})


def test_an_images_user_home_and_working_directory_are_told_to_ship() -> None:
    user = ImageUser(name="app", uid=1234, gid=5678, home="/srv/app", groups=(7, 8))
    root = ImageRoot(layers=(Path("/images/top"),), user=user, cwd="/srv")
    variables = environment(spec_of(root=root))
    assert {name: variables[f"SHIP_{name}"] for name in ("UID", "GID", "USER", "HOME", "CWD", "GROUPS")} == {
        "UID": "1234", "GID": "5678", "USER": "app", "HOME": "/srv/app", "CWD": "/srv", "GROUPS": "7,8",
    }  # fmt: skip
    named = replace(root, user=replace(user, groups=None))
    assert environment(spec_of(root=named))["SHIP_GROUPS"] == "*"


def test_a_user_with_a_home_is_made_also_beside_the_one_that_an_image_has() -> None:
    node = ImageUser(name="node", uid=1000, gid=1000, home="/workspace")
    for root in (None, ImageRoot(layers=(Path("/images/top"),), user=node)):
        told = environment(spec_of(root=root, user="sprite", home="/home/sprite"))
        names = ("UID", "USER", "HOME", "MAKE_ACCOUNT")
        assert [told[f"SHIP_{name}"] for name in names] == ["1000", "sprite", "/home/sprite", "1"]


@pytest.fixture
def config() -> dict[str, Any]:
    return build(spec_of(), PLACE)


def test_it_is_json(config: dict[str, Any]) -> None:
    assert json.loads(json.dumps(config)) == config


def test_every_namespace_is_new_but_the_two_that_the_host_made(config: dict[str, Any]) -> None:
    namespaces = {one["type"]: one.get("path") for one in config["linux"]["namespaces"]}
    assert namespaces == {
        **dict.fromkeys(("pid", "mount", "ipc", "uts", "cgroup")),
        "user": "/proc/1/fd/7",
    }
    assert "uidMappings" not in config["linux"]


def test_a_runc_that_cannot_read_the_mapping_is_told_it() -> None:
    linux = build(spec_of(), replace(PLACE, told_id_base=70_000))["linux"]
    mapping = [{"containerID": 0, "hostID": 70_000, "size": 65_536}]
    assert (linux["uidMappings"], linux["gidMappings"]) == (mapping, mapping)


@pytest.mark.parametrize(
    ("name", "version", "reads"),
    [
        ("runc", "1.1.5+ds1", False),
        ("runc", "1.1.10", True),
        ("runc", "1.3.0", True),
        ("crun", "1.0", True),
    ],
)
def test_which_runtime_reads_the_mapping(name: str, version: str, reads: bool) -> None:
    assert reads_mappings(RuntimeVersion(name, version)) is reads


def test_a_network_namespace_is_never_made_inside_the_user_namespace(config: dict[str, Any]) -> None:
    assert "network" not in {one["type"] for one in config["linux"]["namespaces"]}


def test_nothing_gains_privileges(config: dict[str, Any]) -> None:
    process = config["process"]
    assert process["noNewPrivileges"] is True
    assert process["terminal"] is False
    assert process["user"] == {"uid": 0, "gid": 0}
    assert set(process["capabilities"]) == {"bounding", "effective", "permitted"}
    assert all(granted == list(CAPABILITIES) for granted in process["capabilities"].values())


def test_no_capability_rules_the_kernel_the_network_or_other_processes() -> None:
    allowed = {
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
    assert {name.removeprefix("CAP_") for name in CAPABILITIES} == allowed


def test_no_mount_comes_from_the_host_or_from_a_tenant(config: dict[str, Any]) -> None:
    assert {one["type"] for one in config["mounts"]} == {"proc", "tmpfs", "devpts", "mqueue"}
    assert not any("bind" in one["options"] or "rbind" in one["options"] for one in config["mounts"])
    assert all(one["source"] == one["type"] for one in config["mounts"])


def test_no_mount_lies_below_a_directory_that_a_tenant_can_write(config: dict[str, Any]) -> None:
    targets = [one["destination"] for one in config["mounts"]]
    assert targets == ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/tmp"]


def test_every_mount_ignores_set_uid_and_all_but_dev_ignore_devices(config: dict[str, Any]) -> None:
    for one in config["mounts"]:
        assert "nosuid" in one["options"], one
        assert "nodev" in one["options"] or one["destination"] in ("/dev", "/dev/pts"), one


def test_every_tmpfs_has_a_size(config: dict[str, Any]) -> None:
    for one in config["mounts"]:
        if one["type"] == "tmpfs":
            assert any(option.startswith("size=") for option in one["options"]), one


def test_there_is_no_sysfs_and_no_sysctl(config: dict[str, Any]) -> None:
    assert "sysfs" not in {one["type"] for one in config["mounts"]}
    assert "sysctl" not in config["linux"]
    assert "hooks" not in config


def test_dangerous_files_of_proc_are_masked_or_read_only(config: dict[str, Any]) -> None:
    masked, read_only = config["linux"]["maskedPaths"], config["linux"]["readonlyPaths"]
    assert {f"/proc/{name}" for name in ("kcore", "keys", "pressure", "sysrq-trigger", "timer_list")} <= set(
        masked
    )
    assert read_only == ["/proc/sys"]


def test_resources_are_limits_of_the_control_group(config: dict[str, Any]) -> None:
    resources = config["linux"]["resources"]
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000}
    assert resources["memory"] == {"limit": 256 << 20, "swap": 256 << 20}
    assert resources["pids"] == {"limit": 100}
    assert resources["devices"] == [{"allow": False, "access": "rwm"}]
    assert resources["hugepageLimits"] == []
    assert config["linux"]["cgroupsPath"] == "/bay/x/sess-1"


def test_huge_pages_are_none_where_the_host_can_limit_them() -> None:
    resources = build(spec_of(), replace(PLACE, huge_pages=("2MB", "1GB")))["linux"]["resources"]
    assert resources["hugepageLimits"] == [{"pageSize": "2MB", "limit": 0}, {"pageSize": "1GB", "limit": 0}]


def test_no_limit_is_left_to_runc_which_may_not_set_it(config: dict[str, Any]) -> None:
    assert "rlimits" not in config["process"]


def test_ship_is_told_what_the_protocol_says_and_nothing_more(config: dict[str, Any]) -> None:
    environment = dict(line.split("=", 1) for line in config["process"]["env"])
    assert environment == {
        "PATH": environment["PATH"],
        "LANG": "C.UTF-8",
        "SHIP_SOCKET": f"{SOCKET_DIR}/ship.sock",
        "SHIP_TOKEN": "t" * 32,
        "SHIP_WORKSPACE": "/workspace",
        "SHIP_UID": "1000",
        "SHIP_GID": "1000",
        "SHIP_USER": "ship",
        "SHIP_USERS": "*",
        "SHIP_ALLOW_ROOT": "1",
        "SHIP_KERNEL": "lazy",
        "SHIP_ENV": "{}",
        "SHIP_KERNEL_ENV": "{}",
        "SHIP_ENV_FILE": "0",
        "SHIP_SKILLS": "",
    }


def test_secrets_have_a_place_in_memory_that_is_the_user_s_alone_and_only_if_there_are_some(
    config: dict[str, Any],
) -> None:
    assert "/run/secrets" not in {mount["destination"] for mount in config["mounts"]}
    (mount,) = (
        m for m in build(spec_of(secret_files=True), PLACE)["mounts"] if m["destination"] == "/run/secrets"
    )
    assert mount["type"] == "tmpfs"
    assert {"nosuid", "nodev", "noexec", "mode=700", "uid=1000", "gid=1000"} <= set(mount["options"])


def test_users_are_those_that_the_profile_says() -> None:
    told = build(spec_of(user="me", users=("www-data", "nobody")), PLACE)["process"]["env"]
    assert {"SHIP_USER=me", "SHIP_USERS=www-data,nobody"} <= set(told)


def test_root_is_refused_where_the_profile_says_so() -> None:
    assert "SHIP_ALLOW_ROOT=0" in build(spec_of(allow_root=False), PLACE)["process"]["env"]
    assert "SHIP_KERNEL=eager" in build(spec_of(kernel="eager"), PLACE)["process"]["env"]


def test_ship_runs_from_its_closure_alone() -> None:
    command = ship_command("x86_64")
    assert [word for word in command if word.startswith("/")] == [
        f"{CLOSURE}/lib/ld-linux-x86-64.so.2",
        f"{CLOSURE}/lib",
        f"{CLOSURE}/bin/python3",
    ]
    assert command[-2:] == ["-m", "ship"]
    assert {"-I", "-S"} <= set(command)


def test_the_workspace_of_the_host_is_not_named(config: dict[str, Any]) -> None:
    assert "/var/lib/bay/ws" not in json.dumps(config)
