"""Prepare on Ray: what it makes, and what is left of it when workers, decoders and drivers are killed."""

import contextlib
import json
import os
import random
import shutil
import signal
import threading
import time
import urllib.request
import uuid
from collections import Counter
from pathlib import Path

import pytest

from raypipe.errors import BudgetError, ServiceError
from raypipe.prepare.on_ray import TRIES, on_ray
from raypipe.prepare.run import prepare
from raypipe.records import Reason
from raypipe.settings import DecodeLimits, Rendition, Sampling
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.verify import verify
from tests.support.clips import data_root, talk, write_annotations, write_clip, write_image
from tests.support.driver import Driver
from tests.support.hooked import Hooked, Killer, marks
from tests.support.kills import SEED
from tests.support.prepared import contents, dataset, one_by_one, prepared
from tests.support.s3 import environment, new_bucket
from tests.support.whole import differing, proved, write_numbered

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture
def root(tmp_path) -> Path:
    """Eight short clips and forty images: eleven units."""
    clips = [write_clip(tmp_path / f"data/c{n}.mp4", 5 + n) for n in range(8)]
    records = [{"video": c.name, "conversations": talk("<video>\nq", "a")} for c in clips]
    return write_numbered(tmp_path / "data", {f"{n}.png": n for n in range(40)}, *records)


def hooked(folder: Path, **more):
    """The executor: units on Ray that leave their marks in a folder."""
    folder.mkdir(exist_ok=True)

    def execute(units, work):
        return on_ray(units, Hooked(work.store, work.plan, work.settings, str(folder), **more))

    return execute


def undisturbed(settings) -> dict[str, bytes]:
    """What an in-process run makes in the same place; the place is empty again afterwards."""
    prepare(settings, execute=one_by_one)
    made = contents(Path(settings.out))
    shutil.rmtree(settings.out)
    return made


def test_ray_makes_the_same_bytes(ray_local, tmp_path):
    data_root(tmp_path / "data")
    settings = dataset(tmp_path / "data", tmp_path / "run")
    wanted = undisturbed(settings)
    for concurrency in (None, 1):
        prepare(settings.model_copy(update={"concurrency": concurrency}))
        made = contents(tmp_path / "run")
        # How it was carried out stands in the settings.
        assert differing(made, wanted) == ([] if concurrency is None else ["settings.json"])
        assert verify(settings.out).damage == []
        shutil.rmtree(settings.out)


def test_workers_killed_at_work_cost_one_unit_each(ray_local, tmp_path, root):
    settings = dataset(root, tmp_path / "run", media_per_shard=1, error_budget=1.0)
    wanted = undisturbed(settings)
    killer = Killer(tmp_path / "marks", 3)
    execute = hooked(tmp_path / "marks", slow_s=0.4)
    killer.start()
    try:
        prepare(settings, execute=execute)
    finally:
        killer.stop.set()
        killer.join()
    attempts = marks(tmp_path / "marks")
    hit = [m for m in attempts if not m.ended]  # a unit that was in progress when its worker was killed
    assert len(killer.killed) == 3
    assert len(hit) >= 1
    assert {m.pid for m in hit} <= {m.pid for m in killer.killed}
    tries = Counter(m.unit for m in attempts)
    assert len(tries) == len(Store(settings.out).list("units"))
    assert sum(tries.values()) - len(tries) <= len(killer.killed)  # done again: at most one unit a kill
    assert differing(contents(tmp_path / "run"), wanted) == []
    assert verify(settings.out).damage == []


def test_decoders_killed_at_work_cost_nothing(ray_local, tmp_path):
    root = write_numbered(tmp_path / "data", {f"slow{n}.png": n for n in range(4)})
    settings = dataset(root, tmp_path / "run", media_per_shard=1)
    wanted = undisturbed(settings)
    killed: dict[str, int] = {}
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.02):
            for file in root.glob("*.child-*"):
                name, _, pid = file.name.rpartition(".child-")
                if name not in killed:  # the first child of each medium only
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                        killed[name] = int(pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        totals = prepare(settings, execute=hooked(tmp_path / "marks", harmful=True))
    finally:
        stop.set()
        killer.join()
    children = Counter(f.name.rpartition(".child-")[0] for f in root.glob("*.child-*"))
    assert children == dict.fromkeys(killed, 2)  # each had a second child
    assert len(killed) == 4
    assert totals["media_quarantined"] == 0
    assert differing(contents(tmp_path / "run"), wanted) == []


def test_a_unit_that_ends_every_worker_ends_the_run(ray_local, tmp_path):
    root = write_numbered(tmp_path / "data", {"1.png": 1})
    settings = dataset(root, tmp_path / "run")
    with pytest.raises(ServiceError, match=f"worker died {TRIES} times") as fault:
        prepare(settings, execute=hooked(tmp_path / "marks", deadly=True))
    assert fault.value.exit_code == 5
    assert len(marks(tmp_path / "marks")) == TRIES
    assert not Run(settings.out).complete
    assert prepare(settings)["ok"] == 1
    proved(settings)


def test_poison_among_good_media_is_quarantined_by_its_reason(ray_local, tmp_path):
    images = {f"good{n}.png": n for n in range(54)}
    poison = {
        **dict.fromkeys(("segv1.png", "segv2.png", "segv3.png"), Reason.DECODER_CRASHED),
        "hang.png": Reason.DECODER_TIMEOUT,
        **dict.fromkeys(("eat1.png", "eat2.png"), Reason.DECODER_MEMORY),
    }
    images |= {name: 100 + n for n, name in enumerate(poison)}
    root = write_numbered(tmp_path / "data", images)
    limits = DecodeLimits(timeout_s=4)
    settings = dataset(root, tmp_path / "run", media_per_shard=1, limits=limits, error_budget=0.05)
    with pytest.raises(BudgetError) as fault:
        prepare(settings, execute=hooked(tmp_path / "marks", harmful=True))
    assert fault.value.result["ok"] == 54
    quarantine = Run.open(settings.out).quarantine()
    found = {r["path"]: r["reason"] for r in quarantine if r["what"] == "medium"}
    assert found == {name: reason.value for name, reason in poison.items()}
    assert sorted(r["path"] for r in quarantine if r["what"] == "sample") == sorted(poison)
    proved(settings)


def test_the_counters_are_exported(ray_local, tmp_path):
    import ray

    name = f"counted_{uuid.uuid4().hex[:8]}"
    data_root(tmp_path / "data")
    (tmp_path / "data/pictures/p2.png").write_bytes(b"no picture")
    totals = prepare(dataset(tmp_path / "data", tmp_path / "run", name=name, error_budget=1.0))
    node = next(n for n in ray.nodes() if n["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, found = time.monotonic() + 90, Counter[str]()
    while found["ok"] < totals["media_ok"] and time.monotonic() < deadline:
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            found = _counted(urllib.request.urlopen(url, timeout=10).read().decode(), name)
    assert found["ok"] == totals["media_ok"]
    assert found["media_unreadable"] == totals["media_quarantined"] == 1
    assert found["frames"] == totals["frames"]
    assert found["source_bytes"] > 1000


def _counted(text: str, dataset_name: str) -> Counter[str]:
    """What all workers counted of a dataset."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        if not line.startswith("ray_raypipe_prepare_") or f'dataset="{dataset_name}"' not in line:
            continue
        label, _, value = line.rpartition(" ")
        metric = label.partition("{")[0].removeprefix("ray_raypipe_prepare_").removesuffix("_total")
        outcome = label.partition('outcome="')[2].partition('"')[0]
        found[outcome or metric] += int(float(value))
    return found


def driver_of(yaml: Path, log: Path, **more: str) -> Driver:
    return Driver(["-m", "raypipe.cli", "prepare", str(yaml)], log, **more)


# Many exact frames take so long that a driver which is told to stop does so before all is done.
LONG_UNITS = {"sampling": Sampling(frames=48), "rendition": Rendition(short_side=96, codec="lossless")}


def _yaml(file: Path, data: object, out: object) -> Path:
    settings = {
        "name": "killed",
        "data_root": str(data),
        "annotations": ["tune.json"],
        "out": str(out),
        "media_per_shard": 1,
        **{name: value.model_dump() for name, value in LONG_UNITS.items()},
    }
    file.write_text(json.dumps(settings))  # JSON is YAML
    return file


def _clips(root: Path, count: int) -> list[dict]:
    records = []
    for number in range(count):
        write_clip(root / f"c{number}.mp4", 60 + number, (160, 96))
        records.append({"video": f"c{number}.mp4", "conversations": talk("<video>\nq", f"{number}")})
    write_annotations(root, records)
    return records


def test_a_driver_killed_or_stopped_continues(tmp_path):
    """At three seeded places it is killed, then told to stop in both ways, then left alone."""
    root, out = tmp_path / "data", tmp_path / "run"
    _clips(root, 20)
    yaml = _yaml(tmp_path / "killed.yaml", root, out)
    prepared(root, out, name="killed", media_per_shard=1, **LONG_UNITS)
    wanted = contents(out)
    shutil.rmtree(out)
    places = sorted(random.Random(SEED).sample(range(1, 13), 5))
    ends = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT]
    committed: dict[str, tuple[int, int]] = {}
    for place, how in zip(places, ends, strict=True):
        driver = driver_of(yaml, tmp_path / "log")
        driver.wait_for(out / "units", max(place, len(committed) + 1))
        os.kill(driver.process.pid, how)
        code = driver.ended()
        said = driver.log.read_text()[-3000:]
        assert code == (-signal.SIGKILL if how is signal.SIGKILL else 4), said
        assert how is signal.SIGKILL or ("error: stopped" in said and "Traceback" not in said), said
        assert not (out / "commit.json").exists()
        now = {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in (out / "units").glob("*.json")}
        assert committed.items() <= now.items()  # none was made again
        assert len(committed) < len(now) < 20, f"{how} came too late at {place}"
        committed = now
    driver = driver_of(yaml, tmp_path / "log")
    assert driver.ended() == 0, driver.log.read_text()[-3000:]
    now = {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in (out / "units").glob("*.json")}
    assert committed.items() <= now.items()
    assert len(now) == 20
    assert differing(contents(out), wanted) == []
    assert verify(str(out)).damage == []


def test_from_s3_to_s3_on_ray(tmp_path, s3_server, s3_root):
    records = _clips(tmp_path / "data", 3)
    write_image(tmp_path / "data/p.png", 7)
    records.append({"image": "p.png", "conversations": talk("<image>\nWhich?", "number 7")})
    write_annotations(tmp_path / "data", records)
    source = f"s3://{new_bucket(s3_server)}/data"
    for file in (tmp_path / "data").iterdir():
        Store(source).replace(file.name, file.read_bytes())
    out = f"{s3_root}/run"
    driver = driver_of(_yaml(tmp_path / "s3.yaml", source, out), tmp_path / "log", **environment(s3_server))
    assert driver.ended() == 0, driver.log.read_text()[-3000:]
    proof = verify(out)
    assert (proof.damage, proof.inputs) == ([], 4)
    assert len(Store(out).list("media")) == 4
