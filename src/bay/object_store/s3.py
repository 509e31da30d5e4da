"""An object store by the S3 API, with Amazon's own library, boto3.

Chosen for the standard chain of credentials (environment, profiles, roles) and errors that have codes.
Rejected: obstore, a client in Rust, which aborts the process when Python ends right after a call; and
aiobotocore, which works with few releases of botocore.

The library blocks, so each call has a thread of its own. The thread is a daemon: one that a dead server holds
does not hold up the end of Bay. The library is imported with this module, which nothing imports until a
bucket is used.
"""

import asyncio
import contextlib
import hashlib
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import ConnectionError as ConnectionFailure

from bay.errors import BayError, ObjectStoreRefused, ObjectStoreUnavailable
from bay.object_store.base import LARGEST, ObjectMissing

T = TypeVar("T")

_CONNECT_S = 10.0
_ATTEMPTS = 5
"""Of each request; the pauses between them double, up to 20 s."""
_PIECE = 1 << 20
_LONGEST = 10
"""The most time that one call may take, in `timeout`s: a server that drips is one that stalls."""
_MOST_DELETED = 1000
_MISSING = {"NoSuchKey", "404", "NotFound"}
_HINTS = {
    "NoSuchBucket": "there is no such bucket; make it, or mend the setting object_store.url",
    "InvalidBucketName": "it is no name of a bucket; mend the setting object_store.url",
    "InvalidAccessKeyId": "it does not know the access key; mend the setting object_store.access_key_id",
    "SignatureDoesNotMatch": "the secret is wrong; mend the setting object_store.secret_access_key",
    "AccessDenied": "the key may not do this there; give it s3:GetObject, s3:PutObject, s3:DeleteObject and "
    "s3:ListBucket on the bucket",
    "ExpiredToken": "the credentials have expired; renew them",
    "InvalidToken": "the credentials are invalid; renew them",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "PermanentRedirect": "the bucket is in another region; mend the setting object_store.region",
    "AuthorizationHeaderMalformed": "the bucket is in another region; mend the setting object_store.region",
    "IllegalLocationConstraintException": "the bucket is in another region; mend the setting object_store.region",
    "301": "the bucket is in another region; mend the setting object_store.region",
    "400": "the bucket is in another region, or the credentials are wrong; mend the settings object_store",
    "403": "the credentials are wrong, or may not do this; mend the settings object_store",
}
_TRANSIENT = {"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError", "Throttling"}
_UNSUPPORTED = {"NotImplemented", "InvalidArgument"}
_CODE = re.compile("[A-Za-z0-9]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """How a bucket is reached. Without a key the library looks for credentials as Amazon's programs do."""

    bucket: str
    prefix: str
    """Empty, or with a `/` at its end."""
    endpoint: str | None
    region: str | None
    access_key_id: str | None
    secret_access_key: str | None
    ca_file: Path | None
    path_style: bool
    timeout_s: float


class S3ObjectStore:
    """The part of a bucket below a prefix. The client is made for the first call."""

    def __init__(self, access: S3Access) -> None:
        self._access = access
        self._client: Any = None
        self._making = threading.Lock()
        """Held while the client is made, which takes half a second."""

    @property
    def place(self) -> str:
        return f"s3://{self._access.bucket}/{self._access.prefix}".rstrip("/")

    async def put(self, key: str, data: bytes, *, only_new: bool = False) -> bool:
        if len(data) > LARGEST:
            raise ValueError(f"an object of {len(data)} bytes is too large")
        extra = {"IfNoneMatch": "*"} if only_new else {}
        # Every server checks this digest, and not all know newer ones.
        digest = b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()

        def write() -> bool:
            name = self._name(key)
            try:
                self._ready().put_object(
                    Bucket=self._access.bucket, Key=name, Body=data, ContentMD5=digest, **extra
                )
            except ClientError as error:
                if extra and _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                    return False
                if not extra or _code(error) not in _UNSUPPORTED:
                    raise
                self._ready().put_object(Bucket=self._access.bucket, Key=name, Body=data, ContentMD5=digest)
            return True

        return await self._call(write)

    async def get(self, key: str, most: int = LARGEST) -> bytes:
        def read() -> bytes:
            try:
                answer = self._ready().get_object(Bucket=self._access.bucket, Key=self._name(key))
            except ClientError as error:
                if _code(error) in _MISSING:
                    raise ObjectMissing(key) from error
                raise
            with contextlib.closing(answer["Body"]) as body:
                return self._read(body, most)

        return await self._again(read)

    async def folders(self, prefix: str, *, after: str, limit: int) -> list[str]:
        top = self._name(prefix)
        start = {"StartAfter": f"{top}{after}0"} if after else {}  # which comes after a `/`

        def read() -> list[str]:
            pages = self._ready().get_paginator("list_objects_v2").paginate(
                Bucket=self._access.bucket, Prefix=top, Delimiter="/", **start
            )  # fmt: skip
            found: list[str] = []
            for page in pages:
                found += [one["Prefix"][len(top) : -1] for one in page.get("CommonPrefixes", ())]
                if len(found) >= limit:
                    break
            return sorted(name for name in found if name > after)[:limit]

        return await self._call(read)

    async def keys(self, prefix: str) -> dict[str, int]:
        skipped = len(self._access.prefix)

        def read() -> dict[str, int]:
            pages = self._ready().get_paginator("list_objects_v2").paginate(
                Bucket=self._access.bucket, Prefix=self._name(prefix)
            )  # fmt: skip
            return {one["Key"][skipped:]: one["Size"] for page in pages for one in page.get("Contents", ())}

        return await self._call(read)

    async def delete(self, keys: Collection[str]) -> None:
        names = [self._name(key) for key in keys]

        def remove() -> None:
            for name in names:  # one at a time: not every server has the call for many
                self._ready().delete_object(Bucket=self._access.bucket, Key=name)

        if names:
            await self._call(remove)

    def _name(self, key: str) -> str:
        return self._access.prefix + key

    def _ready(self) -> Any:
        with self._making:
            if self._client is None:
                self._client = _client(self._access)
            return self._client

    def _read(self, body: Any, most: int) -> bytes:
        ends_at = time.monotonic() + _LONGEST * self._access.timeout_s
        pieces: list[bytes] = []
        size = 0
        try:
            while size <= most and (piece := body.read(min(_PIECE, most + 1 - size))):
                pieces.append(piece)
                size += len(piece)
                if time.monotonic() > ends_at:
                    raise ReadTimeoutError(endpoint_url=self.place)
        except (BotoCoreError, OSError) as error:
            raise _ObjectCut(
                f"the object store {self.place} stopped in the middle of an answer ({type(error).__name__}); "
                "try again later"
            ) from None
        return b"".join(pieces)

    async def _again(self, read: Callable[[], T]) -> T:
        """Call `read`, and again when its answer broke off, which the library does not retry."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return await self._call(read)
            except _ObjectCut:
                await asyncio.sleep(min(0.1 * 2**attempt, self._access.timeout_s))
        return await self._call(read)

    async def _call(self, act: Callable[[], T]) -> T:
        with _translated(self.place):
            try:
                # Each attempt of the library's has this long for every step of it.
                async with asyncio.timeout((_LONGEST + _ATTEMPTS) * self._access.timeout_s + 60):
                    return await _in_daemon(act)
            except TimeoutError as error:
                raise ObjectStoreUnavailable(
                    f"the object store {self.place} is too slow; try again later"
                ) from error


class _ObjectCut(ObjectStoreUnavailable):
    """An answer had an end too early."""


async def _in_daemon(act: Callable[[], T]) -> T:
    """The result of `act`, in a thread that nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = act()
        except BaseException as error:  # noqa: BLE001 (it is raised where the call is awaited)
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="object-store", daemon=True).start()
    return await done


def _client(access: S3Access) -> Any:
    config = Config(
        connect_timeout=min(_CONNECT_S, access.timeout_s),
        read_timeout=access.timeout_s,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        s3={"addressing_style": "path" if access.path_style else "auto"},
        # Newer checksums, which only Amazon's servers all know; Bay has its own.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=16,
    )
    session: Any = boto3.Session()
    return session.client(
        "s3",
        endpoint_url=access.endpoint,
        region_name=access.region or session.region_name or "us-east-1",
        aws_access_key_id=access.access_key_id,
        aws_secret_access_key=access.secret_access_key,
        verify=str(access.ca_file) if access.ca_file else None,
        config=config,
    )


@contextlib.contextmanager
def _translated(place: str) -> Generator[None]:
    """Errors of the library as Bay's, without its own words, which may have parts of requests."""
    try:
        yield
    except (BayError, ObjectMissing):
        raise
    except ClientError as error:
        raise _of_answer(place, error) from None
    except (NoCredentialsError, NoRegionError):
        raise ObjectStoreRefused(
            f"Bay has no credentials for the object store {place}; set object_store.access_key_id and "
            "object_store.secret_access_key"
        ) from None
    except SSLError:
        raise ObjectStoreRefused(
            f"the certificate of the object store {place} is not trusted; set object_store.ca_file"
        ) from None
    except (HTTPClientError, ConnectionFailure, OSError) as error:
        raise ObjectStoreUnavailable(
            f"the object store {place} cannot be reached ({type(error).__name__}); see to it that it runs, and "
            "that object_store.endpoint is right"
        ) from None
    except BotoCoreError as error:
        raise ObjectStoreRefused(
            f"the object store {place} cannot be used as it is set ({type(error).__name__}); mend the settings "
            "object_store"
        ) from None


def _of_answer(place: str, error: ClientError) -> BayError:
    code = _code(error)
    answer = cast("dict[str, Any]", error.response)
    status: int = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _HINTS:
        return ObjectStoreRefused(f"the object store {place} refuses Bay ({code}): {_HINTS[code]}")
    if status >= 500 or status == 429 or code in _TRANSIENT:
        return ObjectStoreUnavailable(f"the object store {place} fails ({code}); try again later")
    return ObjectStoreRefused(
        f"the object store {place} refuses Bay ({code}); mend the settings object_store"
    )


def _code(error: ClientError) -> str:
    answer = cast("dict[str, Any]", error.response)
    code = str(answer.get("Error", {}).get("Code", ""))
    return code if _CODE.fullmatch(code) else "unknown"
