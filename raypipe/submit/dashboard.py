"""The job server of a Ray cluster, by its REST addresses; a call has a time limit, a failure a reason.

The token travels in a header, to the address that the user named and to no other.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from raypipe.errors import RequestError, ServiceError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TIMEOUT_S = 30.0
TUNNEL = "open the way to the cluster in another terminal: ray dashboard cluster.yaml"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Unreachable(ServiceError):
    """Nothing answered, or not in time; the cluster may be well."""


class Busy(ServiceError):
    """The cluster answered that it cannot do this now; later it may."""


class Refused(ServiceError):
    """The cluster answered with a status that it will repeat."""

    def __init__(self, message: str, remedy: str = "", status: int = 0) -> None:
        super().__init__(message, remedy)
        self.status = status


def address_of(given: str | None) -> str:
    """The dashboard's address: as given, of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or ``ray dashboard``'s.

    Raises:
        RequestError: it is no http address.
    """
    named = {name: os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")}
    source, address = next(
        ((n, a) for n, a in {"--address": given, **named}.items() if a), ("", DEFAULT_ADDRESS)
    )
    parts = _parts_of(address)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        why = ", whose host or port is none" if parts is None else ""
        raise RequestError(
            f"{source} is '{address}'{why}; a job is submitted to the dashboard's address, which begins with "
            "http://",
            f"--address {DEFAULT_ADDRESS}, as ray dashboard cluster.yaml opens it",
        )
    if parts.username or parts.password or parts.query:
        raise RequestError(
            f"{source} holds credentials or a query",
            "give the bare address; the token is read from RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token",
        )
    return address.rstrip("/")


def _parts_of(address: str) -> SplitResult | None:
    """An address in its parts; None where its host or port is none."""
    try:
        parts = urlsplit(address)
        return parts if parts.port is None or parts.port else None
    except ValueError:
        return None


def token() -> tuple[str | None, str]:
    """The cluster's token as Ray's own programs find it, and where it came from.

    Raises:
        RequestError: RAY_AUTH_TOKEN_PATH names a file that cannot be read, or what was found is no token.
    """
    value, source = _found_token()
    # No header takes anything else, and the error that says so quotes it.
    if value is not None and not re.fullmatch("[!-~]+", value):
        raise RequestError(f"what {source} holds is no token: white space or other than ASCII", _REMEDY)
    return value, source


def _found_token() -> tuple[str | None, str]:
    if value := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return value, "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(os.path.expanduser(named or "~/.ray/auth_token"))  # without a home folder: none, no error
    try:
        return file.read_text(encoding="utf-8").strip() or None, str(file)
    except (OSError, UnicodeDecodeError) as fault:
        if named:
            raise RequestError(f"RAY_AUTH_TOKEN_PATH: cannot read {file}: {fault}", _REMEDY) from None
        return None, str(file)


_REMEDY = (
    "put the token of the cluster into ~/.ray/auth_token (chmod 600), or export RAY_AUTH_TOKEN_PATH=FILE"
)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to an address that nobody named."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass
class Dashboard:
    """A cluster's job server.

    Args:
        address: of the dashboard, without a slash at the end.
        timeout_s: how long one answer may take.
    """

    address: str
    timeout_s: float = TIMEOUT_S
    _token: str | None = field(init=False, repr=False)
    _token_source: str = field(init=False)

    def __post_init__(self) -> None:
        self._token, self._token_source = token()
        handlers: list[Any] = [_NoRedirect()]
        if (
            urlsplit(self.address).hostname in _LOOPBACK
        ):  # no proxy knows what is behind this machine's loopback
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def ray_version(self) -> str:
        return str(self._object("/api/version", "ray_version")["ray_version"])

    def asks_for_a_token(self) -> bool:
        """Whether the jobs of this cluster are closed to those without the token."""
        try:
            self._call("GET", "/api/jobs/", headers={})
        except Refused as fault:
            return fault.status in (401, 403)
        return False

    def jobs(self) -> list[dict[str, Any]]:
        said = self._json("/api/jobs/")
        if not isinstance(said, list) or not all(isinstance(job, dict) for job in said):
            raise self._stranger()
        return said

    def job(self, submission_id: str) -> dict[str, Any]:
        return self._object(f"/api/jobs/{quote(submission_id)}", "submission_id", "status")

    def log(self, submission_id: str) -> str:
        return str(self._object(f"/api/jobs/{quote(submission_id)}/logs", "logs")["logs"])

    def submit(self, body: dict[str, Any]) -> None:
        self._call("POST", "/api/jobs/", json.dumps(body).encode())

    def stop(self, submission_id: str) -> None:
        self._call("POST", f"/api/jobs/{quote(submission_id)}/stop", b"")

    def has_package(self, uri: str) -> bool:
        try:
            self._call("GET", _package_path(uri))
        except Refused as fault:
            if fault.status == 404:
                return False
            raise
        return True

    def put_package(self, uri: str, data: bytes) -> None:
        self._call("PUT", _package_path(uri), data, timeout_s=max(self.timeout_s, 600.0))

    def _object(self, path: str, *names: str) -> dict[str, Any]:
        """An answer that holds these names."""
        said = self._json(path)
        if not isinstance(said, dict) or not said.keys() >= set(names):
            raise self._stranger()
        return said

    def _json(self, path: str) -> Any:
        body = self._call("GET", path)
        try:
            return json.loads(body)
        except ValueError:
            raise self._stranger() from None

    def _stranger(self) -> ServiceError:
        return ServiceError(f"what answers at {self.address} is no Ray dashboard", TUNNEL)

    def _call(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        given = self.headers if headers is None else headers
        kind = {"Content-Type": "application/json"} if method == "POST" else {}
        request = urllib.request.Request(  # noqa: S310 - address_of takes http and https only
            self.address + path, data, {**given, **kind}, method=method
        )
        try:
            with self._opener.open(request, timeout=timeout_s or self.timeout_s) as answer:
                return answer.read()
        except urllib.error.HTTPError as fault:
            with fault:
                raise self._refusal(fault.code, fault.read(100_000).decode(errors="replace")) from None
        except (OSError, http.client.HTTPException, ValueError) as fault:
            reason = getattr(fault, "reason", None) or fault
            raise Unreachable(f"no Ray dashboard answers at {self.address}: {reason}", TUNNEL) from None

    def _refusal(self, status: int, said: str) -> ServiceError:
        if status in (401, 403):
            found = f"the token of {self._token_source} is not its own" if self._token else "none was found"
            return Refused(f"the cluster at {self.address} asks for its token; {found}", _REMEDY, status)
        last = (said.strip().splitlines() or [""])[-1][:300]
        if status in (500, 502, 503, 504) and "already exists" not in said:
            return Busy(f"the cluster at {self.address} answered {status}: {last}", TUNNEL)
        return Refused(f"the cluster at {self.address} answered {status}: {last}", status=status)


def _package_path(uri: str) -> str:
    protocol, _, name = uri.partition("://")
    return f"/api/packages/{quote(protocol)}/{quote(name)}"
