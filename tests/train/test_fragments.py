"""Fragments: any reader finds its ranges, in as few requests as it can; weights go into a plain model."""

import math

import pytest
import torch
from safetensors.torch import load_file

from raypipe.errors import DamageError, RaypipeError
from raypipe.store.files import Store
from raypipe.train import fragments
from raypipe.train.checkpoints import records
from raypipe.train.fragments import MASTER, Fragments, Want, key
from raypipe.train.state import load_trained
from tests.train.saved import SIZES, file_of, held, put, saved_by, whole


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(str(tmp_path / "run"))
    put(store, 30)
    return store


@pytest.mark.parametrize("where", ["local", "s3"])
@pytest.mark.parametrize(("writers", "readers"), [(1, 1), (1, 3), (3, 2), (4, 1), (2, 5)])
def test_a_reader_at_any_number_of_workers_finds_its_ranges(
    tmp_path, s3_root, where, writers, readers, monkeypatch
):
    monkeypatch.setattr(fragments, "MOST", 512)  # so that several requests are needed
    monkeypatch.setattr(fragments, "GAP", 64)
    store = Store(str(tmp_path / "run") if where == "local" else s3_root)
    saved_by(store, writers)
    record = records(store)[0]
    for rank in range(readers):
        wanted = {label: torch.full_like(t, math.nan) for label, t in held(10, rank, readers).items()}
        wants = []
        for label, target in wanted.items():
            kind, _, rest = label.partition("/")
            name, _, offset = rest.rpartition("@")
            wants.append(Want(kind, name, int(offset), target))
        Fragments(store, record, rank).read(wants)
        assert all(torch.equal(t, wanted[label]) for label, t in held(10, rank, readers).items())


def test_the_same_number_of_workers_reads_only_its_own_files(tmp_path, monkeypatch):
    store, asked = Store(str(tmp_path / "run")), []
    saved_by(store, 3)
    real = Store.range

    def watched(self, name, offset, length):
        asked.append(name.rpartition("/")[2])
        return real(self, name, offset, length)

    monkeypatch.setattr(Store, "range", watched)
    target = held(10, 2, 3)[key(MASTER, "a.weight", 668)].clone()
    Fragments(store, records(store)[0], 2).read([Want(MASTER, "a.weight", 668, target)])
    assert set(asked) == {"rank-00002.safetensors"}


def test_what_no_file_holds_is_said(store):
    record = records(store)[-1]
    with pytest.raises(DamageError, match=r"lacks master of a\.weight from 1000 on"):
        Fragments(store, record).read([Want(MASTER, "a.weight", 900, torch.empty(101))])
    with pytest.raises(DamageError, match="lacks master of nothing"):
        Fragments(store, record).read([Want(MASTER, "nothing", 0, torch.empty(1))])
    file_of(store, 30).write_bytes(b"no header")
    with pytest.raises(DamageError, match="no file of fragments"):
        Fragments(store, record).parameters()


class Model(torch.nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.a = torch.nn.Linear(10, 100, bias=False, dtype=dtype)
        self.b = torch.nn.LayerNorm(7, dtype=dtype)
        self.c = torch.nn.Linear(9, 37, bias=False, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_weights_go_into_a_plain_model(tmp_path, dtype):
    store = Store(str(tmp_path / "run"))
    saved_by(store, 2)
    model = Model(dtype)
    before = model.b.weight.clone()
    load_trained(model, store, records(store)[0])
    assert torch.equal(model.a.weight.flatten(), whole(10)[MASTER, "a.weight"].to(dtype))
    assert torch.equal(model.b.bias, whole(10)[MASTER, "b.bias"].to(dtype))
    assert torch.equal(model.b.weight, before)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    store = Store(str(tmp_path / "run"))
    saved_by(store, 2)
    with pytest.raises(RaypipeError, match=r"holds a\.weight, which the model lacks"):
        load_trained(torch.nn.Linear(2, 2), store, records(store)[0])


def test_a_file_is_plain_safetensors_of_twelve_bytes_an_element(store):
    file = file_of(store, 30)
    loaded = load_file(file)
    assert {k: v.tolist() for k, v in loaded.items()} == {k: v.tolist() for k, v in held(30, 0, 1).items()}
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    assert file.stat().st_size - header == 12 * sum(SIZES.values())
