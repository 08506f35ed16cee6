"""`make demo`: two training runs, one with a block frozen by mistake, and what their audits say.

Nothing here is known to the product: it sees checkpoints and text like anybody's. The frozen block's number is used
only to train and to tell, at the end, whether the audit was right.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.stdlib_corpus import Corpus, prepare_corpus
from bench.stdlib_models import Recipe, train_all
from peelbound.client import Client
from peelbound.local import read_token, running_url
from peelbound.service.schemas.record import AuditRecord, AuditState, EventType
from peelbound.service.schemas.record import Progress as AuditProgress
from peelbound.service.schemas.report import Summary
from peelbound.service.schemas.request import AuditOptions, AuditRequest, Calibration, Preset, Provenance

OUTPUT = Path("demo-output").absolute()
FROZEN_BLOCK = 3
RECIPES = {"sound": Recipe(), "frozen": Recipe(frozen_block=FROZEN_BLOCK)}
BLOCKS = Recipe().size.blocks
OPTIONS = AuditOptions(
    rhos=[0.5],
    network_steps=80,
    maps=[[BLOCKS], list(range(1, BLOCKS + 1))],  # YES-0 and direct
    matrix_band=1,
    positive_control=False,
)
"""Less than the preset would do, so that six audits on two cores take minutes: two reference networks and a looser
bound, a narrower matrix, and no damage planted in a copy, which took 51 of the 128 s of CPU time of an audit."""
START_SECONDS = 60.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of one of the runs."""

    run: str
    step: int
    training_loss: float
    path: Path

    @property
    def name(self) -> str:
        """How the demo calls it."""
        return f"{self.run} {self.step}"


@dataclass(frozen=True)
class Audited:
    """A checkpoint with what its audit found."""

    checkpoint: Checkpoint
    record: AuditRecord
    summary: Summary
    page: Path

    @property
    def accused(self) -> dict[str, list[int]]:
        """Blocks by what they are called, where any is."""
        found = {
            "inert": self.summary.inert_blocks,
            "untrained": self.summary.untrained_blocks,
            "lagging": self.summary.lagging_blocks,
        }
        return {finding: blocks for finding, blocks in found.items() if blocks}

    @property
    def blocks_named(self) -> list[int]:
        """Every block that is not called sound."""
        return sorted(block for blocks in self.accused.values() for block in blocks)


def main() -> None:
    """Run the demo; exit status 1 when an audit fails."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the service is stopped as well
    console = Console()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        corpus, checkpoints = trained(progress)
        with service(progress) as client:
            audits = audited(client, corpus, checkpoints, progress)
            pages = run_pages(client)
    console.print(table(audits))
    console.print("What each checkpoint's audit found:")
    for audit in audits:
        console.print(f"  {audit.page}", soft_wrap=True, highlight=False)
    console.print("Each run's training loss against the bounds its audits found:")
    for page in pages:
        console.print(f"  {page}", soft_wrap=True, highlight=False)
    console.print()
    console.print(conclusion(audits), style="bold")


def trained(progress: Progress) -> tuple[Corpus, list[Checkpoint]]:
    """Train all runs side by side; their checkpoints by run and step."""
    preparing = progress.add_task("standard library", total=1, note="learning a tokenizer")
    corpus = prepare_corpus(OUTPUT / "corpus")
    progress.update(preparing, completed=1, note=f"{len(corpus.train) / 1e6:.1f}M tokens to train on")

    directories = {OUTPUT / "runs" / run: recipe for run, recipe in RECIPES.items()}
    bars = {
        directory: progress.add_task(f"training {directory.name}", total=recipe.steps, note="")
        for directory, recipe in directories.items()
    }
    checkpoints = []
    for directory, step in train_all(corpus, directories):
        progress.update(bars[directory], completed=step.step, note=f"loss {step.training_loss:.2f}")
        if step.checkpoint is not None:
            checkpoints.append(Checkpoint(directory.name, step.step, step.training_loss, step.checkpoint))
    runs = list(RECIPES)
    return corpus, sorted(checkpoints, key=lambda checkpoint: (runs.index(checkpoint.run), checkpoint.step))


@contextmanager
def service(progress: Progress) -> Iterator[Client]:
    """The service of PEELBOUND_URL, which must be able to read the demo's output, or one of the demo's own."""
    if "PEELBOUND_URL" in os.environ:
        with Client() as client:
            yield client
        return
    with embedded_service(progress) as client:
        yield client


@contextmanager
def embedded_service(progress: Progress) -> Iterator[Client]:
    """`peelbound up` on a state directory of the demo's own, and a client of it."""
    starting = progress.add_task("peelbound up", total=1, note="")
    state_dir, log = OUTPUT / "service", OUTPUT / "service.log"
    peelbound = Path(sys.executable).with_name("peelbound")
    command: list[str | Path] = [peelbound, "up", "--state-dir", state_dir, "--port", "0", "--allow", OUTPUT]
    with log.open("wb") as output:
        service = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while (url := running_url(state_dir)) is None:
            if service.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"The service did not start:\n{log.read_text()}")
            time.sleep(0.1)
        progress.update(starting, completed=1, note=url)
        with Client(url, read_token(state_dir)) as client:
            yield client
    finally:
        service.terminate()
        try:
            service.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            service.kill()


def audited(client: Client, corpus: Corpus, checkpoints: list[Checkpoint], progress: Progress) -> list[Audited]:
    """Submit every checkpoint, follow the audits and keep their pages."""
    calibration = Calibration(uri=corpus.held_out_path.as_uri(), provenance=Provenance.UNSEEN)
    submitted = []
    for checkpoint in checkpoints:
        request = AuditRequest(
            checkpoint=checkpoint.path.as_uri(),
            calibration=calibration,
            preset=Preset.STANDARD,
            options=OPTIONS,
            run=checkpoint.run,
            step=checkpoint.step,
            training_loss=checkpoint.training_loss,
        )
        bar = progress.add_task(f"auditing {checkpoint.name}", total=1.0, note="queued")
        submitted.append((checkpoint, client.submit(request), bar))

    audits = []
    for checkpoint, record, bar in submitted:
        for event in client.events(record.id):
            if event.type is EventType.PROGRESS:
                now = AuditProgress.model_validate(event.data)
                note = f"{now.phase.replace('_', ' ')}, {now.problems_done} of {now.problems_planned} problems"
                progress.update(bar, completed=now.fraction, note=note)
        ended = client.get(record.id)
        if ended.state is not AuditState.SUCCEEDED or ended.summary is None:
            why = ended.problem.detail if ended.problem else ended.state
            sys.exit(f"The audit of {checkpoint.name} did not succeed: {why} ({OUTPUT / 'service.log'})")
        progress.update(bar, completed=1.0, note=ended.summary.status)
        page = OUTPUT / f"{checkpoint.run}-{checkpoint.step}.html"
        page.write_text(client.report_html(record.id), encoding="utf-8")
        audits.append(Audited(checkpoint, ended, ended.summary, page))
    return audits


def run_pages(client: Client) -> list[Path]:
    """Save each run's YES cloud."""
    pages = []
    for run in RECIPES:
        page = OUTPUT / f"{run}.html"
        page.write_text(client.run_html(run), encoding="utf-8")
        pages.append(page)
    return pages


def table(audits: list[Audited]) -> Table:
    """The audits side by side; losses in nats per token."""
    result = Table(box=SIMPLE_HEAD, title="Audited on files that neither run has seen; losses in nats per token")
    result.add_column("checkpoint", no_wrap=True)
    for loss in ("training\nloss", "loss on\ncheck", "YES\nbound", "head\ncontrol"):
        result.add_column(loss, justify="right")
    result.add_column("verdict", no_wrap=True)
    result.add_column("blocks named")
    for audit in audits:
        cloud = audit.summary.cloud
        named = [f"{finding} {', '.join(map(str, blocks))}" for finding, blocks in audit.accused.items()]
        result.add_row(
            audit.checkpoint.name,
            f"{audit.checkpoint.training_loss:.3f}",
            f"{cloud.trained_check:.3f}",
            "—" if cloud.bound_check is None else f"{cloud.bound_check:.3f}",
            f"{cloud.head_control_check:.3f}",
            audit.summary.status,
            "; ".join(named) or "none",
            end_section=audit.checkpoint.step == RECIPES[audit.checkpoint.run].steps,
        )
    return result


def conclusion(audits: list[Audited]) -> str:
    """What the audits of the last checkpoints tell that the loss curves do not, from their results alone."""
    last = {audit.checkpoint.run: audit for audit in audits}
    sound, frozen = last["sound"], last["frozen"]
    gap = abs(frozen.checkpoint.training_loss - sound.checkpoint.training_loss)
    others = [block for block in frozen.blocks_named if block != FROZEN_BLOCK]
    found = "names" if FROZEN_BLOCK in frozen.blocks_named else "misses"
    besides = f" (besides {_blocks(others)})" if others else ""
    accused = _blocks(sound.blocks_named) if sound.blocks_named else "no block"
    return (
        f"At step {frozen.checkpoint.step} the two training losses lie {gap:.2f} nats apart; the audit {found} block "
        f"{FROZEN_BLOCK}, which was frozen by mistake{besides}, and accuses {accused} of the sound run."
    )


def _blocks(blocks: list[int]) -> str:
    return ("block " if len(blocks) == 1 else "blocks ") + ", ".join(map(str, blocks))


if __name__ == "__main__":
    main()
