"""The figures of a GPU: ``python -m bench.gpu [--data FOLDER] [--out FILE] [--only NAME ...]``.

A Video-LLaVA of 7B shape with random weights trains on drawn clips, or answers questions, each arm in a
process of its own, because what one leaves in the GPU's memory is another's. Not paired: one run an arm, the
mean of its steps after the first ones. ``--data`` names a folder with the finished prepare runs ``clips`` and
``texts``, for the arms that train; without it they are drawn, which takes all
of raypipe's dependencies.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import machine
from bench.command import write
from raypipe.settings import StageSettings

CLIPS: dict[str, Any] = {"global_batch": 8, "micro_batch": 4, "max_tokens": 3072}
WIDE = {"r": 128, "alpha": 256, "rate": 2e-4}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora_text_4096": (
        "ours",
        {"data": "texts", "lora": {**WIDE, "r": 16}, "global_batch": 4, "micro_batch": 2, "max_tokens": 4096},
    ),
    "lora_clips": ("ours", {"data": "clips", "lora": WIDE, **CLIPS}),
    "lora_clips_recomputed": (
        "ours",
        {"data": "clips", "lora": WIDE, **CLIPS, "gradient_checkpointing": True},
    ),
    "lora_clips_trainer": (
        "trainer",
        {"data": "clips", "lora": WIDE, **CLIPS, "gradient_checkpointing": True},
    ),
    "lora_clips_temporal": (
        "ours",
        {"data": "clips", "lora": WIDE, **CLIPS, "start": {"random": "7b", "family": "video_llava"}},
    ),
    "stage_1_clips": ("ours", {"data": "clips", "rates": {"multi_modal_projector": 1e-3}, **CLIPS}),
    "bf16": ("exact", {"data": "clips", **CLIPS}),
    "answers": ("answers", {}),
    "answers_batch_64": ("answers", {"batch": 64}),
    "answers_temporal": ("answers", {"family": "video_llava"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/measured/gpu.json"))
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--limit-s", type=float, default=240)
    asked = parser.parse_args()
    trains = any(ARMS[name][0] != "answers" for name in asked.only)
    data = asked.data or (_drawn() if trains else Path())
    done: dict[str, Any] = json.loads(asked.out.read_text())["arms"] if asked.out.exists() else {}
    for name in asked.only:
        done[name] = measured(name, data, asked.steps, asked.limit_s)
        print(json.dumps({"name": name, **done[name]}), flush=True)
        write(asked.out, {"machine": machine.facts(), "arms": done}, _page)


def measured(name: str, data: Path, steps: int, limit_s: float) -> dict[str, Any]:
    """One arm in a process and a folder of its own; what it says, or why it said nothing."""
    how, chosen = ARMS[name]
    with tempfile.TemporaryDirectory(prefix="raypipe-bench-gpu-") as folder:
        file = Path(folder) / "settings.json"
        if how == "answers":
            file.write_text(json.dumps(chosen))
            return _ran([sys.executable, "-m", "bench.gpu_answers", str(file)], how, chosen, limit_s)
        values = {**chosen, "mixture": [{"data": str((data / chosen["data"]).resolve())}], "steps": steps}
        del values["data"]
        file.write_text(stage(out=f"{folder}/run", **values).model_dump_json())
        return _ran([sys.executable, "-m", "bench.gpu_arm", how, str(file)], how, chosen, limit_s)


def _ran(command: list[str], how: str, chosen: dict[str, Any], limit_s: float) -> dict[str, Any]:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"arm": how, "failed": f"not done in {limit_s:g} s"}
    if ran.returncode:
        return {"arm": how, "failed": ran.stderr[-3000:]}
    return {"arm": how, "settings": chosen, **json.loads(ran.stdout.strip().splitlines()[-1])}


def stage(**more: Any) -> StageSettings:
    values: dict[str, Any] = {
        "name": "bench",
        "start": {"random": "7b", "family": "video_llava_hf"},
        "rates": {"multi_modal_projector": 2e-5},
        "precision": "bf16",
        "gradient_checkpointing": False,
        "over_length": "cut",
        "checkpoint": {"every_steps": 12, "keep": 1},
        "workers": {"num": 1, "gpus": 1, "cpus": 8},
        "epochs": 100,
    }
    return StageSettings.model_validate({**values, **more})


def _drawn() -> Path:
    from bench import trained

    folder = Path(tempfile.mkdtemp(prefix="raypipe-bench-gpu-data-"))
    for name, run in (("clips", trained.clips()), ("texts", trained.long_texts())):
        (folder / name).symlink_to(run)
    return folder


def _page(found: dict[str, Any]) -> Any:
    yield "# Measured: a GPU"
    yield ""
    yield f"`{json.dumps(found['machine'])}`"
    yield ""
    for name, arm in found["arms"].items():
        yield f"- **{name}** (`{arm['arm']}`): `{json.dumps({k: v for k, v in arm.items() if k != 'arm'})}`"


if __name__ == "__main__":
    main()
