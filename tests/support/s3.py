"""A real S3 server over loopback HTTP (moto), for tests that speak to ``s3://`` addresses."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from raypipe.store.files import Store

START_S = 30.0
_here = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to our own loopback
_numbers = itertools.count()


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """A moto server in a process of its own; yields its URL, and ends that process."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(url, server)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the S3 server ended with code {server.returncode}")
        with contextlib.suppress(urllib.error.URLError, OSError):
            _here.open(url + "/moto-api/", timeout=5).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"no S3 server at {url} after {START_S:.0f} s")


def environment(url: str) -> dict[str, str]:
    """What a process needs in its environment to speak to the server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def addressed_to(url: str) -> Iterator[None]:
    """Every s3fs file system made inside speaks to this server."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with mock.patch.dict(os.environ, environment(url)):
        yield
    s3fs.S3FileSystem.clear_instance_cache()


def new_bucket(url: str) -> str:
    """Makes a bucket with a name of its own; returns the name."""
    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    request = urllib.request.Request(f"{url}/{name}", method="PUT")  # noqa: S310 - our own loopback
    _here.open(request, timeout=30).close()
    return name


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of the session's S3 server."""
    with moto_server() as url:
        yield url


@pytest.fixture
def s3_root(s3_server: str) -> Iterator[str]:
    """An address ``s3://BUCKET/prefix`` in a fresh, empty bucket."""
    with addressed_to(s3_server):
        yield f"s3://{new_bucket(s3_server)}/prefix"


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were fetched from stores, in order."""
    names: list[str] = []
    real = Store.fetch

    def fetch(self: Store, name: str, target: Path) -> None:
        names.append(name)
        real(self, name, target)

    monkeypatch.setattr(Store, "fetch", fetch)
    return names


def put_tree(tree: Path, address: str) -> Store:
    """Puts all files below a folder."""
    store = Store(address)
    for file in sorted(p for p in tree.rglob("*") if p.is_file()):
        store.replace(file.relative_to(tree).as_posix(), file.read_bytes())
    return store
