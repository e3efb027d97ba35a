"""Evaluations on Ray: the same bytes as in one process, whatever number of actors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raypipe.evaluate.run import evaluate, in_process
from raypipe.store.verify import verify
from tests.support.eval_media import asking, eval_root
from tests.support.prepared import contents
from tests.support.whole import differing

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return eval_root(tmp_path_factory.mktemp("eval"))


def without_leases(out: Path) -> dict[str, bytes]:
    """What a run holds, but for its settings, which say how it was carried out, and leases."""
    return {n: d for n, d in contents(out).items() if not n.startswith("lease/") and n != "settings.json"}


def undisturbed(settings) -> dict[str, bytes]:
    """What an in-process run makes in the same place; the place is empty again afterwards."""
    evaluate(settings, execute=in_process)
    made = without_leases(Path(settings.out))
    shutil.rmtree(settings.out)
    return made


def test_ray_makes_the_same_bytes(ray_local, root, tiny_folder, tmp_path):
    settings = asking(root, tiny_folder, tmp_path / "run")
    wanted = undisturbed(settings)
    for actors in (1, "1-4"):
        evaluate(settings.model_copy(update={"actors": actors}))
        assert differing(without_leases(tmp_path / "run"), wanted) == []
        assert verify(settings.out).damage == []
        shutil.rmtree(settings.out)
