"""What the doctor says of the cluster that RAY_ADDRESS names, where that is no address or holds a secret."""

from __future__ import annotations

import json

import pytest

from raypipe import cli
from raypipe.doctor.access import CHECKS
from raypipe.doctor.checks import Asked, Finding, Level, carried_out
from tests.doctor.described import Described


def alarms(named: str) -> list[Finding]:
    host = Described()
    host.environ = {**Described().environ, "RAY_ADDRESS": named}
    return [finding for finding in carried_out(CHECKS, host, Asked()) if finding.level is not Level.OK]


@pytest.mark.parametrize(
    "named",
    [
        *("127.0.0.1:99999999", "127.0.0.1:abc", "ray://x:y", "http://[::1", "http://127.0.0.1:abc"),
        *("http://", "head:6379/x", ":6379", "s3://bucket/x", "http://head:0"),
    ],
)
def test_what_is_no_address_is_said_once_with_what_to_write(named):
    (found,) = alarms(named)
    assert (found.check, str(found.level)) == ("RAY_ADDRESS", "fail")
    assert found.found == f"'{named}' is no address"
    assert "http://HOST:8265" in found.fix
    assert "HOST:6379" in found.fix


def test_credentials_in_it_are_refused_as_submit_refuses_them():
    (found,) = alarms("http://me:sekret12@head:8265")
    assert "credentials" in found.found
    assert "RAY_AUTH_TOKEN_PATH" in found.fix
    assert "sekret12" not in str(found.row())


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_no_secret_of_an_address_is_shown(capsys, tmp_path, more):
    (tmp_path / "d.yaml").write_text("name: d\ndata_root: x\nannotations: [a.json]\nout: x\n")
    shown = ["doctor", "--data-root", str(tmp_path), "--datasets", str(tmp_path), *more]
    for out in ("s3://AKIAABCDEFGHIJKLMNOP:sek/ret12@b/x", "s3://me:sek.ret12@b/x"):
        assert cli.main([*shown, "--out", out]) == 5
        said = capsys.readouterr()
        assert "***" in said.out
        assert "ret12" not in said.out + said.err
    if more:
        assert json.loads(said.out)["findings"][0]["level"] == "fail"
