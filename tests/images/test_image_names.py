"""Images that a host fetches by name: which of them an operator admits, and which image a name was."""

import pytest

from bay.errors import InvalidArgument
from bay.images import names, references

pytestmark = pytest.mark.pure

DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER = "sha256:" + "f" * 64


@pytest.mark.parametrize(
    ("written", "named", "admitted"),
    [
        ("*", "debian:13", True),
        ("docker.io/library/", "debian:13", True),
        ("docker.io/library/", f"debian@{DIGEST}", True),
        ("docker.io/library/", "debian/x", False),
        ("docker.io/library", "debian:13", True),
        ("index.docker.io/library/", "debian", True),
        ("docker.io/library/debian", "debian:12", True),
        ("docker.io/library/debian", "debian-private:12", False),
        ("docker.io/grafana/", "grafana/grafana", True),
        ("docker.io/grafana/", "grafana-private/grafana", False),
        ("registry.example.com", "registry.example.com/any/thing:1", True),
        ("registry.example.com/", "registry.example.com/any/thing:1", True),
        ("registry.example.com", "registry.example.com:5000/any", False),
        ("registry.example.com", "registry.example.com.evil.example/any", False),
        ("registry.example.com/team", "registry.example.com/team:1", True),
        ("registry.example.com/team", f"registry.example.com/team@{DIGEST}", True),
        ("registry.example.com/team", "registry.example.com/team/app", True),
        ("registry.example.com/team", "registry.example.com/team-secret/app", False),
        ("registry.example.com/team", "registry.example.com/team-secret:1", False),
        ("registry.example.com/team", "registry.example.com/team.secret", False),
        ("registry.example.com/team/", "registry.example.com/team:1", False),
        ("registry.example.com/team/", "registry.example.com/team/app:1", True),
        ("registry.example.com/team/app:1", "registry.example.com/team/app:1", True),
        ("registry.example.com/team/app:1", "registry.example.com/team/app:12", False),
        ("registry.example.com/team/app:1", "registry.example.com/team/app", False),
        ("registry.example.com/team/app:1", f"registry.example.com/team/app:1@{DIGEST}", False),
        (f"registry.example.com/app@{DIGEST}", f"registry.example.com/app@{DIGEST}", True),
        (f"registry.example.com/app@{DIGEST}", f"registry.example.com/app:any@{DIGEST}", True),
        (f"registry.example.com/app@{DIGEST}", f"registry.example.com/app@{OTHER}", False),
        (f"registry.example.com/app@{DIGEST}", "registry.example.com/app:1", False),
        ("localhost:5000", "localhost:5000/app", True),
        ("localhost:5000", "localhost:50001/app", False),
        ("localhost:5000/app", "localhost:5000/app:2", True),
        ("[::1]:5000", "[::1]:5000/app", True),
        ("Registry.Example.com/team", "registry.example.com/team", True),
    ],
)
def test_what_an_operator_wrote_ends_where_a_part_of_a_reference_ends(
    written: str, named: str, admitted: bool
) -> None:
    assert names.admits([names.beginning(written)], references.parse(named)) is admitted


def test_nothing_is_admitted_by_an_empty_list_and_each_entry_admits_on_its_own() -> None:
    debian = references.parse("debian:13")
    assert not names.admits([], debian)
    assert names.admits([names.beginning("quay.io/"), names.beginning("docker.io/library/")], debian)


@pytest.mark.parametrize(
    "written",
    [
        *(
            "",
            "/",
            "debian",
            "library/debian",
            "https://quay.io/",
            "quay.io/*",
            "quay.io//x",
            "docker.io/debian",
        ),
        *("quay.io/Team", "quay.io/x:", f"quay.io/x@{DIGEST[:-1]}", "**", "quay.io /x", "quay.io/x:1/"),
    ],
)
def test_an_entry_that_is_no_beginning_of_a_full_reference_is_refused(written: str) -> None:
    with pytest.raises(InvalidArgument):
        names.beginning(written)


def test_a_name_keeps_its_tag_beside_the_digest_that_it_was() -> None:
    ref = "docker.io/library/debian:13"
    assert names.pinned(ref, f"docker.io/library/debian@{DIGEST}") == f"{ref}@{DIGEST}"
    assert names.pinned(ref, f"debian@{DIGEST}") == f"{ref}@{DIGEST}"  # as some hosts spell it


@pytest.mark.parametrize(
    "told",
    [
        *("", DIGEST, "docker.io/library/debian", "docker.io/library/debian:13", "bay.test/box:1"),
        *(f"docker.io/library/debian@{DIGEST[:-1]}", f"docker.io/library/ubuntu@{DIGEST}", f"UPPER@{DIGEST}"),
        *(f"mirror.example.com/library/debian@{DIGEST}", f"@{DIGEST}"),
    ],
)
def test_nothing_is_claimed_of_an_image_without_a_digest_of_that_repository(told: str) -> None:
    assert names.pinned("docker.io/library/debian:13", told) is None


def test_a_digest_stays_whatever_a_host_tells() -> None:
    assert names.pinned(f"docker.io/library/debian@{DIGEST}", f"docker.io/library/debian@{OTHER}") is None
