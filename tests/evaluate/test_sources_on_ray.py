"""Where an evaluation's things come from, on Ray: all from s3:// addresses, and a served model."""

import pytest

from raypipe.evaluate.run import evaluate, in_process
from raypipe.prepare.run import prepare as prepare_run
from raypipe.store.files import Store
from raypipe.store.run import Run
from raypipe.store.verify import verify
from tests.evaluate.test_prepared import CLIP, IMAGE, prepare
from tests.evaluate.test_run import predictions_in
from tests.evaluate.test_served import settings_of
from tests.support.driver import Driver
from tests.support.eval_media import asking, eval_root
from tests.support.evaluated import settings_file
from tests.support.picture_endpoint import PictureEndpoint
from tests.support.prepared import dataset, one_by_one
from tests.support.s3 import environment, put_tree

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def test_all_from_s3_and_back(tiny_folder, tmp_path, s3_server, s3_root):
    root = eval_root(tmp_path / "eval")
    here = asking(root, tiny_folder, tmp_path / "here")
    evaluate(here, execute=in_process)
    prepare(root, tmp_path / "prepared", [CLIP, IMAGE])  # writes the annotations
    places = {
        "model": put_tree(tiny_folder, f"{s3_root}/model").root,
        "eval_root": put_tree(root, f"{s3_root}/eval").root,
        "out": f"{s3_root}/run",
        "prepared": [f"{s3_root}/prepared"],
    }
    data = dataset(root, tmp_path).model_copy(
        update={"data_root": places["eval_root"], "out": places["prepared"][0]}
    )
    prepare_run(data, execute=one_by_one)
    there = here.model_copy(update={**places, "actors": 2, "actor_cpus": 0.5})
    file = settings_file(tmp_path / "evaluate.json", there).rename(tmp_path / "evaluate.yaml")
    more = {"RAYPIPE_CACHE": str(tmp_path / "cache"), **environment(s3_server)}
    driver = Driver(["-m", "raypipe.cli", "evaluate", str(file)], tmp_path / "log", **more)
    assert driver.ended() == 0, driver.log.read_text()[-3000:]
    stores = Store(here.out), Store(there.out)
    names = stores[0].list("predictions")
    assert names == stores[1].list("predictions")
    assert all(stores[0].read(n) == stores[1].read(n) for n in names)
    assert verify(there.out).damage == []
    assert Run.open(there.out).manifest["totals"]["media_prepared"] == 2
    assert len([p for p in (tmp_path / "cache/models").iterdir() if p.is_dir()]) == 1


def test_a_served_model_on_ray(ray_local, tmp_path):
    root = eval_root(tmp_path / "eval")
    with PictureEndpoint() as endpoint:
        settings = settings_of(root, tmp_path / "run", endpoint, actors=2, actor_cpus=0.5)
        evaluate(settings)
        assert len(endpoint.calls) == 1 + 8
    assert {p.text for p in predictions_in(settings.out)} >= {"0 1 3 4 6 7 9 11", "341", "682"}
    assert verify(settings.out).damage == []
