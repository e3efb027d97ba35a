"""The job server asked without a submission around it: its address, its answers, a log that it refuses."""

from __future__ import annotations

import pytest

from raypipe.errors import RequestError, ServiceError
from raypipe.submit import follow
from raypipe.submit.dashboard import Dashboard, Refused, address_of
from tests.support.job_server import job_server  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://127.0.0.1:abc", "http://127.0.0.1:99999999", "http://127.0.0.1:0"]
)
def test_an_address_whose_host_or_port_is_none(address):
    with pytest.raises(RequestError) as refused:
        address_of(address)
    assert f"--address is '{address}', whose host or port is none" in refused.value.message
    assert "--address http://127.0.0.1:8265" in refused.value.remedy


@pytest.mark.parametrize(
    ("token", "said"), [("its own", "does not exist"), ("another", "asks for its token")]
)
def test_a_log_that_is_refused_is_not_a_lost_connection(job_server, token, said):  # noqa: F811
    if token == "another":
        job_server.token = "e5" * 32
    told: list[str] = []
    pace = follow.Pace(first=0.01, longest=0.02, patience=0.2)
    with pytest.raises(Refused, match=said):
        follow.follow(
            Dashboard(job_server.address), "raypipe-gone-1", follow.Log(told.append), told.append, pace
        )
    assert told == []


@pytest.mark.parametrize("answer", ["{}", "null", "[1]", '"x"'])
@pytest.mark.parametrize("asked", ["jobs", "job", "log"])
def test_another_servers_json_is_no_dashboards(job_server, asked, answer):  # noqa: F811
    path = {"jobs": "/api/jobs/", "job": "/api/jobs/a", "log": "/api/jobs/a/logs"}[asked]
    job_server.refuse = {f"GET {path}": [(200, answer)]}
    cluster = Dashboard(job_server.address)
    with pytest.raises(ServiceError, match="is no Ray dashboard"):
        cluster.jobs() if asked == "jobs" else getattr(cluster, asked)("a")
