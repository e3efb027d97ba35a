"""Judges numbered answers in a process of its own: given the run, the URL, how many, and how many at once."""

import sys

from raypipe.judge.stream import JudgeStream
from raypipe.settings import JudgeSettings, Price
from raypipe.store.files import Store
from tests.judge.cases import prediction

PRICE = Price(prompt=10.0, reply=100.0)


def main(root: str, url: str, count: str, concurrency: str) -> None:
    made = JudgeSettings(
        base_url=url, key_env="RAYPIPE_TEST_NO_KEY", concurrency=int(concurrency), price=PRICE
    )
    with JudgeStream(Store(root), lambda _: "video_qa", made, use_ray=False) as stream:
        stream.add([prediction(i) for i in range(int(count))])
        stream.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
