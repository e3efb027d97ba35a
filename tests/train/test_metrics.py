"""Measurements: what a step costs, rates and time left, the journal, TensorBoard files, the picture."""

import io
import json
import re
import struct
import time

import pytest
import torch
from PIL import Image

from raypipe.errors import ServiceError
from raypipe.model.families import FAMILIES
from raypipe.model.splice import LossHead
from raypipe.records import MediumKind
from raypipe.report.collect import METRICS as REPORTED
from raypipe.settings import Lora
from raypipe.store import journal
from raypipe.store.files import Store
from raypipe.store.journal import Journal
from raypipe.terminal import Step, duration, training_line
from raypipe.train.curves import picture
from raypipe.train.flops import flops_of, peak_of
from raypipe.train.gauges import RayMetrics, tell_validation
from raypipe.train.meter import TIMED, Meter
from raypipe.train.metrics import METRICS, MetricLog
from raypipe.train.tensorboard import TensorBoard
from tests.support.tiny import tiny_model

HF = FAMILIES["video_llava_hf"]
STAGE_2 = {"language_model": 2e-5, "multi_modal_projector": 2e-5}


@pytest.fixture(scope="module")
def shapes():
    """The published 7B model's shapes, without its weights."""
    config = FAMILIES["video_llava_hf"].random("7b", 31998)  # and two placeholders: 32,000
    with torch.device("meta"):
        return HF.cls(config), config


@pytest.mark.parametrize(
    ("parts", "lora", "length", "expected"),
    [  # GFLOP per token of Vicuna-7B by its shapes, adapters and towers left out
        ({"multi_modal_projector": 1}, True, 2200, 28.2),
        ({"multi_modal_projector": 1}, True, 4096, 29.6),
        ({"multi_modal_projector": 1}, False, 2200, 28.2),
        (STAGE_2, False, 2200, 41.4),
        (STAGE_2, False, 4096, 42.9),
    ],
)
def test_a_7b_model_costs_what_its_shapes_say(shapes, parts, lora, length, expected):
    cost = flops_of(shapes[0], HF, shapes[1], parts, lora)
    per_token = cost.of(tokens=8 * length, samples=8, frames={}) / (8 * length)
    assert per_token / 1e9 == pytest.approx(expected, abs=0.07)


def test_a_frame_costs_its_tower_and_the_projector(shapes):
    frozen = flops_of(shapes[0], HF, shapes[1], {"multi_modal_projector": 1}, False)
    weights = 24 * 12 * 1024**2 + 3 * 14 * 14 * 1024  # matrices of ViT-L/14
    projector = 1024 * 4096 + 4096 * 4096
    per_token = 2 * weights + 6 * projector + 24 * 4 * 257 * 1024
    assert frozen.frame[MediumKind.VIDEO] == pytest.approx(257 * per_token, rel=1e-3)
    assert frozen.frame[MediumKind.IMAGE] == frozen.frame[MediumKind.VIDEO]
    tower = flops_of(shapes[0], HF, shapes[1], {"video_tower": 1}, False)
    assert tower.frame[MediumKind.VIDEO] > 2.5 * tower.frame[MediumKind.IMAGE]


def test_frozen_towers_count_although_the_loss_head_holds_them_apart():
    loaded = tiny_model()
    before = flops_of(loaded.model, loaded.family, loaded.config, {"multi_modal_projector": 1}, False)
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_("projector" in name)
    LossHead(loaded.model, loaded.family)
    after = flops_of(loaded.model, loaded.family, loaded.config, {"multi_modal_projector": 1}, False)
    assert after == before
    assert not any("tower" in name for name, _ in loaded.model.named_parameters())


def test_adapters_are_counted_beside_their_frozen_base():
    from raypipe.model.lora import add_lora

    plain, loaded = tiny_model(), tiny_model()
    before = flops_of(plain.model, plain.family, plain.config, STAGE_2, False)
    tuned = add_lora(loaded, Lora(r=4, alpha=8), ["multi_modal_projector"], "")
    after = flops_of(tuned.model, tuned.family, tuned.config, {"multi_modal_projector": 1}, True)
    width, inner = 128, 320
    assert after.lora == 6 * 2 * 4 * (4 * 2 * width + 3 * (width + inner))
    assert after.token == pytest.approx(before.token * 4 / 6)
    assert after.frame == before.frame


def test_a_cpu_has_no_peak():
    peak, source = peak_of(torch.device("cpu"), torch.float32)
    assert peak is None
    assert Meter(1, None, peak, source).convention == "none: no peak is known of a CPU"


def row(step: int, **more) -> dict:
    values = {"step": step, "steps": 100, "samples": 8, "tokens": 800, "slots": 1000, "loss": 5.0 / step}
    values |= {"lr": 1e-3, "grad_norm": 1.0, "step_s": 2.0, "data_wait_s": 0.1, "epoch": step / 50}
    return {**values, "cut": 0, "dropped": 0, **more}


def test_rates_shares_and_time_left(shapes):
    cost = flops_of(shapes[0], HF, shapes[1], STAGE_2, False)
    meter = Meter(2, cost, 1e15, "a peak of 1e15")
    slow = meter(row(1, step_s=20.0), now=20.0)
    assert (slow["tokens_s"], slow["samples_s"], slow["useful"], slow["eta_s"]) == (40, 0.4, 0.8, None)
    for step in range(2, 12):
        seen = meter(row(step), now=20.0 + 3.0 * (step - 1))
    assert (seen["tokens_s"], seen["tokens_s_mean"], seen["data_wait"]) == (400, 400, 0.05)
    assert seen["mfu"] == pytest.approx(cost.of(800, 8, {}) / (2.0 * 2 * 1e15), rel=1e-4)
    assert seen["eta_s"] == 3.0 * 89  # with what lies between steps
    assert "a peak of 1e15" in meter.convention
    with_frames = meter(row(12, video_frames=64), now=60.0)
    assert with_frames["mfu"] > seen["mfu"]


def test_a_step_without_time_or_tokens_has_no_rates():
    seen = Meter()(row(1, step_s=0.0, slots=0, tokens=0))
    assert [seen[key] for key in ("tokens_s", "useful", "mfu", "eta_s")] == [None] * 4


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path) -> Store:
    return Store(str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3_root"))


def steps(store: Store) -> list[int]:
    return [r["step"] for r in journal.rows(store, "metrics") if r]


def test_a_journal_rewrites_no_more_than_its_newest_segment(store):
    log = Journal(store, "metrics")
    for step in range(1, 601):
        log.extend([row(step)])
        if step % 50 == 0:
            log.flush()
    assert steps(store) == list(range(1, 601))
    assert store.list("metrics") == [f"metrics/{s:09d}.jsonl" for s in (1, 257, 513)]
    assert journal.newest(store, "metrics")["step"] == 600
    again = Journal(store, "metrics")
    assert again.resume(300)["step"] == 600
    assert steps(store) == list(range(1, 301))
    again.extend([row(step) for step in range(301, 305)])
    again.flush()
    assert steps(store) == list(range(1, 305))
    assert [r["step"] for r in journal.join(store, "metrics")] == list(range(1, 305))
    assert store.list("metrics") == []
    assert store.exists("metrics.jsonl")


@pytest.mark.parametrize("at", [0, 100, 256, 257, 400])
def test_a_journal_that_was_joined_goes_on_at_any_step(tmp_path, at):
    store = Store(str(tmp_path))
    log = Journal(store, "metrics")
    log.extend([row(step) for step in range(1, 401)])
    log.flush()
    journal.join(store, "metrics")
    again = Journal(store, "metrics")
    assert again.resume(at)["step"] == 400
    again.extend([row(step) for step in range(at + 1, at + 3)])
    again.flush()
    assert steps(store) == list(range(1, at + 3))
    assert not store.exists("metrics.jsonl")


def test_a_log_numbers_its_attempts_and_writes_what_json_can_say(store):
    assert REPORTED == METRICS
    log = MetricLog(store, 0, True, world=2)
    for step in range(1, 7):
        log.add(row(step, grad_norm=float("inf")))
    log.close()
    again = MetricLog(store, 4, True)
    again.add(row(5))
    again.flush()
    found = [r for r in journal.rows(store, METRICS) if r]
    assert [(r["step"], r["attempt"], r["world"]) for r in found[3:]] == [(4, 1, 2), (5, 2, 1)]
    assert [r["step"] for r in found if "mfu_convention" in r] == [1, 5]
    assert found[0]["grad_norm"] is None
    again.close()
    quiet = MetricLog(store, 0, False)  # another rank
    quiet.add(row(1))
    quiet.close()
    assert len(steps(store)) == 5


def test_rows_are_written_beside_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr("raypipe.train.metrics.FLUSH_S", 0.01)
    store = Store(str(tmp_path))
    log = MetricLog(store, 0, True)
    log.add(row(1))
    while not steps(store):  # nobody flushes
        time.sleep(0.01)
    log.close()


def test_a_store_that_refuses_is_said_to_the_loop(tmp_path, monkeypatch):
    monkeypatch.setattr("raypipe.train.metrics.FLUSH_S", 0.01)
    log = MetricLog(Store(str(tmp_path)), 0, True)
    (tmp_path / "metrics").write_text("in the way of the folder")
    with pytest.raises(ServiceError, match="cannot write"):
        add_for_ever(log)


def add_for_ever(log: MetricLog) -> None:
    while True:
        log.add(row(1))


def test_tensorboard_files_read_again(store):
    from tensorboardX.proto.event_pb2 import Event

    for attempt, span in ((1, range(1, 6)), (2, range(4, 8))):
        board = TensorBoard(store)
        board.add([row(s, attempt=attempt, mfu=None, tokens_s=400.0) for s in span])
        board.flush(final=False)  # too soon to put anything
        assert len(store.list("tensorboard")) == attempt - 1
        board.flush(final=True)
    found: dict[tuple[str, int], float] = {}
    restarts = []
    for name in sorted(store.list("tensorboard"), key=lambda n: n.rpartition(".")[2]):
        for data in records(store.read(name)):
            event = Event.FromString(data)
            restarts += [event.step] if event.HasField("session_log") else []
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
    assert [s for tag, s in found if tag == "train/loss"] == list(range(1, 8))
    assert found["speed/tokens_per_second", 7] == 400
    assert found["train/loss", 5] == pytest.approx(1.0)
    assert not any("mfu" in tag for tag, _ in found)
    assert restarts == [1, 4]


def records(data: bytes) -> list[bytes]:
    """The records of a TFRecord file: length, its checksum, data, its checksum."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(data[at + 12 : at + 12 + length])
        at += 12 + length + 4
    return found


FULL = {**row(120, loss=1.23456), "tokens_s_mean": 12345.6, "samples_s_mean": 5.55, "mfu_mean": 0.371}
FULL |= {"data_wait_mean": 0.031, "eta_s": 7260, "steps": 5194, "lr": 2e-5}


def test_the_progress_line_says_it_all_where_there_is_room():
    assert training_line(FULL, 200) == (
        "step 120/5194, loss 1.2346, rate 2.00e-05, 12,346 tokens/s, 5.5 samples/s, MFU 37.1%, data wait 3%, "
        "2 h 01 min left"
    )
    bare = training_line({"step": 1, "steps": 9, "loss": None, "lr": 0.0, "mfu": None}, 200)
    assert bare == "step 1/9, loss -, rate 0.00e+00, - tokens/s, - samples/s, MFU -, data wait -"


@pytest.mark.parametrize("width", range(26, 140, 6))
def test_a_narrow_progress_line_leaves_whole_parts_out(width):
    line = training_line(FULL, width)
    assert len(line) <= width
    assert line.startswith("step 120/5194, loss 1.2346")
    assert set(line.split(", ")) <= set(training_line(FULL, 200).split(", "))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 100])
def test_a_terminal_shows_one_line_and_events_that_stay(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Terminal()
    with Step("train finetune", out=out) as step:
        step._shown = 0.0
        step.training(FULL)
        step.event("rank 1 gives no sign of life in forward of step 7, " + "samples a, " * 20)
    shown = re.sub(r"\x1b\[2K", "", out.getvalue()).split("\r")
    assert all(len(line.strip()) < columns for line in shown if "rank 1" not in line)
    assert any("step 120/5194" in line for line in shown)
    event = next(line for line in shown if "rank 1" in line)
    assert event.endswith("\n")
    assert event.count("samples a") == 20


def test_durations():
    said = [duration(s) for s in (0, 59.6, 187, 3600, 100000)]
    assert said == ["0 s", "1 min 00 s", "3 min 07 s", "1 h 00 min", "1 d 3 h"]


@pytest.mark.parametrize("count", [0, 1, 2, 3000])
def test_a_picture_of_any_run(count):
    rows = [row(s, tokens_s=400.0 + s % 7, attempt=1 + (s > 1500)) for s in range(1, count + 1)]
    if count > 2:
        rows[5]["loss"] = None
    validation = [{"step": s, "loss": 3.0} for s in range(500, count, 500)]
    image = Image.open(io.BytesIO(picture(rows, validation, "finetune")))
    assert image.size == (2000, 1280)
    colours = {colour for _, colour in image.getcolors(2000 * 1280)}
    assert ((29, 97, 175) in colours) is (count > 0)  # the line
    assert ((201, 92, 24) in colours) is (count > 500)  # validation


def test_what_a_row_has_beside_the_loops_own_depends_on_time():
    said = Meter()(row(1))
    assert set(said) - set(row(1)) - set(TIMED) == {"useful"}
    json.dumps(said)


def test_ray_gets_the_newest_row_and_what_adds_up(told):
    """Of several rows the last one's state, but every step's seconds and all that adds up."""
    made = iter([0, 2, 2, 3])
    sink = RayMetrics("run", lambda: next(made))
    newest = {**row(8, loss=2.5, attempt=2), "lr": 0.1, "mfu_mean": None, "step_s": 0.5}
    sink.flush(final=False)
    sink.add([{**newest, "step": 7, "loss": 9.0, "step_s": 0.25}, newest])
    sink.flush(final=False)
    sink.flush(final=False)
    sink.add([])
    sink.flush(final=True)
    run = ("run",)
    assert told.values["raypipe_train_step_seconds"] == {run: [0.25, 0.5]}
    assert told.values["raypipe_train_loss"] == {run: [2.5]}
    assert told.values["raypipe_train_learning_rate"] == {run: [0.1]}
    assert told.values["raypipe_train_step"] == {run: [8]}
    assert told.values["raypipe_train_restarts"] == {run: [1]}
    assert told.values["raypipe_train_checkpoints"] == {run: [2, 1]}
    assert told.values["raypipe_train_work_seconds"] == {run: [0.75]}
    assert told.sums("raypipe_train_tokens") == {run: 2 * newest["tokens"]}
    assert "raypipe_train_mfu_ratio" not in told.values  # no peak is known
    assert "raypipe_train_gpu_memory_peak_bytes" not in told.values


def test_ray_gets_a_gpus_memory_where_there_is_one(told):
    sink = RayMetrics("run", lambda: 0, lambda: 5 << 30)
    sink.add([row(1, attempt=1)])
    sink.flush(final=True)
    assert told.last("raypipe_train_gpu_memory_peak_bytes") == {("run",): 5 << 30}


def test_ray_gets_what_validation_found(told):
    record = {"step": 20, "loss": 3.5, "benchmarks": {"pope": {"accuracy": 51.5, "f1": None}}}
    tell_validation("run", record)
    tell_validation("run", {"step": 30, "fault": "killed"})
    assert told.last("raypipe_train_validation_step") == {("run",): 20}
    assert told.last("raypipe_train_validation_loss") == {("run",): 3.5}
    assert told.last("raypipe_train_validation_score") == {("run", "pope", "accuracy"): 51.5}
