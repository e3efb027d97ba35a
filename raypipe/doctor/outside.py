"""Checks of what lies outside this machine, only where the command line names it: storage and a judge."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

from raypipe.doctor.checks import Asked, Check, Finding, fail, ok, warn
from raypipe.doctor.host import Host
from raypipe.errors import RaypipeError
from raypipe.judge.endpoint import base_url_of, find_key, host_of
from raypipe.settings import EvaluateSettings, JudgeSettings, build, expanded, load, local, read_yaml
from raypipe.store.files import Store

METADATA = "169.254.169.254"  # where a machine of AWS is told who it is


def store(_: Host, asked: Asked) -> Iterator[Finding]:
    """Whether a store can be written, and lets only one of two writers make a name; leaves nothing."""
    if asked.out is None:
        return
    new = _new_folders(asked.out)
    where, name = Store(asked.out), f"doctor-{uuid.uuid4().hex}"
    try:
        created = where.put_new(name, b"first")
        again = where.put_new(name, b"second")
        kept = where.read(name)
    finally:
        with contextlib.suppress(OSError, RaypipeError):
            where.delete(name)
        for folder in new:
            with contextlib.suppress(OSError):  # not made, or somebody has put something into it
                folder.rmdir()
    if created and not again and kept == b"first":
        yield ok("store", f"{where.root} is written, and creates a name only once")
    else:
        found = f"{where.root} lets a second writer replace what the first made"
        fix = "use a store with conditional writes (If-None-Match), or a local disk: two runs could mix"
        yield fail("store", found, fix)


def credentials(host: Host, asked: Asked) -> Iterator[Finding]:
    """Where the S3 client takes its credentials from, in its own order."""
    if not any(place.startswith("s3://") for place in (asked.out or "", *asked.data)):
        return
    name, have = "S3 credentials", host.environ
    file = have.get("AWS_SHARED_CREDENTIALS_FILE") or f"{host.home()}/.aws/credentials"
    mode = host.mode(file)
    if have.get("AWS_ACCESS_KEY_ID"):
        if have.get("AWS_SECRET_ACCESS_KEY"):
            yield ok(name, "from the environment (AWS_ACCESS_KEY_ID)")
        else:
            yield fail(name, "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY", "set both, or neither")
    elif mode is not None and mode & 0o077:
        yield fail(name, f"{file} has mode {mode:04o}", f"chmod 600 {file}")
    elif mode is not None:
        yield ok(name, f"from {file}")
    elif have.get("AWS_WEB_IDENTITY_TOKEN_FILE") or have.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        yield ok(name, "the role of this pod or container")
    elif host.listens(80, METADATA):
        yield ok(name, "the role of this machine")
    else:
        fix = "aws configure, or run on a machine with a role that may read and write the bucket"
        yield fail(name, "none: no variables, no file, no role", fix)
    endpoint = have.get("AWS_ENDPOINT_URL_S3") or have.get("AWS_ENDPOINT_URL")
    if endpoint and host.fetch(endpoint) is None:
        yield fail(
            name, f"AWS_ENDPOINT_URL={endpoint} does not answer", "unset it for AWS itself, or start it"
        )


def judge(host: Host, asked: Asked) -> Iterator[Finding]:
    """The key is there and closed, the endpoint takes it and has the model: one request, which is free."""
    if asked.judge is None:
        return
    settings = _judge_settings(asked.judge)
    yield from _key_file(host, settings)
    key = find_key(settings)
    url = base_url_of(settings).rstrip("/") + "/models"
    answer = host.fetch(url, {"Authorization": f"Bearer {key}"})
    where = host_of(settings)
    if answer is None:
        yield fail(
            "judge", f"{where} does not answer", "is the address right, and may this machine reach it?"
        )
    elif answer.status in (401, 403):
        yield fail(
            "judge", f"{where} refuses the key ({answer.status})", "set key_file or key_env to a valid key"
        )
    elif answer.status != 200:
        fix = "the address ends as the API's does, mostly in /v1"
        yield warn(
            "judge", f"{where} lists no models (it answers {answer.status}): the model is not checked", fix
        )
    else:
        yield _listed(settings, where, answer.body)


def _key_file(host: Host, settings: JudgeSettings) -> Iterator[Finding]:
    if settings.key_file is None:
        return
    file = local(settings.key_file)
    mode = host.mode(file)
    if mode is not None and mode & 0o077:
        yield fail(
            "judge", f"the key's file {file} has mode {mode:04o}", f"chmod 600 {file}: it is worth money"
        )


def _listed(settings: JudgeSettings, where: str, body: str) -> Finding:
    try:
        names = [str(row["id"]) for row in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return warn(
            "judge", f"{where} answers, but not with a list of models", "is it an OpenAI-compatible endpoint?"
        )
    if settings.model in names:
        return ok("judge", f"{where} takes the key and has {settings.model}")
    some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return fail(
        "judge", f"{where} has no model '{settings.model}': {some or 'none'}", "set model to one that it has"
    )


def _judge_settings(said: str) -> JudgeSettings:
    """Of an address, or of a yaml that is or holds a judge's settings.

    Raises:
        RequestError: neither, or an evaluation without a judge.
    """
    if not said.endswith((".yaml", ".yml")):
        return build(JudgeSettings, {"base_url": said}, "--judge")
    if "eval_root" in read_yaml(expanded(said)):
        return load(EvaluateSettings, said).judge or JudgeSettings()
    return load(JudgeSettings, said)


def _new_folders(address: str) -> list[Path]:
    """The folders that writing there would make, innermost first."""
    path = Path(local(address))
    return [] if "://" in address else [p for p in (path, *path.parents) if not p.exists()]


CHECKS = (Check("store", store), Check("S3 credentials", credentials), Check("judge", judge))
