"""What the API bears: 100,000 audits in PostgreSQL, two API processes, and 500 open event streams.

    python -m bench.load [--audits 100000] [--streams 500] [--seconds 4] [--rounds 3] [--out bench/out/load.json]

Everything runs on this machine and on loopback: a PostgreSQL of the bench's own, two API processes as `uvicorn` starts
them, two processes of the bare framework with an empty route, and the asker. Sixteen connections, eight to a process,
ask as fast as answers come; rounds take turns between the routes, so that all of them meet the same machine, and the
median over the rounds is shown: answers a second, how long they took, and the CPU time of the processes for each. Rate
limits and access logs are off. Three minutes on two quiet cores.

Streams: 500 running audits are followed at once while progress is written to 20 of them a second. Shown are how long
an event takes from its commit to its reader, what the two processes spend on it, and what GET one costs meanwhile.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, insert, text

from bench.local import save
from peelbound.service.database.engine import database_clock, make_engine
from peelbound.service.database.leases import Claim, Leases
from peelbound.service.database.schema import migrate
from peelbound.service.database.tables import AuditRow, EventRow, RequestRow
from peelbound.service.database.tokens import Tokens
from peelbound.service.schemas.record import AuditState, EventType, Progress
from peelbound.service.schemas.request import AuditRequest, Calibration
from peelbound.service.settings import Settings
from tests.postgres_server import postgres_database, postgres_server

TENANTS = 20
CONNECTIONS = 16
PROCESSES = 2
EVENTS_PER_SECOND = 20
LEASE_SECONDS = 3_600.0
EMPTY = "an empty route of the bare framework"
FIGURES = {"per_second": 0, "p50_ms": 1, "p99_ms": 1, "cpu_ms": 2}
"""Of a route, with the digits that are shown."""

Served = tuple[int, psutil.Process]
"""A port and the process that answers there."""

empty = FastAPI()
"""The bare framework."""


@empty.get("/empty")
async def nothing() -> dict[str, str]:
    """An empty answer."""
    return {}


@dataclass(frozen=True)
class Sample:
    """Answers of one route in one round."""

    seconds: list[float]
    """Of each answer."""
    duration: float
    cpu: float
    """CPU seconds of the processes that answered."""

    @property
    def per_second(self) -> float:
        """Answers per second, over all connections."""
        return len(self.seconds) / self.duration

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of an answer."""
        return self.cpu / len(self.seconds) * 1e3

    def quantile(self, q: float) -> float:
        """Milliseconds."""
        return float(np.quantile(self.seconds, q)) * 1e3


def fill(engine: Engine, audits: int) -> list[str]:
    """Write ended audits of 20 tenants, each with three events; answers the first tenant's ids.

    The server makes up the rows itself: through the service 100,000 audits would take minutes.
    """
    request = AuditRequest(
        checkpoint="/data/run/step", calibration=Calibration(uri="/data/text.jsonl"), run="run", step=1
    ).model_dump_json()
    values = {"audits": audits, "tenants": TENANTS, "request": request, "bytes": len(request.encode())}
    # Ids as the service gives them: by time of creation; the tail only has to be unique.
    keys = "'tenant-' || n % :tenants, '01K' || lpad(n::text, 23, '0')"
    every = "FROM generate_series(0, :audits - 1) AS n"
    with engine.begin() as connection:
        for table in (
            f"""audits (tenant, id, state, attempt, failures, event_count, created_at, ended_at, checkpoint, run, step,
                        request_bytes)
                SELECT {keys}, 'cancelled', 1, 0, 3, now(), now(), '/data/run/step', 'run', 1, :bytes {every}""",
            f"requests (tenant, audit_id, body) SELECT {keys}, :request {every}",
            f"""events (tenant, audit_id, number, at, type, data)
                SELECT {keys}, number, now(), 'state', '{{"state": "cancelled"}}'
                {every}, generate_series(1, 3) AS number""",
        ):
            statement = text(f"INSERT INTO {table}")
            named = {name: value for name, value in values.items() if f":{name}" in table}
            connection.execute(statement, named)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        ours = text("SELECT id FROM audits WHERE tenant = 'tenant-0' ORDER BY id")
        return list(connection.scalars(ours))


def begin(engine: Engine, audits: int) -> list[Claim]:
    """Write running audits of the first tenant, each with an event; answers the claims on them, which last an hour."""
    request = AuditRequest(checkpoint="/data/run/step", calibration=Calibration(uri="/data/text.jsonl"))
    claims = [Claim(f"01L{n:023d}", "tenant-0", 1, "bench", request) for n in range(audits)]
    keys = [{"tenant": claim.tenant, "id": claim.audit_id} for claim in claims]
    named = [{"tenant": claim.tenant, "audit_id": claim.audit_id} for claim in claims]
    with engine.begin() as connection:
        now = database_clock(connection)
        row = {
            "state": AuditState.RUNNING, "attempt": 1, "failures": 0, "event_count": 1, "lease_owner": "bench",
            "claimable_at": now + timedelta(seconds=LEASE_SECONDS), "claimed_at": now, "created_at": now,
            "started_at": now, "checkpoint": request.checkpoint, "request_bytes": 400,
        }  # fmt: skip
        connection.execute(insert(AuditRow), [{**key, **row} for key in keys])
        connection.execute(insert(RequestRow), [{**key, "body": request} for key in named])
        event = {"number": 1, "at": now, "type": EventType.STATE, "data": {"state": "running"}}
        connection.execute(insert(EventRow), [{**key, **event} for key in named])
    return claims


@contextmanager
def processes(application: str, environment: dict[str, str], factory: bool) -> Iterator[list[Served]]:
    """Two uvicorn processes of an application."""
    with ExitStack() as stack:
        found = []
        for port in _free_ports():
            # By port and not by descriptor: asyncio switches Nagle's algorithm off only where it made the socket.
            command = [sys.executable, "-P", "-m", "uvicorn", application, "--no-access-log", "--log-level", "warning"]
            command += ["--factory"] * factory + ["--port", str(port)]
            process = subprocess.Popen(command, env=os.environ | environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            found.append((port, psutil.Process(process.pid)))
        for port, running in found:
            _wait_for(port, running)
        yield found


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(PROCESSES)]
        return [listener.getsockname()[1] for listener in sockets]


def _wait_for(port: int, process: psutil.Process) -> None:
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the process on port {port} did not start")


def get(port: int, path: str, token: str) -> bytes:
    """A request of HTTP/1.1 on a connection that stays open."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def post(port: int, body: bytes, token: str) -> bytes:
    """The same with a body."""
    head = f"POST /v1/audits HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _head(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if head[9:10] != b"2":
        raise RuntimeError(f"answered {head[:200]!r}")
    return head


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await _head(reader)).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)


def _cpu(found: Sequence[Served]) -> float:
    return sum(sum(process.cpu_times()[:2]) for _, process in found)


async def closed_loop(
    asked: Sequence[Served], ask: Callable[[int], bytes], seconds: float, connections: int = CONNECTIONS
) -> Sample:
    """Ask on all connections, each again as soon as it has its answer."""
    took: list[float] = []

    async def one(port: int, until: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < until:
            writer.write(ask(port))
            await _answer(reader)
            took.append(time.perf_counter() - began)
        writer.close()

    before, began = _cpu(asked), time.perf_counter()
    many = zip(range(connections), cycle(port for port, _ in asked), strict=False)
    await asyncio.gather(*(one(port, began + seconds) for _, port in many))
    return Sample(took, time.perf_counter() - began, _cpu(asked) - before)


@dataclass
class Streams:
    """Open event streams and when their events came."""

    arrived: dict[tuple[str, int], float]
    tasks: list["asyncio.Task[None]"]

    async def close(self) -> None:
        """Hang up."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def follow(ports: Sequence[int], ids: Sequence[str], token: str) -> Streams:
    """Follow each audit on a connection of its own; returns when all have had their first event."""
    streams, ready = Streams({}, []), [asyncio.Event() for _ in ids]

    async def one(port: int, audit_id: str, first: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(get(port, f"/v1/audits/{audit_id}/events", token))
            await _head(reader)
            async for line in reader:
                if line.startswith(b"id:"):
                    streams.arrived[audit_id, int(line[3:])] = time.perf_counter()
                    first.set()
        finally:
            writer.close()

    for port, audit_id, first in zip(cycle(ports), ids, ready, strict=False):
        streams.tasks.append(asyncio.create_task(one(port, audit_id, first)))
    for first in ready:
        await first.wait()
    return streams


async def streaming(
    found: Sequence[Served], leases: Leases, claims: Sequence[Claim], token: str, seconds: float
) -> dict[str, Any]:
    """Delays of events over all streams, and the processes' CPU share while nothing and while something happens."""
    ports = [port for port, _ in found]
    streams = await follow(ports, [claim.audit_id for claim in claims], token)
    before, began = _cpu(found), time.perf_counter()
    await asyncio.sleep(seconds)
    idle = (_cpu(found) - before) / (time.perf_counter() - began)
    seen, written = len(streams.arrived), []
    progress = Progress(phase="checking", problems_done=1, problems_planned=2, work_done=1, work_planned=2)
    before, began = _cpu(found), time.perf_counter()
    for count, claim in enumerate(claims[: round(EVENTS_PER_SECOND * seconds)]):
        await asyncio.to_thread(leases.progress, claim, progress)
        written.append((claim.audit_id, time.perf_counter()))
        await asyncio.sleep(max(0.0, began + (count + 1) / EVENTS_PER_SECOND - time.perf_counter()))
    async with asyncio.timeout(30):
        while len(streams.arrived) < seen + len(written):
            await asyncio.sleep(0.05)
    busy = (_cpu(found) - before) / (time.perf_counter() - began)
    delays = [max(at for (i, _), at in streams.arrived.items() if i == name) - sent for name, sent in written]
    asked = await closed_loop(found, lambda port: get(port, f"/v1/audits/{claims[0].audit_id}", token), seconds)
    await streams.close()
    return {
        "streams": len(claims),
        "delay_p50_ms": float(np.quantile(delays, 0.5)) * 1e3,
        "delay_p99_ms": float(np.quantile(delays, 0.99)) * 1e3,
        "cores_idle": idle,
        "cores_with_events": busy,
        "get_one_per_second": asked.per_second,
        "get_one_p99_ms": asked.quantile(0.99),
    }


def run(audits: int, streams: int, seconds: float, rounds: int) -> dict[str, Any]:
    """All of it."""
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        url = stack.enter_context(postgres_database(server, "load"))
        engine = make_engine(url)
        stack.callback(engine.dispose)
        migrate(engine)
        ids = fill(engine, audits)
        token = Tokens(engine).create("tenant-0", "load", frozenset({"read", "write"}))
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(
            state_dir=state, database_url=url, allow=["/data"], requests_per_second=0, tenant_active_audits=10_000_000
        )
        found = stack.enter_context(processes("peelbound.api.app:create_app", settings.environment(), True))
        bare = stack.enter_context(processes("bench.load:empty", {"PYTHONPATH": str(Path.cwd())}, False))
        spread = cycle(ids[:: max(1, len(ids) // 997)])
        body = AuditRequest(checkpoint="/data/x", calibration=Calibration(uri="/data/t.jsonl")).model_dump_json()
        routes: dict[str, tuple[list[Served], Callable[[int], bytes], int]] = {
            EMPTY: (bare, lambda port: get(port, "/empty", token), CONNECTIONS),
            "GET one": (found, lambda port: get(port, f"/v1/audits/{next(spread)}", token), CONNECTIONS),
            "GET one, by one who asks alone": (found, lambda port: get(port, f"/v1/audits/{next(spread)}", token), 1),
            "list, a page of 10": (found, lambda port: get(port, "/v1/audits?limit=10", token), CONNECTIONS),
            "list, a page of 50": (found, lambda port: get(port, "/v1/audits", token), CONNECTIONS),
            "POST": (found, lambda port: post(port, body.encode(), token), CONNECTIONS),
        }
        samples: dict[str, list[Sample]] = {name: [] for name in routes}
        for round_number in range(rounds + 1):  # the first warms up
            for name, (asked, ask, connections) in routes.items():
                sample = asyncio.run(closed_loop(asked, ask, seconds if round_number else 1.0, connections))
                if round_number:
                    samples[name].append(sample)
        leases = Leases(engine, lease_seconds=LEASE_SECONDS, max_attempts=3)
        claims = begin(engine, streams)
        rows = [
            {
                "route": name,
                "per_second": float(np.median([s.per_second for s in taken])),
                "p50_ms": float(np.median([s.quantile(0.5) for s in taken])),
                "p99_ms": float(np.median([s.quantile(0.99) for s in taken])),
                "cpu_ms": float(np.median([s.cpu_ms for s in taken])),
            }
            for name, taken in samples.items()
        ]
        return {
            "audits": audits,
            "routes": rows,
            "streaming": asyncio.run(streaming(found, leases, claims, token, seconds)),
        }


def main() -> None:
    """Run, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=100_000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/out/load.json"))
    chosen = parser.parse_args()
    found = run(chosen.audits, chosen.streams, chosen.seconds, chosen.rounds)
    base = found["routes"][0]["cpu_ms"]
    table = Table("route", "a second", "p50 ms", "p99 ms", "CPU ms", "times the bare framework's CPU")
    for row in found["routes"]:
        figures = (f"{row[name]:.{digits}f}" for name, digits in FIGURES.items())
        table.add_row(row["route"], *figures, f"{row['cpu_ms'] / base:.1f}")
    console = Console(width=120)
    console.print(f"{found['audits']} audits in PostgreSQL, {PROCESSES} processes, {CONNECTIONS} connections")
    console.print(table)
    console.print(found["streaming"])
    save(chosen.out, found)


if __name__ == "__main__":
    main()
