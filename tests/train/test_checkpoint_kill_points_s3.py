"""A checkpoint on S3 whose commit ends at one of its requests, and the start that comes after it.

As with prepare, the process is ended inside by ``kills.dying``: nothing that it does afterwards reaches the
server any more, whatever its threads and handlers try. The server is a real one, over HTTP on loopback.
"""

import hashlib
from collections import Counter

import pytest

from raypipe.store import objects
from raypipe.store.files import Store
from raypipe.train.checkpoints import Checkpoints, records
from tests.support.kills import ALL, Death, dying, few, points
from tests.train.saved import alone, extra, held, newest_step

pytestmark = pytest.mark.timeout(3600)
KEEP, BEFORE, STEP, ROWS = 2, (10, 20), 30, b"rows of the ledger"
AGAIN = "again000"  # the start after the one that is ended
STRAY = {  # what an earlier start left when it died in the middle of a commit
    "checkpoints/step-00000025-deadbeef/rank-00000.safetensors": b"torn",
    "checkpoints/step-00000025-deadbeef/rank-00001.json": b"{}",
    "ledger/00000020-00000025-deadbeef.arrow": b"of the same",
}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.01)


def commit(store: Store, step: int, world: int, attempt: str = "first000") -> None:
    """A checkpoint by all ranks of one start, written in the background; the last rank first.

    Rank 0 then finds the others' records at once, so that the requests are the same each time.
    """
    earlier = [f"ledger/{s - 10:08d}-{s:08d}-first000.arrow" for s in range(10, step, 10)]
    segments = [*earlier, f"ledger/{step - 10:08d}-{step:08d}-{attempt}.arrow"]
    digest = hashlib.sha256(ROWS).hexdigest()
    said = extra(step) | {"ledger": [{"path": s, "bytes": len(ROWS), "sha256": digest} for s in segments]}
    for rank in reversed(range(world)):
        mine = Checkpoints(store, rank, world, KEEP, lambda value: [attempt] * world, asynchronous=True)
        mine.commit(held(step, rank, world), step, said, {segments[-1]: ROWS} if rank == 0 else None)
        mine.wait()


class Scenario:
    """A run with two checkpoints and the leftovers of a dead start, and the requests of its next commit."""

    def __init__(self, root: str, world: int) -> None:
        self.store, self.world = Store(root), world
        for step in BEFORE:
            commit(self.store, step, world)
        for name, data in STRAY.items():
            self.store.replace(name, data)
        self.before = {name: self.store.read(name) for name in self.store.list()}
        with dying() as requests:
            commit(self.store, STEP, world)
        self.requests = requests.log
        self.reset()
        commit(self.store, STEP, world, AGAIN)
        self.wanted = self.names()

    def reset(self) -> None:
        self.store.delete_many(self.store.list())
        for name, data in self.before.items():
            self.store.replace(name, data)

    def names(self) -> set[str]:
        return set(self.store.list())


def writes(requests: list[str]) -> set[int]:
    return {n for n, r in enumerate(requests, 1) if r.startswith(("put_object", "delete_object"))}


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("world", [1, 2])
def test_a_commit_ended_at_any_request_leaves_the_one_before_or_this(s3_root, world, how):
    scenario = Scenario(s3_root, world)
    store, kinds, ends = scenario.store, Counter[str](), set()
    record = f"checkpoints/step-{STEP:08d}.json"
    asked, moment = scenario.requests, {n for n, r in enumerate(scenario.requests, 1) if r.endswith(record)}
    for at in points(len(asked), 3, moment | few(writes(asked), 4)):
        scenario.reset()
        said = f"{how} request {at}, {scenario.requests[at - 1]}"
        with dying(at, how) as requests, pytest.raises(Death):
            commit(store, STEP, world)
        assert requests.dead, said
        assert len(requests.log) == at, said
        kinds[requests.log[-1].split()[0]] += 1
        found = newest_step(alone(store), store)
        assert found == (STEP if store.exists(record) else BEFORE[-1]), said
        ends.add(found)
        commit(store, STEP, world, AGAIN)
        assert newest_step(alone(store), store) == STEP, said
        assert scenario.names() == scenario.wanted, said
        assert [r["step"] for r in records(store)] == [BEFORE[-1], STEP], said
    print(f"{world} ranks, {how}: {kinds.total()} of {len(scenario.requests)} requests: {dict(kinds)}")
    assert ends == {BEFORE[-1], STEP}
    assert kinds["put_object"] >= (2 + 2 * world if ALL else 2)
