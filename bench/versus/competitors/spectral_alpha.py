"""WeightWatcher's analysis of a checkpoint: runs in an environment of its own, without Peelbound.

    python spectral_alpha.py CHECKPOINT TOKENS.npz OUT.json

The tool looks at weights alone: the tokens are not used. Its own words are taken as they are: the `warning` that it
gives a matrix ("under-trained" for a power law's exponent alpha above 6, "over-trained" below 2).
"""

import json
import sys
import time
from pathlib import Path

import weightwatcher
from transformers import AutoModelForCausalLM


def main(checkpoint: str, out: str) -> None:
    """Analyse, and say per block which matrices are flagged."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    start = time.perf_counter()
    table = weightwatcher.WeightWatcher(model=model).analyze()
    seconds = time.perf_counter() - start
    alphas: dict[int, list[float]] = {}
    flagged: dict[int, list[str]] = {}
    for row in table.to_dict("records"):
        place = row["longname"].split(".")
        if "layers" not in place:
            continue
        block = int(place[place.index("layers") + 1]) + 1
        alphas.setdefault(block, []).append(float(row["alpha"]))
        if row["warning"]:
            flagged.setdefault(block, []).append(f"{place[-1]} {row['warning']}")
    found = {
        "seconds": seconds,
        "score": {block: sum(a) / len(a) for block, a in alphas.items()},
        "score_means": "mean alpha of the block's matrices; large is suspicious",
        "suspicious": "high",
        "accused": sorted(flagged),
        "rule": "a matrix of the block carries the tool's warning (alpha above 6 or below 2)",
        "details": {"matrices": sum(map(len, alphas.values())), "flagged": dict(sorted(flagged.items()))},
    }
    Path(out).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3])
