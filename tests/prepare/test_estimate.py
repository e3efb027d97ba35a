"""What `raypipe plan` foretells is what prepare then does."""

import json
from pathlib import Path

import pytest

from raypipe import cli
from raypipe.prepare.estimate import estimate, render
from raypipe.settings import Rendition
from tests.support.clips import data_root, write_annotations
from tests.support.prepared import contents, dataset, prepared


@pytest.fixture
def root(tmp_path) -> Path:
    records = data_root(tmp_path / "data")
    write_annotations(tmp_path / "data", [*records, {"conversations": []}, {**records[0], "video": "no.mp4"}])
    return tmp_path / "data"


def test_counts_are_exact_and_nothing_is_written(root, tmp_path):
    jpeg = {"rendition": Rendition(short_side=32), "error_budget": 1.0}
    plan = estimate(dataset(root, tmp_path / "run", **jpeg))
    assert not (tmp_path / "run").exists()
    assert (plan["records"], plan["bad_records"]) == (10, 1)
    assert plan["samples"] == {"both": 1, "image": 2, "text": 1, "video": 5}
    assert plan["media"] == {"video": 5, "image": 3}
    assert (plan["media_missing"], plan["media_to_decode"], plan["media_committed"]) == (1, 8, 0)
    assert plan["bytes_to_read"] == sum(f.stat().st_size for f in root.rglob("*.*") if f.suffix != ".json")
    assert plan["cpu_s"] > 0
    totals = prepared(root, tmp_path / "run", **jpeg)
    assert (totals["inputs"], totals["media"], totals["media_quarantined"]) == (10, 8, 1)
    stored = sum(len(d) for n, d in contents(tmp_path / "run").items() if n.startswith("media/"))
    assert 0.3 * stored < plan["out_bytes"] < stored  # frames alone; the rest of a shard is small rows here
    again = estimate(dataset(root, tmp_path / "run", **jpeg))
    assert (again["media_to_decode"], again["media_committed"], again["units"]) == (0, 7, 0)


def test_a_reused_run_is_counted(root, tmp_path):
    prepared(root, tmp_path / "one", error_budget=1.0)
    plan = estimate(dataset(root, tmp_path / "two", reuse=[str(tmp_path / "one")]))
    assert (plan["media_taken_over"], plan["media_to_decode"]) == (7, 1)


def test_the_command_line_says_it(root, tmp_path, capsys):
    yaml = tmp_path / "set.yaml"
    yaml.write_text(f"name: d\ndata_root: {root}\nannotations: [tune.json]\nout: {tmp_path / 'run'}\n")
    assert cli.main(["plan", str(yaml)]) == 0
    text = capsys.readouterr().out
    assert "nothing is started" in text
    assert "10 (1 both, 2 image, 1 text, 5 video), 1 bad" in text
    assert max(map(len, text.splitlines())) <= 110 + len(str(tmp_path))
    assert cli.main(["plan", str(yaml), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 10
    assert cli.main(["plan", str(yaml), f"data_root={tmp_path / 'no'}"]) == 2
    stage = tmp_path / "stage.yaml"
    stage.write_text("name: s\nlayers: []\n")
    assert cli.main(["plan", str(stage)]) == 2
    assert "no kind that plan knows" in capsys.readouterr().err


def test_a_dataset_of_text_alone_needs_no_media(tmp_path):
    write_annotations(tmp_path, data_root(tmp_path)[-1:])
    plan = estimate(dataset(tmp_path, tmp_path / "run"))
    assert (plan["media"], plan["cpu_s"], plan["units"]) == ({}, 0, 0)
    assert "none" in render(plan)
