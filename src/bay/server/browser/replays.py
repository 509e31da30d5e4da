"""A replay runs the commands of a skill's active release."""

from dataclasses import dataclass
from typing import Any, cast

from bay.errors import BadRequest, NotFound
from bay.models import SkillRelease
from bay.server.skills.payloads import PREFIX, SkillPayloads
from bay.store import skills
from bay.store.engine import Store

MOST_COMMANDS = 200
MAX_CMD = 32 << 10


@dataclass(frozen=True, slots=True)
class Replay:
    """A release and its commands."""

    release: SkillRelease
    commands: tuple[str, ...]

    def tags(self, more: str | None) -> str:
        """The tags of a run in the history, with `more` of the caller's."""
        key = self.release.skill_key.replace(",", " ")
        own = (f"skill:{key}", f"release:{self.release.id}", f"stage:{self.release.stage}")
        return ",".join((*own, *([more] if more else [])))


@dataclass(eq=False, kw_only=True)
class Replays:
    """Finds what to replay."""

    store: Store
    payloads: SkillPayloads

    async def find(self, owner: str, skill_key: str) -> Replay:
        """The active release of a skill, with its commands. Raises NotFound without one, or without its
        payload, and BadRequest when that holds no commands.
        """
        async with self.store.read() as db:
            release = await skills.active_release(db, owner, skill_key)
            candidate = release and await skills.candidate(db, owner, release.candidate_id)
        if release is None:
            raise NotFound(f"skill {skill_key} has no active release; promote a candidate of it")
        ref = candidate.payload_ref if candidate else None
        if ref is None or not ref.startswith(PREFIX):
            raise BadRequest(
                f"the payload of release {release.id} is {ref}, which is not stored here; promote a candidate whose "
                f"payload_ref begins with {PREFIX}"
            )
        found = await self.payloads.get(owner, ref)
        return Replay(release, _commands(ref, found.payload))


def _commands(ref: str, payload: dict[str, Any] | list[Any]) -> tuple[str, ...]:
    given: object = payload.get("commands") if isinstance(payload, dict) else None
    listed = cast("list[object]", given) if isinstance(given, list) else []
    commands = tuple(one for one in listed if isinstance(one, str) and _is_command(one))
    if len(commands) != len(listed) or not 0 < len(commands) <= MOST_COMMANDS:
        raise BadRequest(
            f"payload {ref} has no array `commands` of 1 to {MOST_COMMANDS} commands; store one that has, and "
            "promote a candidate with it"
        )
    return commands


def _is_command(given: str) -> bool:
    return 0 < len(given) <= MAX_CMD and "\0" not in given
