"""Tuned lens (Belrose et al. 2023, arXiv 2303.08112): runs in an environment of its own, without Peelbound.

    python translators.py CHECKPOINT TOKENS.npz OUT.json [STEPS] [BATCH]

The package's `TunedLens`, trained on the fit tokens with the optimiser that its training script takes by default (SGD
of rate 1, momentum 0.9 with Nesterov, decay 1e-3, linear schedule, KL to the final logits); the script itself wants
data sets from the network and is left out. Measured on select: the KL of each boundary's lens to the model's own
prediction; what a block adds is how far the KL falls across it. The method names no block: shown is where it falls
least.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from tuned_lens.nn.lenses import TunedLens


def states(model: nn.Module, ids: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """h[0..K−1], each [N, T, D], and log-probabilities of the next token [N, T, V]."""
    with torch.no_grad():
        output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    return output.hidden_states[:-1], output.logits.log_softmax(-1)


def kl(target: Tensor, logits: Tensor) -> Tensor:
    """Mean KL(target ‖ lens) over tokens, in nats; target holds log-probabilities."""
    return (
        nn.functional.kl_div(logits.log_softmax(-1), target, log_target=True, reduction="sum") / target[..., 0].numel()
    )


def main(checkpoint: str, tokens: str, out: str, steps: int, batch: int) -> None:
    """Train the translators of all boundaries together, and say how far each block brings the prediction."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = np.load(tokens)
    fit, select = (torch.from_numpy(data[name]) for name in ("fit_ids", "select_ids"))
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval().requires_grad_(False)
    start = time.perf_counter()
    lens = TunedLens.from_model(model)
    optimiser = torch.optim.SGD(
        [p for p in lens.parameters() if p.requires_grad], lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(steps):
        hidden, target = states(model, fit[torch.randperm(len(fit))[:batch]])
        optimiser.zero_grad()
        for index, h in enumerate(hidden):
            kl(target, lens(h, index)).backward()
        nn.utils.clip_grad_norm_(lens.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    sums = torch.zeros(len(lens))
    with torch.no_grad():
        for part in select.split(batch):
            hidden, target = states(model, part)
            sums += torch.stack([kl(target, lens(h, i)) for i, h in enumerate(hidden)]) * len(part) / len(select)
    divergences = [*sums.tolist(), 0.0]
    found = {
        "seconds": time.perf_counter() - start,
        "score": {i: before - after for i, (before, after) in enumerate(itertools.pairwise(divergences), start=1)},
        "score_means": "fall of the lens' KL across the block, in nats; small is suspicious",
        "suspicious": "low",
        "accused": None,
        "rule": "none: the method draws trajectories and names no block",
        "details": {"steps": steps, "batch": batch, "kl": divergences},
    }
    Path(out).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], *(int(a) for a in sys.argv[4:6] or ("250", "8")))
