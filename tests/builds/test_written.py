"""Steps that a program wrote become the same plan as a Dockerfile's."""

from typing import Any

import pytest

from bay.builds.dockerfile import Dockerfile
from bay.builds.steps import BuildConfig, Copy, MakeWorkdir, Run
from bay.builds.written import plan_steps
from bay.errors import InvalidArgument

pytestmark = pytest.mark.pure

BASE = BuildConfig(env={"PATH": "/bin"})


def test_steps_plan_what_a_dockerfile_plans() -> None:
    written = plan_steps(
        [
            {"env": {"A": "$B 'x'"}},
            {"workdir": "app"},
            {"copy": {"sources": ["src", "b*"], "target": "./", "owner": "1:2", "mode": "644"}},
            {"run": "make all"},
            {"run": ["id", "-u"]},
            {"user": "app"},
            {"start_command": "serve"},
        ],
        BASE,
    )
    file = Dockerfile.read(
        "FROM a\nENV A=\"\\$B 'x'\"\nWORKDIR app\nCOPY --chown=1:2 --chmod=644 src b* ./\nRUN make all\n"
        'RUN ["id", "-u"]\nUSER app'
    ).plan(BASE)
    assert written.config == file.config
    assert list(map(_meaning, written.steps)) == list(map(_meaning, file.steps))
    assert written.start_command == "serve"


def _meaning(step: Run | Copy | MakeWorkdir) -> tuple[object, ...]:
    """A step without the way it is shown."""
    match step:
        case Run():
            return step.argv, step.env, step.user, step.working_dir
        case Copy():
            return step.sources, step.target, step.owner, step.mode
        case MakeWorkdir():
            return step.path, step.user


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({}, "one key"),
        ({"run": "a", "user": "b"}, "one key"),
        ({"volume": "a"}, "is no step"),
        ({"run": 1}, "must be text"),
        ({"run": []}, "no command"),
        ({"copy": "a b"}, "must be an object"),
        ({"copy": {"sources": ["a"], "target": "/x", "from": "b"}}, "copy.from is not known"),
        ({"copy": {"sources": [], "target": "/x"}}, "one source"),
        ({"copy": {"sources": ["a", "b"], "target": "/x"}}, "write /x/"),
        ({"env": {"A": 1}}, "env.A must be text"),
        ({"env": {"A=B": "1"}}, "name of a variable"),
        ({"user": "a b"}, "USER:GROUP"),
        ({"workdir": ""}, "empty"),
        ({"run": "a\0b"}, "NUL"),
    ],
)
def test_a_step_that_is_wrong_is_refused_with_its_number(step: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^steps\.1: ") as caught:
        plan_steps([{"run": "x"}, step], BASE)
    assert words in caught.value.message


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="limit is 1000"):
        plan_steps([{"run": "x"}] * 1001, BASE)
