"""The store behind an fsspec address; on S3 every write is one PUT of bytes that are complete before it.

botocore repeats a single request a few times (refused connections, resets, 500, 503, SlowDown). It
does not cover the body of an answer that breaks off, a conflict of two conditional writes, or a
service that is away for longer; those are repeated here, and only here, with jitter.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from botocore import exceptions as boto

from raypipe.errors import RequestError, ServiceError
from raypipe.redaction import HIDDEN, redact
from raypipe.store.disk import write_parts

TRIES = 5  # of an operation
REQUEST_TRIES = 3  # of each of its requests, by botocore
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 8.0
DELETED_AT_ONCE = 1000  # what one DeleteObjects request may name

TRANSIENT_CODES = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"),
    *("InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted"),
    *("BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"),  # damaged on the way there
    "ConditionalRequestConflict",  # two conditional writes at once: S3 asks to try again
    "NoSuchUpload",  # the end of a multipart upload arrived, its reply did not
}
DENIED_CODES = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"}
CREDENTIAL_CODES = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("TokenRefreshRequired", "RequestTimeTooSkewed", "AuthorizationHeaderMalformed"),
}
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
)
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"

T = TypeVar("T")


class Objects:
    """Files by their full addresses. ServiceError for what the service refuses or leaves unanswered."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._on_s3 = root.startswith(("s3://", "s3a://"))
        self._made: tuple[int, Any] | None = None

    @property
    def _fs(self) -> Any:
        # A client does not survive a fork: its connections and its thread stay with the parent.
        if self._made is None or self._made[0] != os.getpid():
            options: dict[str, Any] = {}
            if self._on_s3 and f"://{HIDDEN}@" in (shown := redact(self._root)):
                remedy = f"s3://bucket/prefix alone; the keys belong in {KEYS}"
                raise RequestError(f"{shown}: the address holds credentials", remedy)
            if self._on_s3:
                retries = {"mode": "standard", "total_max_attempts": REQUEST_TRIES}
                options = {"use_listings_cache": False, "config_kwargs": {"retries": retries}}
            try:
                fs = fsspec.core.url_to_fs(self._root, **options)[0]
            except ValueError as fault:  # a protocol that fsspec does not know
                raise RequestError(f"{self._root}: {fault}", "name a folder, or s3://bucket/prefix") from None
            if self._on_s3:
                fs.retries = 1  # a third layer of tries would multiply the other two
            self._made = (os.getpid(), fs)
        return self._made[1]

    def put_new(self, path: str, data: bytes, ours: bool) -> bool:
        try:
            # mode="create" is If-None-Match, also on the last request of a multipart upload.
            self._tried("write", path, lambda: self._fs.pipe_file(path, data, mode="create"))
        except FileExistsError:
            return ours and self._holds(path, data)
        return True

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self.read(path) == data
        except FileNotFoundError:
            return False

    def replace(self, path: str, data: bytes) -> None:
        self._tried("write", path, lambda: self._fs.pipe_file(path, data))

    def replace_from(self, path: str, source: Path) -> None:
        os.stat(source)
        self._tried("write", path, lambda: self._fs.put_file(str(source), path))

    def fetch(self, path: str, target: Path, parts: Iterable[bytes]) -> None:
        write_parts(target, parts)

    def read(self, path: str) -> bytes:
        # One request: with more than one connection s3fs asks for the size first.
        options = {"max_concurrency": 1} if self._on_s3 else {}
        return self._tried("read", path, lambda: self._fs.cat_file(path, **options))

    def range(self, path: str, offset: int, length: int) -> bytes:
        if not length:
            return b""

        def act() -> bytes:
            try:
                return self._fs.cat_file(path, start=offset, end=offset + length)
            except OSError as fault:
                if _code(fault)[0] in ("InvalidRange", "416"):  # begins behind the end
                    return b""
                raise

        return self._tried("read", path, act)

    def size(self, path: str) -> int | None:
        """Bytes; None where there is no such object."""
        found = self.state(path)
        return found[0] if found else None

    def state(self, path: str) -> tuple[int, str] | None:
        """Bytes and ETag, or time of change; None where there is no such object."""
        try:
            found = self._tried("read", path, lambda: self._fs.info(path))
        except FileNotFoundError:
            return None
        return (int(found["size"] or 0), _stamp(found)) if found["type"] == "file" else None

    def is_folder(self, path: str) -> bool:
        return bool(self._tried("list", path, lambda: self._fs.exists(path)))

    def states(self, root: str, top: str) -> list[tuple[str, int, str]]:
        """Name, bytes and ETag or time of change of the objects below ``top``, from listings alone."""
        base = self._base(root)
        try:
            found = self._tried("list", top, lambda: self._fs.find(top, detail=True))
        except FileNotFoundError:
            return []
        shown = ((p, row) for p, row in found.items() if not p.endswith("/"))
        return [(p.removeprefix(base), int(row["size"] or 0), _stamp(row)) for p, row in shown]

    def names(self, root: str, top: str) -> list[str]:
        """The objects below ``top``, relative to ``root``."""
        base = self._base(root)
        try:
            found = self._tried("list", top, lambda: self._fs.find(top))
        except FileNotFoundError:
            return []
        return [p.removeprefix(base) for p in found if not p.endswith("/")]

    def _base(self, root: str) -> str:
        return str(self._fs._strip_protocol(root)).rstrip("/") + "/"

    def delete(self, path: str) -> None:
        self._tried("remove", path, lambda: self._fs.rm_file(path))

    def delete_many(self, paths: list[str]) -> None:
        if self._on_s3:
            for start in range(0, len(paths), DELETED_AT_ONCE):
                self._delete_together(paths[start : start + DELETED_AT_ONCE])
            return
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self.delete(path)

    def _delete_together(self, paths: list[str]) -> None:
        by_key = {self._fs.split_path(path)[1]: path for path in paths}
        bucket = self._fs.split_path(paths[0])[0]
        named = {"Objects": [{"Key": key} for key in by_key], "Quiet": True}
        answer = self._tried(
            "remove", paths[0], lambda: self._fs.call_s3("delete_objects", Bucket=bucket, Delete=named)
        )
        for fault in answer.get("Errors", ()):  # the request went well, these objects did not
            self.delete(by_key[fault["Key"]])

    def _tried(self, action: str, path: str, act: Callable[[], T]) -> T:
        """Carries an operation out, again after a passing fault.

        Raises:
            FileNotFoundError: no such object.
            FileExistsError: a conditional write found one.
            ServiceError: refused, or no answer after TRIES tries.
            RequestError: credentials in the address, or what this kind of storage cannot do.
        """
        for number in range(1, TRIES + 1):
            try:
                return act()
            except Exception as fault:
                if _is_passing(fault) and number < TRIES:
                    wait = min(FIRST_WAIT_S * 2 ** (number - 1), LONGEST_WAIT_S)
                    time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - spreads tries, hides nothing
                    continue
                raise _named(fault, action, path) from fault
        raise AssertionError("not reached")


def _stamp(row: dict[str, Any]) -> str:
    stamps = (row.get(name) for name in ("ETag", "etag", "LastModified", "mtime", "created"))
    return str(next((s for s in stamps if s), "")).strip('"')


def _code(fault: BaseException) -> tuple[str, int]:
    """The error code and HTTP status of S3's answer; ("", 0) where there was none."""
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, boto.ClientError):
            status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(cause.response.get("Error", {}).get("Code", "")), int(status)
        cause = cause.__cause__
    return "", 0


def _is_passing(fault: Exception) -> bool:
    code, status = _code(fault)
    if code or status:
        return code in TRANSIENT_CODES or status in (409, 429) or status >= 500
    return isinstance(fault, _passing_types())


def _passing_types() -> tuple[type[BaseException], ...]:
    import aiohttp
    from fsspec.exceptions import FSTimeoutError
    from s3fs.core import S3_RETRYABLE_ERRORS

    sent = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.FlexibleChecksumError)
    return (*S3_RETRYABLE_ERRORS, *sent, aiohttp.ClientError, ConnectionError, TimeoutError, FSTimeoutError)


def _named(fault: Exception, action: str, path: str) -> Exception:
    """What a fault is called outside; a fault of neither service nor system stays what it is."""
    code, status = _code(fault)
    if code == "PreconditionFailed" or status == 412 or (not code and isinstance(fault, FileExistsError)):
        return FileExistsError(path)
    if code != "NoSuchBucket" and isinstance(fault, FileNotFoundError):
        return FileNotFoundError(path)
    said = f"cannot {action} {path}: "
    if code == "NoSuchBucket":
        return ServiceError(said + "there is no such bucket", "create it, or correct the address")
    if code in CREDENTIAL_CODES or isinstance(fault, NO_CREDENTIALS):
        remedy = f"set {KEYS}, or give the machine a role"
        return ServiceError(said + f"no valid credentials ({_short(fault)})", remedy)
    if code in DENIED_CODES or status == 403:
        remedy = "allow s3:GetObject, PutObject, DeleteObject, ListBucket and AbortMultipartUpload there"
        return ServiceError(said + "access denied", remedy)
    if isinstance(fault, boto.EndpointConnectionError | boto.ConnectTimeoutError):
        remedy = "check the network, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION; the same command continues"
        return ServiceError(said + f"the service is not reachable ({_short(fault)})", remedy)
    if _is_passing(fault):
        remedy = "the same command continues; lower concurrency= if the service asks to slow down"
        return ServiceError(said + f"failed {TRIES} times, last with {_short(fault)}", remedy)
    if isinstance(fault, NotImplementedError):
        return RequestError(
            said + "storage of this kind does not allow it", "name a folder, or s3://bucket/prefix"
        )
    if isinstance(fault, OSError | boto.BotoCoreError | boto.ClientError):
        return ServiceError(said + _short(fault), "check the address and AWS_DEFAULT_REGION")
    return fault


def _short(fault: Exception) -> str:
    code, status = _code(fault)
    text = " ".join(str(fault).split())[:160] or type(fault).__name__
    return f"{code or status}: {text}" if code or status else text
