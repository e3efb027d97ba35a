"""What is made of a job server's answers, and of a token that is none."""

from __future__ import annotations

import pytest

from raypipe.errors import RequestError, ServiceError
from raypipe.submit.dashboard import Dashboard, Refused
from raypipe.submit.follow import Log, Pace, follow
from tests.support.job_server import job_server  # noqa: F401 - a fixture


@pytest.mark.parametrize(
    ("token", "said"), [("its own", "does not exist"), ("another", "asks for its token")]
)
def test_a_log_that_is_refused_is_not_a_lost_connection(job_server, token, said):  # noqa: F811
    if token == "another":
        job_server.token = "e5" * 32
    told: list[str] = []
    pace = Pace(first=0.01, longest=0.02, patience=0.2)
    with pytest.raises(Refused, match=said):
        follow(Dashboard(job_server.address), "raypipe-gone-1", Log(told.append), told.append, pace)
    assert told == []


@pytest.mark.parametrize("answer", ["{}", "null", "[1]", '"x"'])
@pytest.mark.parametrize("asked", ["jobs", "job", "log"])
def test_another_servers_json_is_no_dashboards(job_server, asked, answer):  # noqa: F811
    path = {"jobs": "/api/jobs/", "job": "/api/jobs/a", "log": "/api/jobs/a/logs"}[asked]
    job_server.refuse = {f"GET {path}": [(200, answer)]}
    cluster = Dashboard(job_server.address)
    with pytest.raises(ServiceError, match="is no Ray dashboard"):
        cluster.jobs() if asked == "jobs" else getattr(cluster, asked)("a")


@pytest.mark.parametrize("inside", [" ", "\n", "\t", "\x7f", "\N{EURO SIGN}"])
@pytest.mark.parametrize("named", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_no_token_is_refused_without_a_word_of_it(tmp_path, monkeypatch, named, inside):
    value, file = f"d5d5d5d5{inside}e6e6e6e6", tmp_path / "two"
    file.write_text(value)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv(named, value if named == "RAY_AUTH_TOKEN" else str(file))
    with pytest.raises(RequestError, match=r"what \S+ holds is no token") as refused:
        Dashboard("http://127.0.0.1:1")
    assert "d5d5" not in refused.value.render()
    assert "e6e6" not in refused.value.render()
