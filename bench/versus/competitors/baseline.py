"""The baseline recipe, written plainly: runs in an environment of its own, without Peelbound.

    python baseline.py CHECKPOINT TOKENS.npz OUT.json [STEPS] [BATCH] [RATE]

Every block of a reference network starts afresh and is fitted with AdamW (cosine, warm-up over 5%) to a trained state:
to its own block's output (`direct`), or to the last block's (`YES-0`), on what the blocks before it put out
(arXiv 2410.10984). The rate is given, as if tuning it had cost nothing. The map that is better on select is reported on
check, with the head unchanged. It says whether a better network is near, and names no block.
"""

import copy
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM


class Network:
    """The whole model in memory, its blocks callable one at a time."""

    def __init__(self, checkpoint: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval().requires_grad_(False)
        self.layers = self.model.model.layers

    def embed(self, ids: Tensor) -> Tensor:
        """h[0], [N, T, D]."""
        h: Tensor = self.model.model.embed_tokens(ids)
        return h

    def run(self, layer: nn.Module, h: Tensor) -> Tensor:
        """A block on a hidden state, with causal attention."""
        positions = torch.arange(h.shape[1])[None]
        rotary = self.model.model.rotary_emb(h, positions)
        output = layer(h, attention_mask=None, position_ids=positions, position_embeddings=rotary)
        after: Tensor = output[0] if isinstance(output, tuple) else output
        return after

    def batches(self, layer: nn.Module, h: Tensor) -> Tensor:
        """The same for many sequences, eight at a time."""
        with torch.no_grad():
            return torch.cat([self.run(layer, part) for part in h.split(8)])

    def loss(self, h: Tensor, ids: Tensor, mask: Tensor) -> float:
        """CE per token with a loss, in nats."""
        total = 0.0
        with torch.no_grad():
            for one, x, m in zip(h, ids, mask, strict=True):
                logits = self.model.lm_head(self.model.model.norm(one[:-1]))
                total += float((nn.functional.cross_entropy(logits, x[1:], reduction="none") * m).sum())
        return total / float(mask.sum())


def fresh(network: Network, index: int) -> nn.Module:
    """A block as the library initialises it."""
    torch.manual_seed(index)
    layer: nn.Module = type(network.layers[index])(network.model.config, index)
    layer.apply(network.model._init_weights)
    return layer.requires_grad_(True)


def fit(network: Network, layer: nn.Module, x: Tensor, y: Tensor, steps: int, batch: int, rate: float) -> None:
    """AdamW from a fresh start, in place."""
    optimiser = torch.optim.AdamW(layer.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    scale, warm = 1 / float(y.square().mean()), max(1, round(0.05 * steps))
    for step in range(steps):
        chosen = torch.randperm(len(x))[:batch]
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        (nn.functional.mse_loss(network.run(layer, x[chosen]), y[chosen]) * scale).backward()
        optimiser.step()
    layer.requires_grad_(False)


def main(checkpoint: str, tokens: str, out: str, steps: int, batch: int, rate: float) -> None:
    """Build both networks and measure them."""
    torch.set_num_threads(1)
    data = {name: torch.from_numpy(array) for name, array in np.load(tokens).items()}
    network = Network(checkpoint)
    start = time.perf_counter()
    trained = {split: [network.embed(data[f"{split}_ids"])] for split in ("fit", "select", "check")}
    for rows in trained.values():
        for layer in network.layers:
            rows.append(network.batches(layer, rows[-1]))
    count = len(network.layers)
    maps = {"direct": list(range(1, count + 1)), "YES-0": [count] * count}
    losses: dict[str, dict[str, float]] = {}
    for name, targets in maps.items():
        states = {split: rows[0] for split, rows in trained.items()}
        for index, target in enumerate(targets):
            layer = fresh(network, index)
            fit(network, layer, states["fit"], trained["fit"][target], steps, batch, rate)
            states = {split: network.batches(layer, h) for split, h in states.items()}
        losses[name] = {
            split: network.loss(states[split], data[f"{split}_ids"], data[f"{split}_mask"])
            for split in ("select", "check")
        }
    picked = min(losses, key=lambda name: losses[name]["select"])
    found = {
        "seconds": time.perf_counter() - start,
        "seconds_per_block": (time.perf_counter() - start) / (2 * count),
        "score": {},
        "score_means": "",
        "suspicious": "high",
        "accused": None,
        "rule": "none: it bounds the network as a whole",
        "details": {
            "steps": steps,
            "rate": rate,
            "trained_check": network.loss(trained["check"][-1], data["check_ids"], data["check_mask"]),
            "bound_check": losses[picked]["check"],
            "losses": copy.deepcopy(losses),
        },
    }
    Path(out).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    given = sys.argv[4:7] or ["400", "8", "5e-3"]
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(given[0]), int(given[1]), float(given[2]))
