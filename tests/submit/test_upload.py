"""What leaves the machine: looked at in the package that Ray makes."""

from __future__ import annotations

import io
import os
import socket
import zipfile
from pathlib import Path

import pytest

from raypipe import cli
from raypipe.errors import RequestError
from raypipe.submit.upload import EXCLUDES, MIB, chosen, package
from tests.support import ROOT
from tests.support.job_server import Planned, job_server  # noqa: F401 - a fixture

KEPT = (
    "mine.yaml",
    "jobs/prepare.yaml",
    "raypipe/text/tokenizer.py",
    "data/a.json",
    "prompts/judge.txt",
    "docs/a.md",
    ".config/mine.yaml",
    "pempem",
)
LEFT = (
    *(
        ".env",
        ".env.local",
        "judge.key",
        "judge_key",
        "deep/tls.pem",
        "id_rsa",
        "id_ed25519.pub",
        ".ssh/config",
    ),
    *(".aws/credentials", ".ray/auth_token", "auth_token", "secrets/anything", ".netrc", "hf.token"),
    *(
        ".docker/config.json",
        "home/.config/gcloud/application_default_credentials.json",
        ".boto",
        ".htpasswd",
    ),
    *(".config/gcloud/credentials.db",),
    *(
        "videos/a.txt",
        "clips/b.mp4",
        "deep/c.MKV",
        "deep/V.Mp4",
        "x.PEM",
        "deep/key.P8",
        "model.safetensors",
        "w/pytorch_model.bin",
        "x.ckpt",
    ),
    *(
        "shard.arrow",
        "t.parquet",
        "data.tar.gz",
        "data.zip",
        ".venv/bin/python",
        "venv/x",
        "env/x",
        ".git/HEAD",
    ),
    *(
        "node_modules/x",
        "a/__pycache__/x.pyc",
        ".mypy_cache/x",
        "runs/finetune/settings.json",
        "prepared/a/x",
    ),
    *("wandb/x", "x.egg-info/y"),
)


def fill(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def packed(root: Path) -> set[str]:
    uri, data = package(chosen(root))
    assert uri.startswith("gcs://_ray_pkg_")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {n for n in archive.namelist() if not n.endswith("/")}


def test_a_users_own_folder_without_any_ignore_file(tmp_path):
    fill(tmp_path, (*KEPT, *LEFT))
    assert packed(tmp_path) == set(KEPT)
    assert set(chosen(tmp_path).sizes) == set(KEPT)  # what is weighed is what is sent


def test_ignore_files_of_any_depth_hold_beside(tmp_path):
    fill(tmp_path, (*KEPT, *LEFT, "notes.txt", "deep/er/big.dat", "deep/er/kept.dat", "scratch/x"))
    (tmp_path / ".gitignore").write_text("scratch/\n")
    (tmp_path / ".rayignore").write_text("notes.txt\n")
    (tmp_path / "deep/er/.rayignore").write_text("big.*\n")
    more = {".gitignore", ".rayignore", "deep/er/.rayignore", "deep/er/kept.dat"}
    assert packed(tmp_path) == {*KEPT, *more}
    assert set(chosen(tmp_path).sizes) == {*KEPT, *more}


def test_this_repository_fits_and_holds_what_a_job_needs(tmp_path):
    upload = chosen(ROOT)
    assert upload.bytes < 10 * MIB
    assert upload.holds("raypipe/cli.py")
    assert upload.holds("jobs/finetune.yaml")
    assert not upload.holds("tests/conftest.py")


def test_what_is_too_large_is_named(tmp_path):
    fill(tmp_path, ("a.yaml", "b/c.txt"))
    with open(tmp_path / "b/big.dat", "wb") as file:
        file.truncate(3 * MIB)
    with pytest.raises(RequestError, match=r"largest: b/ \(3\.0 MiB\), a\.yaml \(0\.0 MiB\)"):
        chosen(tmp_path, limit_mib=2)
    assert chosen(tmp_path, limit_mib=4).bytes > 3 * MIB


def test_too_many_files_end_the_walk(tmp_path, monkeypatch):
    monkeypatch.setattr("raypipe.submit.upload.MAX_FILES", 10)
    fill(tmp_path, tuple(f"frames/{n}.jpg" for n in range(12)))
    with pytest.raises(RequestError, match="more than 10 files to upload; most: frames"):
        chosen(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n",
        "key: sk-" + "a1" * 20,
        "AKIA" + "ABCDEFGH12345678",
        "ASIA" + "ABCDEFGH12345678",
        "AIza" + "Sy0123456789" * 3,
        "hf_" + "aB3" * 12,
        "ghp_" + "a" * 36,
        "github_pat_" + "1aB_" * 12,
        "glpat-" + "1aB-" * 6,
        "nvapi-" + "1aB-" * 12,
        "xoxb-" + "1234567890-abc",
        "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0In0.abc",
    ],
)
def test_a_key_in_a_file_of_any_name_stays(tmp_path, text):
    (tmp_path / "notes.txt").write_text("a line\n" + text)
    with pytest.raises(RequestError, match=r"notes\.txt, line 2, looks as if it held a key") as refused:
        chosen(tmp_path)
    assert text[10:25] not in refused.value.render()
    (tmp_path / ".rayignore").write_text("notes.txt\n")
    assert set(chosen(tmp_path).sizes) == {".rayignore"}


@pytest.mark.parametrize(("head", "refused"), [("plain text\n", True), ("\x89PNG\0\0", False)])
def test_a_large_text_is_looked_through_to_its_end(tmp_path, head, refused):
    text = head + "no key, but sk-, risk-averse-and-long-enough-for-one and AKIA\n" * (3 * MIB // 60)
    (tmp_path / "notes.txt").write_text(text)
    assert chosen(tmp_path).bytes > 2 * MIB
    (tmp_path / "notes.txt").write_text(text + "sk-" + "a1" * 20)
    if refused:
        with pytest.raises(RequestError, match=r"notes\.txt, line \d+, looks as if it held a key"):
            chosen(tmp_path)
    else:  # media and weights are no texts
        assert chosen(tmp_path).bytes > 2 * MIB


def test_names_that_begin_as_keys_do_are_none(tmp_path):
    (tmp_path / "page.html").write_text("<a class='sk-estimator-doc-link sk-toggleable__content-arrow'>")
    (tmp_path / "known_hosts").write_text("host sk-ecdsa-sha2-nistp256@openssh.com AAAA")
    assert set(chosen(tmp_path).sizes) == {"page.html", "known_hosts"}


def test_a_link_out_of_the_folder_is_weighed_too(tmp_path):
    outside, here = tmp_path / "outside", tmp_path / "here"
    fill(outside, ("big/x.dat",))
    with open(outside / "big/x.dat", "wb") as file:
        file.truncate(3 * MIB)
    here.mkdir()
    os.symlink(outside / "big", here / "link")
    with pytest.raises(RequestError, match=r"link/ \(3\.0 MiB\)"):
        chosen(here, limit_mib=2)


def test_a_pipe_is_named_and_a_socket_stays(tmp_path, monkeypatch):
    """Ray would wait for a pipe's writer for ever."""
    fill(tmp_path, ("a.yaml", "deep/er/x"))
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as at:
        at.bind("agent")
    os.mkfifo(tmp_path / "deep/queue")
    with pytest.raises(RequestError, match=r"deep/queue is a pipe or a device; nothing was uploaded"):
        chosen(tmp_path)
    os.unlink(tmp_path / "deep/queue")
    os.symlink("/dev/zero", tmp_path / "deep/endless")
    with pytest.raises(RequestError, match=r"deep/endless is a pipe or a device"):
        chosen(tmp_path)
    (tmp_path / ".rayignore").write_text("endless\n")
    assert packed(tmp_path) == {".rayignore", "a.yaml", "deep/er/x"}


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"caf\xe9/a.txt"])
def test_a_name_that_is_not_utf8_is_named(tmp_path, name):
    file = tmp_path / os.fsdecode(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    with pytest.raises(RequestError, match=r"'caf.udce9.*' is not UTF-8") as refused:
        chosen(tmp_path)
    assert refused.value.render().isascii()
    (tmp_path / ".rayignore").write_text("caf*\n")
    assert packed(tmp_path) == {".rayignore"}


@pytest.mark.parametrize("file", [".gitignore", "deep/.rayignore", "deep/er/.gitignore", ".venv/.gitignore"])
@pytest.mark.parametrize(
    ("text", "reason"), [(b"caf\xe9\n", "it is not UTF-8"), (b"x\n!\n", "a line is no pattern")]
)
def test_an_ignore_file_that_is_none_is_named(tmp_path, file, text, reason):
    fill(tmp_path, ("a.yaml", "deep/er/x", ".venv/x", ".venv/lib/x"))
    (tmp_path / ".venv/lib/.gitignore").write_bytes(text)  # not reached: another one is at fault
    (tmp_path / file).write_bytes(text)
    with pytest.raises(RequestError) as refused:
        chosen(tmp_path)
    assert refused.value.message == f"{file} cannot be read as patterns: {reason}"


def test_nothing_is_sent_when_the_upload_is_refused(capsys, tmp_path, monkeypatch, job_server):  # noqa: F811
    fill(tmp_path, ("notes.txt",))
    (tmp_path / "notes.txt").write_text("sk-" + "a1" * 20)
    (tmp_path / "d.yaml").write_text("name: d\ndata_root: /d\nannotations: [a.json]\nout: /shared/d\n")
    monkeypatch.chdir(tmp_path)
    job_server.planned = [Planned()]
    assert cli.main(["submit", "prepare", "d.yaml"]) == 2
    assert "nothing was uploaded" in capsys.readouterr().err
    assert not any(call.startswith(("PUT", "POST")) for call in job_server.calls)


def test_ray_job_submit_leaves_out_the_same():
    """The repository's .rayignore, which Ray's own command reads, names what submit leaves out."""
    lines = (ROOT / ".rayignore").read_text().splitlines()
    assert set(EXCLUDES) <= set(lines)
