"""A job server with Ray's REST addresses over real HTTP, whose jobs and faults a test writes down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

TOKEN = "c4" * 32


@dataclass
class Planned:
    """What the next submitted job does: its log in pieces, a pause after each, how it ends."""

    log: list[str] = field(default_factory=lambda: ["hello\n"])
    status: str = "SUCCEEDED"
    exit_code: int | None = 0
    message: str = ""
    error_type: str | None = None
    cut_after: list[int] = field(default_factory=list)  # connections that break after so many pieces
    endless: bool = False  # runs until it is stopped


@dataclass
class JobServer:
    """``planned`` holds what the jobs to come do; ``refuse`` the statuses of the calls to come, by path."""

    token: str | None = TOKEN
    ray_version: str = ""
    planned: list[Planned] = field(default_factory=list)
    refuse: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    plans: dict[str, Planned] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    cuts: int = 0
    outage: int = 0  # calls after a cut that a proxy answers in the server's place
    _down: int = 0
    address: str = ""

    def __enter__(self) -> JobServer:
        if not self.ray_version:
            import ray

            self.ray_version = ray.__version__
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=2**30, middlewares=[self._gate])
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{id}", self._job)
        app.router.add_get("/api/jobs/{id}/logs", self._logs)
        app.router.add_get("/api/jobs/{id}/logs/tail", self._tail)
        app.router.add_post("/api/jobs/{id}/stop", self._stop)
        app.router.add_get("/api/packages/{protocol}/{name}", self._has)
        app.router.add_put("/api/packages/{protocol}/{name}", self._put)

        async def begin() -> None:
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
            ready.set()

        self._loop.run_until_complete(begin())
        self._loop.run_forever()

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}")
        if self._down:
            self._down -= 1
            return web.Response(status=502, text="Bad Gateway")
        if queue := self.refuse.get(f"{request.method} {request.path}"):
            status, text = queue.pop(0)
            return web.Response(status=status, text=text)
        if self.token and request.path != "/api/version":
            said = request.headers.get("Authorization", "")
            if not said:
                return web.Response(status=401, text="Unauthorized: Missing authentication token")
            if said != f"Bearer {self.token}":
                return web.Response(status=403, text="Forbidden: Invalid authentication token")
        return await handler(request)

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": self.ray_version, "ray_commit": "x"})

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response([*self.jobs.values(), {"type": "DRIVER", "submission_id": None}])

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        submission_id = body["submission_id"]
        if submission_id in self.jobs:
            return web.Response(
                status=500, text=f"Traceback ...\nValueError: Job {submission_id} already exists."
            )
        self.add(submission_id, body["entrypoint"], self.planned.pop(0), body)
        return web.json_response({"submission_id": submission_id})

    def add(
        self, submission_id: str, entrypoint: str, plan: Planned, body: dict[str, Any] | None = None
    ) -> None:
        self.plans[submission_id] = plan
        more = {k: v for k, v in (body or {}).items() if k in ("metadata", "runtime_env")}
        self.jobs[submission_id] = {
            "type": "SUBMISSION",
            "submission_id": submission_id,
            "entrypoint": entrypoint,
            "status": "RUNNING",
            "message": "Job is currently running.",
            "driver_exit_code": None,
            **more,
        }

    def end(self, submission_id: str) -> None:
        plan = self.plans[submission_id]
        self.jobs[submission_id] |= {
            "status": plan.status,
            "driver_exit_code": plan.exit_code,
            "message": plan.message,
            "error_type": plan.error_type,
        }

    def _known(self, request: web.Request) -> str:
        if (name := request.match_info["id"]) not in self.jobs:
            raise web.HTTPNotFound(text=f"Job {name} does not exist")
        return name

    async def _job(self, request: web.Request) -> web.Response:
        return web.json_response(self.jobs[self._known(request)])

    async def _logs(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": "".join(self.plans[self._known(request)].log)})

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        name = self._known(request)
        plan = self.plans[name]
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        cut = plan.cut_after.pop(0) if plan.cut_after else None
        for number, piece in enumerate(plan.log):
            if number == cut:
                self.cuts, self._down = self.cuts + 1, self.outage
                assert request.transport is not None
                request.transport.abort()
                return socket
            await socket.send_str(piece)
        while plan.endless and self.jobs[name]["status"] == "RUNNING":
            await asyncio.sleep(0.01)
        if not plan.endless:
            self.end(name)
        return socket

    async def _stop(self, request: web.Request) -> web.Response:
        self.jobs[self._known(request)] |= {"status": "STOPPED", "message": "Job was intentionally stopped."}
        return web.json_response({"stopped": True})

    async def _has(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def _put(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response()


@pytest.fixture
def job_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JobServer]:
    """A server whose token is where RAY_AUTH_TOKEN_PATH says, and whose address RAY_ADDRESS names."""
    file = tmp_path_factory.mktemp("token") / "auth_token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    for name in ("RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with JobServer() as server:
        monkeypatch.setenv("RAY_ADDRESS", server.address)
        yield server
