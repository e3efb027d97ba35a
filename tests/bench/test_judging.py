"""The figures of judging are measured on verdicts that were really given."""

import pytest

from bench import judging
from raypipe.store.files import Store


def test_each_verdict_takes_the_delay_of_the_endpoint():
    found = judging.throughput(verdicts=24, concurrency=8, latency_s=0.2)
    assert found["value"] >= 1.0, "nothing is faster than the delays alone"
    assert found["verdicts_per_s"] <= 40
    assert found["target"] == pytest.approx(1 / 0.9)


def test_memory_is_measured_over_verdicts_that_were_given(tmp_path):
    with judging.endpoint(0.0) as url:
        judging.judge(str(tmp_path), "run", url, 30, 8)
    assert Store(str(tmp_path / "run")).exists("judged.arrow")
    assert judging.growth(verdicts=50)["value"] < judging.MOST_GROWTH_MIB
