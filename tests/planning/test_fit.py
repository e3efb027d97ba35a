"""Where processes find room, what is refused, what nodes cost."""

import pytest

from raypipe.errors import RequestError
from raypipe.planning.fit import Ask, Fit, placed
from raypipe.planning.machines import GPUS, Kind, Machines, of_file
from raypipe.planning.prices import read_prices
from raypipe.planning.room import room_of

HEAD = Kind("head", 1, 1, 0.0, 0.0, instance="m6i.2xlarge", usd_per_hour=0.4, head=True)
GPU = Kind("gpu", 2, 0, 96.0, 8.0, gpu=GPUS["A100-80GB"], instance="p4de", usd_per_hour=27.0)
CPU = Kind("cpu", 4, 0, 16.0, 0.0, instance="m6i", usd_per_hour=0.8)


def fit(ask: Ask, machines: Machines) -> Fit:
    return placed([ask], machines)[0][0]


def price(ask: Ask, machines: Machines) -> tuple[float | None, list[str]]:
    return placed([ask], machines)[1].usd_per_hour()


def on(*kinds: Kind) -> Machines:
    return Machines("cluster.yaml", kinds)


@pytest.mark.parametrize(
    ("ask", "nodes", "held", "ok"),
    [
        (Ask("worker", 8, 8, 8, 1), {"gpu": 1}, 8, True),
        (Ask("worker", 9, 9, 8, 1), {"gpu": 2}, 9, True),
        (Ask("worker", 16, 16, 12, 1), {"gpu": 2}, 16, True),
        (Ask("worker", 16, 16, 13, 1), {"gpu": 2}, 14, False),  # the CPUs of a node are short
        (Ask("worker", 17, 17, 1, 1), {"gpu": 2}, 16, False),
        (Ask("worker", 17, 4, 1, 1), {"gpu": 2}, 16, True),  # begins with fewer
        (Ask("task", 1, 1, 1, 0), {"cpu": 1}, 1, True),  # no GPU node is begun for it
        (Ask("task", 100, 1, 1, 0), {"cpu": 4, "gpu": 1}, 100, True),
        (Ask("task", 250, 250, 1, 0), {"gpu": 2, "cpu": 4}, 250, True),
        (Ask("actor", 20, 20, 1, 0.4), {"gpu": 2}, 20, True),  # shares of a GPU are whole GPUs together
        (Ask("worker", 1, 1, 8, 9), {}, 0, False),
        (Ask("worker", 1, 1, 97, 1), {}, 0, False),
    ],
)
def test_processes_are_laid_onto_nodes(ask, nodes, held, ok):
    found = fit(ask, on(HEAD, CPU, GPU))
    assert ({used.kind: used.nodes for used in found.used}, found.held, found.ok) == (nodes, held, ok)
    assert bool(found.reason) == (held < ask.count)
    assert bool(found.remedy) == bool(found.reason)


def test_shares_of_a_gpu_do_not_add_up_past_it():
    assert fit(Ask("actor", 4, 4, 1, 0.4), on(Kind("one", 1, 1, 8.0, 1.0))).held == 2
    assert fit(Ask("actor", 9, 9, 1, 0.1), on(Kind("one", 1, 1, 16.0, 0.9))).held == 9  # 0.9 / 0.1 < 9


def test_why_it_can_never_be():
    found = fit(Ask("worker", 8, 8, 100, 1), on(HEAD, GPU))
    assert found.reason == (
        "no node of cluster.yaml holds worker (100 CPUs and 1 GPU): head has 0 CPUs, 0 GPUs; "
        "gpu has 96 CPUs, 8 GPUs"
    )
    found = fit(Ask("worker", 24, 24, 8, 1), on(HEAD, GPU))
    assert found.reason == "24 x worker (8 CPUs and 1 GPU), and there is room for 16: 2 x gpu with 8 each"


def test_the_price_is_of_the_nodes_and_the_head():
    assert price(Ask("worker", 16, 16, 8, 1), on(HEAD, GPU, CPU))[0] == pytest.approx(2 * 27.0 + 0.4)
    alone = Kind("head", 1, 1, 96.0, 8.0, usd_per_hour=5.0, head=True)
    assert price(Ask("worker", 8, 8, 8, 1), on(alone)) == (5.0, [])


def test_an_unknown_price_is_never_nought():
    odd = Kind("gpu", 2, 0, 96.0, 8.0, instance="x9.huge")
    assert price(Ask("worker", 8, 8, 8, 1), on(HEAD, odd)) == (None, ["x9.huge"])


def test_asks_share_the_machines():
    workers, scored = Ask("worker", 16, 16, 8, 1), Ask("validation", 1, 1, 4, 1)
    (one, two), floor = placed([workers, scored], on(HEAD, GPU))
    assert (one.ok, two.ok, floor.nodes()) == (True, False, {"gpu": 2})
    assert "beside the others" in two.reason
    (_, two), _ = placed([workers, Ask("validation", 1, 1, 4, 1, later=True)], on(HEAD, GPU))
    assert two.ok
    assert "waits until there is room" in two.reason
    (_, two), floor = placed([workers, Ask("decode", 64, 1, 1, 0)], on(HEAD, GPU, CPU))
    assert (two.held, floor.nodes()) == (64, {"gpu": 2})  # beside the workers: 96 - 64 CPUs on each node
    (_, two), floor = placed([workers, Ask("decode", 100, 1, 1, 0)], on(HEAD, GPU, CPU))
    assert (two.held, floor.nodes()) == (100, {"gpu": 2, "cpu": 3})


CLUSTER = """
cluster_name: c
max_workers: 3
provider: {type: aws, region: us-west-2}
available_node_types:
  head:
    resources: {CPU: 0}
    node_config: {InstanceType: m6i.2xlarge}
  gpu:
    max_workers: 2
    resources: {CPU: 90, GPU: 8}
    node_config: {InstanceType: p5.48xlarge}
  odd:
    max_workers: 1
    resources: {CPU: 4}
    node_config: {InstanceType: x9.huge}
head_node_type: head
"""


def test_machines_of_a_file_know_their_gpus_and_prices(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER)
    kinds = {kind.name: kind for kind in of_file(str(file), read_prices(None)).kinds}
    gpu = kinds["gpu"]
    assert (gpu.count, gpu.cpus, gpu.gpus, gpu.gpu) == (2, 90, 8, GPUS["H100"])
    assert gpu.usd_per_hour == read_prices(None).machine("p5.48xlarge").usd_per_hour
    assert kinds["odd"].usd_per_hour is None
    assert kinds["head"].head
    assert of_file(str(file), read_prices(None)).gpu() == GPUS["H100"]


def test_the_shipped_prices_know_every_machine_of_the_shipped_clusters():
    prices = read_prices("cluster/prices.yaml")
    assert prices.prices.as_of.year >= 2026
    assert prices.prices.source
    for machine in prices.prices.machines.values():
        assert machine.gpu is None or machine.gpu in GPUS
        assert (machine.gpus > 0) == (machine.gpu is not None)
    for kind in of_file("cluster.yaml", prices).kinds:
        assert kind.usd_per_hour, f"{kind.instance} has no price in cluster/prices.yaml"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("as_of: 2026-01-01\nmachines: {a: {usd_per_hour: 0}}", "must be more than 0"),
        ("as_of: 2026-01-01\nmachines: {a: {usd: 1}}", "unknown setting"),
        ("machines: {}", "'as_of' is missing"),
        ("as_of: 2026-01-01\ncurrency: EUR\nmachines: {}", "in USD"),
    ],
)
def test_prices_that_are_none(tmp_path, text, said):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(RequestError, match=said):
        read_prices(str(file))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpu": "H1000"}, "no GPU is known as 'H1000'"),
        ({"gpu_gib": "lots"}, "gpu_gib=lots is not a number"),
        ({"mfu": "40"}, "mfu=40 is not a number from 0.001 to 1"),
        ({"prices": "/no/such.yaml"}, "no such settings file"),
        ({"cluster": "/no/such.yaml"}, "no such"),
    ],
)
def test_options_that_are_none(options, said):
    given = dict.fromkeys(("cluster", "prices", "gpu", "gpu_gib", "mfu")) | options
    with pytest.raises(RequestError, match=said):
        room_of(given)


def test_a_gpu_can_be_named():
    given = dict.fromkeys(("cluster", "prices", "gpu", "gpu_gib", "mfu"))
    assert room_of({**given, "gpu": "H100"}).gpu == GPUS["H100"]
    room = room_of({**given, "gpu": "H100", "gpu_gib": "40", "mfu": "0.5"})
    assert (room.gpu.bytes, room.gpu.peak, room.mfu) == (40 << 30, 989e12, 0.5)


def test_the_running_cluster_or_its_own_file_or_this_machine(tmp_path, monkeypatch):
    from raypipe.planning import machines as module

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert module.machines(None, read_prices(None)).where == "this machine"
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(RequestError, match="is where jobs are submitted"):
        module.machines(None, read_prices(None))
    grown = tmp_path / "bootstrap.yaml"
    grown.write_text(CLUSTER)
    monkeypatch.setattr(module, "BOOTSTRAP", str(grown))  # as on the head of a cluster that grows
    assert [kind.name for kind in module.machines(None, read_prices(None)).kinds] == ["head", "gpu", "odd"]
    other = tmp_path / "other.yaml"
    other.write_text(CLUSTER.replace("odd:", "own:"))
    assert "own" in [kind.name for kind in module.machines(str(other), read_prices(None)).kinds]


def test_gpus_as_nvidia_smi_shows_them(monkeypatch):
    from subprocess import CompletedProcess

    from raypipe.planning import machines as module

    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert module.local_gpus() == []
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    said = "NVIDIA H200, 143771\nTesla T4, 15360\n"
    monkeypatch.setattr(module.subprocess, "run", lambda *a, **k: CompletedProcess(a, 0, said))
    one, two = module.local_gpus()
    assert (one.name, one.bytes, one.peak) == ("H200", 143771 << 20, 989e12)
    assert (two.name, two.peak) == ("Tesla T4", None)


def test_the_limit_of_all_types_together_counts(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "cluster_name: c\nmax_workers: 2\nprovider: {type: aws}\nhead_node_type: head\n"
        "available_node_types:\n"
        "  head: {resources: {CPU: 4}, node_config: {InstanceType: m6i.2xlarge}}\n"
        "  a: {resources: {CPU: 8, GPU: 1}, max_workers: 2, node_config: {InstanceType: p5.4xlarge}}\n"
        "  b: {resources: {CPU: 16, GPU: 1}, max_workers: 2, node_config: {InstanceType: p5.4xlarge}}\n"
    )
    found = of_file(str(file), read_prices(None))
    (workers,), _ = placed([Ask("worker", 4, 4, 8, 1)], found)
    assert (workers.held, workers.ok) == (2, False)
    assert "max_workers is 2" in workers.reason
    (tasks, more), _ = placed([Ask("worker", 2, 2, 8, 1), Ask("task", 1, 1, 4, 0)], found)
    assert (tasks.ok, more.ok) == (True, True)  # the head is there beside them


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("    max_workers: 2\n", "    max_workers: 0\n", "raise max_workers of gpu in"),
        ("max_workers: 3\n", "max_workers: 0\n", "raise max_workers of all types together in"),
    ],
)
def test_machines_that_may_not_start_are_the_reason(tmp_path, old, new, remedy):
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER.replace(old, new))
    found = fit(Ask("worker", 1, 1, 8, 1), of_file(str(file), read_prices(None)))
    assert not found.ok
    assert found.reason.startswith(f"gpu of {file} would hold worker (8 CPUs and 1 GPU)")
    assert found.remedy.startswith(remedy)


@pytest.mark.parametrize("count", ["max_workers: -1", "min_workers: 3\n    max_workers: 2"])
def test_a_number_of_machines_that_cannot_be_is_refused(tmp_path, count):
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER.replace("    max_workers: 2\n", f"    {count}\n"))
    with pytest.raises(RequestError, match="nodes of gpu") as fault:
        of_file(str(file), read_prices(None))
    assert "raypipe cluster check" in fault.value.remedy


def test_no_number_is_counted_for_ever():
    many = on(HEAD, Kind("gpu", 10**9, 0, 96.0, 8.0))
    with pytest.raises(RequestError, match="a plan counts at most"):
        fit(Ask("worker", 10**9, 1, 1, 1), many)
    found = fit(Ask("worker", 5_000, 1, 96, 1), many)  # each on a node of its own
    assert (found.held, found.used[0].nodes) == (5_000, 5_000)
    assert fit(Ask("worker", 1, 1, 1, 1), on(Kind("gpu", 1, 1, 96.0, 1e9))).ok


def test_nobody_counts_more_gpus_than_processes_of_a_node():
    assert fit(Ask("worker", 8, 8, 0, 1), on(Kind("odd", 1, 1, 96.0, float("inf")))).held == 8


def test_a_price_file_holds_finite_numbers(tmp_path):
    file = tmp_path / "prices.yaml"
    for name in ("usd_per_hour", "cpus", "memory_gib"):
        file.write_text(f"as_of: 2026-01-01\nmachines: {{a: {{{name}: .inf}}}}")
        with pytest.raises(RequestError, match=f"{name}.* finite"):
            read_prices(str(file))
