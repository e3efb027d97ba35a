"""A prepare run on S3 whose driver ends at one of its requests, and is started again.

The server is a real one, over HTTP on loopback. A fork would not carry s3fs's connections and thread
along, and a process for each attempt would take seconds; so the driver runs in this process and is ended
by ``kills.dying``: at its n-th request, or when that was carried out and its reply was not seen yet,
after which nothing that it does reaches the server any more, its exception handlers included.
"""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import ServiceError
from raypipe.prepare import work
from raypipe.store import objects
from raypipe.store.files import Store
from raypipe.store.verify import verify
from tests.support.faults import FaultProxy, fault_proxy
from tests.support.kills import ALL, Death, dying, few, points
from tests.support.prepared import NoSandbox, contents, dataset, prepared
from tests.support.s3 import addressed_to, new_bucket
from tests.support.whole import MORE, committed_units, differing, numbered, proved, write_numbered

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch):
    monkeypatch.setattr(work, "shared_sandbox", NoSandbox)
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.01)


class Scenario:
    """A run on S3 to be harmed. ``before``: what lies in its folder when it starts."""

    def __init__(self, root: Path, out: str, before: dict[str, bytes] | None = None, **more: Any) -> None:
        self.root, self.out, self.before, self.more = root, out, before or {}, {**MORE, **more}
        self.settings = dataset(root, Path(), **self.more).model_copy(update={"out": out})
        self.removed = frozenset(["1.png"]) if before else frozenset()
        self.store = Store(out)
        self.reset()
        with dying() as requests:
            self.run()
        self.requests = requests.log
        self.wanted = contents(out)  # type: ignore[arg-type]
        proved(self.settings, self.removed)

    def reset(self) -> None:
        self.store.delete_many(self.store.list())
        for name, data in self.before.items():
            self.store.replace(name, data)

    def run(self) -> None:
        prepared(self.root, self.out, **self.more)  # type: ignore[arg-type]

    def whole(self, said: str) -> None:
        """What is there now, after the harm."""
        if self.store.exists("commit.json"):
            damage = verify(self.out).damage
            assert [d for d in damage if "not named in the manifest" not in d] == [], said
        committed_units(self.store)

    def continues(self, said: str) -> None:
        self.run()
        assert differing(contents(self.out), self.wanted) == [], said  # type: ignore[arg-type]
        assert verify(self.out).damage == [], said


def fresh(folder: Path, out: str) -> Scenario:
    return Scenario(write_numbered(folder / "data", {"1.png": 1}, {"conversations": []}), out)


def changed(folder: Path, out: str) -> Scenario:
    """A finished run; then one medium is taken down, whose copy stays, and one is new."""
    root = write_numbered(folder / "data", {"1.png": 1, "2.png": 2})
    (root / "copy.png").write_bytes((root / "1.png").read_bytes())
    os.utime(root / "copy.png", (1_700_000_000, 1_700_000_000))
    write_numbered(root, {"1.png": 1, "2.png": 2}, numbered("copy.png", 1))
    prepared(root, out, **MORE)  # type: ignore[arg-type]
    before = contents(out)  # type: ignore[arg-type]
    write_numbered(root, {"1.png": 1, "2.png": 2, "3.png": 3}, numbered("copy.png", 1))
    (folder / "list").write_text("1.png\n")
    return Scenario(root, out, before, remove=str(folder / "list"))


SCENARIOS = {"fresh": fresh, "changed": changed}


def commits(requests: list[str]) -> set[int]:
    """The writes from the seal of the lease on."""
    start = next(n for n, r in enumerate(requests, 1) if r.startswith("put_object") and r.endswith(".closed"))
    late = enumerate(requests[start - 1 :], start)
    return {n for n, r in late if r.startswith(("put_object", "delete_object"))}


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_ended_at_any_request_it_ends_the_same(tmp_path, s3_root, name, how):
    scenario = SCENARIOS[name](tmp_path, s3_root)
    kinds: Counter[str] = Counter()
    late = few(commits(scenario.requests), 5) if how == "before" else set()
    tried = points(len(scenario.requests), 3, late)
    for at in tried:
        scenario.reset()
        said = f"{how} request {at}, {scenario.requests[at - 1]}"
        with dying(at, how) as requests, pytest.raises(Death):
            scenario.run()
        assert requests.dead, said
        assert len(requests.log) == at, said
        kinds[requests.log[-1].split()[0]] += 1
        scenario.whole(said)
        scenario.continues(said)
    print(f"{name}, {how}: {len(tried)} of {len(scenario.requests)} requests: {dict(kinds)}")
    assert kinds.total() == len(tried) >= 3


class From:
    """Does harm to the request number ``at``, or to all from there on; counts what was asked."""

    def __init__(self, kind: str = "", at: int = 0, *, on: bool = False) -> None:
        self.kind, self.at, self.on, self.asked = kind, at, on, 0

    def __call__(self, method: str, path: str) -> str | None:
        self.asked += 1
        return self.kind if self.asked == self.at or (self.on and self.asked > self.at > 0) else None


def harmed(scenario: Scenario, proxy: FaultProxy, plan: From) -> None:
    """Runs from the start; ``plan`` is asked about each of its requests."""
    scenario.reset()
    proxy.plan, proxy.fired = plan, []
    try:
        scenario.run()
    finally:
        proxy.plan = None


PASSING = ("500", "reset", "lost", "slow_down")


def test_a_service_that_fails_once_does_not_stop_the_run(tmp_path, s3_server):
    """What passes by itself is tried again, and a write whose reply is lost counts once."""
    with fault_proxy(s3_server) as proxy, addressed_to(proxy.url):
        scenario = fresh(tmp_path, f"s3://{new_bucket(s3_server)}/run")
        harmed(scenario, proxy, count := From())
        for number, at in enumerate(points(count.asked, 6)):
            for kind in PASSING if ALL else (PASSING[number % 4],):
                harmed(scenario, proxy, From(kind, at))
                assert [f[0] for f in proxy.fired] == [kind]
                said = f"{kind} at request {at}, {proxy.fired}"
                assert differing(contents(scenario.out), scenario.wanted) == [], said  # type: ignore[arg-type]
                proved(scenario.settings)


def test_a_service_that_fails_for_long_ends_with_5_and_the_same_command_continues(
    tmp_path, s3_server, monkeypatch
):
    monkeypatch.setattr(objects, "LONGEST_WAIT_S", 0.01)
    with fault_proxy(s3_server) as proxy, addressed_to(proxy.url):
        scenario = fresh(tmp_path, f"s3://{new_bucket(s3_server)}/run")
        harmed(scenario, proxy, count := From())
        for number, at in enumerate(points(count.asked, 4)):
            kind = ("denied", "conflict")[number % 2]
            with pytest.raises(ServiceError) as fault:
                harmed(scenario, proxy, From(kind, at, on=True))
            assert proxy.fired
            assert fault.value.exit_code == 5
            _end_leases(scenario.store)
            scenario.whole(f"{kind} from request {at} on")
            scenario.continues(f"{kind} from request {at} on")


def _end_leases(store: Store) -> None:
    """A refused driver could not give up its lease; this process, which it ran in, is still there."""
    for name in store.list("driver"):
        store.delete(name)
