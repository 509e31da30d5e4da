"""The settings that a session's Ship begins with, as a spec says them; drivers give them by environment."""

import json
from collections.abc import Mapping

from bay.drivers.base import SessionSpec


def ship_settings(spec: SessionSpec) -> Mapping[str, str]:
    """Settings by name, all but the place where Ship listens. The token is among them."""
    return {
        "SHIP_TOKEN": spec.token,
        "SHIP_WORKSPACE": "/workspace",
        **_user(spec),
        "SHIP_USERS": "*" if spec.users is None else ",".join(spec.users),
        "SHIP_ALLOW_ROOT": "1" if spec.allow_root else "0",
        "SHIP_KERNEL": spec.kernel,
        "SHIP_ENV": json.dumps(dict(spec.root.env if spec.root else {}), ensure_ascii=False),
        "SHIP_KERNEL_ENV": json.dumps(dict(spec.kernel_env)),
        "SHIP_ENV_FILE": "1" if spec.env_file else "0",
        "SHIP_SKILLS": ",".join(spec.skills),
    }


def _user(spec: SessionSpec) -> dict[str, str]:
    """Whom Ship runs programs as."""
    if spec.home is None:
        return _user_of_root(spec)
    own = {"SHIP_USER": spec.user, "SHIP_HOME": spec.home, "SHIP_MAKE_ACCOUNT": "1"}
    return {**_user_of_root(spec), **own}


def _user_of_root(spec: SessionSpec) -> dict[str, str]:
    if spec.root is None:
        return {"SHIP_UID": "1000", "SHIP_GID": "1000", "SHIP_USER": spec.user}
    user = spec.root.user
    return {
        "SHIP_UID": str(user.uid),
        "SHIP_GID": str(user.gid),
        "SHIP_USER": user.name,
        "SHIP_HOME": user.home,
        "SHIP_CWD": spec.root.cwd,
        "SHIP_GROUPS": "*" if user.groups is None else ",".join(map(str, user.groups)),
    }
