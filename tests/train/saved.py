"""Small checkpoints of a model that was never trained, of any number of ranks."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import torch

from raypipe.store.files import Store
from raypipe.train.checkpoints import Checkpoints
from raypipe.train.fragments import KINDS, Fragments, Want, key

SIZES = {"a.weight": 1000, "b.bias": 7, "c.weight": 333}


def whole(step: int) -> dict[tuple[str, str], torch.Tensor]:
    """All that learns after a step: numbers that differ from step to step."""
    return {
        (kind, name): torch.arange(size, dtype=torch.float32) + 10_000 * place + 0.25 * step
        for place, kind in enumerate(KINDS)
        for name, size in SIZES.items()
    }


def held(step: int, rank: int, world: int) -> dict[str, torch.Tensor]:
    """What one of the ranks holds: each parameter is cut into as many parts."""
    out = {}
    for (kind, name), tensor in whole(step).items():
        part = math.ceil(len(tensor) / world)
        piece = tensor[rank * part : (rank + 1) * part]
        if len(piece):
            out[key(kind, name, rank * part)] = piece
    return out


def extra(step: int) -> dict:
    return {"updates": step, "elements": sum(SIZES.values()), "ledger": []}


def alone(store: Store, keep: int = 2, **more) -> Checkpoints:
    return Checkpoints(store, 0, 1, keep, **more)


def put(store: Store, step: int, keep: int = 3, **more) -> None:
    checkpoints = alone(store, keep, **more)
    checkpoints.commit(held(step, 0, 1), step, extra(step))
    checkpoints.wait()


def content(store: Store, record: dict) -> dict[tuple[str, str], torch.Tensor]:
    reader = Fragments(store, record)
    found = {(kind, name): torch.full((size,), math.nan) for kind in KINDS for name, size in SIZES.items()}
    reader.read([Want(kind, name, 0, target) for (kind, name), target in found.items()])
    return found


def newest_step(checkpoints: Checkpoints, store: Store) -> int | None:
    record = checkpoints.newest()
    if record is None:
        return None
    found = content(store, record)
    assert all(torch.equal(found[p], t) for p, t in whole(record["step"]).items())
    assert record["updates"] == record["step"]
    return record["step"]


def file_of(store: Store, step: int, suffix: str = "safetensors") -> Path:
    return next(Path(store.root).glob(f"checkpoints/step-{step:08d}-*/rank-00000.{suffix}"))


def record_of(store: Store, step: int) -> Path:
    return Path(store.root) / f"checkpoints/step-{step:08d}.json"


def flip(file: Path, at: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[int((len(data) - 1) * at)] ^= 1
    file.write_bytes(data)


def gathers(world: int):
    """One gather for each rank: a barrier that hands the values round."""
    gate, box = threading.Barrier(world), [None] * world

    def gather_for(rank):
        def gather(value):
            box[rank] = value
            gate.wait(60)
            values = list(box)
            gate.wait(60)
            return values

        return gather

    return [gather_for(rank) for rank in range(world)]


def together(world: int, work) -> list:
    """Runs work(rank, gather) on as many threads; returns what each gives back."""
    found: dict[int, object] = {}

    def one(rank, gather):
        try:
            found[rank] = work(rank, gather)
        except BaseException as fault:
            found[rank] = fault

    threads = [threading.Thread(target=one, args=(r, g)) for r, g in enumerate(gathers(world))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for value in found.values():
        if isinstance(value, BaseException):
            raise value
    return [found[rank] for rank in range(world)]


def saved_by(store: Store, world: int, step: int = 10, **more) -> None:
    def work(rank, gather):
        mine = Checkpoints(store, rank, world, 2, gather, **more)
        mine.commit(
            held(step, rank, world), step, extra(step), {"ledger/x.arrow": b"x"} if rank == 0 else None
        )
        mine.wait()

    together(world, work)
