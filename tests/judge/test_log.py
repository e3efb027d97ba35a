"""Verdicts on disk and on S3: durable one by one, found again, in few files."""

import os
import time
from pathlib import Path

import pytest

from raypipe.errors import DamageError, ServiceError
from raypipe.judge import log as module
from raypipe.judge.index import VerdictIndex
from raypipe.judge.log import SPENT, VERDICTS, VerdictLog
from raypipe.judge.stream import JudgeStream
from raypipe.records import VERDICT_SCHEMA, VERDICT_SCHEMA_1, Outcome, Verdict, verdicts_of
from raypipe.store.append import AppendFile
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.shards import encode
from tests.judge.cases import prediction, settings
from tests.support.judge_endpoint import JudgeEndpoint


def verdict(number: int, **more) -> Verdict:
    values = {
        "key": f"{number:024x}",
        "benchmark": "msvd_qa",
        "question_id": f"q{number}",
        "judge": "j",
        "judge_model": "m",
        "rubric": "r@1",
        "outcome": Outcome.OK,
        "correct": True,
        "score": 5.0,
        "reply": "yes",
        "prompt_tokens": 1,
        "reply_tokens": 2,
    }
    return Verdict(**{**values, **more})


def ledger(store: Store) -> Ledger:
    return Ledger(store, VERDICTS, VERDICT_SCHEMA)


def rows(store: Store) -> list[Verdict]:
    return sorted(verdicts_of(ledger(store).rows()), key=lambda v: v.key)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def left_open(store: Store) -> str:
    (name,) = store.list(VERDICTS, ".jsonl")
    return name


def killed(log: VerdictLog) -> None:
    """What is left of a log whose process was killed."""
    log._writer._file.close()


def test_a_verdict_is_in_the_file_when_append_returns(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(os.fstat(file).st_size))
    log = VerdictLog(store)
    log.append([verdict(1, flags=("order",), correct=None, baseline=8.0)])
    size = store.size(left_open(store))
    assert synced == [size]
    killed(log)
    VerdictLog(store).close()
    assert rows(store) == [verdict(1, flags=("order",), correct=None, baseline=8.0)]
    assert not store.list(VERDICTS, ".jsonl")


def test_what_a_killed_process_left_is_sealed_once(store: Store) -> None:
    log = VerdictLog(store)
    log.append([verdict(1), verdict(2)])
    log.reserve(0.5)
    log.reserve(0.75)
    name = left_open(store)
    data = store.read(name)
    killed(log)
    assert VerdictLog(store).spent_usd() == 0.75, "calls under way count at the most they can cost"
    Path(store.path(name)).write_bytes(data)  # killed again, right before the file was removed
    again = VerdictLog(store)
    assert again.spent_usd() == 0.75
    assert rows(store) == [verdict(1), verdict(2)]
    assert len(store.list(VERDICTS, ".arrow")) == 1


def test_every_start_counts_for_what_is_spent(store: Store) -> None:
    for usd in (0.5, 0.25):
        log = VerdictLog(store)
        log.append([verdict(int(usd * 100))])
        log.reserve(usd + 1)
        log.reserve(usd)
        log.close()
    assert VerdictLog(store).spent_usd() == 0.75
    assert len(store.list(SPENT)) == 2


def test_a_torn_last_line_is_of_a_verdict_that_was_not_promised(store: Store) -> None:
    log = VerdictLog(store)
    log.append([verdict(1)])
    name = left_open(store)
    killed(log)
    with open(store.path(name), "ab") as file:
        file.write(b'{"key": "0000')
    VerdictLog(store).close()
    assert rows(store) == [verdict(1)]


def test_damage_in_the_middle_is_said_and_not_skipped(store: Store) -> None:
    log = VerdictLog(store)
    log.append([verdict(1)])
    log.append([verdict(2)])
    name = left_open(store)
    killed(log)
    data = store.read(name).replace(b'"key"', b'"ke', 1)
    Path(store.path(name)).write_bytes(data)
    with pytest.raises(DamageError, match="line 1 is damaged"):
        VerdictLog(store)
    assert store.exists(name), "nothing is thrown away"


def test_a_file_that_another_process_writes_is_left_alone(store: Store) -> None:
    log = VerdictLog(store)
    log.append([verdict(1)])
    name = left_open(store)
    other = VerdictLog(store)  # flock knows open files, so this stands for another process
    assert store.exists(name)
    other.append([verdict(2)])
    other.close()
    log.append([verdict(3)])
    log.close()
    assert rows(store) == [verdict(1), verdict(2), verdict(3)]


def test_what_a_file_of_another_process_holds_is_not_paid_again(store: Store) -> None:
    """Such as a child that outlives a killed parent and holds its files."""
    with JudgeEndpoint() as endpoint:
        made = settings(endpoint)
        first = JudgeStream(store, lambda _: "video_qa", made, use_ray=False)
        first.add([prediction(i) for i in range(5)])
        first._asking.wait()
        assert store.list(VERDICTS, ".jsonl")
        with JudgeStream(store, lambda _: "video_qa", made, use_ray=False) as second:
            second.add([prediction(i) for i in range(7)])
            assert len(second.finish()) == 7
        assert len(endpoint.calls) == 7
        first.close()
    assert {v.question_id for v in rows(store)} == {f"q{i}" for i in range(7)}


def test_a_file_is_held_by_one_process(store: Store) -> None:
    file = AppendFile(store.path("lines"))
    with pytest.raises(ServiceError, match="another process"):
        AppendFile(file.path)
    file.close()
    AppendFile(file.path).close()


def test_a_full_disk_leaves_whole_lines(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    file = AppendFile(store.path("lines"))
    file.write(b"one\n")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:2]))
    with pytest.raises(ServiceError, match="No space"):
        file.write(b"two\n")
    monkeypatch.undo()
    file.write(b"three\n")
    assert file.read() == b"one\nthree\n"


def test_a_refused_sync_stops_the_run_and_not_the_verdict(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    with JudgeEndpoint() as endpoint:
        made = settings(endpoint, concurrency=2)
        with JudgeStream(store, lambda _: "video_qa", made, use_ray=False) as stream:
            stream.add([prediction(i) for i in range(10)])
            with pytest.raises(ServiceError, match="Input/output error"):
                stream.finish()
        assert len(endpoint.calls) <= 4, "it does not go on paying"


def test_segments_of_an_older_version_are_read(store: Store) -> None:
    import pyarrow as pa

    old = {k: v for k, v in vars(verdict(1)).items() if k in VERDICT_SCHEMA_1.names}
    store.put_new(f"{VERDICTS}/old.arrow", encode(pa.Table.from_pylist([old], schema=VERDICT_SCHEMA_1)))
    log = VerdictLog(store)
    log.append([verdict(2)])
    log.close()
    assert rows(store) == [verdict(1), verdict(2)]
    assert VerdictIndex([ledger(store)]).find([verdict(1).key]) == {verdict(1).key: [verdict(1)]}


def test_the_index_finds_good_verdicts_in_all_segments(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEAL_ROWS", 3)
    log = VerdictLog(store)
    for number in range(20):
        log.append([verdict(number)])
    log.append([verdict(3, question_id="shared"), verdict(50, outcome=Outcome.JUDGE_FAILED)])
    log.close()
    index = VerdictIndex([ledger(store)])
    assert len(index) == 21
    found = index.find([verdict(n).key for n in (19, 3, 50, 99)])
    assert set(found) == {verdict(19).key, verdict(3).key}
    assert sorted(v.question_id for v in found[verdict(3).key]) == ["q3", "shared"]
    assert VerdictIndex([]).find([verdict(1).key]) == {}


def test_a_large_ledger_is_indexed_in_columns(store: Store) -> None:
    import resource

    rows_a_segment = 20_000
    for segment in range(5):
        part = [verdict(segment * rows_a_segment + i) for i in range(rows_a_segment)]
        ledger(store).append(f"s{segment}", part)
    del part
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = VerdictIndex([ledger(store)])
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert len(index) == 100_000
    assert grown_mib < 120
    assert index.find([verdict(77_777).key])[verdict(77_777).key] == [verdict(77_777)]


# On S3.


def test_on_s3_a_second_is_one_small_segment_and_the_end_puts_them_together(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(s3_root)
    monkeypatch.setattr(module, "FLUSH_S", 0.01)
    monkeypatch.setattr(module, "FEW_PARTS", 2)
    log = VerdictLog(store)
    for number in range(6):
        log.append([verdict(number)])
        log.reserve(number / 10)
        while len(rows(store)) <= number:
            time.sleep(0.01)
    parts = [n for n in store.list(VERDICTS, ".arrow") if "/part-" in n]
    assert len(parts) == 6
    log.close()
    assert len(store.list(VERDICTS, ".arrow")) == 1
    assert rows(store) == [verdict(n) for n in range(6)]


def test_on_s3_a_second_start_pays_nothing(s3_root: str) -> None:
    store = Store(s3_root)
    with JudgeEndpoint() as endpoint:
        for _ in range(2):
            with JudgeStream(store, lambda _: "video_qa", settings(endpoint), use_ray=False) as stream:
                stream.add([prediction(i) for i in range(8)])
                assert len(stream.finish()) == 8
            assert len(endpoint.calls) == 8
    assert {v.outcome for v in rows(store)} == {Outcome.OK}


def test_on_s3_what_is_spent_is_written_ahead_in_steps(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(s3_root)
    monkeypatch.setattr(module, "FLUSH_S", 60.0)
    log = VerdictLog(store, step_usd=0.1)
    written = []
    for cents in range(1, 31):
        log.reserve(cents / 100)
        written.append(VerdictLog(store).spent_usd())  # as after a kill
    assert all(usd >= cents / 100 for cents, usd in enumerate(written, 1)), "never too low"
    assert all(usd <= cents / 100 + 0.1 for cents, usd in enumerate(written, 1))
    assert len(set(written)) == 3, "a step is one request"
    log.close()
    assert VerdictLog(store).spent_usd() == 0.3


def test_on_s3_a_flush_that_fails_stops_the_run(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(s3_root)
    monkeypatch.setattr(module, "FLUSH_S", 0.01)
    log = VerdictLog(store)

    def refuse(*_: object) -> bool:
        raise ServiceError("s3 is away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_new", refuse)
        patch.setattr(log.ledger.store, "put_new", refuse)
        log.append([verdict(1)])
        while log._writer._fault is None:
            time.sleep(0.01)
        with pytest.raises(ServiceError, match="s3 is away"):
            log.append([verdict(2)])
    log.close()
    assert rows(store) == [verdict(1)], "what was taken is kept until it can be put"
