"""A judge for the demo and for tests: a real HTTP server on this machine that compares words.

It speaks the two requests of the OpenAI API that raypipe makes, so the whole judging path runs
without network or key. It is no language model, knows no synonyms, and says so: the model it reports
is ``raypipe-matching-judge``. Scores it gives are not comparable with those of any other judge.

    python -m raypipe.demo.matching_judge --port 8010
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
import unicodedata
from typing import Any

from raypipe.demo.loopback import LoopbackHandler, LoopbackServer

MODEL = "raypipe-matching-judge"
MORE_WORDS = 6  # by how much a matching answer may be longer than the reference
MAX_BODY_BYTES = 1 << 20
_FIELDS = (
    {"question", "correct_answer", "predicted_answer", "code"},
    {"question_1", "question_2", "correct_answer", "predicted_answer_1", "predicted_answer_2", "code"},
    {"context", "question", "answer_1", "answer_2", "code"},
    {"question", "predicted_answer", "code"},
)
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())}


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and articles, numbers as digits.

    >>> words_of("The two Dogs!")
    ['2', 'dogs']
    """
    plain = unicodedata.normalize("NFKC", text).lower().replace("'", "").replace("\u2019", "")
    words = re.findall(r"\w+", plain.replace("_", " "))
    telling = [word for word in words if word not in _ARTICLES]
    return [_NUMBERS.get(word, word) for word in telling or words]


def matches(reference: str, answer: str) -> bool:
    """Whether the answer is the reference, or has it as a phrase among at most ``MORE_WORDS`` others."""
    return len(words_of(answer)) <= len(words_of(reference)) + MORE_WORDS and holds(answer, reference)


def holds(answer: str, phrase: str) -> bool:
    """Whether the words of the phrase stand in the answer, one after another."""
    wanted, given = words_of(phrase), words_of(answer)
    starts = range(len(given) - len(wanted) + 1)
    return bool(wanted) and any(given[start : start + len(wanted)] == wanted for start in starts)


def share(reference: str, answer: str) -> float:
    """The share, in tenths, of a reference's elements that an answer holds.

    >>> share("a cat <AND> 7 <OR> seven", "seven dogs")
    0.5
    """
    elements = [element.split("<OR>") for element in reference.split("<AND>")]
    held = sum(any(holds(answer, phrase) for phrase in phrases) for phrases in elements)
    return round(held / len(elements), 1)


class MatchingJudge:
    """The server, on 127.0.0.1 only; a context manager.

    Args:
        port: 0 takes a free one.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._server: LoopbackServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Starts the server; returns its base URL, ``http://127.0.0.1:PORT/v1``.

        Raises:
            OSError: the port is taken.
        """
        self._server = LoopbackServer(_Handler, self._port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self.base_url

    @property
    def base_url(self) -> str:
        if self._server is None:
            raise RuntimeError("the judge is not started")
        return self._server.base_url

    def stop(self) -> None:
        """Stops the server; fine when it is not running."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server and thread:
            server.shutdown()
            thread.join()
            server.server_close()

    def __enter__(self) -> MatchingJudge:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(LoopbackHandler):
    def do_GET(self) -> None:
        if self.path.rstrip("/") == "/v1/models":
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "raypipe"}
            self._answer(200, {"object": "list", "data": [model]})
        else:
            self._refuse(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._refuse(413, f"a body of at most {MAX_BODY_BYTES} bytes is needed")
            return
        body = self.rfile.read(int(length))
        if self.path.rstrip("/") != "/v1/chat/completions":
            self._refuse(404, f"no such path: {self.path}")
            return
        try:
            self._answer(200, _completion(body))
        except (ValueError, RecursionError) as fault:
            self._refuse(400, str(fault))

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        self.send(status, json.dumps(value).encode())


def _completion(body: bytes) -> dict[str, Any]:
    """The chat completion that answers a request. Tokens are counted as words.

    Raises:
        ValueError: not a request of one of raypipe's rubrics.
    """
    request = json.loads(body)
    shown, text = _shown(request)
    reply = json.dumps({"code": shown["code"], **_decision(_rubric_of(request), shown)})
    prompt_tokens, reply_tokens = len(text.split()), len(reply.split())
    return {
        "id": "chatcmpl-matching",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": reply_tokens,
            "total_tokens": prompt_tokens + reply_tokens,
        },
    }


def _decision(rubric: str, shown: dict[str, str]) -> dict[str, Any]:
    if "answer_2" in shown:
        return {"mark_1": 8.0, "mark_2": 8.0 if matches(shown["answer_1"], shown["answer_2"]) else 4.0}
    if "correct_answer" not in shown:
        options = re.findall(r"(?m)^([A-H])\. (.+)$", shown["question"])
        meant = [letter for letter, option in options if matches(option, shown["predicted_answer"])]
        return {"choice": meant[0] if len(meant) == 1 else "none"}
    if rubric == "mm_vet":
        return {"score": share(shown["correct_answer"], shown["predicted_answer"])}
    answers = [text for name, text in shown.items() if name.startswith("predicted_answer")]
    correct = all(matches(shown["correct_answer"], answer) for answer in answers)
    score = {"score": 5 if correct else 0}
    return score if rubric.startswith("video_chatgpt") else {"verdict": "yes" if correct else "no", **score}


def _rubric_of(request: dict[str, Any]) -> str:
    """The name of the rubric, which its JSON schema has; without a schema, video QA."""
    form = request.get("response_format")
    schema = form.get("json_schema") if isinstance(form, dict) else None
    return str(schema.get("name")) if isinstance(schema, dict) else "video_qa"


def _shown(request: Any) -> tuple[dict[str, str], str]:
    """What the user message shows the judge, and that message."""
    messages = request.get("messages") if isinstance(request, dict) else None
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, dict) and message.get("role") == "user":
            text = str(message.get("content"))
            value = json.loads(text)
            texts = isinstance(value, dict) and all(isinstance(field, str) for field in value.values())
            if texts and value.keys() in _FIELDS:
                return value, text
    raise ValueError("the user message must be a JSON object of texts, as raypipe's rubrics make it")


def main(argv: list[str] | None = None) -> None:
    """Serves until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m raypipe.demo.matching_judge", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    with MatchingJudge(parser.parse_args(argv).port) as judge:
        print(judge.base_url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped", flush=True)


if __name__ == "__main__":
    main()
