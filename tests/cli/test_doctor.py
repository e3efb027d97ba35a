"""The doctor: every planted fault is found, none is made up, and nothing is written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe import cli
from raypipe.doctor import checks, decoding
from raypipe.doctor.host import WAIT_S, Host
from raypipe.doctor.show import WIDTH
from raypipe.media import decoders
from raypipe.prepare.near import forget
from raypipe.store.files import Store
from tests.support import reference_data
from tests.support.clips import talk


def doctor(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    forget()
    code = cli.main(["doctor", *argv, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


def about(*paths: str) -> list[dict[str, Any]]:
    return [{"video": p, "conversations": talk(f"<video>\nq{n}", "a")} for n, p in enumerate(paths)]


class Tree:
    """A data root with a dataset yaml for each annotation file."""

    def __init__(self, folder: Path) -> None:
        self.root, self.yamls = folder / "DATA_ROOT", folder / "yamls"
        self.root.mkdir(parents=True)
        self.yamls.mkdir()
        (self.yamls / "benchmarks.yaml").write_text("not: a dataset\n")

    def media(self, *paths: str, content: bytes = b"x") -> None:
        for path in paths:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(content)

    def dataset(self, name: str, records: list[Any] | bytes | None, **more: Any) -> None:
        values = {"name": name, "annotations": [f"{name}.json"], "data_root": "/nowhere", "out": "/nowhere"}
        (self.yamls / f"{name}.yaml").write_text(json.dumps({**values, "fetch": f"from {name}", **more}))
        if records is not None:
            data = records if isinstance(records, bytes) else json.dumps(records).encode()
            (self.root / f"{name}.json").write_bytes(data)

    def check(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
        before = snapshot(self.root)
        code, result = doctor(capsys, "--data-root", str(self.root), "--datasets", str(self.yamls))
        assert snapshot(self.root) == before
        assert result["ok"] == (code == 0)
        return code, {row["name"]: row for row in result["datasets"]}


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_tree_that_is_whole(tree, capsys):
    tree.media("a/1.mp4", "a/2.mp4", "b/1.mp4")
    tree.dataset("a", about("a/1.mp4", "a/2.mp4", "a/1.mp4"))
    tree.dataset("b", about("b/1.mp4"))
    tree.dataset("text", [{"conversations": talk("q", "a")}])
    tree.dataset("drawn", None, drawn={})
    tree.dataset("raw", None, reader="video_chatgpt")
    code, rows = tree.check(capsys)
    assert code == 0
    assert {n: r["state"] for n, r in rows.items()} == {
        "a": "ok",
        "b": "ok",
        "text": "ok",
        "raw": "not needed",
    }
    assert (rows["a"]["records"], rows["a"]["media"], rows["a"]["folders"]) == (3, 2, {"a": True})
    assert all(not r["examples"] for r in rows.values())


def test_every_planted_fault_is_found_and_no_other(tree, capsys):
    tree.media("case/Clip.mp4", "suffix/clip.avi", "group/1.mp4", *(f"few/{n}.mp4" for n in range(20)))
    tree.media("hollow/1.mp4", content=b"")
    tree.dataset("case", about("case/clip.mp4"))
    tree.dataset("suffix", about("suffix/clip.mp4"))
    tree.dataset("hollow", about("hollow/1.mp4"))
    tree.dataset("folder", about(*(f"folder/{n}.mp4" for n in range(5))))
    tree.dataset("few", about(*(f"few/{n}.mp4" for n in range(21))), error_budget=0.05)
    tree.dataset("bad", [*about("few/1.mp4"), {"conversations": []}, 5])
    tree.dataset("cut", b'[{"conversations": [\n')
    tree.dataset("gone", None)
    both = {"video": ["group/1.mp4", "group/2.mp4"], "conversations": talk("<video><video>q", "a")}
    tree.dataset("group", [both, *about("group/1.mp4")])
    code, rows = tree.check(capsys)
    assert code == 3
    states = {name: row["state"] for name, row in rows.items()}
    assert states.pop("few") == "within budget"
    assert states.pop("cut") == "unreadable"
    assert states.pop("gone") == "no annotations"
    assert set(states.values()) == {"over budget"}
    seen = {name: [(e["what"], e["name"], e["hint"]) for e in row["examples"]] for name, row in rows.items()}
    assert seen["case"] == [("missing", "case/clip.mp4", "did you mean 'case/Clip.mp4'?")]
    assert seen["suffix"] == [("missing", "suffix/clip.mp4", "did you mean 'suffix/clip.avi'?")]
    assert seen["hollow"] == [("empty", "hollow/1.mp4", "it has no bytes")]
    assert seen["folder"] == [("missing", f"folder/{n}.mp4", "no folder 'folder'") for n in range(3)]
    assert rows["folder"]["folders"] == {"folder": False}
    assert (rows["folder"]["missing"], rows["folder"]["share"]) == (5, 1.0)
    assert (rows["few"]["missing"], rows["few"]["lost"]) == (1, 1)
    assert (rows["bad"]["bad"], rows["bad"]["lost"], rows["bad"]["missing"]) == (2, 2, 0)
    assert [e[1].partition(":")[0] for e in seen["bad"]] == ["bad.json#1", "bad.json#2"]
    assert (rows["group"]["missing"], rows["group"]["lost"]) == (1, 1)
    assert "line 1, byte 1" in rows["cut"]["note"]
    assert "no such annotation file" in rows["gone"]["note"]
    assert rows["gone"]["fetch"] == "from gone"


def test_the_text_fits_a_terminal_and_says_where_to_fetch(tree, capsys):
    tree.dataset("gone", None, fetch="the page " * 40)
    tree.dataset("few", about("a/1.mp4", "a/2.mp4"))
    assert cli.main(["doctor", "--data-root", str(tree.root), "--datasets", str(tree.yamls)]) == 3
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if str(tree.root) not in line) <= WIDTH
    assert out.count("page") == 40
    assert "over its budget of 1 %" in out
    assert out.rstrip().endswith("0 of 2 datasets are ready; not ready: few, gone")


def test_the_real_tree(capsys):
    code, result = doctor(capsys, "--data-root", str(reference_data("real") / "DATA_ROOT"))
    rows = {row["name"]: row for row in result["datasets"]}
    assert code == 3
    assert {n for n, r in rows.items() if r["state"] != "ok"} == {"valley", "videochatgpt_raw"}
    assert rows["videochatgpt_raw"]["state"] == "not needed"
    assert [e["name"] for e in rows["valley"]["examples"]] == ["valley/missing_clip.mp4"]
    assert sum(r["records"] for r in rows.values()) == 12


def test_a_data_root_on_s3(s3_root, tree, capsys):
    import fsspec

    fs = fsspec.core.url_to_fs(s3_root)[0]
    fs.pipe_file(f"{s3_root}/text.json", json.dumps([{"conversations": talk("q", "a")}]).encode())
    fs.pipe_file(f"{s3_root}/clips.json", json.dumps(about("a/1.mp4", "a/2.mp4", "b/1.mp4")).encode())
    fs.pipe_file(f"{s3_root}/a/1.mp4", b"x")
    fs.pipe_file(f"{s3_root}/a/2.MP4", b"x")
    for name in ("text", "clips", "gone"):
        tree.dataset(name, None)
    code, result = doctor(capsys, "--data-root", s3_root, "--datasets", str(tree.yamls))
    assert code == 3
    rows = {r["name"]: r for r in result["datasets"]}
    assert {name: (r["state"], r["records"]) for name, r in rows.items()} == {
        "text": ("ok", 1),
        "clips": ("over budget", 3),
        "gone": ("no annotations", 0),
    }
    assert (rows["clips"]["missing"], rows["clips"]["folders"]) == (2, {"a": True, "b": False})
    assert [e["hint"] for e in rows["clips"]["examples"]] == ["did you mean 'a/2.MP4'?", "no folder 'b'"]
    assert doctor(capsys, "--data-root", f"{s3_root}/no", "--datasets", str(tree.yamls)) == (2, {})


@pytest.mark.parametrize(
    "argv",
    [
        ["word"],
        ["--data-root", "/no/such/folder"],
        ["--datasets", "datasets"],
        ["--data-root", ".", "--datasets", "/no/such/folder"],
        ["--eval-rot", "x"],
    ],
)
def test_a_wrong_request(argv, capsys):
    assert doctor(capsys, *argv) == (2, {})


@pytest.fixture
def waits(monkeypatch) -> dict[str, float]:
    """The seconds that each check lets others take at most: programs, ports, answers, the decoder's child."""
    most: dict[str, float] = {}
    current = threading.local()

    def noted(owner: Any, name: str, limit_s: Callable[..., float]) -> None:
        act = getattr(owner, name)

        def limited(*given: Any, **more: Any) -> Any:
            most[current.check] = most.get(current.check, 0.0) + limit_s(*given)
            return act(*given, **more)

        monkeypatch.setattr(owner, name, limited)

    guarded = checks._guarded

    def carried_out(check: checks.Check, *given: Any) -> list[checks.Finding]:
        current.check = check.name
        return guarded(check, *given)

    monkeypatch.setattr(checks, "_guarded", carried_out)
    for name in ("run", "fetch"):
        noted(Host, name, lambda *_: WAIT_S)
    noted(Host, "listens", lambda *_: 1.0)
    noted(decoding, "Sandbox", lambda limits: limits.timeout_s * limits.tries)
    return most


def test_this_machine(capsys, monkeypatch, tmp_path, waits):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    code, result = doctor(capsys)
    assert waits["decode child"] == max(waits.values()) < 10  # whatever hangs
    assert len(waits) <= checks.AT_ONCE  # and all that wait do so side by side
    findings = {f["check"]: f for f in result["findings"]}
    assert list(findings)[:2] == ["python", "packages"]  # in the order of the checks, whichever ends first
    assert len(findings) >= 28
    for check in ("python", "decoders", "decode child", "Ray token"):
        assert findings[check]["level"] == "ok", findings[check]
    assert all(f["fix"] for f in result["findings"] if f["level"] != "ok")
    assert code == (5 if any(f["level"] == "fail" for f in result["findings"]) else 0)


def broken_token(monkeypatch, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    return "Ray token", "chmod 600"


def broken_package(monkeypatch, tmp_path):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "1.0" if n == "pyarrow" else version(n))
    return "packages", "make setup"


def broken_decoder(monkeypatch, tmp_path):
    monkeypatch.setitem(decoders.WANTED, "Made-up", ("no_such_decoder",))
    return "decoders", "PyAV"


def broken_child(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    return "decode child", "process"


@pytest.mark.parametrize("breaks", [broken_token, broken_package, broken_decoder, broken_child])
def test_what_is_wrong_with_a_machine_is_found(breaks, monkeypatch, tmp_path, capsys):
    check, fix = breaks(monkeypatch, tmp_path)
    code, result = doctor(capsys)
    assert code == 5
    found = [f for f in result["findings"] if f["level"] == "fail" and f["check"] == check]
    assert len(found) == 1, result["findings"]
    assert fix in found[0]["fix"]


def test_a_store_is_tried_and_left_as_it_was(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "there", tmp_path / "new/er"):
        code, result = doctor(capsys, "--out", str(out))
        assert [f["level"] for f in result["findings"] if f["check"] == "store"] == ["ok"]
        assert code in (0, 5)  # the store is well; the machine may lack room
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(tmp_path / "there") == []


def test_a_store_on_s3(s3_root, tmp_path, tree, capsys):
    tree.dataset("text", [{"conversations": talk("q", "a")}])
    argv = ["--data-root", str(tree.root), "--datasets", str(tree.yamls), "--out", s3_root]
    code, result = doctor(capsys, *argv)
    assert {f["check"]: f["level"] for f in result["findings"]} == {"store": "ok", "S3 credentials": "ok"}
    assert code == 0
    assert Store(s3_root).list() == []


def test_a_store_that_cannot_be_used(tmp_path, monkeypatch, tree, capsys):
    (tmp_path / "file").write_text("")
    tree.dataset("text", [{"conversations": talk("q", "a")}])
    argv = ["--data-root", str(tree.root), "--datasets", str(tree.yamls), "--out"]
    code, result = doctor(capsys, *argv, str(tmp_path / "file/run"))
    assert (code, [f["level"] for f in result["findings"]]) == (5, ["fail"])

    def overwrite(self: Store, name: str, data: bytes, **more: Any) -> bool:
        self.replace(name, data)
        return True

    monkeypatch.setattr(Store, "put_new", overwrite)  # as stores do that ignore If-None-Match
    code, result = doctor(capsys, *argv, str(tmp_path / "run"))
    assert code == 5
    assert "second writer" in result["findings"][0]["found"]
    assert not (tmp_path / "run").exists()
