"""For training loops: a callback of the `transformers` Trainer that has every saved checkpoint audited."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
from pydantic import TypeAdapter, ValidationError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from peelbound.client import Client
from peelbound.service.schemas.request import LABEL_LENGTH, AuditRequest, Calibration, Label, Preset

log = logging.getLogger(__name__)

SUBMIT_SECONDS = 20.0
"""What a submission may cost the training at each save, whatever the service and the network do."""
ANSWER_SECONDS = 10.0
"""How long to wait for an answer, which is asked for once more if it was lost."""
HASH_LENGTH = 8
"""Hexadecimal digits by which names of runs that had to be changed are told apart."""
_LABEL = TypeAdapter[str](Label)
MOST_LOSS = 1e6
"""Nats: what a request may say."""


class AuditCheckpoints(TrainerCallback):
    """Submits each checkpoint once it is saved, and goes on; the verdicts are the service's to tell.

    Nothing that goes wrong once the training has begun ends it: it is logged as a warning.

    An audit reads its checkpoint when its turn comes: `save_total_limit` may have deleted it by then. In a search for
    hyperparameters the trials must have names (`hp_name`), by which their directories are known.

    Args:
        calibration: the text to measure on, by a URI that the service can read.
        run: the run that the audits belong to; None: the trainer's `run_name`, or none. What no run's name may hold
            becomes `-` in the trainer's, and a hash of it follows, as where it is too long.
        preset: how much is done.
        uri: how the service calls a checkpoint's directory; by default as this machine does.
        labels: of each audit.
        url: of the service; None: as `Client` finds it.
        token: likewise.

    Attributes:
        submitted: ids of the audits by step; of a service that took too long to answer, once it has.

    Raises:
        pydantic.ValidationError: a run or labels that no request may hold.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        run: str | None = None,
        preset: Preset = Preset.STANDARD,
        uri: Callable[[Path], str] = str,
        labels: dict[str, str] | None = None,
        url: str | None = None,
        token: str | None = None,
    ) -> None:
        # What would be wrong with every request is said now, and not in a warning at each save.
        AuditRequest(checkpoint="any", calibration=calibration, preset=preset, run=run, labels=labels or {})
        self.submitted: dict[int, str] = {}
        self._calibration, self._run, self._preset = calibration, run, preset
        self._uri, self._labels = uri, dict(labels or {})
        self._service = (url, token)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002 - the library's
        """Submit the checkpoint that was just saved; on the first process alone."""
        if not state.is_world_process_zero:
            return
        step = state.global_step
        try:
            request = self._request(_directory(args, state) / f"{PREFIX_CHECKPOINT_DIR}-{step}", args, state)
            _within(SUBMIT_SECONDS, lambda: self._submit(step, request))
        except Exception as error:  # a service that is away, a refusal, a name that is no label: the training goes on
            log.warning("The checkpoint of step %d is not audited: %s", step, error)

    def _submit(self, step: int, request: AuditRequest) -> None:
        """Submit, however long it takes, and note the audit's id."""
        with Client(*self._service, timeout=ANSWER_SECONDS) as client:
            self.submitted[step] = _submitted(client, request)

    def _request(self, checkpoint: Path, args: TrainingArguments, state: TrainerState) -> AuditRequest:
        run = self._run or _as_label(args.run_name or "") or None
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        last = losses[-1] if losses else None
        return AuditRequest(
            checkpoint=self._uri(checkpoint),
            calibration=self._calibration,
            preset=self._preset,
            run=run,
            step=state.global_step if run else None,
            training_loss=last if last is not None and 0 <= last <= MOST_LOSS else None,  # NaN is neither
            labels=self._labels,
        )


def _as_label(name: str) -> str:
    """A name that was given for other uses (`lr=3e-4, seed #1`) as a run may be called.

    One that cannot stay as it is ends with its hash: `lr=1` and `lr?1`, made alike, would be one run.
    """
    fitting = "".join(character if _fits(character) else "-" for character in name)
    if fitting == name and len(name) <= LABEL_LENGTH:
        return name
    end = "-" + sha256(name.encode(errors="surrogatepass")).hexdigest()[:HASH_LENGTH]
    return fitting[: LABEL_LENGTH - len(end)] + end


def _fits(character: str) -> bool:
    try:
        _LABEL.validate_python(character)
    except ValidationError:
        return False
    return True


def _directory(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer saves: each trial of a search in a directory of its own."""
    output = Path(str(args.output_dir)).absolute()
    if not state.is_hyper_param_search:
        return output
    if state.trial_name is None:
        raise ValueError("the trial has no name to find its directory by: give hyperparameter_search an hp_name")
    return output / state.trial_name


def _within(seconds: float, task: Callable[[], None]) -> None:
    """Do a task; wait so long for its end and no longer, since no limit of a client bounds a call as a whole.

    Raises:
        TimeoutError: it has not ended; it goes on, in a thread that the interpreter's end does not wait for.
    """
    ended: Future[None] = Future()

    def run() -> None:
        try:
            task()
            ended.set_result(None)
        except BaseException as error:  # raised where it is waited for
            ended.set_exception(error)

    threading.Thread(target=run, name="submission", daemon=True).start()
    if not wait([ended], seconds).done:
        raise TimeoutError(f"the service has not answered within {seconds:g} s")
    ended.result()


def _submitted(client: Client, request: AuditRequest) -> str:
    """The audit's id; the key keeps a submission whose answer was lost from being queued twice."""
    key = uuid4().hex
    try:
        return client.submit(request, idempotency_key=key).id
    except httpx2.TransportError:
        return client.submit(request, idempotency_key=key).id
