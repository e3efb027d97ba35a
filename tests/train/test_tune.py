"""A real search with Ray Tune finds the planted winner, stops others early, and leaves nobody behind."""

import contextlib
import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest

from raypipe.errors import RequestError
from raypipe.settings import TuneSettings
from raypipe.store.verify import verify
from raypipe.train.tune import tune
from tests.support.held import seed_that_holds
from tests.support.prepared import drawn_run

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900), pytest.mark.usefixtures("ray_local")]
STEPS = 12
RATE, BROKEN, WINNER, WORST = "rates.language_model", 1e30, 3e-3, 1e-6


def search(folder: Path, name: str, **more) -> TuneSettings:
    stage = {
        "name": "tiny",
        "out": "unused",
        "start": {"random": "tiny", "seed": 4},
        "mixture": [{"data": str(folder / "run")}],
        "rates": {"language_model": 1e-3},
        "steps": STEPS,
        "global_batch": 4,
        "micro_batch": 2,
        "max_tokens": 512,
        "precision": "fp32",
        "seed": seed_that_holds(folder / "run", 0.5),
        "gradient_checkpointing": False,
        "schedule": {"kind": "constant", "warmup_ratio": 0.0},
        "workers": {"num": 1, "cpus": 0.5, "max_failures": 0},
        "checkpoint": {"every_steps": 3, "keep": 1},
        "validation": {"fraction": 0.5, "cpus": 0.4},
    }
    values = {
        "name": name,
        "out": str(folder / name),
        "stage": stage,
        "space": {RATE: {"grid": [BROKEN, WINNER, 1e-5, WORST]}},  # they start in this order, two at a time
        "max_concurrent": 2,
        "grace": 3,
        "reduction": 2,
    }
    return TuneSettings.model_validate({**values, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    drawn_run(folder)
    return folder


@pytest.fixture(scope="module")
def settings(folder) -> TuneSettings:
    return search(folder, "found")


class Cleaners(threading.Thread):
    """Ray Train's, while a search is on: by process, which cluster each of them asks about its controller."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ask: dict[int, tuple[str | None, ...]] = {}
        self._over = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()

    def run(self):
        while not self._over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "PlacementGroupCleaner" in " ".join(process.cmdline()):
                        env = process.environ()
                        asked = env.get("RAY_ADDRESS"), env.get("RAY_API_SERVER_ADDRESS")
                        self.ask[process.pid] = asked


@pytest.fixture(scope="module")
def cleaners():
    return Cleaners()


@pytest.fixture(scope="module")
def found(settings, cleaners, ray_local) -> dict:
    told: list[str] = []
    with cleaners:
        result = tune(settings, progress=told.append)
    assert "trials over" in told[-1]
    return result


def by_rate(result: dict) -> dict[float, dict]:
    return {row["settings"][RATE]: row for row in result["trials"]}


def test_it_finds_the_planted_winner_in_fewer_steps_than_the_grid(found, settings):
    rows = by_rate(found)
    assert found["winner"]["settings"] == {RATE: WINNER}
    assert found["winner"]["overrides"] == [f"{RATE}={WINNER}"]
    assert rows[WINNER]["status"] == "done"
    assert [step for step, _ in rows[WINNER]["curve"]] == [3, 6, 9, 12]
    # The last one starts when another is over, and is worse than all: ASHA has no choice.
    assert (rows[WORST]["status"], rows[WORST]["steps"]) == ("stopped early", 3)
    assert found["steps"] < len(rows) * STEPS
    assert verify(settings.out).damage == []
    assert verify(rows[WINNER]["out"]).damage == []


def test_a_trial_that_fails_fails_alone(found):
    row = by_rate(found)[BROKEN]
    assert row["status"] == "failed"
    assert "not finite" in row["reason"]
    assert found["counts"]["failed"] == 1


def test_nobody_is_left_behind(found):
    nobody_left()


def test_another_cluster_is_never_asked_about_a_controller(found, cleaners):
    """One that does not know it says that it is dead, and its workers would be ended."""
    import ray

    here = ray.get_runtime_context().gcs_address
    assert set(cleaners.ask.values()) == {(here, "http://127.0.0.1:0")}


def nobody_left(cleaners: bool = False) -> None:
    """Waits until no process, placement group or CPU is held by a search any more.

    Args:
        cleaners: those of Ray Train may still be there. They see the end of a controller that was killed
            only with the dashboard, and take no CPU.
    """

    mine = [
        "RayTrainWorker",
        "TrainController",
        "StageTrial",
        *([] if cleaners else ["PlacementGroupCleaner"]),
    ]
    deadline = time.monotonic() + 60
    while left := [n for n in _names() if any(word in n for word in mine)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert any("ray::" in name for name in _names())  # Ray's processes are seen at all
    while _held():
        assert time.monotonic() < deadline, _held()
        time.sleep(0.2)


def _held() -> list[str]:
    """Placement groups that are not removed, and CPUs that are not free."""
    import ray

    groups = [g["state"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
    missing = ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0)
    return groups + ([f"{missing} CPUs"] if missing else [])


def _names() -> list[str]:
    """The processes of this session's own Ray."""
    names = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            names.append(" ".join(process.cmdline()))
    return names


def test_a_search_that_was_killed_trains_only_what_was_not_over(found, settings, folder):
    """The folder as a killed driver leaves it: one trial trained to its end, its last score missing."""
    shutil.copytree(settings.out, folder / "again")
    again = settings.model_copy(update={"out": str(folder / "again")})
    rows = {rate: Path(row["out"].replace("/found/", "/again/")) for rate, row in by_rate(found).items()}
    for name in ("commit.json", "manifest.json", "trials.jsonl", "search.json", "search.svg"):
        (folder / "again" / name).unlink()
    for name in ("commit.json", "validation/step-00000012.json"):
        (rows[WINNER] / name).unlink()
    shutil.rmtree(rows[BROKEN])
    before = {rate: _state(path) for rate, path in rows.items()}
    result = tune(again)
    after = {rate: _state(path) for rate, path in rows.items()}
    assert after[WORST] == before[WORST]
    assert after[WINNER] != before[WINNER]
    assert after[BROKEN] != before[BROKEN]
    assert _told(result) == _told(found)


def _state(trial: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in trial.rglob("*") if p.is_file()}


def _told(result: dict) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "out"} for row in result["trials"]]


def test_a_finished_search_is_left_alone(found, settings):
    before = (Path(settings.out) / "commit.json").stat().st_mtime_ns
    assert tune(settings) == found
    assert (Path(settings.out) / "commit.json").stat().st_mtime_ns == before


def test_a_search_needs_something_to_go_by(folder):
    blind = search(folder, "blind", set={"validation.fraction": 0.0})
    with pytest.raises(RequestError, match="compared by validation"):
        tune(blind)
    large = search(folder, "large", set={"workers.cpus": 64})
    with pytest.raises(RequestError, match=r"one trial with its validation needs 64\.45 CPUs"):
        tune(large)
    assert not (folder / "blind").exists()
