"""A judging process that is killed at any moment pays at most the calls under way twice (goal R9).

By default a few kills; RAYPIPE_ALL_FAULTS=1 makes fifty.
"""

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from raypipe.judge.asker import usd_of
from raypipe.judge.log import VERDICTS, VerdictLog
from raypipe.records import VERDICT_SCHEMA, verdicts_of
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from tests.judge.judge_process import PRICE
from tests.support import ROOT
from tests.support.judge_endpoint import JudgeEndpoint, Say

KILLS = 50 if os.environ.get("RAYPIPE_ALL_FAULTS") else 4
CONCURRENCY = 5
SEED = 7
USAGE = (100, 10)


class Killer:
    """An endpoint's replies, and a kill when so many of them were asked for or have been given."""

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._left, self._before = 0, False
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()

    def aim(self, process: subprocess.Popen[bytes] | None, calls: int, before: bool) -> None:
        self._process, self._left, self._before = process, calls, before
        self._started.set()

    def disarm(self) -> None:
        self._started.clear()

    def __call__(self, shown: dict[str, str]) -> Say:
        assert self._started.wait(60)
        with self._lock:
            self.paid[shown["predicted_answer"]] += 1
            self._left -= 1
            if self._process is not None and self._left == 0:
                if self._before:
                    self._process.send_signal(signal.SIGKILL)
                else:  # while the replies that were just given are being written
                    threading.Timer(0.002, self._process.send_signal, [signal.SIGKILL]).start()
        return Say(usage=USAGE)


def start(root: Path, url: str, count: int) -> subprocess.Popen[bytes]:
    words = [str(root), url, str(count), str(CONCURRENCY)]
    return subprocess.Popen([sys.executable, "-m", "tests.judge.judge_process", *words], cwd=ROOT)


@pytest.mark.timeout(600)
def test_a_kill_makes_at_most_the_calls_under_way_be_paid_twice(tmp_path: Path) -> None:
    luck, killer = random.Random(SEED), Killer()
    count = 12 * KILLS + 20
    print("seed", SEED)
    with JudgeEndpoint(then=killer) as endpoint:
        for kill in range(KILLS):
            before = killer.paid.total() - len(killer.paid)
            killer.disarm()
            process = start(tmp_path, endpoint.base_url, count)
            killer.aim(process, luck.randint(1, 12), before=kill % 2 == 0)
            assert process.wait(60) == -signal.SIGKILL, "the kill fell"
            twice = killer.paid.total() - len(killer.paid) - before
            assert twice <= CONCURRENCY, f"kill {kill}: {twice} paid twice"
        killer.disarm()
        process = start(tmp_path, endpoint.base_url, count)
        killer.aim(None, 0, before=False)
        assert process.wait(120) == 0
    assert len(killer.paid) == count
    assert killer.paid.total() - count <= KILLS * CONCURRENCY
    rows = verdicts_of(Ledger(Store(str(tmp_path)), VERDICTS, VERDICT_SCHEMA).rows())
    assert Counter(v.question_id for v in rows) == {f"q{i}": 1 for i in range(count)}
    assert not Store(str(tmp_path)).list(VERDICTS, ".jsonl")
    billed = killer.paid.total() * usd_of(*USAGE, PRICE)
    assert VerdictLog(Store(str(tmp_path))).spent_usd() >= billed, "a killed start is never counted too low"
