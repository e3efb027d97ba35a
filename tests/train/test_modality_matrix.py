"""Ranks with other kinds of media under DeepSpeed: none waits forever, gradients are those of one process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.train.modality_ranks import KINDS, RATES

pytestmark = [pytest.mark.engine, pytest.mark.timeout(500)]
LIMIT_S = 400
"""A rank that waits for the other is ended by gloo after 120 s; the pair of them by this, in any case."""


def run_pair(zero: int, folder: Path) -> tuple[dict, list[int], str]:
    """The two ranks to their end: the result, exit codes and what they said."""
    command = [sys.executable, "-m", "tests.train.modality_ranks"]
    root = str(Path(__file__).parents[2])
    logs = [folder / f"rank{rank}.log" for rank in range(2)]
    ranks = []
    for rank, log in enumerate(logs):
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        with open(log, "w") as out:
            arguments = [str(rank), str(zero), str(folder), ",".join(RATES)]
            ranks.append(
                subprocess.Popen([*command, *arguments], cwd=root, env=environment, stdout=out, stderr=out)
            )
    end = time.monotonic() + LIMIT_S
    try:
        for process in ranks:
            process.wait(max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in ranks:
            process.kill()
    codes = [process.wait() for process in ranks]
    said = "\n".join(log.read_text()[-4000:] for log in logs)
    file = folder / "rank0.json"
    return json.loads(file.read_text()) if file.exists() else {}, codes, said


@pytest.mark.parametrize("zero", [2, 3])
def test_any_mix_of_media_over_two_ranks(zero, tmp_path):
    result, codes, said = run_pair(zero, tmp_path)
    assert set(RATES) <= result.keys(), said
    for cell in RATES:
        assert len(result[cell]) == len(KINDS) ** 2
        for pair, (far, largest, parameters) in result[cell].items():
            assert far < 1e-6, (cell, pair)
            assert parameters >= 4
            # A projector sees nothing of two texts; everywhere else the comparison is of something.
            nothing = cell in ("projector", "shared tower") and pair == "text/text"
            assert (largest < 1e-12) if nothing else (largest > 1e-3), (cell, pair)
    # The same media through transformers' own forward: did it do as well, the matrix would show nothing.
    wrong = result["image/video"]
    assert (wrong > 1e-3) if zero == 3 else (wrong < 1e-5)
    assert "image/text" not in result, said
    assert all(code != 0 for code in codes), said
