"""The keys of a build's steps: equal keys stand for equal files in a sandbox. Pure."""

import hashlib
import json
from collections.abc import Sequence

from bay.builds.steps import Copy, MakeWorkdir, Run, Step
from bay.server.builds.context import BuildContext

_FORM = 1
"""Raised when the same steps begin to make other files."""


def step_keys(origin: Sequence[str], steps: Sequence[Step], context: BuildContext) -> list[str]:
    """A key for each step, which depends on all before it: of `origin`, which names the image and the rest
    that a build begins with, of what each step says, and of the content that it copies.
    """
    key = _hash([_FORM, *origin])
    keys: list[str] = []
    for step in steps:
        key = _hash([key, *_facts(step, context)])
        keys.append(key)
    return keys


def _facts(step: Step, context: BuildContext) -> list[object]:
    match step:
        case Run():
            env = sorted(step.env.items())
            return ["run", step.argv, env, step.user, step.working_dir, step.script]
        case Copy():
            staging = context.staging(step)
            sources = [[one.target, one.only, one.below] for one in staging.sources]
            return ["copy", sources, step.owner, step.mode, context.digest(staging)]
        case MakeWorkdir():
            return ["workdir", step.path, step.user]


def _hash(facts: Sequence[object]) -> str:
    text = json.dumps(facts, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
