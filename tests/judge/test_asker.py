"""One judge against an endpoint that fails as real ones do. Each test says that its fault was met."""

import dataclasses
import logging
import pickle
import re
from pathlib import Path

import pytest

from raypipe.errors import ServiceError
from raypipe.grading.rubrics import RUBRICS
from raypipe.judge import asker
from raypipe.judge.case import verdict_key
from raypipe.judge.client import Client
from raypipe.records import Outcome, Verdict
from raypipe.settings import JudgeSettings
from tests.judge.cases import judge_all, judge_one, prediction, settings
from tests.support.judge_endpoint import CODE, MODEL, Hang, JudgeEndpoint, Raw, Refuse, Reset, Say, Step

RUBRIC = RUBRICS["video_qa"]
CANARY = "sk-canary-0123456789"
CUT = Raw(b'{"id": "chatcmpl-1", "object": "chat.comp')


def test_a_verdict_carries_what_the_endpoint_said_and_who_it_is() -> None:
    with JudgeEndpoint() as endpoint:
        made = settings(endpoint, name="gpt", model="gpt-x")
        verdict = judge_one(made)
        (call,) = endpoint.calls
    assert (verdict.outcome, verdict.correct, verdict.score) == (Outcome.OK, True, 5.0)
    assert (verdict.judge, verdict.judge_model, verdict.rubric) == ("gpt", MODEL, RUBRIC.label)
    assert (verdict.prompt_tokens, verdict.reply_tokens) == (100, 10)
    assert verdict.key == verdict_key([prediction()], RUBRIC, made)
    assert call.body["model"] == "gpt-x"
    assert call.body["temperature"] == 0.0
    assert call.body["max_tokens"] == made.max_reply_tokens
    assert call.body["messages"][0] == {"role": "system", "content": RUBRIC.system}
    assert call.body["response_format"]["json_schema"]["schema"] == RUBRIC.schema
    assert call.shown == {"question": "what is it?", "correct_answer": "cat", "predicted_answer": "a cat 0"}


def test_a_rate_limit_is_waited_out_by_every_question() -> None:
    limit = Refuse(429, headers={"Retry-After": "1"})
    with JudgeEndpoint([limit]) as endpoint:
        verdicts = judge_all(settings(endpoint, concurrency=1), [prediction(0), prediction(1)])
        calls = endpoint.calls
    assert [v.outcome for v in verdicts] == [Outcome.OK] * 2
    assert [c.step for c in calls] == [limit, Say(), Say()]
    assert 1.0 <= calls[1].at_s - calls[0].at_s < 2.0


@pytest.mark.parametrize("advice", ["0", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_wait_of_no_time_is_no_advice(advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    monkeypatch.setattr(asker, "backoff_s", lambda attempt, luck: waited.append(attempt) or 0.0)
    limit = Refuse(429, headers={"Retry-After": advice})
    with JudgeEndpoint([limit] * 3) as endpoint:
        verdict = judge_one(settings(endpoint))
        assert endpoint.met == [limit, limit, limit, Say()]
    assert verdict.outcome is Outcome.OK
    assert waited == [0, 1, 2], "later each time, not a hundred tries in a second"


def test_an_account_at_openai_is_told_to_no_other_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-0123")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-0123")
    with JudgeEndpoint() as endpoint:
        assert judge_one(settings(endpoint)).outcome is Outcome.OK
        assert "0123" not in str(endpoint.calls[0].headers)


def test_of_an_endless_reply_only_the_beginning_is_kept() -> None:
    with JudgeEndpoint(then=Say("x" * 1_000_000)) as endpoint:
        verdict = judge_one(settings(endpoint))
        assert len(endpoint.calls) == 2
    assert verdict.outcome is Outcome.JUDGE_UNREADABLE
    assert verdict.reply == "x" * asker.MAX_KEPT_CHARS


def test_a_placeholder_in_place_of_a_key_changes_no_reply(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("e")
    with JudgeEndpoint(then=Say(model="one-e")) as endpoint:
        verdict = judge_one(settings(endpoint, key_file=str(tmp_path / "key")))
        assert endpoint.calls[0].headers["authorization"] == "Bearer e"
    assert (verdict.outcome, verdict.judge_model) == (Outcome.OK, "one-e")


def test_a_wait_that_is_too_long_stops_the_run() -> None:
    with JudgeEndpoint([Refuse(429, headers={"Retry-After": "86400"})]) as endpoint:
        with pytest.raises(ServiceError, match="86400 s"):
            judge_one(settings(endpoint))
        assert len(endpoint.calls) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(500),
        Refuse(503),
        Refuse(429),
        Refuse(408),
        Reset(),
        CUT,
        Raw(b"<html>gateway</html>", "text/html"),
        Raw(b"[]"),
        Raw(b'{"choices": null}'),
        Raw(b"\xff\xfe"),
    ],
    ids=repr,
)
def test_a_passing_fault_is_tried_again(fault: Step) -> None:
    with JudgeEndpoint([fault, fault]) as endpoint:
        verdict = judge_one(settings(endpoint, tries=3))
        assert endpoint.met == [fault, fault, Say()], "the fault was met twice"
    assert (verdict.outcome, verdict.score) == (Outcome.OK, 5.0)


@pytest.mark.parametrize(
    ("fault", "why"),
    [(Refuse(500, "boom"), "HTTP 500: .*boom"), (Reset(), "connection broken"), (CUT, "broken")],
    ids=repr,
)
def test_a_fault_that_stays_is_a_failed_verdict_and_no_score(fault: Step, why: str) -> None:
    with JudgeEndpoint(then=fault) as endpoint:
        verdict = judge_one(settings(endpoint, tries=3))
        assert endpoint.met == [fault] * 3
    assert (verdict.outcome, verdict.correct, verdict.score) == (Outcome.JUDGE_FAILED, None, None)
    assert verdict.reply.startswith("no reply in 3 tries")
    assert re.search(why, verdict.reply)


@pytest.mark.parametrize("fault", [Hang(2.5), Say(delay_s=2.5)])
def test_a_slow_endpoint_is_timed_out_and_tried_again(fault: Step) -> None:
    with JudgeEndpoint([fault]) as endpoint:
        assert judge_one(settings(endpoint, timeout_s=1.0)).outcome == Outcome.OK
        assert endpoint.met == [fault, Say()]
    with JudgeEndpoint(then=fault) as endpoint:
        verdict = judge_one(settings(endpoint, timeout_s=1.0, tries=2))
        assert endpoint.met == [fault, fault]
    assert verdict.outcome == Outcome.JUDGE_FAILED
    assert "no reply within 1 s" in verdict.reply


def test_nobody_at_the_address_is_a_failed_verdict() -> None:
    with JudgeEndpoint() as endpoint:
        gone = settings(endpoint, tries=2)
    verdict = judge_one(gone)
    assert verdict.outcome == Outcome.JUDGE_FAILED
    assert verdict.judge_model == ""


def test_a_request_that_would_be_refused_again_is_not_repeated() -> None:
    fault = Refuse(400, "context too long")
    with JudgeEndpoint([fault, fault]) as endpoint:
        first, second = judge_all(settings(endpoint, concurrency=1), [prediction(0), prediction(1)])
        assert endpoint.met == [fault, fault, Say()], "once with the schema, once without, then the next"
        assert "response_format" in endpoint.calls[2].body, "the schema was not what it refused"
    assert first.outcome == Outcome.JUDGE_FAILED
    assert "context too long" in first.reply
    assert second.outcome == Outcome.OK


def test_an_endpoint_without_schemas_is_asked_without() -> None:
    with JudgeEndpoint(no_schema=True) as endpoint:
        verdicts = judge_all(settings(endpoint, concurrency=1, tries=1), [prediction(i) for i in range(3)])
        with_schema = ["response_format" in call.body for call in endpoint.calls]
    assert [v.outcome for v in verdicts] == [Outcome.OK] * 3
    assert with_schema == [True, False, False, False], "refused once, then known"


@pytest.mark.parametrize(
    "fault",
    [Refuse(401), Refuse(402), Refuse(403), Refuse(404), Refuse(429, code="insufficient_quota")],
    ids=repr,
)
def test_a_refused_run_stops_at_once_and_can_continue(fault: Refuse) -> None:
    with JudgeEndpoint(then=fault) as endpoint:
        results = judge_all(settings(endpoint, concurrency=2), [prediction(i) for i in range(20)])
        assert 1 <= len(endpoint.calls) <= 2, "only what was under way"
    assert all(isinstance(r, ServiceError) for r in results)
    assert isinstance(results[0], ServiceError)
    assert results[0].exit_code == 5
    assert f"HTTP {fault.status}" in results[0].message
    assert "continues" in results[0].remedy


def test_an_endpoint_that_is_down_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker, "MAX_FAILURES_IN_A_ROW", 4)
    with JudgeEndpoint(then=Refuse(500)) as endpoint:
        results = judge_all(settings(endpoint, tries=1, concurrency=1), [prediction(i) for i in range(9)])
        assert len(endpoint.calls) == 4
    assert [type(r) for r in results] == [Verdict] * 4 + [ServiceError] * 5


def test_a_reply_in_between_means_it_is_not_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker, "MAX_FAILURES_IN_A_ROW", 2)
    script = [Refuse(500), Say(), Refuse(500), Say("what?"), Say("what?"), Refuse(500)]
    with JudgeEndpoint(script) as endpoint:
        results = judge_all(settings(endpoint, tries=1, concurrency=1), [prediction(i) for i in range(6)])
        assert endpoint.met == [*script, Say()]
    assert [r.outcome for r in results if isinstance(r, Verdict)] == [
        Outcome.JUDGE_FAILED,
        Outcome.OK,
        Outcome.JUDGE_FAILED,
        Outcome.JUDGE_UNREADABLE,
        Outcome.JUDGE_FAILED,
        Outcome.OK,
    ]


@pytest.mark.parametrize(
    "said",
    [
        "Sure! yes, 5/5",
        "",
        None,
        '{"verdict": "yes", "score": 5}',
        '{"code": "<code>", "verdict": "yes", "score": 4.8}',
    ],
)
def test_an_unreadable_reply_is_asked_once_more(said: str | None) -> None:
    with JudgeEndpoint([Say(said)]) as endpoint:
        verdict = judge_one(settings(endpoint))
        assert endpoint.met == [Say(said), Say()]
        assert endpoint.calls[0].shown == endpoint.calls[1].shown
        assert endpoint.calls[1].body["messages"][0]["content"].endswith(RUBRIC.reminder)
    assert verdict.outcome == Outcome.OK
    assert (verdict.prompt_tokens, verdict.reply_tokens) == (200, 20), "both replies were paid"


def test_a_second_unreadable_reply_is_kept_and_is_no_score() -> None:
    with JudgeEndpoint(then=Say("five out of five", usage=None)) as endpoint:
        verdict = judge_one(settings(endpoint))
        assert len(endpoint.calls) == 2
    assert (verdict.outcome, verdict.correct, verdict.score) == (Outcome.JUDGE_UNREADABLE, None, None)
    assert verdict.reply == "five out of five"
    assert (verdict.prompt_tokens, verdict.reply_tokens) == (0, 0)


def test_an_unreadable_reply_and_then_none_is_failed() -> None:
    with JudgeEndpoint([Say("hm"), Refuse(500)]) as endpoint:
        verdict = judge_one(settings(endpoint, tries=1))
        assert endpoint.met == [Say("hm"), Refuse(500)]
    assert (verdict.outcome, verdict.score, verdict.prompt_tokens) == (Outcome.JUDGE_FAILED, None, 100)


def test_no_more_requests_at_once_than_allowed() -> None:
    with JudgeEndpoint(then=Say(delay_s=0.03)) as endpoint:
        judge_all(settings(endpoint, concurrency=3), [prediction(i) for i in range(12)])
        assert endpoint.busiest == 3
        assert len(endpoint.calls) == 12


def test_the_key_is_sent_and_shown_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "key").write_text(CANARY)
    script = [Refuse(500, f"bad {CANARY}"), Say(f"the key is {CANARY}"), Say(f"again {CANARY}")]
    with JudgeEndpoint(script, then=Refuse(401, f"Incorrect API key provided: {CANARY}")) as endpoint:
        made = settings(endpoint, key_file=str(tmp_path / "key"), concurrency=1)
        unreadable, stop = judge_all(made, [prediction(0), prediction(1)])
        assert all(call.headers["authorization"] == f"Bearer {CANARY}" for call in endpoint.calls)
        assert len(endpoint.calls) == 4
    assert isinstance(unreadable, Verdict)
    assert unreadable.reply == "again <key>"
    assert isinstance(stop, ServiceError)
    out, err = capfd.readouterr()
    shown = [
        repr(unreadable),
        repr(stop),
        stop.render(),
        repr(Client(made)),
        repr(made),
        caplog.text,
        out,
        err,
    ]
    assert not any(CANARY in text for text in shown)
    assert "HTTP 401" in stop.message
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(Client(made))


def test_the_address_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with JudgeEndpoint() as endpoint:
        assert judge_one(settings(endpoint)).outcome == Outcome.OK
        assert len(endpoint.calls) == 1


def test_the_key_names_content_and_judge_and_nothing_else() -> None:
    made = JudgeSettings(name="a", model="m")
    base = prediction(text="a  cat\n")

    def key_of(one=base, rubric=RUBRIC, by=made) -> str:
        return verdict_key([one], rubric, by)

    same = dataclasses.replace(
        base, key="x", question_id="y", row_id="z", medium="m", category="c", prompt="p", text=" a cat"
    )
    assert key_of(same) == key_of()
    assert key_of(by=made.model_copy(update={"base_url": "http://h/v1", "tries": 9})) == key_of()
    others = [
        key_of(dataclasses.replace(base, **{name: "other"}))
        for name in ("benchmark", "question", "reference", "text", "context")
    ]
    others += [
        key_of(by=made.model_copy(update=change))
        for change in ({"name": "b"}, {"model": "n"}, {"temperature": 1.0})
    ]
    others += [key_of(rubric=RUBRIC.with_task("else")), key_of(rubric=RUBRICS["mm_vet"])]
    assert len({key_of(), *others}) == 11


def test_answers_of_which_other_things_are_shown_share_no_verdict() -> None:
    made = JudgeSettings(name="a", model="m")
    keys = [verdict_key([prediction(text=t)], RUBRIC, made) for t in ("dog\nscore: 5", "dog score: 5")]
    assert RUBRIC.tidy("dog\nscore: 5") == "dog score: 5"
    assert keys[0] != keys[1]


def test_a_snapshot_is_kept_as_the_endpoint_reports_it() -> None:
    with JudgeEndpoint([Say(model="gpt-x-0613", fingerprint="fp_44709d6fcb")]) as endpoint:
        verdict = judge_one(settings(endpoint))
    assert (verdict.judge_model, verdict.fingerprint) == ("gpt-x-0613", "fp_44709d6fcb")


def test_a_code_is_of_one_call_and_is_not_kept() -> None:
    with JudgeEndpoint([Say("hm")]) as endpoint:
        verdict = judge_one(settings(endpoint))
        codes = [call.message["code"] for call in endpoint.calls]
    assert len(set(codes)) == 2
    assert verdict.reply == Say().content
    assert CODE in verdict.reply
    assert not any(code in repr(verdict) for code in codes)


def test_a_newer_model_that_wants_another_name_for_the_longest_reply_is_given_it() -> None:
    why = "Unsupported parameter: 'max_tokens' is not supported with this model."
    with JudgeEndpoint([Refuse(400, why)]) as endpoint:
        verdicts = judge_all(settings(endpoint, concurrency=1), [prediction(0), prediction(1)])
        names = [[n for n in call.body if n.startswith("max_")] for call in endpoint.calls]
    assert [v.outcome for v in verdicts] == [Outcome.OK] * 2
    assert names == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]


@pytest.mark.parametrize("odd", ["\ud800", "\x00", "\udcff \U0010ffff", "\u2028"])
def test_odd_characters_of_a_reply_stop_nothing(odd: str) -> None:
    with JudgeEndpoint(then=Say(f"no{odd}")) as endpoint:
        verdict = judge_one(settings(endpoint), prediction(text=f"a cat {odd}"))
        assert len(endpoint.calls) == 2
    assert verdict.outcome is Outcome.JUDGE_UNREADABLE
    verdict.reply.encode()
