"""What an audit takes: bytes, memory, idle workers, and how long until it starts.

    python -m bench.resources [walks] [memory] [again] [up] [large] [--out bench/out/resources]

walks   bytes read in a `quick` audit against checkpoint × walks of the plan, and the share of the time in which the two
        workers were busy, on a model of 12 blocks
memory  a worker's peak of private memory above its baseline against the plan's sum, at 8 and at 64 blocks; the baseline
        is what it has after an audit of a model of the same family with two tiny blocks: the libraries are loaded then
again   a second, identical audit: in this process, and through `peelbound up` from its submission to its end
up      `peelbound up` until it is ready
large   `quick` on a llama-shaped model of 30 blocks and 135M parameters, 4k tokens

Models have random weights: what an audit takes does not depend on them. Everything is compared within one run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from bench.local import LocalAudits, local_audits, save
from peelbound.client import Client
from peelbound.local import read_token
from peelbound.service.controller.planning import plan_request
from peelbound.service.schemas.request import AuditOptions, AuditRequest, Calibration, Preset, Provenance

LETTERS = 200
AGAINS = 5


def random_model(path: Path, *, hidden: int, intermediate: int, blocks: int, heads: int, kv: int, vocab: int) -> Path:
    """Save a llama-shaped model with random bf16 weights, once."""
    if not (path / "config.json").exists():
        config = LlamaConfig(
            vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=blocks,
            num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=2048, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        LlamaForCausalLM(config).bfloat16().save_pretrained(path)
    return path


def request(path: Path, *, length: int, fit: int, select: int, check: int, **options: Any) -> AuditRequest:
    """A quick audit on random token ids, one document a sequence."""
    generator = torch.Generator().manual_seed(0)
    documents = torch.randint(1, LETTERS, (fit + select + check + 30, length), generator=generator).tolist()
    calibration = Calibration(
        token_ids=documents, provenance=Provenance.UNSEEN, sequence_length=length,
        fit_sequences=fit, select_sequences=select, check_sequences=check,
    )  # fmt: skip
    return AuditRequest(
        checkpoint=str(path.resolve()), calibration=calibration, preset=Preset.QUICK, options=AuditOptions(**options)
    )


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives and how many seconds it takes."""
    start = time.monotonic()
    return work(), time.monotonic() - start


def walks(out: Path, audits: LocalAudits) -> dict[str, Any]:
    """Bytes and busy share."""
    model = random_model(out / "twelve", hidden=256, intermediate=704, blocks=12, heads=4, kv=4, vocab=4096)
    asked = request(model, length=128, fit=32, select=16, check=32)
    plan = plan_request(asked, audits.settings)
    timings = audits.run(asked).timings
    return {
        "walks_planned": len(plan.walks),
        "walks_made": timings["walks"],
        "bytes_ratio": timings["bytes_read"] / (plan.checkpoint_bytes * len(plan.walks)),
        "busy_share": timings["busy_share"],
        "seconds": timings["seconds"],
        "seconds_estimated": plan.estimated_seconds,
    }


def again(out: Path) -> dict[str, Any]:
    """One audit again, some times: as its controller sees it, and as a client of the service does."""
    model = random_model(out / "twelve", hidden=256, intermediate=704, blocks=12, heads=4, kv=4, vocab=4096)
    quickly = {"rhos": [0.5], "block_steps": 1, "head_steps": 1}  # what the first one takes does not matter
    asked = request(model, length=32, fit=8, select=4, check=8, **quickly)
    with local_audits(out / "state-again", out) as audits:
        audits.run(asked)
        repeats = [timed(lambda: audits.run(asked)) for _ in range(AGAINS)]
    with service(out / "up-again", out) as (client, _):
        first = client.wait(client.submit(asked).id)
        served = [timed(lambda: client.wait(client.submit(asked).id)) for _ in range(AGAINS)]
        equal = {client.report_json(record.id) for record, _ in served} == {client.report_json(first.id)}
    return {
        "reused": all(result.timings["reused"] for result, _ in repeats),
        "equal_bytes": equal,
        **_spread("seconds", [seconds for _, seconds in repeats]),
        **_spread("service_seconds", [seconds for _, seconds in served]),
    }


def _spread(name: str, seconds: list[float]) -> dict[str, float]:
    return {f"{name}_median": statistics.median(seconds), f"{name}_largest": max(seconds)}


def memory(out: Path) -> dict[str, Any]:
    """Peak private memory of a worker above its baseline, at two depths."""
    rows: dict[str, Any] = {}
    tiny = random_model(out / "tiny", hidden=32, intermediate=88, blocks=2, heads=2, kv=2, vocab=1024)
    budget: dict[str, Any] = {"length": 32, "fit": 8, "select": 4, "check": 8}
    budget |= {"block_steps": 2, "rhos": [0.3], "head_steps": 4, "grain": 4}
    for blocks in (8, 64):
        shape = {"hidden": 512, "intermediate": 1408, "heads": 8, "kv": 8, "vocab": 1024}
        model = random_model(out / f"deep-{blocks}", blocks=blocks, **shape)
        asked = request(model, **budget)
        with local_audits(out / f"state-memory-{blocks}", out) as audits:
            plan = plan_request(asked, audits.settings)
            audits.run(request(tiny, **budget))
            with watching() as peaks:
                audits.run(asked)
        above = max(peak - baseline for baseline, peak in peaks.values())
        rows[str(blocks)] = {"above_baseline": above, "planned": plan.worker_bytes, "states": plan.state_bytes}
    rows["ratio_64_to_8"] = rows["64"]["above_baseline"] / rows["8"]["above_baseline"]
    return rows


@contextmanager
def watching(interval: float = 0.02) -> Iterator[dict[int, tuple[int, int]]]:
    """First and largest private memory (RssAnon, bytes) of every worker that there is, while the body runs."""
    workers = [p.pid for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Worker")]
    peaks = {pid: (_private(pid), 0) for pid in workers}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(interval):
            for pid, (first, largest) in peaks.items():
                peaks[pid] = (first, max(largest, _private(pid)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def _private(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def up(out: Path) -> dict[str, Any]:
    """Seconds from the command until the service says where it is."""
    with service(out / "up", out) as (_, seconds):
        return {"seconds": seconds}


@contextmanager
def service(state: Path, readable: Path) -> Iterator[tuple[Client, float]]:
    """`peelbound up` on a free port, as a user starts it: a client of it, and how many seconds it took to be ready."""
    program, start = Path(sys.executable).parent / "peelbound", time.monotonic()
    places: list[str | Path] = ["--state-dir", state, "--allow", readable.resolve()]
    command = [program, "up", "--json", "--port", "0", *places]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            facts = json.loads(process.stdout.readline())
            seconds = time.monotonic() - start
            with Client(facts["url"], read_token(state)) as client:
                yield client, seconds
        finally:
            process.terminate()


def large(out: Path, audits: LocalAudits) -> dict[str, Any]:
    """A 135M-parameter model with 4k tokens."""
    model = random_model(out / "large", hidden=576, intermediate=1536, blocks=30, heads=9, kv=3, vocab=49152)
    asked = request(model, length=128, fit=12, select=6, check=14)
    plan = plan_request(asked, audits.settings)
    timings = audits.run(asked).timings
    return {
        "parameters": plan.parameters,
        "seconds": timings["seconds"],
        "seconds_estimated": plan.estimated_seconds,
        "busy_share": timings["busy_share"],
        "gflops_per_worker": plan.flops / timings["seconds"] / timings["workers"] / 1e9,
    }


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["walks", "again", "up", "memory", "large"])
    parser.add_argument("--out", type=Path, default=Path("bench/out/resources"))
    arguments = parser.parse_args()
    console = Console(width=110)
    results: dict[str, Any] = {}
    alone = {"again": again, "up": up, "memory": memory}
    on_a_pool = {"walks": walks, "large": large}
    for part in arguments.parts:
        if part in alone:
            results[part] = alone[part](arguments.out)
        else:
            with local_audits(arguments.out / f"state-{part}", arguments.out) as audits:
                results[part] = on_a_pool[part](arguments.out, audits)
        table = Table("figure", "value", title=part)
        for name, value in results[part].items():
            table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
        console.print(table)
        save(arguments.out / "resources.json", results)


if __name__ == "__main__":
    main()
