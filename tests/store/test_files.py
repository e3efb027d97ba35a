"""The store: whole or not there, first writer wins, nothing outside the root."""

import multiprocessing
import threading
from pathlib import Path

import pytest

from raypipe.errors import ServiceError
from raypipe.store.files import Store

WRITERS = 8


def payload(number: int) -> bytes:
    return bytes([number]) * 200_000


def _race(root: str, number: int, results) -> None:
    results.put((number, Store(root).put_new("media/one", payload(number))))


def _settled(store: Store, results: list[tuple[int, bool]]) -> None:
    winners = [number for number, won in results if won]
    assert len(winners) == 1
    assert store.read("media/one") == payload(winners[0])
    assert store.list() == ["media/one"]
    assert [p.name for p in Path(store.root).rglob("*") if p.is_file()] == ["one"]


def test_of_many_threads_one_wins(tmp_path):
    store, results, gate = Store(str(tmp_path)), [], threading.Barrier(WRITERS)

    def write(number: int) -> None:
        gate.wait()
        results.append((number, store.put_new("media/one", payload(number))))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _settled(store, results)


def test_of_many_processes_one_wins(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    workers = [context.Process(target=_race, args=(str(tmp_path), n, results)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    _settled(Store(str(tmp_path)), [results.get() for _ in workers])


def test_put_new_leaves_what_is_there(tmp_path):
    store = Store(str(tmp_path))
    assert store.put_new("a", b"first")
    assert not store.put_new("a", b"second")
    assert store.read("a") == b"first"
    store.replace("a", b"third")
    assert store.read("a") == b"third"
    assert store.list() == ["a"]


def test_replace_and_fetch_carry_whole_files(tmp_path):
    store, source = Store(str(tmp_path / "run")), tmp_path / "big"
    source.write_bytes(bytes(range(256)) * 20_000)
    store.replace_from("deep/er/big", source)
    store.fetch("deep/er/big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert store.size("deep/er/big") == source.stat().st_size


def test_temporary_and_hidden_files_are_not_listed(tmp_path):
    store = Store(str(tmp_path))
    store.replace("media/a.arrow", b"1")
    (tmp_path / "media/.b.arrow.12345678.tmp").write_bytes(b"torn")
    (tmp_path / "media/c.json").write_bytes(b"{}")
    assert store.list("media") == ["media/a.arrow", "media/c.json"]
    assert store.list("media", ".arrow") == ["media/a.arrow"]
    assert store.list("nothing/here") == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a/.."])
def test_names_stay_inside(tmp_path, name):
    store = Store(str(tmp_path / "run"))
    for act in (store.read, store.exists, store.delete, store.size):
        with pytest.raises(ValueError, match="not a name inside"):
            act(name)
    with pytest.raises(ValueError, match="not a name inside"):
        store.put_new(name, b"1")
    with pytest.raises(ValueError, match="not a name inside"):
        store.replace(name, b"1")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["a", "deep/a"])
def test_a_file_where_the_folder_should_be(tmp_path, name):
    (tmp_path / "run").write_text("a file")
    store = Store(str(tmp_path / "run"))
    for act in (store.put_new, store.replace):
        with pytest.raises(ServiceError, match="cannot write") as fault:
            act(name, b"1")
        assert fault.value.exit_code == 5
    assert (tmp_path / "run").read_text() == "a file"


def test_a_folder_where_the_file_should_be(tmp_path):
    store = Store(str(tmp_path))
    store.put_new("a/b", b"1")
    with pytest.raises(ServiceError):
        store.replace("a", b"1")
    assert store.list() == ["a/b"]


def test_a_full_disk_is_a_service_error(tmp_path):
    """A file size limit of the process stands in for a small disk: the kernel itself refuses the write."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    worker = context.Process(target=_write_over_the_limit, args=(str(tmp_path), results))
    worker.start()
    worker.join()
    assert results.get() == "ServiceError"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def _write_over_the_limit(root: str, results) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        Store(root).put_new("a", bytes(5000))
        results.put("written")
    except Exception as fault:
        results.put(type(fault).__name__)


def test_reading_what_is_not_there(tmp_path):
    store = Store(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        store.read("a")
    store.delete("a")
    assert not store.exists("a")


def test_any_fsspec_address_is_a_store(tmp_path):
    store = Store(f"memory://{tmp_path.name}-store")
    assert not store.is_local
    store.replace("media/a", b"1")
    store.replace("media/.hidden", b"1")
    assert store.read("media/a") == b"1"
    assert store.list("media") == store.list() == ["media/a"]
    assert store.exists("media/a")
    store.delete("media/a")
    store.delete("media/a")
    assert not store.exists("media/a")
