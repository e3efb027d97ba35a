"""What the order means for object storage: all nodes together read the dataset about once, in stretches."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from raypipe.train.blocks import BLOCKS, Blocks
from raypipe.train.cache import coalesced
from raypipe.train.collate import share
from raypipe.train.mixture import IMAGE, TEXT, VIDEO
from raypipe.train.order import Order
from tests.train.stocks import stock

SHARD, BATCH, WINDOW = 64, 64, 2048  # media of a shard; samples of a global batch and of a window
RANKS = 2  # of a node
KEPT = 2  # windows: what was not used in so many is gone from a node's cache


@dataclass
class Node:
    """What one node's ranks fetch: bytes and requests."""

    kept: dict[int, int] = field(default_factory=dict)  # stored row -> the window it was used in last
    bytes: int = 0
    requests: int = 0

    def use(self, rows: np.ndarray, window: int, place: np.ndarray, length: np.ndarray) -> None:
        missing = [row for row in rows.tolist() if row not in self.kept]
        for shard in {row // SHARD for row in missing}:
            wanted = [(int(place[row]), int(length[row])) for row in missing if row // SHARD == shard]
            for group in coalesced(wanted):
                self.bytes += sum(group[-1]) - group[0][0]
                self.requests += 1
        self.kept |= dict.fromkeys(rows.tolist(), window)

    def forget(self, window: int) -> None:
        self.kept = {row: used for row, used in self.kept.items() if used > window - KEPT}


def simulated(order: Order, row: np.ndarray, length: np.ndarray, nodes: int) -> list[Node]:
    place = np.cumsum(length) - length
    cluster, window = [Node() for _ in range(nodes)], 0
    steps = order.steps(0)
    step = steps.start
    while step < steps.stop:
        together = order.together(step)
        batches = [np.asarray(order.batch(s)) for s in together]
        for rank in range(nodes * RANKS):
            mine = [share(len(b), rank, nodes * RANKS) for b in batches]
            used = np.unique(
                np.concatenate([row[b[m.start : m.stop]] for b, m in zip(batches, mine, strict=True)])
            )
            cluster[rank // RANKS].use(used[used >= 0], window, place, length)
        for node in cluster:
            node.forget(window)
        step, window = together.stop, window + 1
    return cluster


@pytest.mark.parametrize("nodes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("per_medium", [1, 8])
@pytest.mark.parametrize("grouped", [False, True])
def test_all_nodes_together_read_the_dataset_about_once(nodes, per_medium, grouped):
    media = 16_384 // per_medium
    kinds = np.repeat([IMAGE, VIDEO], [media // 2 * per_medium] * 2).tolist() + [TEXT] * 1000
    rng = np.random.default_rng(4)
    samples = stock(kinds, rng.integers(1, 400, len(kinds)), per_medium=per_medium, per_shard=SHARD)
    length = rng.integers(50_000, 250_000, media)
    cluster = simulated(Order(samples, [1.0], BATCH, 7, WINDOW, grouped=grouped), samples.row, length, nodes)
    fetched, requests = sum(n.bytes for n in cluster), sum(n.requests for n in cluster)
    assert length.sum() <= fetched <= 1.1 * length.sum()
    # Where two ranks share a block, each fetches its half of a stretch, with holes.
    assert requests <= (0.3 if nodes * RANKS <= BLOCKS or per_medium > 1 else 0.65) * media
    if nodes > 1:
        assert max(n.bytes for n in cluster) < 2 * min(n.bytes for n in cluster)


def test_parts_of_unlike_length_are_spread_over_all_ranks():
    """A part of short samples behind one of long ones: every rank has some of both in every window."""
    lengths = [2000] * 4096 + [100] * 4096
    samples = stock([VIDEO] * 8192, lengths, parts=[4096, 4096])
    order = Order(samples, [1.0, 1.0], BATCH, 7, WINDOW)
    for window in range(0, 128, WINDOW // BATCH):
        work = [0] * 8
        for step in range(window, window + WINDOW // BATCH):
            batch = order.batch(step)
            for rank in range(8):
                mine = share(len(batch), rank, 8)
                work[rank] += sum(lengths[i] for i in batch[mine.start : mine.stop])
        assert max(work) < 1.15 * min(work)


def test_a_medium_stays_in_its_block():
    samples = stock([VIDEO] * 18_000, per_medium=6)
    order = Order(samples, [1.0], BATCH, 7, WINDOW)
    blocks: dict[int, set[int]] = {}
    for step in order.steps(0):
        batch = order.batch(step)
        for slot, number in enumerate(batch):
            blocks.setdefault(int(samples.row[number]), set()).add(slot * BLOCKS // len(batch))
    moved = sum(len(b) > 1 for b in blocks.values())
    assert moved <= 0.03 * len(blocks)  # what fills up the last batches of the epoch


def test_blocks_get_their_share_to_within_a_medium():
    rng = np.random.default_rng(0)
    uses = rng.integers(1, 6, 400)
    row = np.repeat(np.arange(400), uses)
    count = len(row)
    blocks = Blocks(row, row // 8, np.zeros(count, int), np.ones(count), 32, rng, grouped=False)
    blocks.add(np.arange(count))
    made = blocks.close()
    assert sorted(made.numbers.tolist()) == list(range(count))
    assert made.windows[0] >= (count - 16 * 2 * 3) // 32
    assert len(made.ends) == -(-count // 32)
