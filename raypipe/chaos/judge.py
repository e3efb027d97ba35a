"""The judge of a chaos run: the matching judge on loopback, behind a proxy that fails as real endpoints do.

No call leaves this machine. Which request meets which failure is drawn from a seed, by the number of the
request; a question meets at most ``MOST`` of them, so that the tries of a judge are enough.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
from collections import Counter
from urllib.parse import urlsplit

from raypipe.chaos.schedule import EARLY
from raypipe.demo.loopback import LoopbackHandler, LoopbackServer
from raypipe.demo.matching_judge import MatchingJudge

KINDS = ("429", "500", "503", "reset", "malformed", "timeout")
MOST = 3  # failures that one question meets
HANG_S = 30.0  # at most; the client gives up first, at its timeout_s


def draw(seed: int, questions: int) -> list[tuple[int, str]]:
    """(number of the request, failure), rising: each kind once, or as many kinds as there are questions.

    They fall early: each has to be met before the last question has its answer.
    """
    luck = random.Random(f"judge/{seed}")  # noqa: S311 - no secret
    kinds = luck.sample(KINDS, min(len(KINDS), questions))
    early = range(1, max(1, int(questions * EARLY)) + 1)
    answered = sorted(luck.choices(early, k=len(kinds)))
    return [
        (before + number, kind) for number, (before, kind) in enumerate(zip(answered, kinds, strict=True))
    ]


class FailingJudge:
    """The proxy and the judge behind it; a context manager."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()  # requests by what was shown, without the code
        self.answered: Counter[str] = Counter()  # of them, those that were answered with a verdict
        self.fired: Counter[str] = Counter()
        self._due: list[tuple[int, str]] = []
        self._met: Counter[str] = Counter()
        self._requests = 0
        self._lock = threading.Lock()
        self._judge = MatchingJudge()
        self._server = _Server(_Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def base_url(self) -> str:
        return self._server.base_url

    @property
    def behind(self) -> tuple[str, int]:
        parts = urlsplit(self._judge.base_url)
        return parts.hostname or "", parts.port or 0

    def begin(self, schedule: list[tuple[int, str]]) -> None:
        """Starts counting again, with these failures to come."""
        with self._lock:
            for counts in (self.asked, self.answered, self.fired, self._met):
                counts.clear()
            self._due, self._requests = list(schedule), 0

    def meets(self, case: str) -> str | None:
        """The failure that this request meets, if any; one that is due and may not fall yet waits."""
        with self._lock:
            self._requests += 1
            self.asked[case] += 1
            if not self._due or self._requests < self._due[0][0] or self._met[case] >= MOST:
                return None
            kind = self._due.pop(0)[1]
            self._met[case] += 1
            self.fired[kind] += 1
            return kind

    def gave(self, case: str) -> None:
        with self._lock:
            self.answered[case] += 1

    def __enter__(self) -> FailingJudge:
        self._judge.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._judge.stop()


class _Server(LoopbackServer):
    owner: FailingJudge


class _Handler(LoopbackHandler):
    server: _Server

    def do_GET(self) -> None:
        self._forward(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        case = case_of(body)
        kind = self.server.owner.meets(case)
        if kind in ("429", "500", "503"):
            error = {"message": "raypipe chaos", "type": "server_error", "code": None}
            again = {"Retry-After": "1"} if kind == "429" else {}
            self.send(int(kind), json.dumps({"error": error}).encode(), again)
        elif kind == "reset":
            self.reset()
        elif kind == "timeout":
            self.hang(HANG_S)
        elif kind == "malformed":
            self.send(200, b'{"id": "chatcmpl-chaos", "choi')
        elif self._forward(body) == 200:
            self.server.owner.gave(case)

    def _forward(self, body: bytes) -> int:
        link = http.client.HTTPConnection(*self.server.owner.behind, timeout=30)
        try:
            link.request(self.command, self.path, body or None, {"Content-Type": "application/json"})
            reply = link.getresponse()
            self.send(reply.status, reply.read())
            return reply.status
        finally:
            link.close()


def case_of(body: bytes) -> str:
    """A name for what a request shows the judge and asks of it: the same for each try at it."""
    try:
        request = json.loads(body)
        shown = json.loads(request["messages"][-1]["content"])
        rest = {name: text for name, text in shown.items() if name != "code"}
        system = [m["content"] for m in request["messages"][:-1]]
        text = json.dumps([system, rest], sort_keys=True)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        text = body.decode("utf-8", "replace")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
