"""AutoRound's reconstruction of every block, one at a time: runs in an environment of its own, without Peelbound.

    python rounding.py CHECKPOINT TOKENS.npz OUT.json [STEPS] [BATCH]

Each block alone is tuned for 4-bit weights (W4A16, groups of 128) against its own output on the fit tokens; the others
stay in full precision. The tool is no detector: shown is the error that it leaves, as a share of what the block adds.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from auto_round import AutoRound
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def outputs(model: Any, ids: Tensor) -> tuple[Tensor, ...]:
    """h[0..K] before the final norm, each [N, T, D]."""
    kept: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_hook(
            lambda _, args, output, i=index: kept.update(
                {i: args[0], i + 1: output[0] if isinstance(output, tuple) else output}
            )
        )
        for index, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return tuple(kept[i] for i in range(len(hooks) + 1))


def main(checkpoint: str, tokens: str, out: str, steps: int, batch: int) -> None:
    """Tune each block, and say what error is left."""
    torch.set_num_threads(1)
    ids = torch.from_numpy(np.load(tokens)["fit_ids"])
    calls = [
        {"input_ids": ids[i : i + batch], "attention_mask": torch.ones_like(ids[i : i + batch])}
        for i in range(0, len(ids), batch)
    ]
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{checkpoint}/tokenizer.json")
    blocks = AutoModelForCausalLM.from_pretrained(checkpoint).config.num_hidden_layers
    seconds, score = [], {}
    for index in range(blocks):
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        states = outputs(model, ids)
        start = time.perf_counter()
        tuner = AutoRound(
            model,
            tokenizer=tokenizer,
            scheme="W4A16",
            dataset=calls,
            iters=steps,
            seqlen=ids.shape[1],
            nsamples=len(ids),
            batch_size=batch,
            device_map="cpu",
            amp=False,
            enable_torch_compile=False,
            to_quant_block_names=f"model.layers.{index}",
        )
        model, _ = tuner.quantize()
        seconds.append(time.perf_counter() - start)
        rounded = outputs(getattr(model, "model", model) if not hasattr(model, "lm_head") else model, ids)[index + 1]
        error, added = (rounded - states[index + 1]).square().sum(), (states[index + 1] - states[index]).square().sum()
        score[index + 1] = float(error / added)
    found = {
        "seconds": sum(seconds),
        "seconds_per_block": sum(seconds) / blocks,
        "score": score,
        "score_means": "error of the rounded block's output as a share of what the block adds; large is suspicious",
        "suspicious": "high",
        "accused": None,
        "rule": "none: a quantiser, no detector",
        "details": {"steps": steps, "batch": batch},
    }
    Path(out).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], *(int(a) for a in sys.argv[4:6] or ("80", "8")))
