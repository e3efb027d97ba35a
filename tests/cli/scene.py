"""A folder with runs, a model, data and settings files, and what people do wrong with them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.report.runs import train_run, trained_and_untrained
from tests.support.eval_media import eval_root
from tests.support.prepared import drawn_run
from tests.support.tiny import save_tiny

DATASET = "name: d\ndata_root: {root}/drawn/data\nannotations: [tune.json]\nout: {root}/out\n"
STAGE = """\
name: s
out: {root}/stage
start: {{model: {root}/model}}
mixture: [{{data: {root}/drawn/run}}]
rates: {{multi_modal_projector: 1.0e-3}}
steps: 2
precision: fp32
global_batch: 2
micro_batch: 1
"""
EVALUATION = "model: {root}/model\neval_root: {root}/eval\nout: {root}/evaluated\nprecision: fp32\n"
FILES = {
    "d.yaml": DATASET,
    "s.yaml": STAGE,
    "e.yaml": EVALUATION,
    "t.yaml": "name: t\nout: {root}/search\nstage: nope.yaml\nspace: {{steps: {{choice: [1, 2]}}}}\n",
    "tab.yaml": "name: d\n\tout: x\n",
    "twice.yaml": DATASET + "name: e\n",
    "object.yaml": DATASET + "source: !!python/object/apply:os.system ['touch {root}/ran']\n",
    "list.yaml": "- a\n",
    "empty.yaml": "",
    "open.yaml": "name: [d\n",
    "alias.yaml": "name: &a d\nout: *a\n",
    "indent.yaml": "name: d\n  out: x\n",
    "binary.yaml": "\x00",
    "yes.yaml": DATASET + "error_budget: yes\n",
    "key.yaml": EVALUATION + "judge:\n  api_key: sk-0123456789abcdef\n",
    "cluster.yaml": "cluster_name: x\nprovider: {{type: aws}}\n",
    "notes.txt": "hello\n",
    "clip.mp4": "no video\n",
    "garbled.jsonl": "hello\n",
    "foreign.jsonl": '{{"question_id": 999, "text": "yes"}}\n',
}


@dataclass(frozen=True)
class Scene:
    root: Path

    def argv(self, line: tuple[str, ...]) -> list[str]:
        return [word.replace("$R", str(self.root)) for word in line]


def build(root: Path) -> Scene:
    """``drawn`` (data and a prepared run), ``model``, ``eval``, ``runs`` (two evaluations), ``train``,
    ``lora`` (an adapter without its base), ``damaged`` (a run with one flipped bit), ``work`` with files."""
    drawn_run(root / "drawn")
    save_tiny(root / "model")
    eval_root(root / "eval")
    trained_and_untrained(root / "runs")
    train_run(root / "train")
    (root / "lora").mkdir()
    (root / "lora/adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 8, "base_model_name_or_path": "b"}'
    )
    shutil.copytree(root / "drawn/run", root / "damaged")
    shard = min((root / "damaged/media").iterdir())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (root / "desk").mkdir()
    for name, text in FILES.items():
        (root / "desk" / name).write_text(text.format(root=root))
    return Scene(root)
