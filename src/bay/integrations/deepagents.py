"""A sandbox as the backend of Deep Agents: `create_deep_agent(backend=BayBackend(box))`."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor

from deepagents.backends.protocol import (
    FILE_NOT_FOUND,
    INVALID_PATH,
    IS_DIRECTORY,
    PERMISSION_DENIED,
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
)
from deepagents.backends.sandbox import BaseSandbox

import bay

DEFAULT_TIMEOUT_S = 1800


class BayBackend(BaseSandbox):
    """Runs an agent's commands and file operations in `box`, which the caller made and deletes."""

    def __init__(self, box: bay.Box, *, timeout_s: int = DEFAULT_TIMEOUT_S) -> None:
        self.box = box
        self._timeout_s = timeout_s

    @property
    def id(self) -> str:
        """The id of the sandbox."""
        return self.box.id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a command in a shell. After `timeout` seconds (0: no limit) it is ended, with exit code 124."""
        return self._execute(command, timeout, None)

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """The same in a thread. When the call is cancelled the command is ended."""
        exec_id = f"exec-{secrets.token_hex(12)}"
        try:
            return await asyncio.to_thread(self._execute, command, timeout, exec_id)
        except asyncio.CancelledError:
            await self._end(exec_id)
            raise

    async def _end(self, exec_id: str) -> None:
        own = ThreadPoolExecutor(1)  # the threads of the loop may all be waiting for commands
        try:
            await asyncio.get_running_loop().run_in_executor(own, self.box.execs.end, exec_id)
        except bay.BayError:
            return  # it was not started, or went with its sandbox
        finally:
            own.shutdown(wait=False)

    def _execute(self, command: str, timeout: int | None, exec_id: str | None) -> ExecuteResponse:
        limit = self._timeout_s if timeout is None else timeout or None
        result = self.box.run(command, timeout_s=limit, keep="both", exec_id=exec_id)
        return ExecuteResponse(
            output=result.output, exit_code=result.returncode, truncated=result.omitted_bytes > 0
        )

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files, with the directories that are missing; one that fails does not stop the others."""
        return [FileUploadResponse(path=path, error=self._write(path, data)) for path, data in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Read files; one that fails does not stop the others."""
        return [self._read(path) for path in paths]

    def _write(self, path: str, data: bytes) -> str | None:
        try:
            self.box.files.write(path, data)
        except bay.CallerError as error:
            return _code(error)
        return None

    def _read(self, path: str) -> FileDownloadResponse:
        try:
            return FileDownloadResponse(path=path, content=self.box.files.read(path))
        except bay.CallerError as error:
            return FileDownloadResponse(path=path, error=_code(error))


def _code(error: bay.CallerError) -> str:
    """The framework's code for what a model can mend; else the words of the error."""
    match error:
        case bay.FileMissing():
            return FILE_NOT_FOUND
        case bay.Forbidden():
            return PERMISSION_DENIED
        case bay.InvalidPath():
            return INVALID_PATH
        case _:
            return IS_DIRECTORY if error.details.get("reason") == "is_directory" else error.message
