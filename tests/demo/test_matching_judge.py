"""The demo's judge: its rule, and that it is a real server that speaks the API."""

import json
import os
import subprocess
import sys
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from raypipe.demo.matching_judge import MODEL, MatchingJudge, matches
from raypipe.grading.rubrics import RUBRICS, Rubric, Subject, message

RUBRIC = RUBRICS["video_qa"]


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("red", "Red.", True),
        ("red", "The square is red at the end.", True),
        ("two dogs", "There are 2 dogs", True),
        ("the man's hat", "a mans hat", True),
        ("10", "ten", True),
        ("A", "a", True),
        ("red", "colored", False),
        ("red", "blue", False),
        ("red car", "red and a car", False),
        ("red", "I think that it may be red or blue or green", False),
        ("red", "", False),
        ("", "red", False),
        ("", "", False),
    ],
)
def test_the_rule(reference: str, answer: str, expected: bool) -> None:
    assert matches(reference, answer) is expected


def _request(base_url: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a GET, or of a POST when there is a body."""
    parts = urlsplit(base_url)
    connection = HTTPConnection(str(parts.hostname), parts.port, timeout=5)
    try:
        connection.request("GET" if body is None else "POST", parts.path + path, body)
        reply = connection.getresponse()
        return reply.status, json.load(reply)
    finally:
        connection.close()


def test_it_speaks_the_two_requests_of_the_api_and_says_what_it_is() -> None:
    with MatchingJudge() as judge:
        assert judge.base_url.startswith("http://127.0.0.1:")
        shown, _ = RUBRIC.content([Subject("what colour?", "red", "a red square")])
        user = message(shown, "c0de")
        messages = [{"role": "system", "content": RUBRIC.system}, {"role": "user", "content": user}]
        body = json.dumps({"model": "gpt-4", "messages": messages}).encode()
        status, completion = _request(judge.base_url, "/chat/completions", body)
        _, models = _request(judge.base_url, "/models")
    assert status == 200
    assert completion["model"] == MODEL, "never passed off as the model that was asked for"
    reading = RUBRIC.read(completion["choices"][0]["message"]["content"], "c0de")
    assert (reading.correct, reading.score) == (True, 5.0)
    assert completion["usage"]["prompt_tokens"] > 0
    assert [m["id"] for m in models["data"]] == [MODEL]


@pytest.mark.parametrize("rubric", RUBRICS.values(), ids=list(RUBRICS))
def test_it_knows_every_rubric(rubric: Rubric) -> None:
    subjects = [Subject("what is it?\nA. a dog\nB. a cat", "a cat", "It is a cat.", "a cat")] * rubric.answers
    shown, flags = rubric.content(subjects)
    schema = {"name": rubric.name.replace("/", "_"), "strict": True, "schema": rubric.schema}
    form = {"type": "json_schema", "json_schema": schema}
    body = {"messages": [{"role": "user", "content": message(shown, "c0de")}], "response_format": form}
    with MatchingJudge() as judge:
        status, completion = _request(judge.base_url, "/chat/completions", json.dumps(body).encode())
    assert (status, flags) == (200, ())
    reading = rubric.read(completion["choices"][0]["message"]["content"], "c0de")
    assert reading.correct in (True, None)
    assert (reading.score, reading.choice) in [(5.0, None), (1.0, None), (8.0, None), (None, "B")]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"{}", b'{"messages": [{"role": "user", "content": "hello"}]}', b"[" * 100_000]
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with MatchingJudge() as judge:
        status, reply = _request(judge.base_url, "/chat/completions", body)
    assert status == 400
    assert reply["error"]["message"]


def test_other_paths_and_huge_bodies_are_refused() -> None:
    with MatchingJudge() as judge:
        assert _request(judge.base_url, "/other")[0] == 404
        assert _request(judge.base_url, "/other", b"{}")[0] == 404
        parts = urlsplit(judge.base_url)
        connection = HTTPConnection(str(parts.hostname), parts.port, timeout=5)
        connection.request("POST", "/v1/chat/completions", headers={"Content-Length": str(1 << 40)})
        assert connection.getresponse().status == 413
        connection.close()


def test_start_and_stop() -> None:
    judge = MatchingJudge()
    with pytest.raises(RuntimeError):
        _ = judge.base_url
    first = judge.start()
    judge.stop()
    judge.stop()
    with pytest.raises(ConnectionRefusedError):
        _request(first, "/models")


def test_it_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "raypipe.demo.matching_judge", "--port", "0"]
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().strip()
            assert _request(base_url, "/models")[1]["data"][0]["id"] == MODEL
        finally:
            process.terminate()
