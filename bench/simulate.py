"""How audits scale, on paper: the real plan and the real scheduling code on a cluster that is simulated.

    python -m bench.simulate [--workers 1 8 64 512] [--blocks 32 64 128] [--day 10000]

The controller's own code (`service/controller`) runs an audit from its checkpoint to its report. In the place of Ray
stands a model of it in virtual time (`bench/simulated_ray.py`). What the driver does is charged at the CPU time that it
takes here; what Ray costs the driver is measured here first, on a real one; the workers' FLOP/s is what audits were
seen to sustain; links and storage are assumed, and printed. Numbers that the simulated tasks return are noise.

The checkpoint has the depth that is asked for and almost no width; costs are those of a model of `--width`.

`--day` spreads that many audits over a day by chance and gives them to controllers one by one, as leases do, and counts
what database and store are asked. All are the same audit: the first preset, blocks and fit that are asked for, the last
FLOP/s.
"""

import argparse
import heapq
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from bench.local import save
from bench.simulated_ray import Costs, SimulatedRay
from bench.simulated_work import LENGTH, Memory, Tasks
from peelbound.service.controller import members, pool, subject
from peelbound.service.controller.audit import Audit
from peelbound.service.controller.cluster import start_ray
from peelbound.service.controller.cost import CostModel
from peelbound.service.controller.loop import LONGEST_POLL_SECONDS
from peelbound.service.controller.planning import FLOPS_PER_WORKER
from peelbound.service.controller.pulse import BEAT_SECONDS
from peelbound.service.schemas.record import Progress
from peelbound.service.schemas.request import AuditRequest, Calibration, Preset, Provenance
from peelbound.service.settings import Settings
from peelbound.workers import spectrum

VOCABULARY = 128
NODE_WORKERS = 8
MLP, MATRICES = 3.5, 7
"""Of a llama's block: the MLP's width over the model's, and how many matrices it has."""


@dataclass(frozen=True)
class Shape:
    """The model and the calibration set that are simulated."""

    preset: Preset
    blocks: int
    width: int
    fit: int
    """Sequences; select has half as many, check one and a half times."""

    @property
    def block_parameters(self) -> int:
        """Of one block."""
        return round(self.width**2 * (4 + 3 * MLP))


@dataclass(frozen=True)
class Simulated:
    """An audit on a cluster."""

    preset: str
    blocks: int
    workers: int
    seconds: float
    worker_seconds: float
    """In tasks, of all workers together."""
    load_seconds: float
    """Of these, in which blocks were made of their bytes: again in each task that needs one, so that the same audit
    takes more of it on more workers."""
    driver_seconds: float
    read_seconds: float
    """That the controller waited for the checkpoint's storage."""
    tasks: int
    store: dict[str, int]
    phases: dict[str, float]
    """Seconds by phase of the progress."""

    @property
    def busy(self) -> float:
        """Share of the workers' time that they spent in tasks, blocks that they made again included."""
        return self.worker_seconds / (self.workers * self.seconds)

    @property
    def loading(self) -> float:
        """Share of the workers' time in which they made blocks."""
        return self.load_seconds / (self.workers * self.seconds)

    def efficiency(self, alone: float) -> float:
        """What the workers are worth, each, of one that needs `alone` seconds for the same audit: T(1) / (N·T(N))."""
        return alone / (self.workers * self.seconds)


LONG_AGO = 1_700_000_000
"""When the checkpoint's files were written, it is said: digests of young ones are not kept, and each simulation is to
do the same to the store."""


def checkpoint(directory: Path, blocks: int) -> Path:
    """Of the right depth and almost no width."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=8, intermediate_size=8, num_hidden_layers=blocks, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=LENGTH, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    path = directory / f"deep-{blocks}"
    LlamaForCausalLM(config).save_pretrained(path)
    for file in path.iterdir():
        os.utime(file, (LONG_AGO, LONG_AGO))
    return path


@contextmanager
def in_the_place_of_ray(simulated: SimulatedRay) -> Iterator[None]:
    """The controller's modules see it where they imported Ray."""
    with ExitStack() as stack:
        for module in (members, pool, subject):
            stack.enter_context(patch.object(module, "ray", simulated))
        stack.enter_context(patch.object(members, "start_worker", simulated.start_worker))
        yield


def simulate(path: Path, shape: Shape, workers: int, costs: Costs, flops: float, weigh: float) -> Simulated:
    """Run one audit."""
    store = Memory()
    cost = CostModel(float(shape.block_parameters), float(shape.width * 32_000))
    block_bytes = 2 * shape.block_parameters
    tasks = Tasks(cost, flops, block_bytes / costs.put, weigh, store)
    simulated = SimulatedRay(costs, tasks, block_bytes, shape.width, NODE_WORKERS)
    splits = {"fit": shape.fit, "select": shape.fit // 2, "check": shape.fit * 3 // 2}
    draw = np.random.Generator(np.random.Philox(1))
    documents = draw.integers(1, VOCABULARY, (sum(splits.values()) + shape.fit // 4, LENGTH)).tolist()
    calibration = Calibration(
        token_ids=documents,
        provenance=Provenance.UNSEEN,
        sequence_length=LENGTH,
        fit_sequences=splits["fit"],
        select_sequences=splits["select"],
        check_sequences=splits["check"],
    )
    request = AuditRequest(checkpoint=str(path), calibration=calibration, preset=shape.preset)
    settings = Settings(allow=[str(path)], workers=workers, cores=workers)

    began: dict[str, float] = {}

    def report(progress: Progress) -> None:
        began.setdefault(progress.phase, simulated.now)

    with in_the_place_of_ray(simulated):
        crew = pool.Pool(settings, store, lambda: None)  # type: ignore[arg-type] # the part that audits use
        Audit(request, "bench", settings, store, crew, report).run()  # type: ignore[arg-type] # the same
    return Simulated(
        shape.preset.value,
        shape.blocks,
        workers,
        simulated.now,
        simulated.worker_seconds,
        simulated.load_seconds,
        simulated.driver_seconds,
        simulated.read_seconds,
        simulated.tasks,
        dict(store.asked),
        {
            phase: end - start
            for (phase, start), end in zip(began.items(), [*list(began.values())[1:], simulated.now], strict=True)
        },
    )


class _Idle:
    def nothing(self, _: Any = None) -> tuple[Any, int]:
        return np.zeros(0), 1


def measured_costs(link: float, read: float) -> Costs:
    """What a real Ray on this machine costs the driver, with the links and the storage that are assumed."""
    calls = 300
    start_ray(Settings(workers=1))
    try:
        idle: Any = ray.remote(_Idle)  # what its stubs make of a class lacks the methods' own `remote`
        actor = idle.options(num_cpus=1).remote()
        ray.get(actor.nothing.remote())
        began = time.perf_counter()
        for _ in range(50):
            ray.get(actor.nothing.remote())
        latency = (time.perf_counter() - began) / 50
        small = ray.put(np.zeros(1))
        cpu = time.process_time()
        refs = [actor.nothing.options(num_returns=2).remote(small)[1] for _ in range(calls)]
        submit = (time.process_time() - cpu) / calls
        cpu = time.process_time()
        while refs:
            ready, refs = ray.wait(refs, num_returns=1)
            ray.get(ready[0])
        take = (time.process_time() - cpu) / calls
        large = np.zeros(16 << 20, np.float32)
        ray.put(large)
        began = time.perf_counter()
        ray.put(large)
        return Costs(submit, take, latency, large.nbytes / (time.perf_counter() - began), link, read)
    finally:
        ray.shutdown()


def measured_weighing() -> float:
    """Seconds in which a worker judges the weights of a block."""
    matrix = torch.randn(spectrum.MOST_CHANNELS, spectrum.MOST_CHANNELS)
    spectrum.departure(matrix)  # draws the null, once in a process
    began = time.perf_counter()
    spectrum.departure(matrix)
    return MATRICES * (time.perf_counter() - began)


@dataclass(frozen=True)
class Day:
    """A day of audits that come by chance."""

    controllers: int
    busy: float
    """Share of the controllers' time."""
    wait_p50: float
    """Seconds from submission to claim."""
    wait_p99: float
    transactions_per_second: float
    """That controllers ask of the database."""


def day(audits: int, seconds: float, controllers: int, seed: int = 0) -> Day:
    """Spread audits of equal length over a day and hand each to the first free controller.

    Transactions: a look for work a second while idle, a heartbeat a second and a progress report every two seconds
    while at work, and about ten around each audit (submission, claim, states, publication).
    """
    arrivals = np.sort(np.random.Generator(np.random.Philox(seed)).uniform(0, 86_400, audits))
    free = [0.0] * controllers
    waits = []
    for at in arrivals:
        begin = max(heapq.heappop(free), float(at))
        waits.append(begin - float(at))
        heapq.heappush(free, begin + seconds)
    span = max(86_400.0, *free)
    at_work = audits * seconds
    idle = controllers * span - at_work
    looks, beats = idle / LONGEST_POLL_SECONDS, (at_work + idle) / BEAT_SECONDS
    transactions = looks + beats + at_work / 2 + 10 * audits
    p50, p99 = np.quantile(waits, [0.5, 0.99])
    return Day(controllers, at_work / (controllers * span), float(p50), float(p99), transactions / span)


def _table(title: str, rows: Sequence[Simulated]) -> Table:
    table = Table(
        "preset", "blocks", "workers", "time", "T(1)/(N·T(N))", "workers busy", "loading", "driver busy",
        "waits for storage", "tasks", "store operations", title=title,
    )  # fmt: skip
    alone = {(row.preset, row.blocks): row.seconds for row in rows if row.workers == 1}
    for row in rows:
        one = alone.get((row.preset, row.blocks))
        table.add_row(
            row.preset, str(row.blocks), str(row.workers), f"{row.seconds:,.0f} s",
            "" if one is None else f"{row.efficiency(one):.1%}", f"{row.busy:.0%}", f"{row.loading:.0%}",
            f"{row.driver_seconds / row.seconds:.0%}", f"{row.read_seconds / row.seconds:.0%}",
            f"{row.tasks:,}", f"{sum(row.store.values()):,}",
        )  # fmt: skip
    return table


def main() -> None:
    """Simulate, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--preset", nargs="+", default=["quick", "standard"], choices=["quick", "standard"])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--fit", type=int, nargs="+", default=[64], help="sequences of fit; with 1024 it takes hours")
    parser.add_argument(
        "--flops", type=float, nargs="+", default=[FLOPS_PER_WORKER, 1e14], help="of a worker, a second"
    )
    parser.add_argument("--link", type=float, default=1.25e9, help="bytes a second into a node; assumed")
    parser.add_argument("--read", type=float, default=1e9, help="bytes a second from storage; assumed")
    parser.add_argument("--day", type=int, default=10_000, help="audits a day, of the last --flops")
    parser.add_argument("--day-workers", type=int, default=8, help="that each of them has; one of --workers")
    parser.add_argument("--out", type=Path, default=Path("bench/out/simulate.json"))
    chosen = parser.parse_args()
    if chosen.day_workers not in chosen.workers:
        parser.error(f"--day-workers {chosen.day_workers} is none of --workers")
    console = Console(width=160)
    costs, weigh = measured_costs(chosen.link, chosen.read), measured_weighing()
    console.print(costs, f"judging a block's weights: {weigh:.2f} s")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        paths = {blocks: checkpoint(Path(directory).resolve(), blocks) for blocks in chosen.blocks}
        for flops in chosen.flops:
            for fit in chosen.fit:
                shapes = [
                    Shape(Preset(p), blocks, chosen.width, fit) for p in chosen.preset for blocks in chosen.blocks
                ]
                rows = [simulate(paths[s.blocks], s, w, costs, flops, weigh) for s in shapes for w in chosen.workers]
                title = f"width {chosen.width}, fit of {fit} × {LENGTH} tokens, {flops:.0e} FLOP/s a worker"
                console.print(_table(title, rows))
                found += [asdict(row) | {"fit": fit, "flops": flops, "busy": row.busy} for row in rows]
    table = Table("controllers", "busy", "wait p50", "wait p99", "transactions a second")
    its = next(row for row in found if (row["workers"], row["flops"]) == (chosen.day_workers, chosen.flops[-1]))
    days = [day(chosen.day, its["seconds"], count) for count in _around(chosen.day * its["seconds"] / 86_400)]
    for row in days:
        table.add_row(
            str(row.controllers), f"{row.busy:.0%}", f"{row.wait_p50:,.0f} s", f"{row.wait_p99:,.0f} s",
            f"{row.transactions_per_second:,.0f}",
        )  # fmt: skip
    console.print(
        f"{chosen.day:,} audits a day, each {its['seconds']:,.0f} s: {its['preset']}, {its['blocks']} blocks, fit of "
        f"{its['fit']}, on {its['workers']} workers of its own of {its['flops']:.0e} FLOP/s"
    )
    console.print(table)
    save(chosen.out, {"costs": asdict(costs), "audits": found, "day": [asdict(d) for d in days]})


def _around(load: float) -> list[int]:
    return sorted({max(1, round(load * factor)) for factor in (1.02, 1.1, 1.3, 2.0)})


if __name__ == "__main__":
    main()
