"""Paths that not every node shares are refused before anything starts. A node is a root in front of paths."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from raypipe.errors import RequestError, ServiceError
from raypipe.shared import Answer, Look, Marker, look, marked, refuse_unshared


class Nodes:
    """Nodes by name, each with a root of its own; one that shares the driver's disk has none."""

    def __init__(self, **roots: str) -> None:
        self.roots, self.asked = roots, 0

    def __call__(self, looks: Sequence[Look]) -> Mapping[str, Sequence[Answer]]:
        self.asked += 1
        return {name: look(looks, root) for name, root in self.roots.items()}


def left_in(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.name.startswith(".")]


def test_nodes_that_share_the_folder_pass_and_nothing_stays(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.json").write_text("[]")
    nodes = Nodes(one="", two="")
    refuse_unshared([str(tmp_path / "runs/new")], [str(tmp_path / "data")], nodes)
    assert nodes.asked == 1
    assert left_in(tmp_path) == []
    assert not (tmp_path / "runs").exists()


def test_a_node_with_a_disk_of_its_own_is_named_with_the_path(tmp_path):
    other = tmp_path / "disk-of-two"
    out = tmp_path / "runs/new"
    for twin in (False, True):  # the folder is missing there, or another one is there under the same name
        if twin:
            (other / str(tmp_path / "runs").lstrip("/")).mkdir(parents=True)
            (tmp_path / "runs").mkdir()
        with pytest.raises(RequestError) as refused:
            refuse_unshared([str(out)], [], Nodes(one="", two=str(other), three=str(other)))
        assert str(out) in refused.value.message
        assert "two: not shared" in refused.value.message
        assert "three: not shared" in refused.value.message
        assert "one:" not in refused.value.message
        assert "s3://" in refused.value.remedy
        assert left_in(tmp_path) == []


def test_a_copy_that_is_frozen_in_time_is_not_the_same_folder(tmp_path):
    """A node's snapshot has the marker, but what it writes does not come back."""
    out, other = tmp_path / "run", tmp_path / "snapshot"
    out.mkdir()

    def ask(looks):
        shutil.copytree(tmp_path / "run", str(other) + str(out))
        return {"two": look(looks, str(other))}

    with pytest.raises(RequestError, match="what it writes there is not seen here"):
        refuse_unshared([str(out)], [], ask)


def test_a_folder_that_a_node_cannot_write_is_refused(tmp_path):
    (tmp_path / "run").mkdir()

    def ask(looks):
        return {"two": [Answer("Read-only file system")]}

    with pytest.raises(RequestError, match="two: Read-only file system"):
        refuse_unshared([str(tmp_path / "run")], [], ask)


def test_what_is_only_read_may_be_a_copy(tmp_path):
    data, other = tmp_path / "data", tmp_path / "disk-of-two"
    data.mkdir()
    for name in ("a.json", "b.json"):
        (data / name).write_text("[]")
    copy = Path(str(other) + str(data))
    nodes = Nodes(two=str(other))
    with pytest.raises(RequestError, match="two: it is not there"):
        refuse_unshared([], [str(data)], nodes)
    copy.mkdir(parents=True)
    (copy / "a.json").write_text("[]")
    with pytest.raises(RequestError, match=r"two: b\.json is not there"):
        refuse_unshared([], [str(data)], nodes)
    (copy / "b.json").write_text("[]")
    refuse_unshared([], [str(data)], nodes)


def test_addresses_and_what_is_not_there_ask_nobody(tmp_path):
    nodes = Nodes(two="/no/such/root")
    refuse_unshared(["s3://bucket/run"], ["s3://bucket/data", "", str(tmp_path / "no_such")], nodes)
    assert nodes.asked == 0


def test_many_nodes_are_not_all_listed(tmp_path):
    nodes = Nodes(**{f"n{i:02d}": "/no/such/root" for i in range(40)})
    with pytest.raises(RequestError) as refused:
        refuse_unshared([str(tmp_path / "run")], [], nodes)
    assert "and 34 more" in refused.value.message
    assert len(refused.value.render().splitlines()) <= 8


def test_a_folder_that_the_driver_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="cannot write"):
        refuse_unshared(["/proc/no/such/run"], [], Nodes(one=""))


def test_a_fault_of_asking_is_not_taken_for_one_of_the_disk(tmp_path):
    def ask(looks):
        raise ConnectionError("the cluster is gone")

    with pytest.raises(ConnectionError):
        refuse_unshared([str(tmp_path / "run")], [], ask)
    assert left_in(tmp_path) == []


def test_what_a_node_wrote_and_we_may_not_remove_is_no_refusal(tmp_path, monkeypatch):
    """As in a folder with the sticky bit, where nodes work as another user."""
    real, kept = Path.unlink, []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name.count(".tmp-"):
            kept.append(path.name)
            raise PermissionError(1, "Operation not permitted")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    refuse_unshared([str(tmp_path / "run")], [], Nodes(one=""))
    assert len(kept) == 1


def test_a_worker_that_joins_later_looks_for_itself(tmp_path):
    with marked(str(tmp_path)) as marker:
        marker.check()
        assert marker.before(lambda x: x + 1)(1) == 2
        elsewhere = Marker(str(tmp_path), str(tmp_path / "of/another/disk"))
        with pytest.raises(RequestError, match="is not the folder of the driver"):
            elsewhere.check()
        assert len(left_in(tmp_path)) == 1
    assert left_in(tmp_path) == []
    with pytest.raises(RequestError):
        marker.check()
    with marked("s3://bucket/run") as nothing:
        nothing.check()
    assert os.listdir(tmp_path) == []
