"""The store over HTTP against a real S3 server: the same promises as on local disk, whatever HTTP does."""

import os
import random
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import s3fs

from raypipe.errors import RequestError, ServiceError
from raypipe.store import objects
from raypipe.store.files import Store
from tests.support.faults import KINDS, after, fault_proxy
from tests.support.s3 import addressed_to, free_port, new_bucket

DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The tries of the store itself, without waiting and without botocore's tries below them."""
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(objects, "REQUEST_TRIES", 1)


@pytest.fixture
def faulty(s3_server, _quick):
    """A store whose requests go through a fault proxy."""
    with fault_proxy(s3_server, stall_s=1.5) as proxy, addressed_to(proxy.url):
        yield Store(f"s3://{new_bucket(s3_server)}/prefix"), proxy


def test_there_and_back(s3_root, tmp_path):
    store = Store(s3_root)
    assert store.put_new("media/a", b"first")
    assert not store.put_new("media/a", b"second")
    assert not store.put_new("media/a", b"first")
    assert store.put_new("media/a", b"first", ours=True)
    assert not store.put_new("media/a", b"second", ours=True)
    store.replace("b", DATA)
    (tmp_path / "c").write_bytes(DATA)
    store.replace_from("deep/c", tmp_path / "c")
    store.replace("media/.hidden", b"1")
    store.replace("empty", b"")
    assert store.list() == ["b", "deep/c", "empty", "media/a"]
    assert (store.list("media"), store.list("med"), store.list("no")) == (["media/a"], [], [])
    assert store.read("deep/c") == DATA
    assert (store.size("b"), store.size("empty"), store.measure("empty")[0]) == (len(DATA), 0, 0)
    store.fetch("b", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == DATA
    assert [store.exists(n) for n in ("b", "media", "media/a", "no")] == [True, False, True, False]
    assert store.sweep_temporary() == 0


def test_parts_of_an_object(s3_root, tmp_path, monkeypatch):
    monkeypatch.setattr("raypipe.store.files.PART_BYTES", 1000)
    store, here = Store(s3_root), Store(str(tmp_path))
    for each in (store, here):
        each.replace("b", DATA)
        assert each.range("b", 10, 20) == DATA[10:30]
        assert each.range("b", len(DATA) - 5, 20) == DATA[-5:]
        assert each.range("b", len(DATA), 20) == each.range("b", 7, 0) == b""
        with pytest.raises(ValueError, match="not a range"):
            each.range("b", -1, 20)
        with pytest.raises(FileNotFoundError):
            each.range("no", 0, 20)
    assert store.measure("b") == here.measure("b")
    assert store.sha256("b") == here.sha256("b")


def test_what_is_not_there(s3_root, tmp_path):
    store = Store(s3_root)
    store.delete("no")
    store.delete_many(["no", "nor"])
    assert store.list() == []
    for act in (store.read, store.size, store.sha256):
        with pytest.raises(FileNotFoundError):
            act("no")
    with pytest.raises(FileNotFoundError):
        store.fetch("no", tmp_path / "x")


def test_many_are_removed_with_few_requests(faulty, monkeypatch):
    monkeypatch.setattr(objects, "DELETED_AT_ONCE", 8)
    store, proxy = faulty
    names = [f"media/{n}" for n in range(20)]
    for name in names:
        store.replace(name, b"1")
    asked: list[str] = []
    proxy.plan = lambda method, path: asked.append(method)
    store.delete_many(names[1:])
    assert asked == ["POST"] * 3
    assert store.list() == names[:1]


def test_another_process_sees_it_at_once(s3_root):
    mine, theirs = Store(s3_root), Store(s3_root)
    assert theirs.list() == []
    mine.put_new("a", b"1")
    assert theirs.list() == ["a"]
    assert theirs.exists("a")
    mine.delete("a")
    assert not theirs.exists("a")


def test_a_store_works_in_a_forked_child(s3_root):
    store = Store(s3_root)
    store.replace("a", b"1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if store.read("a") == b"1" and store.put_new("b", b"2") else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read("b") == b"2"


def test_of_many_threads_one_wins(s3_root):
    store, results, gate = Store(s3_root), [], threading.Barrier(6)

    def write(number: int) -> None:
        gate.wait()
        results.append((store.put_new("one", bytes([number]) * 5000, ours=True), number))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [number for won, number in results if won]
    assert len(winners) == 1
    assert store.read("one") == bytes(winners) * 5000


OPERATIONS = {
    "put_new": lambda s: s.put_new("new", DATA, ours=True) and s.read("new") == DATA,
    "replace": lambda s: s.replace("there", DATA) or s.read("there") == DATA,
    "read": lambda s: s.read("there") == DATA,
    "range": lambda s: s.range("there", 100, 300) == DATA[100:400],
    "measure": lambda s: s.measure("there")[0] == len(DATA),
    "exists": lambda s: s.exists("there") and not s.exists("no"),
    "list": lambda s: s.list("", "ere") == ["there"],
    "delete": lambda s: s.delete("there") or not s.exists("there"),
    "delete_many": lambda s: s.delete_many(["there", "no"]) or not s.exists("there"),
}


@pytest.mark.parametrize("kind", [*KINDS, "conflict"])
def test_a_passing_fault_is_survived(faulty, kind, monkeypatch):
    store, proxy = faulty
    operations = dict(OPERATIONS)
    if kind == "stall":
        monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 1.0)
        operations = {name: OPERATIONS[name] for name in ("put_new", "read", "list")}
    for name, act in operations.items():
        store.replace("there", DATA)
        proxy.plan, before = after(0, kind), len(proxy.fired)
        assert act(store), (name, kind)
        assert len(proxy.fired) == before + 1, (name, kind)
        proxy.plan = None


@pytest.mark.parametrize("kind", ["503", "lost", "truncated", "denied"])
def test_a_lasting_fault_is_a_service_error(faulty, kind, monkeypatch):
    monkeypatch.setattr(objects, "TRIES", 2)
    store, proxy = faulty
    for name, act in OPERATIONS.items():
        if kind == "truncated" and name in ("put_new", "replace", "exists", "delete"):
            continue  # their replies have no body that could be cut
        proxy.plan = None
        store.replace("there", DATA)
        proxy.plan, before = (lambda method, path, kind=kind: kind), len(proxy.fired)
        with pytest.raises(ServiceError, match="cannot") as fault:
            act(store)
        assert fault.value.exit_code == 5
        assert fault.value.remedy
        assert len(proxy.fired) > before, (name, kind)


def test_a_body_that_breaks_off_is_never_taken_for_the_whole(faulty):
    store, proxy = faulty
    store.replace("there", DATA)
    proxy.plan = after(0, "truncated", times=4, method="GET")
    assert store.read("there") == DATA
    assert len(proxy.fired) == 4


def test_a_lost_reply_is_told_from_a_lost_race(faulty):
    """120 writes whose reply is lost, half of them onto names that somebody took before."""
    store, proxy = faulty
    chance = random.Random(7)
    taken = {f"one/{n:03d}": chance.random() < 0.5 for n in range(120)}
    for name in taken:
        if taken[name]:
            store.replace(name, f"theirs {name}".encode())
    losses = {name: chance.choice([1, 1, 2]) for name in taken}

    def plan(method: str, path: str) -> str | None:
        name = path.split("?")[0][-7:]
        if method != "PUT" or not losses.get(name):
            return None
        losses[name] -= 1
        return "lost"

    proxy.plan = plan
    with ThreadPoolExecutor(8) as pool:
        won = dict(
            zip(
                taken,
                pool.map(lambda n: store.put_new(n, f"mine {n}".encode(), ours=True), taken),
                strict=True,
            )
        )
    assert {path.split("?")[0][-7:] for kind, _, path in proxy.fired if kind == "lost"} == set(taken)
    assert won == {name: not there for name, there in taken.items()}
    assert store.list("one") == list(taken)
    for name, there in taken.items():
        assert store.read(name) == f"{'theirs' if there else 'mine'} {name}".encode()


def test_large_objects_stay_conditional_and_leave_no_parts_behind(faulty, s3_server, monkeypatch):
    """s3fs sends what is over two chunks in parts; here the chunks are as small as S3 allows."""
    store, proxy = faulty
    real = s3fs.S3FileSystem._pipe_file

    async def in_small_parts(fs, *args, **more):
        return await real(fs, *args, chunksize=5 << 20, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", in_small_parts)
    first, second = os.urandom(1) * (11 << 20), os.urandom(2) * (6 << 20)
    asked: list[tuple[str, str]] = []
    proxy.plan = lambda method, path: asked.append((method, path))
    assert store.put_new("big", first, ours=True)
    assert sum("partNumber" in path for _, path in asked) == 3
    assert not store.put_new("big", second, ours=True)
    assert store.read("big") == first
    proxy.plan = after(2, "denied", method="PUT")
    with pytest.raises(ServiceError, match="access denied"):
        store.put_new("failed", second)
    assert proxy.fired
    # The reply to the request that completes the upload is lost.
    proxy.plan = after(1, "lost", method="POST")
    assert store.put_new("settled", first, ours=True)
    assert ("lost", "POST") in [f[:2] for f in proxy.fired]
    assert store.list() == ["big", "settled"]
    bucket = store.root.split("/")[2]
    with urllib.request.urlopen(f"{s3_server}/{bucket}?uploads") as reply:  # noqa: S310 - our own loopback
        assert b"<UploadId>" not in reply.read()


def test_refusals_say_what_to_do(s3_root, monkeypatch):
    with pytest.raises(ServiceError, match="no such bucket"):
        Store("s3://no-bucket-of-this-name/x").put_new("a", b"1")
    for act in (Store.list, lambda s: s.read("a"), lambda s: s.exists("a")):
        with pytest.raises(ServiceError, match="no such bucket"):
            act(Store("s3://no-bucket-of-this-name/x"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ServiceError, match="no valid credentials") as fault:
        Store(s3_root).read("a")
    assert "AWS_ACCESS_KEY_ID" in fault.value.remedy


@pytest.mark.parametrize(
    "credentials", ["AKIAABCDEFGHIJKLMNOP:sek/ret12", "AKIAABCDEFGHIJKLMNOP:", "me:sekret12"]
)
def test_an_address_that_holds_credentials_is_refused(credentials):
    for act in (Store.list, lambda s: s.read("a"), lambda s: s.put_new("a", b"1")):
        with pytest.raises(RequestError) as fault:
            act(Store(f"s3://{credentials}@bucket/x"))
        assert fault.value.message == "s3://***@bucket/x: the address holds credentials"
        assert "AWS_ACCESS_KEY_ID" in fault.value.remedy


def test_what_a_kind_of_storage_cannot_is_a_wrong_request():
    with pytest.raises(RequestError, match="storage of this kind does not allow it") as fault:
        Store("https://127.0.0.1:1/x").delete("a")
    assert "s3://bucket" in fault.value.remedy


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(objects, "TRIES", 2)
    with addressed_to(f"http://127.0.0.1:{free_port()}"), pytest.raises(ServiceError) as fault:
        Store("s3://bucket/x").put_new("a", b"1")
    assert "not reachable" in fault.value.message
    assert "AWS_ENDPOINT_URL" in fault.value.remedy
