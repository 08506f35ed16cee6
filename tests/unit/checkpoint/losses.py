"""The loss of a checkpoint as an audit computes it, block by block, and as the library computes it."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from peelbound.workers.checkpoint.checkpoint import Checkpoint
from peelbound.workers.skeleton import Skeleton


def ids_of(checkpoint: Checkpoint) -> torch.Tensor:
    """Some token ids [2, 16]."""
    return torch.randint(checkpoint.architecture.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def audited_loss(checkpoint: Checkpoint) -> float:
    """Mean cross-entropy, each part read and decoded on its own."""
    ids = ids_of(checkpoint)
    skeleton = Skeleton(checkpoint.architecture, checkpoint.read_part(0).tensors())
    h = skeleton.embed(ids)
    for index in range(1, checkpoint.architecture.block_count + 1):
        h = skeleton.run(index, skeleton.load_block(index, checkpoint.read_part(index).tensors()), h)
    logits = skeleton.logits(h)
    return float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


@torch.no_grad()
def library_loss(directory: Path, checkpoint: Checkpoint, **options: object) -> float:
    """The same by the library's own model, loaded as a whole."""
    ids = ids_of(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **options).eval()
    return float(model(input_ids=ids, labels=ids).loss)
