"""cluster.yaml passes Ray's own schema check offline, keeps to safe defaults, uploads no secret."""

from __future__ import annotations

import copy
import re
import shlex
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
FILE = REPO / "cluster.yaml"


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def check(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_it(raw: dict[str, Any]) -> None:
    assert check(raw)["head_node_type"] == "head"


def test_the_check_refuses_what_ray_does_not_know(raw: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="max_worker"):
        check({**raw, "max_worker": 2})


def test_node_configs_are_what_ec2_takes(raw: dict[str, Any]) -> None:
    """Ray's schema does not look into node_config; EC2's own model, which botocore holds, does."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    for node in raw["available_node_types"].values():
        report = ParamValidator().validate({**node["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), report.generate_report()


def test_the_head_takes_no_work_and_workers_come_and_go(raw: dict[str, Any]) -> None:
    types = raw["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    for name in ("gpu", "cpu"):
        assert types[name]["min_workers"] == 0
        assert types[name]["max_workers"] <= raw["max_workers"]
    assert types["gpu"]["resources"]["GPU"] == 8
    assert "GPU" not in types["cpu"]["resources"]


def test_every_ray_start_asks_for_the_token(raw: dict[str, Any]) -> None:
    commands = raw["head_start_ray_commands"] + raw["worker_start_ray_commands"]
    starts = [c for c in commands if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in c for c in starts)
    assert "-e RAY_AUTH_MODE=token" in raw["docker"]["run_options"]
    assert raw["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    head = next(c for c in starts if "--head" in c)
    assert "--dashboard-host=127.0.0.1" in head
    assert "dashboard-host=0" not in head


def test_docker_gets_the_options_as_they_are_meant(raw: dict[str, Any]) -> None:
    """Ray joins the options with spaces and hands them to a shell."""
    from ray.autoscaler._private.docker import docker_start_cmds

    options = (
        raw["docker"]["run_options"] + raw["available_node_types"]["gpu"]["docker"]["worker_run_options"]
    )
    mounts = raw["file_mounts"]
    image = raw["docker"]["image"]
    command = docker_start_cmds("ubuntu", image, mounts, "raypipe", options, "raypipe", "/home/ray", "docker")
    words = shlex.split(command)
    pairs = list(pairwise(words))
    assert ("-e", "RAY_AUTH_MODE=token") in pairs
    assert ("-v", "/mnt/raypipe:/home/ray/raypipe") in pairs
    assert ("--ulimit", "nofile=65536:65536") in pairs
    assert "--shm-size=256g" in words
    assert words[-2:] == [image, "bash"]
    token = next(after for word, after in pairs if word == "-v" and after.endswith("auth_token"))
    assert token.endswith(":/home/ray/.ray/auth_token")


def test_the_image_has_the_ray_of_the_constraints(raw: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(.+)$", (REPO / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert raw["docker"]["image"].startswith(f"rayproject/ray:{pinned.group(1)}-py311")


def test_the_shared_folder_is_where_the_jobs_look(raw: dict[str, Any]) -> None:
    assert any(o.endswith(":/home/ray/raypipe") for o in raw["docker"]["run_options"])


def test_constraints_are_exact_versions_without_addresses() -> None:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9][\w.-]*==[0-9][\w.]*", p) for p in pins)
    names = [p.partition("==")[0].lower() for p in pins]
    assert len(names) == len(set(names))
    assert "raypipe" not in names


def test_an_upload_leaves_out_data_and_secrets(tmp_path: Path) -> None:
    """Ray packs a working directory by .rayignore; what is private or large stays here."""
    from ray._private.runtime_env.packaging import create_package

    here = tmp_path / "repo"
    kept = ("raypipe/cli.py", "jobs/finetune.py", "datasets/valley.yaml", "constraints.txt")
    left = (".venv/bin/x", ".git/config", "runs/demo/a.json", "tests/a.py", "x/clip.mp4", "judge.key", ".env")
    for name in (*kept, *left):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("x")
    (here / ".rayignore").write_bytes((REPO / ".rayignore").read_bytes())
    package = tmp_path / "package.zip"
    create_package(str(here), package, include_gitignore=True)
    with zipfile.ZipFile(package) as archive:
        names = {n for n in archive.namelist() if not n.endswith("/")}
    assert names - {".rayignore"} == set(kept)
