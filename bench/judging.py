"""How fast answers are judged, and what that takes of the driver, against an endpoint of known delay.

The endpoint is a process of its own that answers every request after a fixed time. What it takes of the two
cores counts against the judge.

    python -m bench.judging
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from bench.figure import Figure, plain
from raypipe.judge.stream import JudgeStream
from raypipe.records import Outcome, Prediction
from raypipe.settings import JudgeSettings
from raypipe.store.files import Store

CONCURRENCY, LATENCY_S, VERDICTS = 64, 2.0, 640
MANY = 10_000
LEAST_SHARE = 0.9  # of concurrency over latency
MOST_GROWTH_MIB = 200.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
NO_KEY = "RAYPIPE_BENCH_NO_KEY"


def figures(pairs: int = 1) -> Iterator[Figure]:
    """All of them; each compares with what is known beforehand, so nothing is paired."""
    yield throughput()
    yield growth()


def throughput(
    verdicts: int = VERDICTS, concurrency: int = CONCURRENCY, latency_s: float = LATENCY_S
) -> Figure:
    """Wall time of judging over the time that the endpoint's delay alone takes."""
    with endpoint(latency_s) as url, tempfile.TemporaryDirectory(prefix="raypipe-bench-judge-") as folder:
        judge(folder, "warm", url, concurrency, concurrency)
        took_s = judge(folder, "run", url, verdicts, concurrency)
    least_s = verdicts * latency_s / concurrency
    return plain(
        "judge_throughput",
        f"wall time of {verdicts} verdicts at concurrency {concurrency} and {latency_s:g} s latency, over "
        "verdicts x latency / concurrency",
        took_s / least_s,
        "x",
        1 / LEAST_SHARE,
        verdicts_per_s=round(verdicts / took_s, 2),
    )


def growth(verdicts: int = MANY) -> Figure:
    """What the resident memory of the process that judges grows by."""
    this = psutil.Process()
    with endpoint(0.0) as url, tempfile.TemporaryDirectory(prefix="raypipe-bench-judge-") as folder:
        judge(folder, "warm", url, CONCURRENCY, CONCURRENCY)
        before = this.memory_info().rss
        took_s = judge(folder, "run", url, verdicts, CONCURRENCY)
        grown = this.memory_info().rss - before
    return plain(
        "judge_memory",
        f"growth of the driver over {verdicts} verdicts, all clients in it",
        grown / (1 << 20),
        "MiB",
        MOST_GROWTH_MIB,
        verdicts_per_s=round(verdicts / took_s, 1),
    )


def judge(folder: str, name: str, url: str, verdicts: int, concurrency: int) -> float:
    """Judges so many different answers without Ray; returns seconds."""
    settings = JudgeSettings(base_url=url, key_env=NO_KEY, concurrency=concurrency)
    answers = [_answer(number) for number in range(verdicts)]
    started = time.perf_counter()
    with JudgeStream(Store(f"{folder}/{name}"), lambda _: "video_qa", settings, use_ray=False) as stream:
        stream.add(answers)
        found = stream.finish()
    took_s = time.perf_counter() - started
    if len(found) != verdicts or any(v.outcome is not Outcome.OK for v in found):
        raise RuntimeError("not every answer got a verdict")
    return took_s


@contextmanager
def endpoint(latency_s: float) -> Iterator[str]:
    """An endpoint in a process of its own that says yes after so many seconds; its base URL."""
    command = [sys.executable, "-m", "bench.judging", "serve", str(latency_s)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = server.stdout.readline().strip() if server.stdout else ""
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(10)


def _answer(number: int) -> Prediction:
    return Prediction(
        key=f"p{number}",
        benchmark="msvd_qa",
        question_id=f"q{number}",
        row_id=str(number),
        medium=f"clip{number // 10}.mp4",
        category="what",
        prompt="what is the man doing?",
        question="what is the man doing?",
        reference="playing a guitar",
        text=f"He is playing a guitar on stage {number}.",
        outcome=Outcome.OK,
        detail="",
        new_tokens=9,
    )


async def _serve(latency_s: float) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
                length = next(int(value) for name, _, value in lines if name == b"content-length")
                body = json.loads(await reader.readexactly(length))
                await asyncio.sleep(latency_s)
                data = _completion(json.loads(body["messages"][-1]["content"])["code"])
                writer.write(HEAD % len(data) + data)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def _completion(code: str) -> bytes:
    reply = json.dumps({"code": code, "verdict": "yes", "score": 5})
    message = {"role": "assistant", "content": reply}
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": "bench",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
        }
    ).encode()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(_serve(float(sys.argv[2])))
    else:
        for made in figures():
            print(json.dumps(made))
