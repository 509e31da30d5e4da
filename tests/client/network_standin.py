"""The part of the stand-in that keeps network policies, ports and services as Bay's HTTP API has them.

Nothing is held back and nothing listens: what a policy does is tested on a real Bay.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from storage_standin import Refused, now

Json = dict[str, Any]
DOMAIN = "localhost:8700"
PROFILE_POLICY: Json = {"mode": "open", "rules": [], "version": 0, "source": "profile"}
LISTENING: Json = {"port": 8000, "addresses": ["127.0.0.1", "::1"], "pid": 7, "process": "python3"}
REFUSED: Json = {
    "name": "evil.example",
    "type": "A",
    "reason": "policy",
    "rule": 1,
    "count": 3,
    "first_at": "2030-01-01T00:00:00Z",
    "last_at": "2030-01-01T00:00:02Z",
}
_RULE: Json = {"domain": None, "cidr": None, "ports": None, "protocol": None}
_SERVICE: Json = {
    "env": {},
    "cwd": None,
    "user": None,
    "needs": [],
    "http_port": None,
    "restart": "always",
    "health": None,
    "enabled": True,
    "state": "stopped",
    "pid": None,
    "restarts": 0,
    "exit_code": None,
    "signal": None,
    "healthy": None,
    "message": None,
    "started_at": None,
    "next_start_at": None,
    "output_bytes": 0,
    "first_offset": 0,
}


class Network:
    """The policies and ports of all sandboxes of one stand-in."""

    def __init__(self) -> None:
        self.policies: dict[str, Json] = {}
        self.links: list[Json] = []

    def create(self, sandbox: Json, body: Json) -> None:
        """What a create says of the network."""
        if "network_policy" in body:
            self._put_policy(sandbox, body["network_policy"])
        sandbox |= {"network": self.policy(sandbox)["mode"], "url": None, "ports": body.get("ports", [])}
        self.patch(sandbox, {"url": body.get("url")})

    def patch(self, sandbox: Json, body: Json) -> Json:
        """The fields of a change, with a URL as the answer has it."""
        if body.get("url"):
            href = f"http://{sandbox['name'] or sandbox['id']}.{DOMAIN}/"
            body = body | {"url": {"href": href, "access": "owner", **body["url"]}}
        sandbox |= body
        return sandbox

    def policy(self, sandbox: Json) -> Json:
        return self.policies.get(sandbox["id"], PROFILE_POLICY)

    def policy_call(self, method: str, sandbox: Json, body: Json) -> Json:
        if method == "PUT":
            self._put_policy(sandbox, body)
        elif method == "DELETE":
            self.policies.pop(sandbox["id"], None)
        sandbox["network"] = self.policy(sandbox)["mode"]
        return self.policy(sandbox)

    def _put_policy(self, sandbox: Json, body: Json) -> None:
        for index, rule in enumerate(body["rules"]):
            if None in rule.values():
                raise Refused(422, "validation_error", f"rules[{index}] has a field without a value")
            if ("domain" in rule) == ("cidr" in rule):
                raise Refused(422, "validation_error", f"rules[{index}] has to have a domain or a cidr")
        version = self.policy(sandbox)["version"] + 1
        rules = [_RULE | rule for rule in body["rules"]]
        self.policies[sandbox["id"]] = body | {"rules": rules, "version": version, "source": "sandbox"}

    def state(self, sandbox: Json) -> Json:
        zero = {"allowed_connections": 0, "refused_connections": 0, "allowed_names": 0, "refused_names": 0}
        rules = [{"rule": n, "reason": None, **zero} for n in range(len(self.policy(sandbox)["rules"]))]
        return {
            "mode": self.policy(sandbox)["mode"],
            "enforced": sandbox["profile"] != "no-net",
            "counters": [
                *rules,
                {"rule": None, "reason": "reserved", **zero, "refused_connections": 4, "refused_names": 1},
            ],
            "refused": [REFUSED],
            "received_bytes": 5000,
            "sent_bytes": 70,
        }

    def listening(self, sandbox: Json) -> list[Json]:
        if sandbox["compute"] != "running":
            return []
        known = {found["port"]: found["access"] for found in sandbox["ports"]}
        url = f"http://8000-{sandbox['name'] or sandbox['id']}.{DOMAIN}/"
        return [LISTENING | {"access": known.get(8000, "owner"), "url": url}]

    def port_call(self, method: str, sandbox: Json, words: list[str], body: Json) -> Json | None:
        """What a call about one port answers; None for nothing."""
        port = int(words[0])
        others = [found for found in sandbox["ports"] if found["port"] != port]
        match method, words[1:]:
            case "PUT", []:
                settings = {"port": port, "access": body["access"]}
                sandbox["ports"] = [*others, settings]
                return settings
            case "DELETE", []:
                sandbox["ports"] = others
                return None
            case "POST", ["links"]:
                return self._link(sandbox, port, body)
            case _:
                raise Refused(404, "not_found", "no such route")

    def _link(self, sandbox: Json, port: int, body: Json) -> Json:
        host = f"{port}-{sandbox['name'] or sandbox['id']}.{DOMAIN}"
        url = f"http://{host}/.bay/open?token={'t' * 20}&to={quote('/', safe='')}"
        self.links.append({"port": port, **body})
        return {"url": url, "expires_at": "2030-01-01T01:00:00Z", "once": body["once"]}


class Services:
    """The services of all sandboxes. Each start runs the command once, by `run`; nothing is started again."""

    def __init__(self, run: Callable[[Json, Json], Any]) -> None:
        self._run = run
        self.of: dict[str, dict[str, Json]] = {}
        self.commands: dict[tuple[str, str], Any] = {}

    def create(self, sandbox: Json, specs: list[Json]) -> None:
        for spec in specs:
            self._put(sandbox, spec["name"], {name: spec[name] for name in spec if name != "name"})

    def call(self, method: str, sandbox: Json, words: list[str], body: Json) -> tuple[int, Json | None]:
        """The status and what is answered; None for nothing."""
        known = self.of.setdefault(sandbox["id"], {})
        match method, words:
            case "GET", []:
                return 200, {"items": list(known.values())}
            case "PUT", [name]:
                status = 200 if name in known else 201
                return status, self._put(sandbox, name, body)
            case _, [name, *_] if name not in known:
                raise Refused(404, "not_found", f"there is no service {name}")
            case "GET", [name]:
                return 200, known[name]
            case "DELETE", [name]:
                del known[name]
                return 204, None
            case "POST", [name, "start" | "stop" | "restart" as what]:
                return 200, self._act(sandbox, known[name], what)
            case _:
                raise Refused(404, "not_found", "no such route")

    def _put(self, sandbox: Json, name: str, body: Json) -> Json:
        if unknown := body.keys() - _SERVICE.keys() - {"argv"}:
            raise Refused(422, "validation_error", f"a service has no {', '.join(sorted(unknown))}")
        made = _SERVICE | {"name": name} | body
        self.of.setdefault(sandbox["id"], {})[name] = made
        return self._act(sandbox, made, "start") if made["enabled"] else made

    def _act(self, sandbox: Json, service: Json, what: str) -> Json:
        if what == "stop":
            service |= {"enabled": False, "state": "stopped", "pid": None}
            return service
        self.commands[sandbox["id"], service["name"]] = self._run(sandbox, service)
        restarts = service["restarts"] + (what == "restart")
        service |= {"enabled": True, "state": "running", "pid": 9, "restarts": restarts, "started_at": now()}
        return service

    def command(self, sandbox: Json, name: str) -> Any:
        """What it ran last."""
        return self.commands[sandbox["id"], name]
