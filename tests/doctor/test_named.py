"""What is looked at only where it is named: a judge's endpoint and key, the credentials of a storage."""

import json

import pytest

from raypipe.doctor.checks import Asked, Level
from raypipe.doctor.host import Answer
from raypipe.doctor.registry import examine
from tests.doctor.described import Described

LISTED = Answer(200, json.dumps({"data": [{"id": "judge-1"}, {"id": "other"}]}), None)


@pytest.fixture
def judge(tmp_path):
    """A yaml of a judge whose key lies in a file of mode 0600."""
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "judge.yaml").write_text(
        f"base_url: http://judge:1/v1\nmodel: judge-1\nkey_file: {tmp_path}/key\n"
    )
    return tmp_path / "judge.yaml"


def judged(judge, answer: Answer | None, *, mode: int = 0o600) -> list[tuple[str, str, str]]:
    machine = Described()
    machine.modes[str(judge.parent / "key")] = mode
    if answer is not None:
        machine.answers["token http://judge:1/v1/models"] = answer
    return [
        (str(f.level), f.found, f.fix)
        for f in examine(Asked(judge=str(judge)), machine=False, host=machine)
        if f.check == "judge"
    ]


def test_a_judge_that_is_well(judge):
    assert judged(judge, LISTED) == [("ok", "judge:1 takes the key and has judge-1", "")]


@pytest.mark.parametrize(
    ("answer", "level", "said"),
    [
        (None, "fail", "does not answer"),
        (Answer(401, "", None), "fail", "refuses the key"),
        (Answer(404, "", None), "warn", "lists no models"),
        (Answer(200, "<html>", None), "warn", "not with a list"),
        (Answer(200, json.dumps({"data": [{"id": "x"}]}), None), "fail", "no model 'judge-1': x"),
    ],
)
def test_a_judge_that_is_not(judge, answer, level, said):
    (found,) = judged(judge, answer)
    assert found[0] == level
    assert said in found[1]
    assert found[2]
    assert "secret" not in "".join(found)


def test_a_key_that_others_read_or_that_is_not_there(judge):
    assert [f[0] for f in judged(judge, LISTED, mode=0o644)] == ["fail", "ok"]
    (judge.parent / "key").unlink()
    (found,) = judged(judge, LISTED)
    assert found[0] == "fail"
    assert "cannot read the judge's key" in found[1]


S3 = Asked(data=("s3://bucket/data",))


@pytest.mark.parametrize(
    ("plant", "level", "said"),
    [
        (lambda m: m.environ.update(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b"), "ok", "environment"),
        (lambda m: m.environ.update(AWS_ACCESS_KEY_ID="a"), "fail", "without AWS_SECRET"),
        (lambda m: m.modes.update({"/home/me/.aws/credentials": 0o600}), "ok", "/home/me/.aws/credentials"),
        (lambda m: m.modes.update({"/home/me/.aws/credentials": 0o644}), "fail", "mode 0644"),
        (lambda m: m.ports.add(("169.254.169.254", 80)), "ok", "role of this machine"),
        (lambda m: None, "fail", "none:"),
    ],
)
def test_where_credentials_come_from(plant, level, said):
    machine = Described()
    plant(machine)
    (found,) = [f for f in examine(S3, machine=False, host=machine) if f.check == "S3 credentials"]
    assert str(found.level) == level
    assert said in found.found


def test_an_endpoint_that_is_gone():
    machine = Described()
    machine.environ |= {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_ENDPOINT_URL": "http://gone:1",
    }
    assert [f.fix for f in examine(S3, machine=False, host=machine) if f.level is not Level.OK] == [
        "unset it for AWS itself, or start it"
    ]
