"""A sandbox as a deployment of SWE-ReX, whose server runs inside it behind a port that its owner alone opens.

The sandbox needs `swerex-remote` on its PATH: an image, a template or a `setup` command brings it.
"""

import asyncio
import logging
import os
import secrets
from typing import Any

from swerex import REMOTE_EXECUTABLE_NAME
from swerex.deployment.abstract import AbstractDeployment
from swerex.deployment.hooks.abstract import CombinedDeploymentHook, DeploymentHook
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError
from swerex.runtime.abstract import IsAliveResponse
from swerex.runtime.remote import RemoteRuntime
from swerex.utils.log import get_logger

import bay

PORT = 8880
STARTUP_S = 60.0
SETUP_S = 600.0
SHOWN = 4000
"""Characters of the server's output in the error of a failed start."""


class BayRuntime(RemoteRuntime):
    """The framework's runtime, whose requests also carry Bay's key; Bay's proxy keeps it from the sandbox."""

    def __init__(self, *, api_key: str | None, **config: Any) -> None:
        super().__init__(**config)
        self._api_key = api_key

    @property
    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        return super()._headers | key


class BayDeployment(AbstractDeployment):
    """Runs `swerex-remote` in a new sandbox, which `stop` deletes.

    `sandbox` has the options of `client.sandboxes.create`; `setup` is a command that runs before the server,
    such as ``pip install swe-rex``. Bay's URL and key default to `BAY_URL` and `BAY_API_KEY`.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        sandbox: dict[str, Any] | None = None,
        setup: str | None = None,
        command: str = REMOTE_EXECUTABLE_NAME,
        startup_timeout: float = STARTUP_S,
        logger: logging.Logger | None = None,
    ) -> None:
        self.logger = logger or get_logger("rex-deploy")
        self._base_url = base_url
        self._api_key = api_key or os.environ.get("BAY_API_KEY")
        self._sandbox = sandbox or {}
        self._setup = setup
        self._command = command
        self._startup_timeout = startup_timeout
        self._hooks = CombinedDeploymentHook()
        self._runtime: BayRuntime | None = None
        self._client: bay.AsyncClient | None = None
        self.box: bay.AsyncBox | None = None

    def add_hook(self, hook: DeploymentHook) -> None:
        """Have `hook` told of each step."""
        self._hooks.add_hook(hook)

    @property
    def runtime(self) -> BayRuntime:
        """The runtime. Raises DeploymentNotStartedError."""
        if self._runtime is None:
            raise DeploymentNotStartedError
        return self._runtime

    async def is_alive(self, *, timeout: float | None = None) -> IsAliveResponse:
        """Whether the server in the sandbox answers. Raises DeploymentNotStartedError."""
        return await self.runtime.is_alive(timeout=timeout)

    async def start(self) -> None:
        """Create the sandbox, start the server in it, and wait until it answers; again is no error.

        Raises DeploymentStartupError, with the end of the server's output, when it ends or does not listen.
        """
        if self._runtime is not None:
            return
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        self._hooks.on_custom_step("Starting the sandbox")
        self._client = bay.AsyncClient(self._base_url, self._api_key)
        self.box = await self._client.sandboxes.create(**self._sandbox, wait=self._startup_timeout)
        if self._setup is not None:
            await self.box.run(self._setup, timeout_s=SETUP_S, check=True)
        self._hooks.on_custom_step("Starting runtime")
        token = secrets.token_urlsafe(24)
        # The framework's server takes its token by an argument alone, which the sandbox's own processes see.
        server = await self.box.spawn(
            f"exec {self._command} --host 127.0.0.1 --port {PORT} --auth-token {token}",
            wait_for_reader=False,
        )
        if (failure := await self._failure(self.box, server)) is not None:
            said = (await _output(server)).replace(token, "...")
            raise DeploymentStartupError(f"{failure}; the end of its output:\n{said}")
        self._runtime = BayRuntime(
            api_key=self._api_key,
            host=f"{self._client.base_url}/v1/sandboxes/{self.box.id}/ports/{PORT}",
            auth_token=token,
            logger=self.logger,
        )

    async def _failure(self, box: bay.AsyncBox, server: bay.AsyncProc) -> str | None:
        """Wait until the server listens; in words how it failed to, if it did."""
        listening = asyncio.create_task(box.wait_for(PORT, timeout_s=self._startup_timeout))
        ended = asyncio.create_task(server.wait())
        try:
            await asyncio.wait((listening, ended), return_when=asyncio.FIRST_COMPLETED)
            if not listening.done() and not (end := ended.result()).ok:
                return f"the server of SWE-ReX in the sandbox {end.outcome}"
            await listening  # one that ended well went to the background
        except bay.Timeout as error:
            return f"the server of SWE-ReX in the sandbox does not listen: {error.message}"
        finally:
            listening.cancel()
            ended.cancel()
            await asyncio.gather(listening, ended, return_exceptions=True)
        return None

    async def stop(self) -> None:
        """Delete the sandbox; again is no error."""
        client, box = self._client, self.box
        self._client = self.box = self._runtime = None
        if client is not None:
            async with client:
                if box is not None:
                    await box.delete()


async def _output(server: bay.AsyncProc) -> str:
    """The end of what a server has printed so far."""
    said = b"".join([chunk.data async for chunk in server.output(follow=False)])
    return said.decode(errors="replace")[-SHOWN:]
