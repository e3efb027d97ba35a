"""What learns, out of a DeepSpeed engine and back into one, whatever its ZeRO stage and number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raypipe.errors import DamageError, RequestError
from raypipe.store.files import Store
from raypipe.train.fragments import FIRST, KINDS, MASTER, SECOND, Fragments, Want, key


@dataclass(frozen=True)
class Piece:
    """What this rank holds of a parameter: ``length`` elements from ``offset`` on of its flattened self.

    They lie at ``at`` in ``flat``, the fp32 tensor that the optimizer steps; the moments lie likewise.
    """

    name: str
    offset: int
    length: int
    flat: torch.Tensor
    at: int


def name_trained(engine: Any, model: torch.nn.Module) -> None:
    """Notes the names that the model itself has for what learns: those of a checkpoint."""
    engine.trained_names = {p: name for name, p in model.named_parameters() if p.requires_grad}


def fragments(engine: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What this rank must save, as views of the optimizer's own tensors: copy them before the next step.

    Returns:
        the fragments by key, 12 bytes for each trained element that this rank holds; and ``updates`` (how
        often AdamW has stepped) with the number of trained ``elements`` over all ranks.

    Raises:
        RuntimeError: groups of parameters that were updated differently often, which no step of ours does.
    """
    out: dict[str, torch.Tensor] = {}
    updates: set[int] = set()
    pieces = list(_pieces(engine))
    for kind in KINDS:  # one kind after the other: a reader of weights alone asks for one range
        for piece in pieces:
            source = piece.flat.detach() if kind == MASTER else _moments(engine, piece.flat)[kind]
            out[key(kind, piece.name, piece.offset)] = source[piece.at : piece.at + piece.length]
    for flat in _flats(engine):
        updates.add(int(_moments(engine, flat)["step"]))
    if len(updates) != 1:
        raise RuntimeError(f"parameters were updated differently often: {sorted(updates)}")
    return out, {"updates": updates.pop(), "elements": _elements(engine)}


def restore(engine: Any, store: Store, record: Mapping[str, Any]) -> None:
    """Puts a checkpoint of any number of workers and any ZeRO stage into an engine; all ranks call it.

    At the same number of workers and stage the engine is then, bit for bit, the one that was saved.

    Raises:
        RequestError: the checkpoint is of other parameters than those that learn here.
        DamageError: an element is missing.
    """
    if record["elements"] != _elements(engine):
        raise RequestError(
            f"the checkpoint at step {record['step']} holds {record['elements']} trained numbers, "
            f"and {_elements(engine)} learn here",
            "continue with the model and the rates that it was made with",
        )
    wants = []
    for piece in _pieces(engine):
        moments = _moments(engine, piece.flat)
        for kind, source in ((MASTER, piece.flat.data), (FIRST, moments[FIRST]), (SECOND, moments[SECOND])):
            wants.append(Want(kind, piece.name, piece.offset, source[piece.at : piece.at + piece.length]))
    for flat in _flats(engine):
        _moments(engine, flat)["step"].fill_(float(record["updates"]))
    Fragments(store, record, torch.distributed.get_rank()).read(wants)
    _refresh(engine)


@torch.no_grad()
def load_trained(model: torch.nn.Module, store: Store, record: Mapping[str, Any]) -> None:
    """Puts a checkpoint's trained weights into a whole, plain model, in the model's own dtype.

    Args:
        model: as start.build_model makes it for the stage: with adapters where the stage has LoRA.
        record: the checkpoint's record (``checkpoints/step-N.json``).

    Raises:
        DamageError: the checkpoint is of another model, or an element is missing.
    """
    held = Fragments(store, record)
    parameters = dict(model.named_parameters())
    for name in sorted(held.parameters()):
        if name not in parameters:
            raise DamageError(f"the checkpoint at step {record['step']} holds {name}, which the model lacks")
        target = torch.empty(parameters[name].numel(), dtype=torch.float32)
        held.read([Want(MASTER, name, 0, target)])
        parameters[name].copy_(target.view_as(parameters[name]))


def _flats(engine: Any) -> list[torch.Tensor]:
    """The fp32 tensors that the optimizer steps on this rank."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        return list(optimizer.fp32_partitioned_groups_flat)
    return [group["params"][0] for group in engine.basic_optimizer.param_groups]


def _pieces(engine: Any) -> Iterator[Piece]:
    if engine.zero_optimization_stage() == 3:
        return _pieces_of_zero_3(engine)
    return _pieces_of_zero_1_and_2(engine)


def _pieces_of_zero_1_and_2(engine: Any) -> Iterator[Piece]:
    """Each group is one flat tensor cut into as many equal parts as there are ranks."""
    flats = _flats(engine)
    for parameter, name in engine.trained_names.items():
        mapping = parameter._hp_mapping
        if mapping is None:  # none of it is in this rank's part
            continue
        inside, within = mapping.lp_fragment_address, mapping.hp_fragment_address
        flat = flats[mapping.param_group_index]
        yield Piece(name, int(inside.start), int(inside.numel), flat, int(within.start))


def _pieces_of_zero_3(engine: Any) -> Iterator[Piece]:
    """Each parameter is cut into as many equal parts as there are ranks; the last ones may be padded."""
    optimizer = engine.optimizer
    for flat, group in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
        at = 0
        for parameter in group:
            part = int(parameter.partition_numel())
            offset = part * torch.distributed.get_rank(group=parameter.ds_process_group)
            length = min(part, int(parameter.ds_numel) - offset)
            if length > 0:
                yield Piece(engine.trained_names[parameter], offset, length, flat, at)
            at += part


def _elements(engine: Any) -> int:
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in engine.trained_names)


def _moments(engine: Any, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """AdamW's state of a flat tensor, made as AdamW would make it where there was no step yet."""
    state = engine.basic_optimizer.state[flat]
    if not state:
        # As torch's fused AdamW has it, the number of steps lies beside the parameters.
        state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
        state[FIRST], state[SECOND] = torch.zeros_like(flat.data), torch.zeros_like(flat.data)
    return state


@torch.no_grad()
def _refresh(engine: Any) -> None:
    """Makes the weights that the model computes with from the fp32 ones; all ranks call it."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        optimizer.update_lp_params()
        return
    for number, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
        optimizer.fp16_partitioned_groups_flat[number].data.copy_(flat.data)
        optimizer._unflatten_partitioned_parameters(number)
    if optimizer.persistent_parameters:  # whole on every rank: dropped and gathered again
        optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
