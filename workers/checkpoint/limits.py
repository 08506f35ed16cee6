"""How large the parts of a checkpoint may be: checked before anything of that size is allocated."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what a checkpoint may ask of its reader; the defaults hold published models, mixtures among them."""

    config_bytes: int = 4 << 20
    header_bytes: int = 4 << 20
    """Of one safetensors file: 200 bytes for each tensor. The reference implementation allows 100 MB, but hostile JSON
    takes 25 times its size once it is parsed, and several headers are read at once."""
    index_bytes: int = 16 << 20
    """100 bytes for each tensor."""
    gguf_header_bytes: int = 64 << 20
    """Of a GGUF file, whose header holds the tokenizer as well: 10 MB for 260,000 tokens and their merges."""
    gguf_keys: int = 4096
    """Metadata of a GGUF file; published ones have some dozens."""
    pickle_operations: int = 1_000_000
    """Of the pickle in a file that torch wrote: 50 for each tensor. Hostile ones make some 80 bytes of each."""
    metadata_bytes: int = 64 << 20
    """Of a distributed checkpoint's `.metadata`."""
    metadata_operations: int = 4_000_000
    """Of its pickle: 70 for each chunk of a tensor, of the optimiser's too."""
    tokenizer_bytes: int = 256 << 20
    shards: int = 4096
    tensors: int = 20_000
    """Of one file; 512 blocks of 30 tensors are fewer."""
    indexed_tensors: int = 200_000
    """Over all shards: 94 blocks of 128 experts, each with three maps of four tensors (GPTQ), are 144,000."""
    dimensions: int = 8
    """Of one tensor."""
    name_length: int = 512
    """Characters of a tensor's or a file's name."""
    layers: int = 512
    width: int = 1 << 20
    """Of the hidden states, the feed-forward layer and of a head."""
    heads: int = 1 << 14
    vocabulary: int = 1 << 22
    positions: int = 1 << 26
