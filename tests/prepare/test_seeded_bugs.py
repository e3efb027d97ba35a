"""Bugs put into the commit code on purpose: each is caught by a check that passes without it."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import RaypipeError, StoppedError
from raypipe.prepare import commit, work
from raypipe.prepare.run import prepare
from raypipe.store import objects
from raypipe.store.files import Store
from raypipe.store.process import Process
from raypipe.store.run import Run
from raypipe.store.verify import verify
from tests.prepare.test_kill_points import KILLED, Scenario, changed, fresh
from tests.support.kills import forked
from tests.support.mutation import mutated
from tests.support.prepared import NoSandbox, contents, dataset, one_by_one, prepared
from tests.support.whole import MORE, differing, proved, small_root, write_numbered


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch):
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(objects, "LONGEST_WAIT_S", 0.001)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # see kills._Disk


def _kills(make: Callable[[Path], Scenario], harm: str, wanted: Callable[[str], bool]):
    """A run harmed at some of its operations, as in the test of the kill points."""

    def check(folder: Path, _: str) -> None:
        scenario = make(folder)
        hit = [n for n, line in enumerate(scenario.operations, 1) if wanted(line)]
        assert len(hit) > 1
        for at in hit:
            scenario.reset()
            assert scenario.harmed(at, harm) == KILLED
            scenario.continues(f"{harm} at {scenario.operations[at - 1]}")

    return check


def _at_commit(line: str) -> bool:
    verb, name = line.split(" ", 1)
    return verb in ("replace", "unlink") and not name.endswith(".tmp")


def units_are_whole(folder: Path, _: str) -> None:
    _kills(fresh, "kill", lambda line: line.startswith("link"))(folder, _)


commits_are_whole = _kills(changed, "kill", _at_commit)
power_cuts_are_survived = _kills(
    fresh, "power", lambda line: line.startswith(("link", "fsync manifest", "fsync commit", "replace"))
)


def the_run_is_right(folder: Path, _: str) -> None:
    root = small_root(folder / "data")
    prepared(root, folder / "run", **MORE)
    proved(dataset(root, folder / "run", **MORE))


def the_next_run_is_right(folder: Path, _: str) -> None:
    changed(folder)


def several_units_are_right(folder: Path, _: str) -> None:
    root = write_numbered(folder / "data", {f"{n}.png": n for n in range(20)})
    prepared(root, folder / "run", **MORE)
    proved(dataset(root, folder / "run", **MORE))


def damaged_records_are_made_again(folder: Path, _: str) -> None:
    """A record that is torn in the middle, one of another unit, one without its shard."""
    root = write_numbered(folder / "data", {f"{n}.png": n for n in range(33)})
    prepared(root, folder / "run", **MORE)
    wanted = contents(folder / "run")
    units = [n for n in wanted if n.startswith("units/")]
    assert len(units) == 3
    shard = json.loads(wanted[units[2]])["file"]["path"]
    damage = [{units[0]: b'{"unit": "' + units[0][6:-5].encode() + b'"}\n'}, {units[0]: wanted[units[1]]}]
    for wrong in [*damage, {shard: None}]:
        for name, data in wrong.items():
            (folder / "run" / name).unlink()
            if data:
                (folder / "run" / name).write_bytes(data)
        prepared(root, folder / "run", **MORE)
        assert differing(contents(folder / "run"), wanted) == []


def damage_is_seen(folder: Path, _: str) -> None:
    root = write_numbered(folder / "data", {"1.png": 1})
    prepared(root, folder / "run", **MORE)
    shard = next((folder / "run/media").glob("*.arrow"))
    data = bytearray(shard.read_bytes())
    at = data.index(b"\x89PNG") + 20
    data[at] ^= 4
    shard.write_bytes(data)
    assert verify(str(folder / "run")).damage != []


def the_first_writer_wins(folder: Path, _: str) -> None:
    store = Store(str(folder))
    assert store.put_new("a", b"1")
    assert not store.put_new("a", b"2")
    assert store.read("a") == b"1"


def the_first_writer_wins_on_s3(_: Path, address: str) -> None:
    store = Store(address)
    assert store.put_new("a", b"1")
    assert not store.put_new("a", b"2")
    assert store.read("a") == b"1"


def a_second_driver_is_refused(folder: Path, _: str) -> None:
    """While the first one carries out its units, and of a process that is alive."""
    settings = dataset(write_numbered(folder / "data", {"1.png": 1}), folder / "run", **MORE)
    refused = 0

    def execute(units, unit_work):
        nonlocal refused
        code, _ = forked(lambda: prepared(folder / "data", folder / "run", **MORE))
        refused += code == 5
        return map(unit_work, units)

    prepare(settings, execute=execute)
    assert refused == 1


def _overtaken(place: Any, name: str) -> Callable[[Path, str], None]:
    """A driver is taken for dead at some place, another one finishes, then the first wakes up."""

    def check(folder: Path, _: str) -> None:
        settings = dataset(write_numbered(folder / "data", {"1.png": 1}), folder / "run", **MORE)
        before: list[dict[str, tuple[int, bytes]]] = []
        patch, real, gone = pytest.MonkeyPatch(), getattr(place, name), replace(Process.this(), started="1")

        def overtaken(*args: Any, **named: Any) -> Any:
            patch.undo()
            prepared(folder / "data", folder / "run", **MORE)
            before.append(_files(folder / "run"))
            return real(*args, **named)

        patch.setattr(Process, "this", classmethod(lambda _: gone))
        patch.setattr(place, name, overtaken)
        try:
            with pytest.raises(StoppedError):
                prepare(settings, execute=one_by_one)
        finally:
            patch.undo()
        assert len(before) == 1
        now = _files(folder / "run")
        if place is not Run:  # there it was in its last step, and wrote what was there
            assert now == before[0]
        assert {n: data for n, (_, data) in now.items()} == {n: data for n, (_, data) in before[0].items()}

    return check


def _files(run: Path) -> dict[str, tuple[int, bytes]]:
    found = [f for f in run.rglob("*") if f.is_file() and "driver" not in f.parts]
    return {str(f): (f.stat().st_ino, f.read_bytes()) for f in found}


overtaken_before_the_commit = _overtaken(commit, "outcome_of")
overtaken_in_the_last_step = _overtaken(Run, "commit")


@dataclass(frozen=True)
class Bug:
    """Where, what instead of what, and what catches it."""

    module: str
    changes: tuple[tuple[str, str], ...]
    check: Callable[[Path, str], None]


COMMIT, WORK, RUN, HELD = (
    "raypipe.prepare.commit",
    "raypipe.prepare.work",
    "raypipe.prepare.run",
    "raypipe.prepare.held",
)
PUT_SHARD = "    store.put_new(name, made.data)\n"
RECORD = """(json.dumps(record, sort_keys=True) + "\\n").encode()):"""

BUGS = {
    "the record before its shard": Bug(
        WORK,
        (
            (PUT_SHARD, "    vars(store)['later'] = lambda: store.put_new(name, made.data)\n"),
            (
                "        return read_record(store, unit.id) or record\n    return record",
                "        return read_record(store, unit.id) or record\n"
                "    if stored:\n        vars(store).pop('later')()\n    return record",
            ),
        ),
        units_are_whole,
    ),
    "the shard is never put": Bug(WORK, ((PUT_SHARD, ""),), the_run_is_right),
    "put_new overwrites": Bug("raypipe.store.disk", (("os.link(", "os.replace("),), the_first_writer_wins),
    "files are not synced": Bug(
        "raypipe.store.disk", (("            os.fsync(file)\n", ""),), power_cuts_are_survived
    ),
    "a removal is not synced": Bug(
        "raypipe.store.disk",
        (
            (
                '        with _refusals("remove", path):\n            _sync_folder(path)\n\n    def d',
                "\n    def d",
            ),
        ),
        _kills(changed, "power", _at_commit),
    ),
    "412 is a failure": Bug(
        "raypipe.store.objects",
        (('    if code == "PreconditionFailed" or status == 412 or (', "    if ("),),
        the_first_writer_wins_on_s3,
    ),
    "puts on S3 are unconditional": Bug(
        "raypipe.store.objects", ((', mode="create")', ")"),), the_first_writer_wins_on_s3
    ),
    "the commit record before the manifest": Bug(
        "raypipe.store.run",
        (
            ("        self.store.replace(MANIFEST, body)\n", ""),
            (
                "        self.store.replace(COMMIT, _dump(record))",
                "        self.store.replace(COMMIT, _dump(record))\n"
                "        self.store.replace(MANIFEST, body)",
            ),
        ),
        commits_are_whole,
    ),
    "the commit is not taken back": Bug(COMMIT, (("    run.reopen()\n", ""),), commits_are_whole),
    "swept before the commit is taken back": Bug(
        COMMIT,
        (
            ("    run.reopen()\n", ""),
            ("    sweep(run.store, files)\n", "    sweep(run.store, files)\n    run.reopen()\n"),
        ),
        commits_are_whole,
    ),
    "nothing is swept": Bug(COMMIT, (("    sweep(run.store, files)\n", ""),), the_next_run_is_right),
    "shards are swept before their records": Bug(
        COMMIT, (("(UNITS, MEDIA, PLAN", "(MEDIA, UNITS, PLAN"),), commits_are_whole
    ),
    "torn records count": Bug(
        HELD,
        (('if record["unit"] == unit and "file" in record and "aliases" in record else None', ""),),
        damaged_records_are_made_again,
    ),
    "records of other units count": Bug(
        HELD, (('record["unit"] == unit and ', ""),), damaged_records_are_made_again
    ),
    "records without their shards count": Bug(
        HELD, ((' if not r["file"] or r["file"]["path"] in shards', ""),), damaged_records_are_made_again
    ),
    "verify looks at no hash": Bug(
        "raypipe.store.verify",
        (('(size, digest) != (entry["bytes"], entry["sha256"])', 'size != entry["bytes"]'),),
        damage_is_seen,
    ),
    "carried rows keep their keys": Bug(
        WORK, (("replace(rows[m.row], key=m.key, path=m.path)", "rows[m.row]"),), the_next_run_is_right
    ),
    "aliases lead to another row": Bug(
        WORK, (("(medium.kind, medium.sha256)", "(medium.kind, medium.kind)"),), the_run_is_right
    ),
    "rejected records are in no quarantine": Bug(
        COMMIT, (("[*rejections, *result.bad.values()]", "[*result.bad.values()]"),), the_run_is_right
    ),
    "samples of bad media are dropped": Bug(
        COMMIT, (("    rejections.append(Rejection(clip.id", "    str(Rejection(clip.id"),), the_run_is_right
    ),
    "units are named without their media": Bug(
        "raypipe.prepare.units",
        (("Unit(fingerprint(how, [m.key for m in ordered])", "Unit(fingerprint(how)"),),
        the_next_run_is_right,
    ),
    "the index is not sorted": Bug(
        COMMIT, (("keys = sorted(places)", "keys = list(places)[::-1]"),), several_units_are_right
    ),
    "the index leads to the next block": Bug(
        COMMIT,
        (
            (
                'enumerate(zip(record["keys"], record["blocks"]',
                'enumerate(zip(record["keys"], record["blocks"][::-1]',
            ),
        ),
        several_units_are_right,
    ),
    "the lease is not sealed": Bug(
        RUN,
        (("            lease.seal()\n", ""), ("            lease.finish()\n", "")),
        overtaken_in_the_last_step,
    ),
    "the commit does not look at the lease": Bug(
        COMMIT, (("    check()\n    run.reopen()\n", "    run.reopen()\n"),), overtaken_before_the_commit
    ),
    "a living driver is taken for dead": Bug(
        "raypipe.store.lease",
        (("        if process.alive():\n            raise _refusal(store, holder)\n", ""),),
        a_second_driver_is_refused,
    ),
    "no lease is taken": Bug(
        "raypipe.store.lease",
        (("if newest and not _over(store, newest, names, who, body):", "if False:"),),
        a_second_driver_is_refused,
    ),
}


# A bug may also end the run with an error, which is as good as a wrong result that is seen.
CAUGHT = (AssertionError, KeyError, ValueError, FileNotFoundError, pytest.fail.Exception, RaypipeError)


@pytest.fixture(scope="module")
def sound() -> set[Callable]:
    """The checks that have passed without a bug."""
    return set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_caught(tmp_path, request, sound, name):
    bug = BUGS[name]
    on_s3 = bug.check is the_first_writer_wins_on_s3
    address = request.getfixturevalue("s3_root") if on_s3 else ""
    if bug.check not in sound:
        bug.check(tmp_path / "sound", f"{address}/sound")
        sound.add(bug.check)
    with (
        mutated(bug.module, *bug.changes),
        pytest.raises(CAUGHT) as caught,
    ):
        bug.check(tmp_path / "bug", f"{address}/bug")
    print(f"{name}: {' '.join(str(caught.value).split())[:150]}")
