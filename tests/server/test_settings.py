"""Settings: environment over TOML file over default."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from bay.errors import InvalidArgument
from bay.server import settings
from bay.server.settings import ProfileSettings

pytestmark = pytest.mark.pure


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests do not count."""
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"BAY_{name.upper()}", raising=False)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bay.toml"
    path.write_text(text)
    return path


def test_what_is_given_beats_the_environment_beats_the_file_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.load().port == 8700
    path = toml(tmp_path, "port = 1\nhost = '::1'\n")
    assert (settings.load(path).port, settings.load(path).host) == (1, "::1")
    monkeypatch.setenv("BAY_PORT", "2")
    assert (settings.load(path).port, settings.load(path).host) == (2, "::1")
    assert settings.load(path, port=3, host=None).port == 3
    assert settings.load(path, port=None, host=None).host == "::1"


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAY_API_KEY", "")
    monkeypatch.setenv("BAY_PORT", "")
    loaded = settings.load()
    assert (loaded.api_key, loaded.port) == (None, 8700)


def test_a_key_is_never_shown_by_printing_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAY_API_KEY", "bay_secret_01234")
    loaded = settings.load()
    assert "bay_secret_01234" not in f"{loaded!r} {loaded} {loaded.model_dump_json()}"
    assert loaded.api_key is not None
    assert loaded.api_key.get_secret_value() == "bay_secret_01234"


def test_profiles_come_from_the_file(tmp_path: Path) -> None:
    path = toml(tmp_path, "[profiles.big]\ncpus = 4\nmemory_mb = 2048\nenv = {A = 'b'}\nidle_timeout = 5\n")
    (profile,) = [item.to_profile(name) for name, item in settings.load(path).profiles.items()]
    assert (profile.id, profile.resources.cpus, profile.resources.memory) == ("big", 4.0, 2 << 30)
    assert (profile.env, profile.idle_timeout, profile.start) == ({"A": "b"}, 5, "eager")


def test_there_are_three_profiles_when_nobody_says_anything() -> None:
    found = settings.load().profiles
    assert list(found) == ["python-default", "sprite", "e2b"]
    assert [(profile.pool_size, profile.pool_max) for profile in found.values()] == [
        (2, 8),
        (0, None),
        (0, None),
    ]
    accounts = [(profile.user, profile.home, profile.persist) for profile in found.values()]
    assert accounts == [
        ("ship", "/workspace", "workspace"),
        ("sprite", "/home/sprite", "machine"),
        ("user", "/home/user", "machine"),
    ]
    assert found["sprite"].idle_timeout == 30


@pytest.mark.parametrize(
    "home", ["/", "/etc", "/home", "/home/../x", "/home/..", "/workspace/x", "/home/a:b", "home"]
)
def test_a_home_is_the_workspace_or_a_directory_of_home(tmp_path: Path, home: str) -> None:
    with pytest.raises(InvalidArgument, match=r"profiles\.x\.home"):
        settings.read(toml(tmp_path, f"[profiles.x]\nhome = '{home}'\n"))


def test_a_profile_that_is_given_has_a_pool_only_when_it_says_so(tmp_path: Path) -> None:
    loaded = settings.load(toml(tmp_path, "[profiles.python-default]\n[profiles.x]\npool_size = 3\n"))
    found = [(profile.pool_size, profile.pool_max) for profile in loaded.profiles.values()]
    assert found == [(0, None), (3, None)]


def test_a_pools_maximum_is_no_less_than_its_size(tmp_path: Path) -> None:
    text = "[profiles.x]\npool_size = 3\npool_max = 2\n"
    with pytest.raises(InvalidArgument, match="2 is less than pool_size, 3"):
        settings.read(toml(tmp_path, text))
    assert settings.read(toml(tmp_path, text.replace("2", "3"))).profiles["x"].pool_max == 3


@pytest.mark.parametrize(
    ("name", "own", "less"),
    [("cpus", "2", "1.5"), ("memory_mb", "512", "256"), ("disk_mb", "100", "99"), ("pids", "64", "63")],
)
def test_the_most_that_may_be_asked_for_is_no_less_than_the_profiles_own(
    tmp_path: Path, name: str, own: str, less: str
) -> None:
    text = f"[profiles.x]\n{name} = {own}\nmax_{name} = {{}}\n"
    with pytest.raises(
        InvalidArgument, match=f"{less} is less than {name}, {own}; leave it out, or give more"
    ):
        settings.read(toml(tmp_path, text.format(less)))
    settings.read(toml(tmp_path, text.format(own)))


def test_files_without_a_limit_have_no_most() -> None:
    with pytest.raises(InvalidArgument, match="64 is less than disk_mb, no limit"):
        settings.read(profiles={"x": {"disk_mb": None, "max_disk_mb": 64}})


@pytest.mark.parametrize(
    "text",
    ["port = 70000", "port = 'x'", "driver = 'lxd'", "log_level = 'loud'", "start_concurrency = 0", "api_key = ''", "api_key = 'fifteen-letters'",
     "[quotas]\nsandboxs = 1", "[quotas]\nrunning = -1", "[owners.'a b']\nrunning = 1",
     "[profiles.x]\nspeed = 9", "[profiles.x]\ncpus = 0", "[profiles.x]\ncapabilities = ['fly']", "max_body_mb = 0",
     "max_upload_md = 7"],
)  # fmt: skip
def test_a_value_or_a_name_that_is_unknown_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValidationError):
        settings.load(toml(tmp_path, text))


def test_a_file_that_is_missing_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        settings.load(tmp_path / "nowhere.toml")


def test_a_variable_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAY_PROFILES", "{broken")
    with pytest.raises(SettingsError):
        settings.load()


@pytest.mark.parametrize("user", ["root", "www-data", "Ship", "a:b", "", "1000", "a" * 33])
def test_a_profile_cannot_give_its_user_the_name_of_another(user: str) -> None:
    assert ProfileSettings.model_validate({"user": "shipyard"}).to_profile("p").user == "shipyard"
    with pytest.raises(ValidationError):
        ProfileSettings.model_validate({"user": user})


def test_registries_are_given_by_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        '[registries."localhost:5000"]\ninsecure = true\n[registries."a.example"]\naddresses = ["10.0.0.7"]\n'
    )
    found = settings.read(toml(tmp_path, text)).registries
    assert found["localhost:5000"].to_access("localhost:5000").insecure
    assert [str(one) for one in found["a.example"].addresses] == ["10.0.0.7"]
    monkeypatch.setenv("BAY_REGISTRIES", '{"[::1]:5000": {"ca_file": "/etc/ca.pem"}}')
    assert settings.read().registries["[::1]:5000"].ca_file == Path("/etc/ca.pem")


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("registry", "a dot or a port"),
        ("a.example/b", "domain name"),
        ("https://a.example", "port"),
        ("A.example", "write 'a.example' for 'A.example'"),
        ("[0::1]:5", r"write '\[::1\]:5'"),
    ],
)
def test_a_registry_is_named_as_references_spell_it(tmp_path: Path, host: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        settings.read(toml(tmp_path, f"[registries.'{host}']\ninsecure = true\n"))
