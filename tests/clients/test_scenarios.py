"""Both SDKs do the same things by the same names: one table of scenarios, and a process of each SDK."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import real_bay
import sdk_words
from cutting_proxy import CuttingProxy, cutting_proxy

from bay.server.settings import ProfileSettings

pytestmark = [pytest.mark.clients, pytest.mark.long]

Json = dict[str, Any]
TABLE = tomllib.loads(Path(__file__).with_name("scenarios.toml").read_text(encoding="utf-8"))
ALL: list[Json] = TABLE["scenario"]
SCENARIOS = [one for one in ALL if not one.get("templates")]
SDKS = ("python", "typescript")
MISSING = object()


BROWSER = """#!/bin/sh
[ "$1" = fail ] && { echo broken >&2; exit 4; }
printf '%s|' "$@"
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_bay.RealBay]:
    programs = tmp_path_factory.mktemp("programs")
    (programs / "agent-browser").write_text(BROWSER)
    (programs / "agent-browser").chmod(0o755)
    web = {"capabilities": ["exec", "browser"], "env": {"PATH": f"{programs}:/usr/bin:/bin"}}
    profiles = {**real_bay.PROFILES, "web": ProfileSettings.model_validate(web)}
    with real_bay.running(profiles=profiles) as running:
        yield running


@pytest.fixture(scope="module", params=SDKS)
def words(request: pytest.FixtureRequest, live: real_bay.RealBay) -> Iterator[sdk_words.Words]:
    with sdk_words.speaking(request.param) as speaking:
        yield speaking


@pytest.fixture(scope="module")
def deno(live: real_bay.RealBay) -> Iterator[sdk_words.Words]:
    with sdk_words.speaking("deno") as speaking:
        yield speaking


@pytest.fixture(scope="module")
def proxy(live: real_bay.RealBay) -> Iterator[CuttingProxy]:
    with cutting_proxy() as made:
        made.target = int(live.url.rpartition(":")[2])
        yield made


def differences(wanted: Json, given: Any) -> Json:
    """The fields that are not as they should be. A table that is written in TOML says "none" for null."""
    fields = cast("Json", given or {})
    found = {name: fields.get(name, MISSING) for name in wanted}
    meant = {name: None if value == "none" else value for name, value in wanted.items()}
    return {name: found[name] for name in wanted if found[name] != meant[name]}


def failures(steps: list[Json], results: list[Any]) -> list[str]:
    """Each step that gave, or failed with, something else than the table says."""
    wrong: list[str] = []
    for step, result in zip(steps, results, strict=True):
        failed = cast("Json", result).get("fails") if isinstance(result, dict) else None
        if failed != step.get("fails") or (failed is None and differences(step.get("gives", {}), result)):
            wrong.append(f"{step} gave {json.dumps(result)[:2000]}")
    return wrong


def bare(steps: list[Json]) -> list[Json]:
    return [{name: value for name, value in step.items() if name not in ("gives", "fails")} for step in steps]


def name_of(scenario: Json) -> str:
    return scenario["name"].replace(" ", "-")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_a_scenario_is_the_same_in_both_sdks(
    live: real_bay.RealBay, words: sdk_words.Words, proxy: CuttingProxy, scenario: Json
) -> None:
    come_true(live.url, words, proxy, scenario)


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if one.get("deno")], ids=name_of)
def test_a_scenario_is_the_same_in_deno(
    live: real_bay.RealBay, deno: sdk_words.Words, proxy: CuttingProxy, scenario: Json
) -> None:
    come_true(live.url, deno, proxy, scenario)


@pytest.mark.gate
def test_the_typescript_sdk_runs_a_command(live: real_bay.RealBay, proxy: CuttingProxy) -> None:
    with sdk_words.speaking("typescript") as words:
        come_true(live.url, words, proxy, SCENARIOS[0])


def come_true(url: str, words: sdk_words.Words, proxy: CuttingProxy, scenario: Json) -> None:
    cuts: list[int] = scenario.get("cut", [])
    before = proxy.cuts
    through = f"http://127.0.0.1:{proxy.port}" if cuts else None
    results = words.perform(url, bare(scenario["steps"]), through, lambda: proxy.cut_each(cuts))
    assert failures(scenario["steps"], results) == []
    assert proxy.cuts - before == len(cuts), "the proxy was to cut connections that carry this much"


def test_both_sdks_know_every_word_and_no_word_is_unused(words: sdk_words.Words) -> None:
    used = {step["do"] for scenario in ALL for step in scenario["steps"]}
    assert set(words.words) == used
