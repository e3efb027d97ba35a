"""verify: proves a whole run, and finds every kind of damage."""

import json
import shutil

import pytest

from raypipe import cli
from raypipe.store.verify import verify
from tests.support.prepared import contents
from tests.support.tampered import damage, rewritten


def test_a_whole_run_is_proved(run, capsys):
    proof = verify(str(run))
    assert proof.damage == []
    assert (proof.inputs, proof.rows) == (8, 8 + 7 + 15)  # samples, media, index
    assert cli.main(["verify", str(run)]) == 0
    assert "8 inputs" in capsys.readouterr().out


def test_a_flipped_byte_in_any_file_is_found(run):
    files = contents(run)
    kinds = {name.split("/")[0] for name in files}
    assert kinds == {
        *("settings.json", "manifest.json", "quarantine.jsonl", "commit.json", "index.arrow"),
        *("media", "samples", "units", "plan"),
    }
    missed = []
    for name, data in files.items():
        if not data:  # an empty quarantine: a byte more is the smallest change
            places = [(b"\n", "added")]
        else:
            spots = {0, len(data) // 2, len(data) - 2}
            places = [(data[:p] + bytes([data[p] ^ 1]) + data[p + 1 :], p) for p in spots]
        for changed, place in places:
            (run / name).write_bytes(changed)
            if not damage(run) and not _only_how(name, data, changed):
                missed.append((name, place))
        (run / name).write_bytes(data)
    assert missed == []
    assert damage(run) == []


def _only_how(name: str, before: bytes, after: bytes) -> bool:
    """A change of white space or of how the run was carried out changes nothing that was made."""
    if name != "settings.json":
        return False
    old, new = json.loads(before), json.loads(after)
    return {**old, "settings": None} == {**new, "settings": None} and old != new


def test_a_changed_identity_in_the_settings_is_found(run):
    body = json.loads((run / "settings.json").read_text())
    body["settings"]["sampling"]["frames"] = 4
    (run / "settings.json").write_text(json.dumps(body))
    assert damage(run) == ["settings.json: not the settings this run was started with"]


def test_a_missing_file_is_found(run):
    for name, data in contents(run).items():
        if name in ("settings.json", "commit.json"):
            continue  # without these it is no finished run, and said to be none
        (run / name).unlink()
        assert damage(run), name
        (run / name).write_bytes(data)


@pytest.mark.parametrize("name", ["media/x.arrow", "samples/x.arrow", "units/x.json", "media/notes.txt"])
def test_an_extra_file_is_found(run, name):
    (run / name).write_bytes(b"1")
    assert damage(run) == [f"{name}: not named in the manifest"]


def test_a_changed_manifest_is_found(run):
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["totals"]["ok"] += 1
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert damage(run) == ["manifest.json: not what commit.json recorded"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["totals"].update(ok=7), "do not add up"),
        (lambda m: m["totals"].update(ok=7, inputs=7), "8 rows are stored, the totals say 7"),
        (lambda m: m["totals"].update(quarantined=1, inputs=9), "quarantine holds 0 inputs, the manifest 1"),
        (lambda m: next(f for f in m["files"] if "samples" in f["path"]).update(rows=9), "manifest says 9"),
        (lambda m: m["files"].pop(0), "not named in the manifest"),
        (lambda m: m["files"].append({**m["files"][0], "path": "media/no"}), "media/no: missing"),
    ],
)
def test_wrong_counts_are_found(run, change, said):
    rewritten(run, {}, change)
    assert any(said in line for line in damage(run)), damage(run)


def test_a_sample_in_two_places_is_found(run):
    samples = next(f for f in contents(run) if f.startswith("samples/"))
    shutil.copy(run / samples, run / "samples/again.arrow")

    def listed_too(manifest):
        entry = next(f for f in manifest["files"] if f["path"] == samples)
        manifest["files"].append({**entry, "path": "samples/again.arrow"})
        manifest["totals"].update(ok=16, inputs=16)

    rewritten(run, {}, listed_too)
    assert sum("stored twice" in line for line in damage(run)) == 8


def test_damage_ends_with_exit_code_6_and_few_lines(run, capsys):
    for name in contents(run):
        if name.startswith("media/"):
            (run / name).write_bytes(b"gone")
    assert cli.main(["verify", str(run)]) == 6
    text = capsys.readouterr().err
    assert "content differs from its hash" in text
    assert len(text.splitlines()) <= 8
    assert cli.main(["verify", str(run), "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_the_remedy_repairs(whole, tmp_path, capsys):
    """What the message advises: remove the damaged files and commit.json, and run the same command again."""
    from tests.support.prepared import prepared

    run = tmp_path / "run"
    prepared(whole.parent / "data", run)
    before = contents(run)
    broken = next(n for n in before if n.startswith("media/"))
    (run / broken).write_bytes(before[broken][:-1])
    assert damage(run)
    (run / broken).unlink()
    (run / "commit.json").unlink()
    prepared(whole.parent / "data", run)
    assert damage(run) == []
    assert contents(run) == before
