"""The verbs of the Kubernetes API, on plain dicts.

The requests are raw calls of the official client's async half, `kubernetes.aio`, chosen for its train of
releases, which is that of Kubernetes, and for kubeconfigs with all their kinds of credentials. Its models are
never made: they cost 4 to 20 times the processor time of the JSON. Rejected: its own watch and informer,
which lose deletions (`pod_watch` does not), and lightkube, which cannot delete by uid.

This module, `api_server` and `login` alone import the library. That takes half a second, so nothing imports
them until a Bay uses the driver. The ends of a request are in `api_server`.
"""

import contextlib
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from bay.drivers.kubernetes.api_server import (
    AlreadyExists,
    ApiCall,
    ApiServer,
    Expired,
    Json,
    KubeConflict,
    KubeRefused,
    Persistence,
    as_dict,
    as_list,
    bounded,
    parsed,
)
from bay.drivers.kubernetes.login import KubeAccess, KubeLogin, load
from bay.errors import DriverUnavailable
from bay.linux.threads import in_new_thread

__all__ = [
    "CLAIM",
    "EVENT",
    "NETWORK_POLICY",
    "NODE",
    "POD",
    "SERVICE_ACCOUNT",
    "STORAGE_CLASS",
    "VOLUME_SNAPSHOT",
    "VOLUME_SNAPSHOT_CLASS",
    "AlreadyExists",
    "Expired",
    "Json",
    "Kind",
    "Kube",
    "KubeAccess",
    "KubeConflict",
    "KubeRefused",
    "ObjectChange",
    "ObjectPage",
    "Persistence",
    "as_dict",
    "as_list",
    "bounded",
]

JsonPatch = list[Json]
"""The steps of RFC 6902."""

_FIELD_MANAGER = "bay"
_PAGE = 500
_RESTARTS = 5
"""How often a list that the API server has forgotten in the middle begins again."""
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: its name, the group and version of its API, and the plural in URLs."""

    name: str
    api: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API's group, which is empty for `v1`."""
        return self.api.rpartition("/")[0]


POD = Kind("Pod", "v1", "pods")
CLAIM = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
EVENT = Kind("Event", "v1", "events")
SERVICE_ACCOUNT = Kind("ServiceAccount", "v1", "serviceaccounts")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
VOLUME_SNAPSHOT = Kind("VolumeSnapshot", "snapshot.storage.k8s.io/v1", "volumesnapshots")
VOLUME_SNAPSHOT_CLASS = Kind(
    "VolumeSnapshotClass", "snapshot.storage.k8s.io/v1", "volumesnapshotclasses", namespaced=False
)
NODE = Kind("Node", "v1", "nodes", namespaced=False)
STORAGE_CLASS = Kind("StorageClass", "storage.k8s.io/v1", "storageclasses", namespaced=False)


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """A line of a watch. `type`: ADDED, MODIFIED, DELETED, or BOOKMARK, whose object has a version alone."""

    type: str
    object: Json


@dataclass(frozen=True, slots=True)
class ObjectPage:
    """A part of a list. `version` is that of the list, the same in each part."""

    items: Sequence[Json]
    version: str


class Kube:
    """A cluster, and one namespace of it, which all calls on namespaced kinds are about."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self.namespace = namespace
        self.version: tuple[int, int] = (0, 0)
        """Major and minor number of the API server; zeros when it does not say."""

    @classmethod
    async def connect(
        cls,
        access: KubeAccess,
        *,
        persistence: Persistence | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> "Kube":
        """Reach the API server that `access` names.

        Raises DriverUnavailable, with one line for the operator: a wrong kubeconfig, an unknown context, no
        connection, a certificate that is not trusted, refused credentials.
        """
        loaded = await in_new_thread(lambda: load(access, clients=2))
        login = KubeLogin(access, loaded.configuration, clock)
        server = ApiServer(loaded.clients, login, access.timeout_s, persistence or Persistence())
        kube = cls(server, access.namespace or loaded.namespace or "default")
        try:
            version = await server.send(
                ApiCall(act="say its version", method="GET", path="/version", query={})
            )
        except BaseException:
            await kube.aclose()
            raise
        kube.version = _version_in(version)
        return kube

    @property
    def url(self) -> str:
        """The API server's."""
        return self._server.url

    async def aclose(self) -> None:
        """Close all connections."""
        await self._server.aclose()

    async def create(self, kind: Kind, manifest: Json, *, dry_run: bool = False) -> Json:
        """Create an object, and return it as the API server has it; with `dry_run`, as it would have it.

        Raises AlreadyExists, KubeRefused, and DriverUnavailable, after which it may be there or not: an
        attempt whose answer is lost is not repeated.
        """
        call = ApiCall(
            act=f"create {kind.name}",
            method="POST",
            path=self._path(kind),
            query={"fieldManager": _FIELD_MANAGER, "dryRun": "All" if dry_run else ""},
            body={**manifest, "apiVersion": kind.api, "kind": kind.name},
            is_repeatable=False,
        )
        return await self._server.send(call)

    async def get(self, kind: Kind, name: str) -> Json | None:
        """An object, or None where the API server says that there is none. Raises KubeRefused and
        DriverUnavailable.
        """
        call = ApiCall(act=f"get {kind.name} {name}", method="GET", path=self._path(kind, name), query={})
        return await self._found(call)

    async def list(
        self, kind: Kind, *, labels: str = "", fields: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Json]:
        """All objects that the selectors match, each once, by pages of 500.

        One that is made or deleted meanwhile may be among them or not. Raises KubeRefused and
        DriverUnavailable.
        """
        seen: set[str] = set()
        for _ in range(_RESTARTS):
            pages = self.pages(kind, labels=labels, fields=fields, metadata_only=metadata_only)
            async with contextlib.aclosing(pages):
                try:
                    async for page in pages:
                        for item in page.items:
                            uid = str(as_dict(item.get("metadata")).get("uid"))
                            if uid not in seen:
                                seen.add(uid)
                                yield item
                except Expired:
                    continue
            return
        raise DriverUnavailable(
            f"{self._server} forgets lists of {kind.plural} before their end; try again later"
        )

    async def pages(
        self, kind: Kind, *, labels: str = "", fields: str = "", metadata_only: bool = False
    ) -> AsyncGenerator[ObjectPage]:
        """The pages of one consistent list, on which a watch can be based. Raises Expired, KubeRefused and
        DriverUnavailable.

        No version is asked for, so that the API server reads the newest from its store. Version `0` would be
        that of some cache, which may lie before a state that was seen earlier.
        """
        going_on, has_more = "", True
        while has_more:
            query = {"limit": _PAGE, "labelSelector": labels, "fieldSelector": fields, "continue": going_on}
            call = ApiCall(
                act=f"list {kind.plural}",
                method="GET",
                path=self._path(kind),
                query=query,
                accept=_METADATA_LIST if metadata_only else "application/json",
            )
            answer = await self._server.send(call)
            metadata = as_dict(answer.get("metadata"))
            version = metadata.get("resourceVersion")
            if not isinstance(version, str):  # no list of the API server, and so not an empty one
                raise DriverUnavailable(f"{self._server} answered with no list of {kind.plural}")
            yield ObjectPage([as_dict(one) for one in as_list(answer.get("items"))], version)
            going_on = str(metadata.get("continue") or "")
            has_more = going_on != ""

    async def watch(
        self,
        kind: Kind,
        *,
        labels: str = "",
        since: str,
        lasts_s: int | None = None,
        silence_s: float = 90.0,
    ) -> AsyncGenerator[ObjectChange]:
        """The changes after version `since`, until the API server ends the watch after `lasts_s` seconds
        (None: 300 to 600).

        A half-open connection says nothing for ever, so a watch without a byte for `silence_s` seconds ends
        with DriverUnavailable. The API server sends a bookmark each minute. Raises Expired and KubeRefused.
        """
        query: dict[str, str | int] = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": lasts_s or random.randint(300, 600),  # noqa: S311 (it spreads load)
            "labelSelector": labels,
        }
        call = ApiCall(act=f"watch {kind.plural}", method="GET", path=self._path(kind), query=query)
        async with contextlib.aclosing(self._server.lines(call, silence_s)) as lines:
            async for line in lines:
                event = parsed(line) or {}
                name, found = event.get("type"), as_dict(event.get("object"))
                if not isinstance(name, str) or not found:
                    raise DriverUnavailable(f"{self._server} sent what is no event; try again later")
                if name == "ERROR":
                    code = found.get("code")
                    raise self._server.refusal(code if isinstance(code, int) else 500, found, call.act)
                yield ObjectChange(name, found)

    async def patch(self, kind: Kind, name: str, patch: JsonPatch | Json) -> Json | None:
        """Change an object by a JSON patch (a list, RFC 6902) or a merge patch (a dict, RFC 7396), and return
        it; None when there is none.

        Raises KubeConflict when a `test` of the patch fails or its version is not the present one,
        KubeRefused, and DriverUnavailable, after which it may be changed or not.
        """
        tests = isinstance(patch, list) and any(step.get("op") == "test" for step in patch)
        call = ApiCall(
            act=f"patch {kind.name} {name}",
            method="PATCH",
            path=self._path(kind, name),
            query={"fieldManager": _FIELD_MANAGER},
            body=patch,
            content_type=f"application/{'json' if isinstance(patch, list) else 'merge'}-patch+json",
            # A test that held at the first attempt may fail at the second.
            is_repeatable=isinstance(patch, dict),
        )
        try:
            return await self._found(call)
        except KubeRefused as error:
            is_invalid = any(cause.startswith("FieldValue") for cause in error.causes)
            if error.answered == HTTPStatus.UNPROCESSABLE_ENTITY and tests and not is_invalid:
                raise KubeConflict(error.message, answered=error.answered, reason=error.reason) from None
            raise

    async def delete(
        self,
        kind: Kind,
        name: str,
        *,
        uid: str | None = None,
        version: str | None = None,
        grace_s: int | None = None,
    ) -> bool:
        """Ask for the deletion of an object; False when there is none of that name.

        It is there until its finalizers are gone and, for a pod, its containers. With `uid`, raises
        KubeConflict for another object of that name, with `version` for one that has changed since. Raises
        KubeRefused and DriverUnavailable.
        """
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        asked = {"uid": uid, "resourceVersion": version}
        if expected := {field: value for field, value in asked.items() if value is not None}:
            options["preconditions"] = expected
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        call = ApiCall(
            act=f"delete {kind.name} {name}",
            method="DELETE",
            path=self._path(kind, name),
            query={},
            body=options,
        )
        return await self._found(call) is not None

    async def events_of(self, uid: str) -> Sequence[Json]:
        """Up to 500 of the Events about the object with that uid, the newest last. For one that is late:
        Events are never watched, since a cluster has more of them than of all else. Raises KubeRefused and
        DriverUnavailable.
        """
        query = {"limit": _PAGE, "fieldSelector": f"involvedObject.uid={uid}"}
        found = await self._server.send(
            ApiCall(act="list events", method="GET", path=self._path(EVENT), query=query)
        )
        return sorted(map(as_dict, as_list(found.get("items"))), key=_time_of)

    async def may(self, verb: str, kind: Kind, subresource: str = "") -> bool:
        """Whether Bay's account may do `verb` (such as `create`) to objects of that kind, or to their
        `subresource`. Raises KubeRefused and DriverUnavailable.
        """
        attributes = {
            "verb": verb,
            "group": kind.group,
            "resource": kind.plural,
            "subresource": subresource,
            "namespace": self.namespace if kind.namespaced else "",
        }
        call = ApiCall(
            act="say what Bay may do",
            method="POST",
            path="/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            query={},
            body={
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            },
        )
        return as_dict((await self._server.send(call)).get("status")).get("allowed") is True

    async def serves(self, kind: Kind) -> bool:
        """Whether the cluster has that kind of object at all. Raises KubeRefused and DriverUnavailable."""
        call = ApiCall(
            act=f"say whether it has {kind.plural}", method="GET", path=f"/apis/{kind.api}", query={}
        )
        try:
            found = await self._server.send(call)
        except KubeRefused as error:
            if error.answered == HTTPStatus.NOT_FOUND:
                return False
            raise
        return any(as_dict(one).get("name") == kind.plural for one in as_list(found.get("resources")))

    def _path(self, kind: Kind, name: str | None = None) -> str:
        root = f"/apis/{kind.api}" if kind.group else f"/api/{kind.api}"
        place = f"/namespaces/{quote(self.namespace, safe='')}" if kind.namespaced else ""
        return f"{root}{place}/{kind.plural}" + ("" if name is None else f"/{quote(name, safe='')}")

    async def _found(self, call: ApiCall) -> Json | None:
        """The answer, or None where the API server says that it has no object of that name. Only its own
        words count: a proxy on the way answers 404 too, and so does an API server that lacks the kind.
        """
        try:
            return await self._server.send(call)
        except KubeRefused as error:
            if error.answered == HTTPStatus.NOT_FOUND and error.reason == "NotFound" and error.subject:
                return None
            raise


def _version_in(said: Json) -> tuple[int, int]:
    """Its two numbers; builds of one's own may leave them out, and have the whole version alone."""
    _, major, minor, *_ = [*str(said.get("gitVersion")).replace("v", ".").split("."), "", ""]
    return _number(said.get("major") or major), _number(said.get("minor") or minor)


def _time_of(event: Json) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _number(value: object) -> int:
    """The number that a value such as `27+` begins with."""
    found = re.match("[0-9]{1,6}", str(value))
    return int(found[0]) if found else 0
