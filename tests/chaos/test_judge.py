"""The judge that fails by a schedule: met by the real client, answered in the end, nothing sent elsewhere."""

import socket

from raypipe.chaos.judge import KINDS, MOST, FailingJudge, case_of, draw
from raypipe.demo.matching_judge import MODEL
from raypipe.judge.stream import JudgeStream
from raypipe.records import Outcome
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store
from tests.judge.cases import prediction


def judged(judge: FailingJudge, out, count: int, timeout_s: float = 60.0):
    settings = JudgeSettings(
        base_url=judge.base_url,
        model=MODEL,
        key_env="RAYPIPE_TEST_NO_KEY",
        timeout_s=timeout_s,
        concurrency=2,
        tries=12,
    )
    asked = [prediction(n) for n in range(count)]
    with JudgeStream(Store(str(out)), lambda _: "video_qa", settings, use_ray=False) as stream:
        stream.add(asked)
        return [(v.question_id, v.outcome, v.correct, v.score) for v in stream.finish()]


def test_every_failure_fires_and_the_verdicts_are_the_same(tmp_path):
    with FailingJudge() as judge:
        clean = judged(judge, tmp_path / "clean", 8)
        assert judge.fired.total() == 0
        assert len(judge.asked) == judge.asked.total() == 8
        judge.begin(draw(3, 8))
        assert judged(judge, tmp_path / "disturbed", 8, timeout_s=1.0) == clean
        assert judge.fired == dict.fromkeys(KINDS, 1)
        assert len(judge.asked) == 8
        assert judge.asked.total() >= 8 + len(KINDS)
        assert max(judge._met.values()) <= MOST
    assert {outcome for _, outcome, *_ in clean} == {Outcome.OK}


def test_one_question_meets_no_more_than_it_may():
    judge = FailingJudge()
    judge.begin([(1, "429"), (2, "500"), (3, "503"), (4, "reset")])
    assert [judge.meets("a") for _ in range(5)] == ["429", "500", "503", None, None]
    assert judge.meets("b") == "reset"
    assert judge.fired.total() == 4


def test_a_case_has_one_name_whatever_its_code():
    def body(code: str, answer: str) -> bytes:
        import json

        content = json.dumps({"code": code, "predicted_answer": answer})
        return json.dumps({"messages": [{"content": "s"}, {"role": "user", "content": content}]}).encode()

    assert case_of(body("1", "x")) == case_of(body("2", "x"))
    assert case_of(body("1", "x")) != case_of(body("1", "y"))
    assert case_of(b"no json")


def test_it_listens_on_loopback_only():
    with FailingJudge() as judge:
        assert judge.base_url.startswith("http://127.0.0.1:")
        assert judge.behind[0] == "127.0.0.1"
        assert judge._server.socket.getsockname()[0] == "127.0.0.1"
        assert judge._server.socket.family == socket.AF_INET
