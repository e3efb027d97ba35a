"""What is read of real runs, and that a lost unit or a doubled answer in one of them is found."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from raypipe.chaos.case import Case, case_of
from raypipe.chaos.facts import expected_ids, facts_of
from raypipe.chaos.nemesis import committed
from raypipe.chaos.proof import compare
from raypipe.evaluate.run import evaluate, in_process
from raypipe.prepare.run import prepare
from raypipe.records import PREDICTION_SCHEMA, SAMPLE_SCHEMA
from raypipe.store.shards import encode
from tests.support.clips import data_root
from tests.support.eval_media import asking, eval_root
from tests.support.prepared import dataset, one_by_one
from tests.support.tampered import rewritten


def case(folder: Path, settings) -> Case:
    config = folder / "config.yaml"
    config.write_text(json.dumps(settings.model_dump(mode="json")))
    return case_of(str(config), [f"out={folder / 'scratch/run'}"], folder / "scratch", 4, str)


def failed(made: Case, clean, found) -> list[str]:
    checks = compare(made.verb, expected_ids(made), clean, found, made.exact)
    return [f"{c.name}: {c.detail}" for c in checks if not c.held]


def changed_rows(run: Path, folder: str, schema: pa.Schema, change) -> None:
    """Rows of one file changed by a raypipe that vouches for them: every hash is right."""
    manifest = json.loads((run / "manifest.json").read_text())
    entry = next(e for e in manifest["files"] if e["path"].startswith(folder))
    table = pa.ipc.open_file(str(run / entry["path"])).read_all()
    made = change(table)

    def count(body) -> None:
        next(e for e in body["files"] if e["path"] == entry["path"])["rows"] = made.num_rows

    rewritten(run, {entry["path"]: encode(pa.Table.from_pylist(made.to_pylist(), schema=schema))}, count)


def test_a_lost_sample_of_a_prepare_run(tmp_path):
    data_root(tmp_path / "data")
    made = case(tmp_path, dataset(tmp_path / "data", tmp_path / "real", error_budget=1.0))
    prepare(made.settings, execute=one_by_one)
    clean = facts_of(made, 0)
    assert len(clean.ids) == 4
    assert failed(made, clean, clean) == []
    assert {"settings.json", "manifest.json", "commit.json"} < clean.files.keys()
    assert committed(made) == len(list((made.out / "units").glob("*.json"))) > 0
    changed_rows(made.out, "samples/", SAMPLE_SCHEMA, lambda table: table.slice(1))
    found = "\n".join(failed(made, clean, facts_of(made, 0)))
    assert "each input is there exactly once: 3 of 4; 1 lost" in found
    assert "verify finds nothing" in found
    assert not (tmp_path / "real").exists()


def test_a_doubled_answer_of_an_evaluation(tmp_path, tiny_folder):
    root = eval_root(tmp_path / "eval")
    made = case(tmp_path, asking(root, tiny_folder, tmp_path / "real"))
    evaluate(made.settings, execute=in_process)
    clean = facts_of(made, 0)
    assert len(clean.ids) == 3 + 4  # the first four of each benchmark
    assert failed(made, clean, clean) == []
    assert committed(made) == 7
    changed_rows(
        made.out,
        "predictions/",
        PREDICTION_SCHEMA,
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    )
    found = "\n".join(failed(made, clean, facts_of(made, 0)))
    assert "each input is there exactly once: 8 of 7; 1 doubled" in found
    assert "byte for byte: 1 differ: predictions/" in found
    assert failed(made, clean, replace(clean, scores={"benchmarks": {}}))
