"""`raypipe cluster check` finds each planted weakness where it is, and none in the shipped files."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.cli import main
from raypipe.cluster_files.check import check
from raypipe.cluster_files.findings import Severity
from raypipe.cluster_files.rules import RULES
from raypipe.errors import RequestError
from tests.cluster_files.plants import AWS, JOB, KUBE, LOCAL, PLANTS, SETUP, Plant

REPO = Path(__file__).parents[2]
SHIPPED = (AWS, LOCAL, KUBE, JOB)
OUTSIDE_RULES = {"ray-schema", "ec2-model", "ec2-word", "kube-structure", "kube-unknown"}


def copied(tmp_path: Path) -> Path:
    shutil.copytree(REPO / "cluster", tmp_path / "cluster")
    shutil.copy(REPO / "cluster.yaml", tmp_path)
    return tmp_path


def planted(tmp_path: Path, plant: Plant) -> Path:
    here = copied(tmp_path)
    changed = here / (plant.policy or plant.file)
    text = changed.read_text()
    assert plant.old in text, f"{changed.name} no longer holds {plant.old!r}"
    assert plant.also[0] in text
    changed.write_text(text.replace(plant.old, plant.new, 1).replace(*plant.also, 1))
    return here


@pytest.mark.parametrize("file", SHIPPED)
def test_nothing_is_found_in_the_shipped_files(file: str) -> None:
    code, result = check(str(REPO / file))
    assert (code, result["ok"], result["findings"]) == (0, True, [])


@pytest.mark.parametrize("plant", PLANTS, ids=[f"{i}-{p.rule}" for i, p in enumerate(PLANTS)])
def test_a_planted_weakness_is_found_alone_and_where_it_is(tmp_path: Path, plant: Plant) -> None:
    here = planted(tmp_path, plant)
    code, result = check(str(here / plant.file))
    assert {f["rule"] for f in result["findings"]} == {plant.rule}
    severity = result["findings"][0]["severity"]
    assert code == (2 if severity == "fail" else 0)
    lines = (here / (plant.policy or plant.file)).read_text().splitlines()
    before = (REPO / (plant.policy or plant.file)).read_text().splitlines()
    for found in result["findings"]:
        assert found["file"] == str(here / (plant.policy or plant.file))
        assert found["said"]
        assert found["fix"]
        assert 1 <= found["line"] <= len(lines)
    if len(lines) >= len(before) and plant.rule not in ("ray-schema", "kube-structure"):
        added = {i for i, line in enumerate(lines, 1) if line not in before}
        assert any(_near(f["line"], added) for f in result["findings"]), (added, result["findings"])


def _near(line: int, added: set[int]) -> bool:
    return any(abs(line - a) <= 3 for a in added)


def test_every_rule_is_planted_and_has_a_name_of_its_own() -> None:
    ids = [r.id for r in RULES]
    assert len(ids) == len(set(ids))
    assert {p.rule for p in PLANTS} == set(ids) | OUTSIDE_RULES
    assert len(ids) >= 40
    assert all(r.fix and r.said for r in RULES)


def _ray_alone(document: dict[str, Any]) -> bool:
    """Does Ray's own check refuse it?"""
    from ray.autoscaler._private.util import prepare_config, validate_config

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            validate_config(prepare_config(copy.deepcopy(document)))
        except Exception:
            return True
    return False


def test_what_ray_alone_finds_of_the_planted(tmp_path: Path, record_property: Any) -> None:
    """The baseline: Ray's validator refuses what breaks its schema, and sees no weakness at all."""
    refused, weak = set(), 0
    launched = [p for p in PLANTS if p.file in (AWS, LOCAL) and not p.policy]
    for i, plant in enumerate(launched):
        weak += plant.rule not in OUTSIDE_RULES
        document = yaml.safe_load((planted(tmp_path / str(i), plant) / plant.file).read_text())
        if _ray_alone(document):
            refused.add(plant.rule)
    record_property("planted", len(launched))
    print(f"Ray's validator alone: 0 of {weak} weaknesses; it refuses only {sorted(refused)}")
    assert refused == {"ray-schema"}
    assert weak >= 50


DEFAULTS = {
    "aws": {
        "dashboard-public", "no-token-head", "no-token-worker", "group-by-ray", "role-by-ray", "metadata-v1",
        "disk-unencrypted", "ray-version", "pip-unpinned", "head-works", "kept-spot",
    },
    "gcp": {
        "dashboard-public", "no-token-head", "no-token-worker", "role-by-ray", "public-address",
        "ray-version", "pip-unpinned", "head-works",
    },
    "azure": {
        "dashboard-public", "no-token-head", "no-token-worker", "role-by-ray", "ssh-open", "ray-version",
        "pip-unpinned", "head-works",
    },
    "local": {"no-token-head", "no-token-worker", "head-works", "machine-left-out"},
}  # fmt: skip


@pytest.mark.parametrize("cloud", DEFAULTS)
def test_rays_own_defaults_are_flagged_for_what_they_lack(tmp_path: Path, cloud: str) -> None:
    import ray.autoscaler

    text = (Path(ray.autoscaler.__file__).parent / cloud / "defaults.yaml").read_text()
    if cloud == "local":  # Ray's file leaves the machines to the user
        text += "\nprovider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2]}\n"
    file = tmp_path / "defaults.yaml"
    file.write_text(text)
    code, result = check(str(file))
    assert {f["rule"] for f in result["findings"]} == DEFAULTS[cloud]
    assert code == 2


def test_what_a_file_leaves_out_is_rays_default(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text("cluster_name: a\nprovider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2]}\n")
    found = {f["rule"]: f for f in check(str(file))[1]["findings"]}
    assert found["no-token-head"]["place"] == "head_start_ray_commands[1] (Ray's default)"


def test_a_file_without_machines_is_checked_with_rays(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text("cluster_name: a\nprovider: {type: aws, region: us-west-2}\n")
    assert {f["rule"] for f in check(str(file))[1]["findings"]} == DEFAULTS["aws"]


def test_a_misspelt_key_gets_its_neighbour(tmp_path: Path) -> None:
    plants = {p.new: p for p in PLANTS if p.rule in ("ray-schema", "ec2-model", "ec2-word")}
    for i, (new, right) in enumerate(
        [("max_worker: 10 ", "max_workers"), ("VolumeSiz: 500", "VolumeSize"), ("gp33", "gp3")]
    ):
        plant = next(p for text, p in plants.items() if new in text)
        (found,) = check(str(planted(tmp_path / str(i), plant) / plant.file))[1]["findings"]
        assert f"did you mean '{right}'?" in found["fix"] + found["said"]


def test_a_secret_is_named_and_not_shown(tmp_path: Path) -> None:
    for i, plant in enumerate(p for p in PLANTS if p.rule == "secret-in-file"):
        _, result = check(str(planted(tmp_path / str(i), plant) / plant.file))
        told = json.dumps(result)
        for secret in (
            "0123456789abcdef",
            "AKIA",
            "gh0stpass",
            "hf_abc",
            "hunter2",
            "abcdefghijk",
            "abc-def",
        ):
            assert secret not in told


def test_values_to_edit_are_told_apart_from_weaknesses() -> None:
    result = check(str(REPO / AWS))[1]
    assert [p["value"] for p in result["to_edit"]] == [
        "ami-00000000000000000",
        "sg-00000000000000000",
        "fs-00000000",
        "edit-this-bucket",
    ]
    assert [p["value"] for p in check(str(REPO / LOCAL))[1]["to_edit"]] == [
        "192.0.2.10",
        "192.0.2.11",
        "192.0.2.12",
    ]
    assert [p["value"] for p in check(str(REPO / KUBE))[1]["to_edit"]] == ["registry.example.com"]


def test_the_check_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    before = {p: p.stat().st_mtime_ns for p in (REPO / "cluster").rglob("*")}
    for file in SHIPPED:
        check(str(REPO / file))
    assert list(home.iterdir()) == []
    assert {p: p.stat().st_mtime_ns for p in (REPO / "cluster").rglob("*")} == before


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "check", str(REPO / AWS)]) == 0
    told = capfd.readouterr()
    assert "no weakness" in told.out
    assert "edit 4 values" in told.out
    assert told.err == ""
    plant = next(p for p in PLANTS if p.rule == "dashboard-public")
    file = planted(tmp_path, plant) / plant.file
    assert main(["cluster", "check", str(file), "--json"]) == 2
    told = capfd.readouterr()
    result = json.loads(told.out)
    assert (result["ok"], result["fails"], result["findings"][0]["rule"]) == (False, 1, "dashboard-public")
    assert told.err == ""
    assert main(["cluster", "check", str(file)]) == 2
    told = capfd.readouterr()
    assert "--dashboard-host=127.0.0.1, and reach it with: ray dashboard FILE" in told.out
    assert max(len(line) for line in told.out.splitlines()[1:]) <= 100


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["cluster"], "cluster needs a command"),
        (["cluster", "chek", "a.yaml"], "did you mean 'check'?"),
        (["cluster", "check"], "takes one file"),
        (["cluster", "check", "none.yaml"], "no such file"),
        (["cluster", "check", ""], "no such file: ''"),
        (["cluster", "check", "a.yaml", "x=1"], "no option 'x'"),
    ],
)
def test_wrong_commands_are_answered(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_severities_are_two_words() -> None:
    assert {str(s) for s in Severity} == {"fail", "warn"}


def test_the_page_shows_what_the_check_of_the_shipped_file_says(capsys, monkeypatch):
    page = (REPO / "docs/cluster_files.md").read_text()
    shown = page.partition("$ raypipe cluster check cluster.yaml\n")[2].partition("```")[0]
    monkeypatch.chdir(REPO)
    assert main(["cluster", "check", "cluster.yaml"]) == 0
    assert capsys.readouterr().out == shown


def test_the_page_names_every_rule():
    page = (REPO / "docs/cluster_files.md").read_text()
    listed = page.partition("The rules (fail unless marked")[2].partition("Measured")[0]
    assert set(re.findall(r"[a-z0-9-]+", listed)) >= {rule.id for rule in RULES} | OUTSIDE_RULES
    assert f"3. {len(RULES)} rules about weaknesses" in page
    assert f"{len(PLANTS)} planted mistakes" in page


@pytest.mark.parametrize(
    "start",
    [
        'bash -lc "ray start --head --port=6379 --dashboard-host=127.0.0.1"',
        "socat TCP-LISTEN:8266,bind=127.0.0.1 TCP:127.0.0.1:8265 & python -m http.server --bind 127.0.0.1",
    ],
)
def test_loopback_is_no_weakness_however_it_is_written(tmp_path, start):
    here = copied(tmp_path)
    file = here / AWS
    text = file.read_text()
    lead = "RAY_AUTH_MODE=token ray start --head"
    if "ray start" in start:
        old = text[text.index(lead) : text.index("worker_start_ray_commands")].rstrip()
        file.write_text(text.replace(old, f"RAY_AUTH_MODE=token {start}"))
    else:
        file.write_text(text.replace(SETUP, f"{SETUP}  - {start}\n"))
    assert check(str(file))[1]["findings"] == []


@pytest.mark.parametrize(
    "command",
    [
        "curl -fsSLo i.sh https://host/i.sh && echo 'abc  i.sh' | sha256sum -c && bash i.sh",
        "wget https://host/a.tgz && tar xf a.tgz && python other.py",
        "curl -fs http://127.0.0.1:8265/api/version -o v.json",
        "pip install git+https://git.host/me/repo@0123abc 'b @ git+ssh://git@host/b.git@v1.2'",
        "pip install -c ~/raypipe_source/constraints.txt boto3",
        'echo "$RAY_TOKEN_OF_THE_SHELL" > ~/.ray/auth_token && chmod 600 ~/.ray/auth_token',
        "echo nothing-that-anybody-hides > ~/notes.txt && echo {} > ~/tokenizer_config.json",
        "echo nothing-that-anybody-hides > ~/tokenizer_config.json",
        "chmod -R go-rwx ~/.ray",
    ],
)
def test_what_is_done_with_care_is_no_weakness(tmp_path, command):
    here = copied(tmp_path)
    text = (here / AWS).read_text()
    (here / AWS).write_text(text.replace(SETUP, f"{SETUP}  - >-\n    {command}\n", 1))
    assert check(str(here / AWS))[1]["findings"] == []


@pytest.mark.parametrize(
    ("key", "place"), [("docker", "docker"), ("setup_commands", "setup_commands"), ("auth", "auth")]
)
def test_a_key_with_nothing_behind_it_is_named_with_its_fix(tmp_path, key, place):
    document = yaml.safe_load((REPO / AWS).read_text()) | {key: None}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(document))
    found = next(f for f in check(str(file))[1]["findings"] if f["rule"] == "ray-schema")
    assert found["place"] == place
    assert found["fix"]


@pytest.mark.parametrize(
    "text",
    [None, "", "[1]\n", "a: [\n", "a: 1\na: 2\n", "\xff", "x: 1\n", "provider: {type: aws}\n---\n{a: 1}\n"],
)
def test_what_is_no_clusters_file_is_answered_with_the_next_step(tmp_path, text):
    file = tmp_path / "mine.yaml"
    if text is None:
        file.mkdir()
    else:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RequestError) as fault:
        check(str(file))
    assert fault.value.remedy
    assert "Errno" not in fault.value.message


def test_what_a_file_says_cannot_steer_the_terminal(tmp_path, capsys):
    file = copied(tmp_path) / AWS
    image = 'image: "ray\\e]0;owned\\a:latest"'
    file.write_text(file.read_text().replace("image: rayproject/ray:", f"{image}  # "))
    assert any("\x1b]0;owned\x07" in found["said"] for found in check(str(file))[1]["findings"])
    main(["cluster", "check", str(file)])
    told = capsys.readouterr().out
    assert "owned" in told
    assert all(line.isprintable() for line in told.splitlines())


@pytest.mark.parametrize("secret", ["-u me:hunter2hunter2", "--user=me:hunter2", "-sSu 'me:hunter2 hunter2'"])
def test_a_command_is_shown_without_its_secrets(tmp_path, capsys, secret):
    file = copied(tmp_path) / AWS
    file.write_text(file.read_text().replace(SETUP, f"{SETUP}  - curl {secret} https://x.host/i.sh | bash\n"))
    for more in ([], ["--json"]):
        assert main(["cluster", "check", str(file), *more]) == 2
        told = capsys.readouterr().out
        assert "curl -" in told
        assert "hunter2" not in told
