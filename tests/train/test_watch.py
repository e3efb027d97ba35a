"""Who is to blame for a stall, what a rank says of itself, and the order to leave."""

import json
import os
import threading
from pathlib import Path

import pytest

from raypipe.errors import BudgetError, DamageError, RaypipeError, RequestError, ServiceError
from raypipe.train.board import GO, LEAVE, Board, packed, unpacked
from raypipe.train.pulse import Pulse
from raypipe.train.stalls import Limits, judge, report, sentence
from raypipe.train.status import Status, mirrored

LIMITS = Limits(stall_s=10, start_s=100)
WAITS = {
    "training": ["raypipe/train/loop.py:9 in _sum", "torch/distributed/distributed_c10d.py:3 in all_reduce"]
}
READS = {"training": ["raypipe/train/loader.py:24 in take"]}


def rank(number: int, **said) -> dict:
    values = {"rank": number, "host": "h", "node": "n", "pid": 100 + number, "step": 5, "micro": 0}
    values |= {"phase": "forward", "samples": [f"s{number}"], "warm": True, "still_s": 12.0, "age_s": 0.5}
    return {**values, **said}


def board(*ranks: dict, world: int | None = None, ended: bool = False) -> dict:
    return {"attempt": 2, "world": world or len(ranks), "ended": ended, "ranks": list(ranks)}


def blamed(*ranks: dict, **more) -> tuple[int, ...] | None:
    stall = judge(board(*ranks, **more), LIMITS)
    return stall and stall.culprits


def test_nobody_is_to_blame_while_one_rank_moves():
    assert blamed(rank(0, still_s=0.1), rank(1, still_s=500)) is None
    assert blamed(rank(0, still_s=9.0), rank(1)) is None
    assert blamed(rank(0, still_s=9.6), rank(1)) == (0, 1)  # heard of half a second ago
    assert blamed(rank(0), rank(1), ended=True) is None
    assert blamed() is None


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"age_s": 11.0, "still_s": 0.5}, id="silent"),
        pytest.param({"step": 4}, id="a step behind"),
        pytest.param({"phase": "data"}, id="a phase behind"),
    ],
)
def test_the_one_that_differs_is_to_blame(others):
    assert blamed(rank(0), rank(1, **others), rank(2)) == (1,)


def test_a_rank_behind_by_a_micro_batch():
    assert blamed(rank(0, micro=1), rank(1), rank(2, micro=1)) == (1,)


def test_who_waits_in_a_collective_is_not_to_blame():
    same = {"phase": "sum"}
    assert blamed(rank(0, **same, stacks=WAITS), rank(1, **same, stacks=READS)) == (1,)
    assert blamed(rank(0, **same, stacks=WAITS), rank(1, **same, stacks=WAITS)) == (0, 1)


def test_slow_phases_get_the_longer_limit():
    for slow in ({"phase": "start"}, {"phase": "checkpoint"}, {"warm": False}):
        assert blamed(rank(0, **slow), rank(1, **slow)) is None
        assert blamed(rank(0, **slow, still_s=100.0), rank(1, **slow, still_s=100.0)) == (0, 1)


def test_who_falls_silent_while_it_saves_gets_the_shorter_limit():
    saves = {"phase": "checkpoint", "still_s": 1.0}
    assert blamed(rank(0), rank(1, **saves, age_s=4.0)) is None
    assert blamed(rank(0), rank(1, **saves, age_s=9.5)) == (1,)
    assert blamed(rank(0), rank(1, **saves | {"phase": "start"}, age_s=9.5)) is None


def test_a_silent_rank_is_judged_by_where_it_is_and_not_by_its_last_sign():
    now = [100.0]
    here = Board(lambda: now[0])
    for number in (0, 1):
        here.enter("a", number, 2, {"host": "h", "node": "n", "pid": 100 + number, "started": "1"})
        here.post("a", number, {"step": 0, "phase": "start", "warm": False, "still_s": 0.0})
    now[0] += 5
    here.look_up("a", 1, {"step": 9, "phase": "forward", "warm": True, "still_s": 2.0})
    now[0] += 1
    said = here.view()["ranks"][1]
    assert (said["step"], said["phase"], said["looked_up"]) == (9, "forward", True)
    assert said["still_s"] + said["age_s"] == 3.0  # 2 s when it was looked up, and 1 s since
    here.look_up("a", 0, {})  # nothing was found
    assert here.view()["ranks"][0]["phase"] == "start"
    here.post("a", 1, {"step": 9, "phase": "step", "warm": True, "still_s": 0.0})
    assert "looked_up" not in here.view()["ranks"][1]


def test_a_rank_that_never_began():
    assert blamed(rank(0, phase="start"), world=2) is None
    assert blamed(rank(0, phase="start", still_s=101.0), world=2) == (1,)


def test_a_rank_that_is_done_is_left_out():
    assert blamed(rank(0, phase="done", still_s=500), rank(1, still_s=1.0)) is None
    assert blamed(rank(0, phase="done", still_s=500), rank(1)) == (1,)
    assert blamed(rank(0, phase="done", still_s=500)) is None


def test_the_report_names_rank_step_samples_and_stack():
    view = board(rank(0, micro=1), rank(1, stacks=READS, samples=[f"id{n}" for n in range(9)]))
    stall = judge(view, LIMITS)
    said = json.loads(json.dumps(report(view, stall, "now")))
    assert (said["attempt"], said["step"], said["culprits"], said["limit_s"]) == (2, 6, [1], 10)
    assert said["ranks"][1]["stacks"] == READS
    line = sentence(said)
    assert "rank 1 (h, process 101) is behind the others in forward of step 6, samples id0, id1" in line
    assert "\n" not in line


def test_a_status_is_warm_after_its_first_step():
    status = Status()
    status.at("data", step=7, micro=0)
    status.at("forward", micro=1, samples=("a",))
    assert not status.view()["warm"]
    status.at("data", step=8)
    view = status.view()
    assert view["warm"]
    assert view["samples"] == []  # those of the step before are not what it waits for
    status.reads("b")
    assert status.view()["samples"] == ["b"]


def test_a_loader_that_reads_is_no_stall():
    status = Status()
    status.at("data", step=1)
    status.moved -= 50
    assert status.view()["still_s"] >= 50
    status.reads("a")
    assert status.view()["still_s"] < 50
    status.at("forward", samples=("a",))
    status.moved -= 50
    status.reads("b")  # ahead of the step: says nothing about it
    assert status.view()["still_s"] >= 50


def test_the_mirror_says_what_the_process_said_last(tmp_path: Path):
    (tmp_path / "999999999").write_text("of a process that is gone")
    status = Status()
    status.mirror(tmp_path)
    status.at("data", step=3)
    status.at("forward", micro=2, samples=tuple(f"sample-{n}" * 50 for n in range(500)))
    said = mirrored(os.getpid(), tmp_path)
    assert (said["step"], said["micro"], said["phase"], len(said["samples"])) == (3, 2, "forward", 32)
    status.at("step", samples=())
    assert mirrored(os.getpid(), tmp_path)["samples"] == []
    assert [p.name for p in tmp_path.iterdir()] == [str(os.getpid())]
    status.unmirror(tmp_path)
    assert mirrored(os.getpid(), tmp_path) is None


def test_the_board_orders_all_ranks_of_an_attempt_to_leave():
    said = Board()
    here = {"host": "h", "node": "n", "pid": 1, "started": ""}
    assert [said.enter("a", r, 2, here) for r in (0, 1)] == [GO, GO]
    assert said.post("a", 0, Status().view()) == GO
    said.end("a")
    assert said.post("a", 1, Status().view()) == LEAVE
    assert said.enter("b", 1, 2, here) == GO  # a late post of the attempt before changes nothing
    assert said.post("a", 0, Status().view()) == LEAVE
    view = said.view()
    assert (view["attempt"], view["key"], len(view["ranks"]), view["ended"]) == (2, "b", 1, False)
    said.put_fault("b", 1, ["RequestError", "wrong", "try"])
    said.put_fault("b", 1, ["RaypipeError", "later", ""])
    assert said.enter("c", 0, 1, here) == LEAVE
    assert said.put_failures({1: "gone"}) == ["RequestError", "wrong", "try"]


def test_an_error_crosses_the_board_with_its_exit_code():
    class Special(RequestError):
        pass

    for fault in (RaypipeError("a", "b"), RequestError("a", "b"), DamageError("a"), BudgetError("a", "b")):
        back = unpacked(packed(fault))
        assert (type(back), back.message, back.remedy) == (type(fault), fault.message, fault.remedy)
    assert unpacked(packed(Special("a"))).exit_code == 2
    assert packed(ServiceError("the store does not answer")) is None  # worth another attempt


def test_a_pulse_posts_stacks_once_still_and_leaves_when_told():
    status, posts, left = Status(), [], threading.Event()
    status.at("forward", step=1, samples=("x",))

    def post(seen: dict) -> str:
        posts.append(seen)
        if len(posts) == 1:
            status.moved -= 30
            raise ConnectionError("the board is slow")
        return LEAVE if len(posts) == 2 else GO

    with Pulse(status, post, every_s=0.01, stacks_s=20, leave=left.set):
        assert left.wait(20)
    assert "stacks" not in posts[0]
    assert any("test_a_pulse_posts" in line for line in posts[1]["stacks"]["training"])
    assert posts[-1]["phase"] == "done"
