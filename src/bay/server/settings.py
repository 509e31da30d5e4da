"""Settings: environment (`BAY_…`) over TOML file over default. Each is documented in docs/settings.md."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from bay.models import Capability, Profile, Resources

MIB = 1 << 20


class ProfileSettings(BaseModel):
    """One `[profiles.NAME]` table of the configuration file."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field("host", description="image of the root file system; `host` needs no download")
    isolation: str = Field("container", description="how sessions are isolated")
    cpus: float = Field(1.0, gt=0, le=1024, description="cores")
    memory_mb: int = Field(1024, ge=64, description="memory, MiB")
    pids: int = Field(512, ge=16, le=1_000_000, description="processes and threads")
    capabilities: tuple[Capability, ...] = Field(
        ("shell", "filesystem", "exec"), description="calls this profile serves"
    )
    env: dict[str, str] = Field(default_factory=dict[str, str], description="environment of every command")
    idle_timeout: int | None = Field(
        1800, ge=1, description="seconds without activity before compute is given back"
    )
    ttl: int | None = Field(None, ge=1, description="seconds a sandbox lives when the create does not say")
    start: Literal["eager", "lazy"] = Field("eager", description="when compute begins")
    root: bool = Field(True, description="whether an exec may ask for `user: root`")
    description: str = Field("", description="for people")

    def to_profile(self, name: str) -> Profile:
        """The noun that the rest of Bay uses."""
        values = self.model_dump(exclude={"cpus", "memory_mb", "pids"})
        resources = Resources(cpus=self.cpus, memory=self.memory_mb * MIB, pids=self.pids)
        return Profile(id=name, resources=resources, **values)


def _default_profiles() -> dict[str, ProfileSettings]:
    return {"python-default": ProfileSettings(description="One core, 1 GiB, the host's own programs")}  # pyright: ignore[reportCallIssue]


class Settings(BaseSettings):
    """Everything that can be set. Durations are seconds, sizes MiB where the name says so."""

    model_config = SettingsConfigDict(
        env_prefix="BAY_", extra="forbid", env_nested_delimiter="__", env_ignore_empty=True
    )

    data_dir: Path = Field(Path("/var/lib/bay"), description="where Bay keeps its database and all files")
    run_dir: Path = Field(Path("/run/bay"), description="where sockets and mount points of live sessions are")
    cache_dir: Path = Field(
        Path("/var/cache/bay"),
        description="what can be made again at any time: Ship's runtime and image skeletons",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        8700, description="port to listen on; 0 picks a free one"
    )
    api_key: SecretStr | None = Field(
        None, min_length=1, description="first admin key, for automation; made and shown once when unset"
    )
    driver: Literal["oci", "fake"] = Field(
        "oci", description="what runs sessions; `fake` isolates nothing and is for tests"
    )
    runc: str = Field("runc", description="the OCI runtime to call")
    id_range_start: int = Field(
        1_879_048_192, ge=65536, description="first host uid of the ranges given to sandboxes"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto` is console on a terminal, else JSON"
    )
    start_timeout: float = Field(
        60, gt=0, description="seconds a call waits for compute before it answers 503"
    )
    stop_grace: float = Field(5, ge=0, description="seconds processes get to end by themselves on stop")
    start_concurrency: int = Field(4, ge=1, le=64, description="sessions started or ended at once")
    expired_retention: int = Field(
        60, ge=0, description="seconds an expired sandbox is still shown before it is removed"
    )
    max_body_mb: int = Field(
        16, ge=1, description="largest JSON body that carries a file or stdin, MiB; others may have 1 MiB"
    )
    max_upload_mb: int = Field(4096, ge=1, description="largest upload, MiB")
    max_file_mb: int = Field(16, ge=1, description="largest file that `filesystem/files` reads as JSON, MiB")
    profiles: dict[str, ProfileSettings] = Field(
        default_factory=_default_profiles, description="what kinds of sandbox there are, by name"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load(config: Path | None = None, **given: Any) -> Settings:
    """Settings from what was given on the command line (None = not given), the environment and `config`.

    Raises OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, SettingsError or pydantic's ValidationError.
    """
    if config is not None:
        config.stat()  # a missing file would be taken for an empty one

    class _Loaded(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    return _Loaded(**{name: value for name, value in given.items() if value is not None})
