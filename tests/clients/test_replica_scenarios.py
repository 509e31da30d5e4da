"""Both SDKs do on three replicas, through a balancer, all that they do on one Bay, by the same table."""

import json
from collections.abc import Iterator

import pytest
import sdk_words
from cutting_proxy import CuttingProxy, cutting_proxy
from replica_bays import ReplicaBays, can_run, replica_bays
from test_scenarios import BROWSER, SCENARIOS, SDKS, Json, come_true, name_of

pytestmark = [
    pytest.mark.clients,
    pytest.mark.long,
    pytest.mark.skipif(not can_run(), reason="PostgreSQL and HAProxy are not installed"),
]


@pytest.fixture(scope="module")
def bays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaBays]:
    programs = tmp_path_factory.mktemp("programs")
    (programs / "agent-browser").write_text(BROWSER)
    (programs / "agent-browser").chmod(0o755)
    web = {"capabilities": ["exec", "browser"], "env": {"PATH": f"{programs}:/usr/bin:/bin"}}
    with replica_bays(3, BAY_PROFILES=json.dumps({"python-default": {}, "web": web})) as running:
        yield running


@pytest.fixture(scope="module", params=SDKS)
def words(request: pytest.FixtureRequest, bays: ReplicaBays) -> Iterator[sdk_words.Words]:
    with sdk_words.speaking(request.param) as speaking:
        yield speaking


@pytest.fixture(scope="module")
def proxy(bays: ReplicaBays) -> Iterator[CuttingProxy]:
    with cutting_proxy() as made:
        made.target = int(bays.address.rpartition(":")[2])
        yield made


@pytest.mark.parametrize("scenario", [one for one in SCENARIOS if not one.get("alone")], ids=name_of)
def test_a_scenario_is_the_same_on_three_replicas(
    bays: ReplicaBays, words: sdk_words.Words, proxy: CuttingProxy, scenario: Json
) -> None:
    come_true(bays.address, words, proxy, scenario)
