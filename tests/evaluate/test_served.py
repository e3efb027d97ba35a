"""Served models: frames as pictures, in order; what an endpoint does wrong; a run that stops and goes on."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from raypipe.errors import RequestError, ServiceError
from raypipe.evaluate.engine import Shown, Way
from raypipe.evaluate.forecast import forecast
from raypipe.evaluate.run import evaluate, in_process
from raypipe.evaluate.served import ServedEngine, data_url, fitted
from raypipe.judge import asker, pictures
from raypipe.judge.asker import backoff_s
from raypipe.records import MediumKind, Outcome
from raypipe.settings import EvaluateSettings, build
from raypipe.store.files import Store
from tests.evaluate.test_run import predictions_in, thumbs
from tests.support.clips import number_of, picture
from tests.support.eval_media import eval_root
from tests.support.judge_endpoint import Hang, Raw, Refuse, Reset, Say
from tests.support.picture_endpoint import SNAPSHOT, PictureEndpoint

WAY = Way("served", "kept", 7)
KEY = "sk-canary-5d1f0e"
OK = Say("OK", model=SNAPSHOT)


@pytest.fixture
def root(tmp_path) -> Path:
    return eval_root(tmp_path / "eval")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch) -> None:
    monkeypatch.setattr(asker, "backoff_s", lambda attempt, luck: backoff_s(attempt, luck) / 1000)


def settings_of(root: Path, out: Path, endpoint: PictureEndpoint, **more) -> EvaluateSettings:
    served = {"base_url": endpoint.base_url, "tries": 3, **more.pop("served", {})}
    values = {
        "model": "pictures",
        "engine": "served",
        "served": served,
        "eval_root": str(root),
        "out": str(out),
        "benchmarks": ["msvd_qa", "pope"],
        "media_per_unit": 1,
    }
    return build(EvaluateSettings, {**values, **more}, "test")


def png(number: int) -> bytes:
    out = io.BytesIO()
    picture(number).save(out, "PNG")
    return out.getvalue()


def shown(*numbers: int, prompts=("What?",)) -> Shown:
    kind = MediumKind.VIDEO if len(numbers) > 1 else MediumKind.IMAGE
    return Shown(kind if numbers else None, tuple(map(png, numbers)), tuple(prompts))


def ask(endpoint: PictureEndpoint, *media: Shown, weights: str = "", **served) -> list[list]:
    settings = settings_of(Path("/nowhere"), Path("/nowhere"), endpoint, served=served)
    engine = ServedEngine(settings, weights)
    try:
        return engine.answer(media, WAY)
    finally:
        engine.close()


def test_frames_are_shown_in_order_before_the_question():
    with PictureEndpoint() as endpoint:
        media = (shown(3, 1, 4, 1, 5), shown(9, prompts=("A?", "B?")), shown(prompts=("Alone?",)))
        replies = ask(endpoint, *media, system="Be short.", detail="low")
    assert [[r.text for r in one] for one in replies] == [["3 1 4 1 5"], ["9", "9"], ["nothing"]]
    assert all(r.new_tokens == 10 and not r.failed for one in replies for r in one)
    assert {s.text for s in endpoint.asked} == {"What?", "A?", "B?", "Alone?"}
    for call in endpoint.calls:
        assert call.body["messages"][0] == {"role": "system", "content": "Be short."}
        assert (call.body["temperature"], call.body["max_tokens"], call.body["model"]) == (0.0, 7, "pictures")
        parts = call.body["messages"][1]["content"]
        assert all(part["image_url"]["detail"] == "low" for part in parts[:-1])


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(429, headers={"Retry-After": "0.01"}),
        Refuse(429),
        Refuse(500),
        Refuse(503, headers={"Retry-After": "0.01"}),
        Reset(),
        Raw(b"<html>proxy</html>"),
        Refuse(400, "use 'max_completion_tokens' instead of max_tokens"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(fault):
    with PictureEndpoint([fault]) as endpoint:
        ((reply,),) = ask(endpoint, shown(7))
        assert endpoint.met[0] == fault
        assert len(endpoint.calls) == 2
    assert reply.text == "7"


def test_a_wait_that_is_asked_for_is_waited():
    with PictureEndpoint([Refuse(429, headers={"Retry-After": "0.3"})]) as endpoint:
        ask(endpoint, shown(7))
        first, second = (call.at_s for call in endpoint.calls)
    assert second - first >= 0.29


def test_an_endpoint_that_does_not_reply_in_time_is_a_failed_answer():
    with PictureEndpoint([Hang(5.0)] * 3) as endpoint:
        ((reply,),) = ask(endpoint, shown(7), timeout_s=0.2)
    assert (reply.text, reply.new_tokens) == ("", 0)
    assert "no reply in 3 tries" in reply.failed


def test_a_refused_question_is_named_and_the_others_are_answered():
    def answer(question):
        refused = Refuse(400, "this question was filtered", code="content_filter")
        return refused if question.text == "Bad?" else f"about {question.numbers[0]}"

    with PictureEndpoint(answer=answer) as endpoint:
        ((first, bad), (last,)) = ask(endpoint, shown(2, prompts=("Good?", "Bad?")), shown(3))
    assert (first.text, last.text) == ("about 2", "about 3")
    assert bad.text == ""
    assert "HTTP 400" in bad.failed
    assert "filtered" in bad.failed


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Refuse(401, "bad key"), "refuses the key"),
        (Refuse(404, "no such model"), "refuses the address or the model"),
        (Refuse(429, "pay first", code="insufficient_quota"), "refuses the quota"),
        (Refuse(429, headers={"Retry-After": "4000"}), "asks to wait"),
    ],
    ids=["key", "model", "quota", "wait"],
)
def test_what_refuses_every_question_stops_the_run(refusal, said):
    with PictureEndpoint(answer=lambda _: refusal) as endpoint:
        with pytest.raises(ServiceError, match=said) as fault:
            ask(endpoint, *[shown(n) for n in range(40)], concurrency=2)
        assert len(endpoint.calls) <= 4
    assert fault.value.exit_code == 5
    assert "the same command continues" in fault.value.remedy or "continues" in fault.value.remedy
    assert "judge" not in fault.value.message + fault.value.remedy


def test_an_endpoint_that_is_down_stops_the_run(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_FAILURES_IN_A_ROW", 5)
    with (
        PictureEndpoint(answer=lambda _: Refuse(500)) as endpoint,
        pytest.raises(ServiceError, match="failed 5 times in a row"),
    ):
        ask(endpoint, *[shown(n) for n in range(40)], concurrency=1)


def test_no_more_requests_at_once_than_allowed():
    with PictureEndpoint(delay_s=0.02) as endpoint:
        ask(endpoint, *[shown(n) for n in range(12)], concurrency=3)
        assert 2 <= endpoint.busiest <= 3


def test_an_answer_of_another_model_is_refused():
    with (
        PictureEndpoint(model="pictures-2027-01") as endpoint,
        pytest.raises(ServiceError, match="now answered by 'pictures-2027-01'"),
    ):
        ask(endpoint, shown(1), weights="of the model before")


def test_large_frames_are_made_smaller_and_stay_readable():
    big = io.BytesIO()
    noise = Image.effect_noise((400, 300), 90).convert("RGB")
    noise.paste(picture(37, (400, 200)))
    noise.save(big, "PNG")
    small = fitted(big.getvalue(), 20_000)
    assert len(small) <= 20_000 < len(big.getvalue())
    with Image.open(io.BytesIO(small)) as opened:
        assert number_of(opened.crop((0, 0, opened.width, opened.height // 2))) == 37
    assert fitted(png(5), 1 << 20) == png(5)
    assert fitted(big.getvalue(), 20_000) == small
    with pytest.raises(ValueError, match="does not fit"):
        fitted(big.getvalue(), 100)


def test_a_frame_of_an_unknown_format_fails_its_question_alone():
    assert data_url(png(1)).startswith("data:image/png;base64,")
    with PictureEndpoint() as endpoint:
        bad = replace(shown(1), frames=(b"BM not for endpoints",))
        ((failed,), (good,)) = ask(endpoint, bad, shown(2))
    assert "cannot be shown" in failed.failed
    assert good.text == "2"


def test_a_whole_evaluation(root, tmp_path):
    with PictureEndpoint() as endpoint:
        settings = settings_of(root, tmp_path / "run", endpoint)
        evaluate(settings, execute=in_process)
        asked = len(endpoint.calls)
        assert asked == 1 + 8  # the first asks for the model's name
        evaluate(settings, execute=in_process)
        assert len(endpoint.calls) == asked + 1
    said = {(Path(p.medium).stem, p.text) for p in predictions_in(settings.out)}
    of_a = " ".join(map(str, thumbs(settings.out)["a"]))
    assert said >= {("a", of_a), ("kite", "341"), ("cook", "682")}
    assert of_a == "0 1 3 4 6 7 9 11"
    assert {p.outcome for p in predictions_in(settings.out)} == {Outcome.OK}


def test_a_run_that_the_endpoint_stopped_goes_on(root, tmp_path):
    with PictureEndpoint() as endpoint:
        whole = settings_of(root, tmp_path / "whole", endpoint)
        evaluate(whole, execute=in_process)
    steps = [OK, *[Say("early", model=SNAPSHOT)] * 4, *[Refuse(401, "the key has expired")] * 4]
    with PictureEndpoint(steps) as endpoint:
        settings = settings_of(root, tmp_path / "run", endpoint, served={"concurrency": 1})
        with pytest.raises(ServiceError, match="refuses the key"):
            evaluate(settings, execute=in_process)
    early = {p.question_id: p.text for p in predictions_in(settings.out)}
    assert 0 < len(early) < 8
    assert set(early.values()) == {"early"}
    with PictureEndpoint() as endpoint:
        again = settings_of(root, tmp_path / "run", endpoint)
        assert forecast(again)["totals"]["answered"] == len(early)
        assert endpoint.calls == []
        evaluate(again, execute=in_process)
        assert len(endpoint.calls) == 1 + 8 - len(early)
    texts = {p.question_id: p.text for p in predictions_in(settings.out)}
    assert texts == {p.question_id: p.text for p in predictions_in(whole.out)} | early


def test_another_snapshot_never_meets_old_answers(root, tmp_path):
    for model in ("one", "two"):
        with PictureEndpoint(model=model, answer=lambda _, m=model: f"by {m}") as endpoint:
            settings = settings_of(root, tmp_path / "run", endpoint)
            evaluate(settings, execute=in_process)
    assert {p.text for p in predictions_in(settings.out)} == {"by two"}
    assert len(predictions_in(settings.out)) == 8


def test_a_snapshot_that_changes_in_between_stops_the_run(root, tmp_path):
    steps = [OK, *[Say("x", model=SNAPSHOT)] * 3]
    with PictureEndpoint(steps, model="another") as endpoint:
        settings = settings_of(root, tmp_path / "run", endpoint)
        with pytest.raises(ServiceError, match="now answered by 'another'"):
            evaluate(settings, execute=in_process)
    assert {p.text for p in predictions_in(settings.out)} <= {"x"}


def test_the_key_is_in_the_request_and_nowhere_else(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    leak = Refuse(400, f"your key {KEY} may not ask this")
    with PictureEndpoint([OK, leak]) as endpoint:
        more = {"served": {"key_env": "MY_KEY"}, "coverage_floor": 0.0}
        settings = settings_of(root, tmp_path / "run", endpoint, **more)
        evaluate(settings, execute=in_process)
        assert endpoint.met[1] == leak
        assert {c.headers["authorization"] for c in endpoint.calls} == {f"Bearer {KEY}"}
    assert "may not ask this" in str([p.detail for p in predictions_in(settings.out)])
    store = Store(settings.out)
    assert all(KEY.encode() not in store.read(name) for name in store.list())


def test_a_missing_key_is_said_before_anything_is_done(root, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    served = {"base_url": "https://models.example/v1", "key_env": "NO_SUCH_KEY"}
    values = {
        "model": "m",
        "engine": "served",
        "served": served,
        "eval_root": str(root),
        "out": str(tmp_path / "o"),
    }
    with pytest.raises(RequestError, match=r"the model at models\.example needs a key"):
        evaluate(build(EvaluateSettings, values, "test"), execute=in_process)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"engine": "served"}, "engine=served goes with a group served"),
        ({"served": {"base_url": "http://x/v1"}}, "engine=served goes with a group served"),
        (
            {"engine": "served", "served": {"base_url": "http://x/v1"}, "protocol": "reference"},
            "own template",
        ),
        (
            {"engine": "served", "served": {"base_url": "http://x/v1", "api_key": KEY}},
            "never given as a setting",
        ),
        ({"engine": "served", "served": {"base_url": f"http://u:{KEY}@x/v1"}}, "holds a key"),
    ],
)
def test_settings_that_do_not_fit_are_refused(more, said):
    with pytest.raises(RequestError, match=said) as fault:
        build(EvaluateSettings, {"model": "m", "eval_root": "e", "out": "o", **more}, "test")
    assert KEY not in fault.value.render()


def test_it_runs_without_torch(root, tmp_path):
    code = """
import json, sys
from raypipe.evaluate.run import evaluate, in_process
from raypipe.settings import EvaluateSettings
evaluate(EvaluateSettings(**json.loads(sys.argv[1])), execute=in_process)
print(sorted({"torch", "transformers", "ray"} & sys.modules.keys()))
"""
    with PictureEndpoint() as endpoint:
        settings = settings_of(root, tmp_path / "run", endpoint)
        given = json.dumps(settings.model_dump(mode="json", exclude_unset=True))
        done = subprocess.run(
            [sys.executable, "-c", code, given], capture_output=True, text=True, timeout=120
        )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    assert len(predictions_in(settings.out)) == 8
