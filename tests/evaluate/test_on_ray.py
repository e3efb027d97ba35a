"""Evaluations on Ray: the same bytes as in one process, whatever number of actors and whatever dies."""

from __future__ import annotations

import os
import shutil
import signal
import time
import urllib.request
import uuid
from collections import Counter
from pathlib import Path

import pytest

from raypipe.errors import RequestError, ServiceError
from raypipe.evaluate import attempts, on_ray
from raypipe.evaluate.plan import make_plan
from raypipe.evaluate.run import evaluate, in_process
from raypipe.evaluate.work import Work
from raypipe.records import Reason
from raypipe.settings import DecodeLimits, EvaluateSettings
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.verify import verify
from tests.support.driver import Driver
from tests.support.eval_media import asking, eval_root
from tests.support.evaluated import (
    PLACE,
    answers_of,
    clip_root,
    committed,
    hooked,
    made_by,
    settings_file,
    tries_at,
)
from tests.support.hooked import Killer, marks
from tests.support.kills import ALL
from tests.support.whole import differing

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def settings_of(root: Path, model: Path, out: Path, **more) -> EvaluateSettings:
    return asking(root, model, out, **{"benchmarks": ["msvd_qa"], "coverage_floor": 0.0, **more})


def undisturbed(settings, execute=in_process) -> dict[str, bytes]:
    """What an in-process run makes in the same place; the place is empty again afterwards."""
    evaluate(settings, execute=execute)
    made = made_by(Path(settings.out))
    shutil.rmtree(settings.out)
    return made


def test_ray_makes_the_same_bytes(ray_local, tiny_folder, tmp_path):
    root = eval_root(tmp_path / "eval")
    settings = asking(root, tiny_folder, tmp_path / "run")
    wanted = undisturbed(settings)
    for actors in (1, "1-4"):
        evaluate(settings.model_copy(update={"actors": actors}))
        assert differing(made_by(tmp_path / "run"), wanted) == []
        assert verify(settings.out).damage == []
        shutil.rmtree(settings.out)


@pytest.mark.parametrize("step", ["answer", "read"])
def test_a_worker_killed_at_work_costs_no_answer(ray_local, tiny_folder, tmp_path, step):
    root = clip_root(tmp_path / "eval", [f"c{n}" for n in range(8)])
    settings = settings_of(root, tiny_folder, tmp_path / "run")
    wanted = undisturbed(settings, hooked(tmp_path / "before", in_process))
    slow = {"slow_s": 0.3} if step == "answer" else {"slow_to_read_s": 0.3}
    with Killer(tmp_path / f"marks/{step}", 2) as killer:
        evaluate(settings, execute=hooked(tmp_path / "marks", **slow))
    assert len(killer.killed) == 2
    tried = Counter(m.unit for m in marks(tmp_path / f"marks/{step}"))
    assert len(tried) == 8
    # Two threads of an actor take units in; what a kill ends is at most what they hold.
    assert 1 <= tried.total() - len(tried) <= 2 * len(killer.killed)
    assert differing(made_by(tmp_path / "run"), wanted) == []
    assert verify(settings.out).damage == []


def test_a_medium_that_ends_every_worker_is_lost_alone(ray_local, tiny_folder, tmp_path):
    """One unit of six clips: one of them ends whoever answers about it, another one whoever reads it."""
    root = clip_root(tmp_path / "eval", [f"c{n}" for n in range(4)] + ["worst", "bad"])
    settings = settings_of(root, tiny_folder, tmp_path / "run")
    evaluate(settings, execute=hooked(tmp_path / "before", in_process))
    wanted = answers_of(tmp_path / "run")
    shutil.rmtree(settings.out)
    execute = hooked(tmp_path / "marks", deadly="in worst", deadly_to_read="bad.mp4")
    whole = settings.model_copy(update={"media_per_unit": 16})
    evaluate(whole, execute=execute)
    found = answers_of(tmp_path / "run")
    assert found.pop("worst_0")[:2] == ("", "failed")
    assert found.pop("bad_0")[:2] == ("", "medium_bad")
    assert found == {name: wanted[name] for name in found}
    assert len(found) == 4
    for step in ("read", "answer"):  # twice whole, once alone: then it is known
        tried = Counter(m.unit for m in marks(tmp_path / f"marks/{step}"))
        assert list(tried.values()) == [attempts.WHOLE + 2]
    assert Store(settings.out).list(attempts.FOLDER) == []
    assert verify(settings.out).damage == []


def test_poison_among_good_clips_costs_their_questions_alone(ray_local, tiny_folder, tmp_path):
    """Ten of five hundred (seven of forty here) crash, hang, or want too much memory; R4."""
    poison = {
        **{f"segv{n}": Reason.DECODER_CRASHED for n in range(4 if ALL else 3)},
        **{f"hang{n}": Reason.DECODER_TIMEOUT for n in range(3 if ALL else 1)},
        **{f"eat{n}": Reason.DECODER_MEMORY for n in range(3)},
    }
    good = [f"c{n}" for n in range(490 if ALL else 33)]
    root = clip_root(tmp_path / "eval", [*good, *poison])
    more = {"media_per_unit": 8, "limits": DecodeLimits(timeout_s=4)}
    settings = settings_of(root, tiny_folder, tmp_path / "run", **more)
    evaluate(settings, execute=hooked(tmp_path / "clean", in_process))  # with the decoder as it is
    wanted = answers_of(tmp_path / "run")
    assert {o for _, o, _ in wanted.values()} == {"ok"}
    shutil.rmtree(settings.out)
    evaluate(settings, execute=hooked(tmp_path / "marks", harmful=True))
    found = answers_of(tmp_path / "run")
    bad = {name: found.pop(f"{name}_0") for name in poison}
    assert {name: detail.partition(":")[0] for name, (_, _, detail) in bad.items()} == {
        name: reason.value for name, reason in poison.items()
    }
    assert {outcome for _, outcome, _ in bad.values()} == {"medium_bad"}
    assert found == {name: wanted[name] for name in found}
    assert len(found) == len(good)
    tries = tries_at(root / PLACE)
    assert set(tries) == {f"{name}.mp4" for name in poison}
    assert max(tries.values()) == 2
    assert {r["reason"] for r in Run.open(settings.out).quarantine()} == {r.value for r in poison.values()}
    assert verify(settings.out).damage == []


def test_a_fault_of_the_store_keeps_its_kind(ray_local, tiny_folder, tmp_path):
    root = clip_root(tmp_path / "eval", ["a", "b"])
    settings = settings_of(root, tiny_folder, tmp_path / "run")

    def execute(units, work):
        Path(settings.out, "thumbs").write_text("a file where a folder has to be")
        return hooked(tmp_path / "marks")(units, work)

    with pytest.raises(ServiceError, match="thumbs"):
        evaluate(settings, execute=execute)


def test_too_few_cpus_are_refused_at_once(ray_local, tiny_folder, tmp_path):
    import ray

    root = clip_root(tmp_path / "eval", ["a"])
    cpus = int(ray.cluster_resources()["CPU"])
    for actors, cpus_each, said in (
        (cpus, 1.0, "for reading"),
        (cpus + 1, 1.0, "needs"),
        (1, cpus, "leave 0"),
    ):
        settings = settings_of(root, tiny_folder, tmp_path / "run", actors=actors, actor_cpus=cpus_each)
        with pytest.raises(RequestError, match=said):
            evaluate(settings)
    assert on_ray._room(settings_of(root, tiny_folder, tmp_path, actors=1)).read_cpus >= 0.25


def test_operators_are_named_and_counted(ray_local, tiny_folder, tmp_path):
    """What the dashboard shows: two operators by their names, and the counters of their workers."""
    import ray

    root = clip_root(tmp_path / "eval", ["a", "b"])
    (root / PLACE / "videos/b.mp4").write_bytes(b"no video")
    name = f"counted-{uuid.uuid4().hex[:8]}"
    settings = settings_of(root, tiny_folder, tmp_path / name, media_per_unit=2)
    plan = make_plan(settings)
    work = Work(settings, plan.tree.media)
    plan_text = repr(on_ray.stream_of(plan.units, work, on_ray.Room(1, 1, 0.5)))
    assert "Map(read media)" in plan_text
    assert "Map(answer)" in plan_text
    node = next(n for n in ray.nodes() if n["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def counted() -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for line in urllib.request.urlopen(url, timeout=10).read().decode().splitlines():
            if line.startswith("ray_raypipe_evaluate_") and f'run="{name}"' in line:
                label, _, value = line.rpartition(" ")
                metric = label.partition("{")[0].removeprefix("ray_raypipe_evaluate_").removesuffix("_total")
                found[metric, label.partition('outcome="')[2].partition('"')[0]] += float(value)
        return found

    evaluate(settings, execute=hooked(tmp_path / "marks"))
    wanted = {
        ("media", "ok"): 1,
        ("media", "media_unreadable"): 1,
        ("questions", "ok"): 1,
        ("questions", "medium_bad"): 1,
        ("new_tokens", ""): 2,
        ("unit_seconds_count", ""): 1,
    }
    deadline, found = time.monotonic() + 90, counted()
    while any(found[key] < count for key, count in wanted.items()) and time.monotonic() < deadline:
        time.sleep(0.5)
        found = counted()
    assert {key: found[key] for key in wanted} == wanted


def outstanding(folder: Path) -> int:
    """The most units that were read and not answered yet, at once."""
    came = [(f.stat().st_mtime_ns, 1) for f in (folder / "read").glob("*.ended")]
    went = [(f.stat().st_mtime_ns, -1) for f in (folder / "answer").glob("*.ended")]
    most = now = 0
    for _, change in sorted(came + went):
        now += change
        most = max(most, now)
    return most


def test_what_is_read_ahead_is_bounded(ray_local, tiny_folder, tmp_path):
    """Each unit weighs 4 MiB and takes the model longer than it takes to read."""
    root = clip_root(tmp_path / "eval", [f"c{n}" for n in range(12)])
    most = {}
    for mib in (2048, 16):
        settings = settings_of(root, tiny_folder, tmp_path / f"run{mib}", read_ahead_mib=mib)
        folder = tmp_path / f"marks{mib}"
        evaluate(settings, execute=hooked(folder, slow_s=0.5, padding=4 << 20))
        most[mib] = outstanding(folder)
    assert most[2048] > 4  # the model does not keep up, and there is room
    assert most[16] <= 4


def test_a_driver_killed_or_stopped_goes_on_with_other_actors(tiny_folder, tmp_path):
    root = clip_root(tmp_path / "eval", [f"c{n}" for n in range(14)])
    settings = settings_of(root, tiny_folder, tmp_path / "run")
    wanted = undisturbed(settings, hooked(tmp_path / "before", in_process))
    yaml = settings_file(tmp_path / "killed.yaml", settings)
    ends = [(signal.SIGKILL, 2, "1"), (signal.SIGINT, 6, '"1-2"'), (None, 0, "2")]
    before: dict[str, tuple[int, int]] = {}
    for how, count, actors in ends:
        marks_of = tmp_path / f"marks-{count}"
        more = [str(yaml), f"actors={actors}", "actor_cpus=0.5"]
        command = ["-m", "tests.support.slow_evaluate", str(marks_of), "0.4", *more]
        driver = Driver(command, tmp_path / "log")
        if how is not None:
            driver.wait_for(tmp_path / "run/predictions", count, ".arrow")
            os.kill(driver.process.pid, how)
        code = driver.ended()
        said = driver.log.read_text()[-3000:]
        assert code == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 4, None: 0}[how], said
        now = committed(tmp_path / "run")
        assert before.items() <= now.items()
        assert not {f"{m.unit}.arrow" for m in marks(marks_of / "answer")} & before.keys()
        if how is signal.SIGINT:
            assert "it continues: raypipe evaluate" in said
            assert "Traceback" not in said
        if how is not None:
            assert len(before) < len(now) < 14, f"{how} came too late"
        before = now
    assert len(before) == 14
    assert differing(made_by(tmp_path / "run"), wanted) == []
    assert verify(settings.out).damage == []
