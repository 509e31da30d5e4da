"""Who Bay is for a cluster: the kubeconfig or the pod's own service account, read by the client library.

A proxy is used only where the kubeconfig has `proxy-url`. The library reads files and runs the programs that
a kubeconfig names, so all of it happens in threads.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import incluster_config, kube_config

from bay.errors import DriverUnavailable
from bay.linux.threads import in_new_thread

_CONNECTIONS = 64
_LONGEST_AGE_S = 60.0
"""How long credentials of a pod are used before they are read again: the kubelet writes new ones."""
_LONGEST_MESSAGE = 500
_LOADING = threading.Lock()
"""Held while a kubeconfig is loaded: the library keeps its temporary files for the whole process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeAccess:
    """How a cluster is reached."""

    kubeconfig: Path | None = None
    """None: the pod's own service account where Bay runs in a pod, else `$KUBECONFIG` or ~/.kube/config."""
    context: str | None = None
    """None: the kubeconfig's current one."""
    namespace: str | None = None
    """None: the pod's own, or the context's, or `default`."""
    service_account: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Where the kubelet puts a pod's token, the cluster's authority and the pod's namespace."""
    timeout_s: float = 30.0
    """Most seconds for one attempt of one request, watches apart."""


class KubeLogin:
    """The value of the header `Authorization`, which is read again when it is old or refused."""

    def __init__(self, access: KubeAccess, configuration: Configuration, clock: Callable[[], float]) -> None:
        self._access = access
        self._clock = clock
        self._host = configuration.host
        self._value = _authorization(configuration)
        self._rotates = _in_pod(access)
        self._read_at = clock()
        self._reading = asyncio.Lock()
        """Held while credentials are read, so that many requests read them once."""

    async def value(self) -> str | None:
        """The value; None where a certificate of the client, or nothing, says who Bay is."""
        if self._rotates and self._clock() - self._read_at > _LONGEST_AGE_S:
            self._read_at = self._clock()
            # The former one may still be good, and a refusal tells when it is not.
            with contextlib.suppress(DriverUnavailable):
                await self.renew(self._value)
        return self._value

    async def renew(self, refused: str | None) -> bool:
        """Whether there is another value than `refused` now. Raises DriverUnavailable."""
        async with self._reading:
            if self._value == refused:
                loaded = await in_new_thread(lambda: load(self._access))
                if loaded.configuration.host != self._host:
                    raise DriverUnavailable(
                        f"{_source(self._access)} names another API server than when Bay started; restart Bay, or "
                        "name a context"
                    )
                self._value = _authorization(loaded.configuration)
        return self._value != refused


@dataclass(frozen=True, slots=True)
class LoadedAccess:
    """The facts that a `KubeAccess` leads to. `namespace` is that of the pod or the context."""

    configuration: Configuration
    namespace: str | None
    clients: tuple[ApiClient, ...]


def load(access: KubeAccess, clients: int = 0) -> LoadedAccess:
    """Read the credentials, and make so many clients with them. It blocks. Raises DriverUnavailable."""
    with _LOADING:
        try:
            configuration = Configuration(connection_pool_maxsize=_CONNECTIONS)
            # By itself the library reads ~/.netrc and proxies from the environment at each request.
            configuration.client_session_kwargs = {"trust_env": False}
            if _in_pod(access):
                namespace = _load_account(access, configuration)
            else:
                namespace = _load_file(access, configuration)
            made = tuple(ApiClient(configuration) for _ in range(clients))
        except DriverUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 (the library raises whatever a wrong file leads to)
            # Behind a brace its words may have a part of the file, and with it a token.
            why = " ".join(str(error).partition("{")[0].split())[:_LONGEST_MESSAGE] or type(error).__name__
            raise DriverUnavailable(f"{_source(access)} cannot be used ({why}); mend it") from None
        finally:
            # The keys of a kubeconfig, which the clients have read. They would stay until Bay ends.
            kube_config._cleanup_temp_files()
    return LoadedAccess(configuration, namespace, made)


def _load_account(access: KubeAccess, configuration: Configuration) -> str:
    """Read the pod's service account, and return the pod's namespace."""
    files = access.service_account
    pod = incluster_config.InClusterConfigLoader(str(files / "token"), str(files / "ca.crt"), False)
    cast("Any", pod).load_and_set(configuration)
    return (files / "namespace").read_text(encoding="utf-8").strip()


def _load_file(access: KubeAccess, configuration: Configuration) -> str | None:
    """Read the kubeconfig, and return the namespace of its context."""
    paths = _paths(access)
    if not any(Path(path).expanduser().is_file() for path in paths.split(os.pathsep) if path):
        raise DriverUnavailable(f"there is no kubeconfig {paths}; name one that is there")
    # A loop of its own, since the library reads files in its coroutines; and not one of uvloop, whose child
    # processes belong to the main thread.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        load_file = cast("Any", kube_config).load_kube_config
        loader = runner.run(load_file(paths, access.context, configuration, persist_config=False))
    namespace = loader.current_context["context"].get("namespace")
    return str(namespace) if namespace else None


def _in_pod(access: KubeAccess) -> bool:
    chosen = access.kubeconfig is not None or access.context is not None
    return (
        not chosen
        and "KUBERNETES_SERVICE_HOST" in os.environ
        and (access.service_account / "token").is_file()
    )


def _paths(access: KubeAccess) -> str:
    return str(access.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")


def _source(access: KubeAccess) -> str:
    return "the pod's service account" if _in_pod(access) else f"the kubeconfig {_paths(access)}"


def _authorization(configuration: Configuration) -> str | None:
    return configuration.api_key.get("BearerToken", "").strip() or None
