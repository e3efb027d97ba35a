"""Shards and ledgers: what raypipe wrote is read, anything else is refused without harm."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe.errors import DamageError
from raypipe.records import SAMPLE_SCHEMA, MediumKind, Sample, Turn, samples_of, to_table
from raypipe.store.files import Store
from raypipe.store.ledger import Ledger
from raypipe.store.shards import Shard, encode, encode_blocks, metadata_of, read_block

SAMPLES = [
    Sample(f"s{n}", "d", (Turn("human", f"q {n} ü"), Turn("gpt", "a")), (f"m{n}",), (MediumKind.VIDEO,))
    for n in range(20)
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    store.replace("samples/a.arrow", encode(to_table(SAMPLES, SAMPLE_SCHEMA), {"b": "2", "a": "1"}))
    return store


def shard(store: Store) -> Shard:
    return Shard(store, "samples/a.arrow", SAMPLE_SCHEMA)


def test_there_and_back(store):
    opened = shard(store)
    assert samples_of(opened.table().to_pylist()) == SAMPLES
    assert samples_of([opened.row(n // 8, n % 8) for n in range(20)]) == SAMPLES
    assert metadata_of(opened.table()) == {"a": "1", "b": "2"}


def test_the_same_records_give_the_same_bytes():
    made = [encode(to_table(SAMPLES, SAMPLE_SCHEMA), m) for m in ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})]
    assert made[0] == made[1]


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_the_place_of_each_batch_is_its_bytes(tmp_path, batch):
    made, store = encode_blocks(to_table(SAMPLES, SAMPLE_SCHEMA), {"a": "1"}, batch), Store(str(tmp_path))
    assert made.data == encode(to_table(SAMPLES, SAMPLE_SCHEMA), {"a": "1"}, batch)
    store.replace("x.arrow", made.data)
    opened = Shard(store, "x.arrow", SAMPLE_SCHEMA)
    assert len(made.blocks) == opened.batches == -(-len(SAMPLES) // batch)
    found = []
    for number, (offset, length) in enumerate(made.blocks):
        block = read_block(store.range("x.arrow", offset, length), SAMPLE_SCHEMA)
        assert block.equals(opened.batch(number))
        assert opened.range(offset, length) == made.data[offset : offset + length]
        found += block.to_pylist()
        for wrong in ((offset + 8, length - 8), (offset, length // 2), (offset - 8, length), (0, 0)):
            with pytest.raises(DamageError):
                read_block(store.range("x.arrow", *wrong), SAMPLE_SCHEMA)
    assert samples_of(found) == SAMPLES


def test_another_schema_is_refused(store):
    other = pa.table({"id": ["s1"], "dataset": ["d"]})
    store.replace("samples/a.arrow", encode(other))
    with pytest.raises(DamageError, match="schema"):
        shard(store)


def test_a_missing_shard_is_damage(store):
    with pytest.raises(DamageError, match="missing"):
        Shard(store, "samples/b.arrow", SAMPLE_SCHEMA)


def test_a_text_file_is_damage(store):
    store.replace("samples/a.arrow", b"not arrow at all, but long enough to be read as if it were")
    with pytest.raises(DamageError):
        shard(store)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_shard_is_damage(store, share):
    data = store.read("samples/a.arrow")
    store.replace("samples/a.arrow", data[: int(len(data) * share)])
    with pytest.raises(DamageError):
        shard(store).table()


@pytest.mark.parametrize("flip", [0xFF, 0x01])
def test_flipped_bytes_are_damage_or_other_values_but_nothing_worse(store, flip):
    """Without its hash a shard cannot show every flip; but none may end in anything but DamageError."""
    data = store.read("samples/a.arrow")
    damaged = read = 0
    for place in range(0, len(data), 7):
        store.replace("samples/a.arrow", data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        try:
            opened = shard(store)
            rows = len(opened.table().to_pylist())
            read += len([opened.row(n // 8, n % 8) for n in range(rows)])
        except DamageError:
            damaged += 1
    assert damaged > 50
    assert read > 50


class Bomb:
    fired = False

    def __reduce__(self):
        return (setattr, (Bomb, "fired", True))


def test_a_pickled_extension_type_is_not_run(store):
    """A column that claims to be a pickled Python type, as old pyarrow loaded it: read as plain text."""
    pickled = pickle.dumps(Bomb())
    pickle.loads(pickled)  # noqa: S301 - our own
    assert Bomb.fired  # the bomb works
    Bomb.fired = False
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled}
    schema = SAMPLE_SCHEMA.set(0, pa.field("id", pa.string(), metadata=extension))
    store.replace("samples/a.arrow", encode(to_table(SAMPLES, SAMPLE_SCHEMA).cast(schema)))
    assert b"py_extension_type" in store.read("samples/a.arrow")
    assert samples_of(shard(store).table().to_pylist()) == SAMPLES
    assert not Bomb.fired


def test_an_extension_type_in_place_of_a_column_is_refused(store):
    rows = to_table(SAMPLES, SAMPLE_SCHEMA)
    column = pa.ExtensionArray.from_storage(pa.json_(), rows.column("id").combine_chunks())
    store.replace("samples/a.arrow", encode(rows.set_column(0, "id", column)))
    with pytest.raises(DamageError, match="schema"):
        shard(store)


def test_a_segment_is_written_once(tmp_path):
    ledger = Ledger(Store(str(tmp_path)), "answers", SAMPLE_SCHEMA)
    assert ledger.append("two", SAMPLES[:2])
    assert ledger.append("three", SAMPLES[2:5])
    assert not ledger.append("two", SAMPLES[5:])
    assert ledger.names() == {"two", "three"}
    assert samples_of(ledger.rows()) == [*SAMPLES[2:5], *SAMPLES[:2]]
    assert samples_of(ledger.segment("two")) == SAMPLES[:2]


def test_a_torn_segment_is_damage(tmp_path):
    store = Store(str(tmp_path))
    ledger = Ledger(store, "answers", SAMPLE_SCHEMA)
    ledger.append("one", SAMPLES)
    store.replace("answers/one.arrow", store.read("answers/one.arrow")[:-40])
    with pytest.raises(DamageError):
        ledger.rows()
