"""The keys of a build's steps: equal keys stand for equal files in a sandbox. Pure."""

import hashlib
import json
from collections.abc import Callable, Sequence

from bay.builds.steps import Copy, MakeWorkdir, Origin, Run, Step, copies_of
from bay.server.builds.context import BuildContext

_FORM = 3
"""Raised when the same steps begin to make other files."""


def first_key(origin: Sequence[str]) -> str:
    """The key before all steps: `origin` names the image, and the rest that a build begins with."""
    return _hash([_FORM, *origin])


def step_keys(
    key: str, steps: Sequence[Step], context: BuildContext, origin_key: Callable[[Origin], str]
) -> list[str]:
    """A key for each step, which depends on all before it: of `key`, of what each step says, and of the
    content that it copies, or `origin_key` of the place that it copies from.
    """
    keys: list[str] = []
    for step in steps:
        key = _hash([key, *_facts(step, context, origin_key)])
        keys.append(key)
    if keys and any(has_directories(step) for step in steps):
        keys[-1] = _hash([keys[-1], "without the directories of mounts"])
    return keys


def has_directories(step: Step) -> bool:
    """Whether its command has directories that are taken away behind the last step."""
    return isinstance(step, Run) and step.is_mounting


def _facts(step: Step, context: BuildContext, origin_key: Callable[[Origin], str]) -> list[object]:
    match step:
        case Run():
            env = sorted(step.env.items())
            mounts = [[one.target, one.cache, one.owner, one.mode] for one in step.mounts]
            facts: list[object] = ["run", step.argv, env, step.user, step.working_dir, step.script]
            files = [_copied(one, context, origin_key) for one in copies_of(step)]
            secrets = [[one.name, one.target] for one in step.secrets if one.is_elsewhere]
            if secrets:
                return [*facts, mounts, files, secrets]
            return [*facts, mounts, files] if files else [*facts, mounts] if mounts else facts
        case Copy():
            return _copied(step, context, origin_key)
        case MakeWorkdir():
            return ["workdir", step.path, step.user]


def _copied(step: Copy, context: BuildContext, origin_key: Callable[[Origin], str]) -> list[object]:
    if step.origin is not None:
        return ["copy from", origin_key(step.origin), step.sources, step.target, step.owner, step.mode]
    staging = context.staging(step)
    sources = [[one.target, one.only, one.below] for one in staging.sources]
    return ["copy", sources, step.owner, step.mode, context.digest(staging)]


def _hash(facts: Sequence[object]) -> str:
    text = json.dumps(facts, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
