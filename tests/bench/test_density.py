"""The benchmark of many idle sandboxes, with few of them."""

import os

import pytest
from bench.base import Bench
from bench.density import density
from bench.figures import Figure
from examples.own_server import own_server

pytestmark = [
    pytest.mark.host,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes need root"),
]


def test_a_few_idle_sandboxes_are_measured_from_their_creation_to_their_end() -> None:
    with own_server("bay-bench-") as server, server.client() as client:
        found = density(Bench(server, client, None, scale=0.01, exactly=3))
    figures = {one.name: one for one in found if isinstance(one, Figure)}
    assert list(figures) == [
        "create to first exec answer, each",
        "until all are there",
        "a command in each",
        "3 idle: memory each, PSS",
        "3 idle: host memory each",
        "3 idle: Bay's processor time",
        "3 idle: Bay, PSS",
        "a list of all",
        "Bay killed: start until it is up",
        "start until the first sandbox has answered",
        "start until every sandbox has answered",
        "delete, until the calls have returned",
        "delete, until the host has nothing of them",
    ]
    assert len(figures["create to first exec answer, each"].samples) == 3
    assert figures["3 idle: memory each, PSS"].note == "3 processes"
    assert 1 < figures["3 idle: memory each, PSS"].p50 < 64
    up, first, every = (figures[name].p50 for name in list(figures)[8:11])
    assert 0 < up < first < every
