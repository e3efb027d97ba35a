"""Real stages that go wrong on a local Ray: a stopped rank, a wrong request, a loss that is no number."""

import json
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from raypipe.errors import RaypipeError, RequestError
from raypipe.settings import StageSettings
from raypipe.train.mixture import Mixture
from raypipe.train.run import train
from raypipe.train.status import mirrored
from tests.support.prepared import drawn_run

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600), pytest.mark.usefixtures("ray_local")]
STEPS = 24
INSIDE = ("data", "sum", "forward", "backward", "step")
GONE = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def stage(folder: Path, name: str, **more) -> StageSettings:
    values = {
        "name": name,
        "out": str(folder / name),
        "start": {"random": "tiny", "seed": 4},
        "mixture": [{"data": str(folder / "run")}],
        "rates": {"language_model": 1e-3, "multi_modal_projector": 2e-3},
        "steps": STEPS,
        "global_batch": 4,
        "micro_batch": 1,
        "precision": "fp32",
        "workers": {"num": 2, "cpus": 0.5},
        "checkpoint": {"every_steps": 8, "keep": 5},
    }
    return StageSettings.model_validate({**values, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drill")
    drawn_run(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, ray_local) -> list[float]:
    result = train(stage(folder, "undisturbed"))
    assert (result["restarts"], result["hangs"]) == (0, [])
    return losses(folder / "undisturbed")


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_stuck_rank_is_named_and_the_run_goes_on(folder, undisturbed):
    settings = stage(folder, "stuck", workers={"num": 2, "cpus": 0.5, "stall_s": 8})
    stopped: list[int] = []
    watcher = threading.Thread(target=stop_one, args=(Path(settings.out), stopped), daemon=True)
    watcher.start()
    told: list[str] = []
    result = train(settings, tell=told.append)
    watcher.join(5)
    assert len(stopped) == 1
    assert not psutil.pid_exists(stopped[0]) or psutil.Process(stopped[0]).status() == psutil.STATUS_ZOMBIE
    assert losses(folder / "stuck") == undisturbed
    assert result["restarts"] == len(result["hangs"]) >= 1  # more only where the machine itself stalls
    said = json.loads((folder / "stuck" / result["hangs"][0]).read_text())
    blamed = next(r for r in said["ranks"] if r["pid"] == stopped[0])
    assert blamed["rank"] in said["culprits"]
    assert blamed["phase"] in INSIDE
    assert said["step"] == blamed["step"] > 8
    mixture = Mixture([str(folder / "run")])
    known = {mixture.sample(n).id for n in range(len(mixture))}
    assert blamed["samples"]
    assert set(blamed["samples"]) <= known
    assert blamed["stacks"]["py-spy"]
    other = next(r for r in said["ranks"] if r is not blamed)
    assert any("loop.py" in line for line in other["stacks"]["training"])
    assert any(f"process {stopped[0]}" in line and "gives no sign of life" in line for line in told)
    assert any("attempt 2" in line for line in told)


def stop_one(out: Path, stopped: list[int]) -> None:
    """SIGSTOP for one of our workers, in the middle of a step."""
    chosen = None
    while chosen is None or not (out / "checkpoints/step-00000008.json").exists():
        mine = psutil.Process().children(recursive=True) if chosen is None else []
        begun = [p for p in mine if (mirrored(p.pid) or {}).get("phase", "start") != "start"]
        chosen = begun[0] if begun else chosen
        time.sleep(0.005)
    while not (out / "model").exists():
        chosen.send_signal(signal.SIGSTOP)
        while chosen.status() not in GONE:
            time.sleep(0.001)
        said = mirrored(chosen.pid)
        if said and said["phase"] in INSIDE and said["step"] >= 8 and said["samples"]:
            stopped.append(chosen.pid)
            return
        chosen.send_signal(signal.SIGCONT)
        time.sleep(0.002)


def test_a_wrong_request_found_by_a_worker_is_not_tried_again(folder, monkeypatch):
    monkeypatch.setattr("raypipe.train.run.check_start", lambda _: None)  # the driver would find it first
    settings = stage(folder, "wrong", rates={"no_such_part": 1e-3})
    with pytest.raises(RequestError, match="no part 'no_such_part'"):
        train(settings)
    attempts = [p for p in (folder / "wrong/ray").iterdir() if p.is_dir()]
    assert len(attempts) == 1


def test_a_loss_that_is_no_number_ends_the_run_once(folder):
    settings = stage(folder, "diverged", rates={"language_model": 1e30}, optimizer={"clip": 0})
    told: list[str] = []
    with pytest.raises(RaypipeError, match="not finite") as caught:
        train(settings, tell=told.append)
    assert caught.value.exit_code == 1
    assert told == []  # no second attempt
