"""How the weights are stored: what `quantization_config` says, and which stored tensors make which weight."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peelbound.workers.checkpoint.header import StoredTensor
from peelbound.workers.checkpoint.layout import Weight
from peelbound.workers.checkpoint.packed import awq, bitnet, compressed, fp8, gptq
from peelbound.workers.checkpoint.packed.stored import Stored
from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.errors import CheckpointError, UnsupportedModel
from peelbound.workers.quantisers.scheme import Scheme

SETTINGS = "quantization_config"

Weights = dict[str, Weight]
"""A weight by the name that its tensor has in a file in full precision."""

_GPTQ_FORMATS = {"gptq": True, "gptq_v2": False}
"""`checkpoint_format` → whether the stored zero points are one too small."""
_AUTO_ROUND_FORMATS = {
    "auto_round:auto_gptq": True,
    "auto_round:gptq": True,
    "auto_round": False,
    "auto_round:gptqmodel": False,
}
"""The same of auto-round's `packing_format` (auto-round 0.16, inference/backend.py: GPTQ_FORMAT, GPTQ_FORMAT_NO_ZP)."""
_AUTO_ROUND_AWQ = ("auto_round:auto_awq", "auto_round:awq")
_COMPRESSED_FORMATS = (
    "pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision", "dense",
)  # fmt: skip
_PLAIN_NAME = re.compile(r"[\w.]+")
_IN_A_BLOCK = re.compile(r"\.\d+\.")
_CACHE_SCALES = (".k_scale", ".v_scale", ".q_scale", ".k_zero_point", ".v_zero_point")
"""Of an 8-bit cache of keys and values: an audit keeps none."""


@dataclass(frozen=True)
class Encoding:
    """What the files say of how the weights are stored.

    Attributes:
        method: `none`, or as the ecosystem names it: `bitnet`, `gptq`, `awq`, `compressed-tensors`, `auto-round`,
            `fp8`, `fbgemm_fp8`, `gguf`.
        scheme: the weight class that this amounts to; None where it is none of them (fp8, mixed types) or none is
            claimed. A packed tensor's own grid (`Part.grids`) is exact and may have zero points besides.
        packed: whether weights are stored as codes. Else they are as trained: in full precision, or latent weights of
            quantisation-aware training, which `scheme` tells apart.
        detail: one sentence for people.
    """

    method: str
    scheme: Scheme | None
    packed: bool
    detail: str


PLAIN_ENCODING = Encoding("none", None, False, "The weights are stored in full precision.")


def unpack(config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> tuple[Encoding, Weights]:
    """The weights that the stored tensors make, under the config's `quantization_config`.

    Raises:
        CheckpointError: ``checkpoint-packed-…``, ``checkpoint-group-size``, ``checkpoint-dtype-unsupported`` or
            ``checkpoint-config-invalid``.
        UnsupportedModel: ``model-quantised``: a method or layout that is not read.
    """
    settings = config.get(SETTINGS)
    if not settings:
        return PLAIN_ENCODING, _plain(tensors)
    if not isinstance(settings, dict):
        raise _refused(f"it is {quoted(settings)}")
    stored = Stored({name: tensor for name, tensor in tensors.items() if not name.endswith(_CACHE_SCALES)})
    encoding, packed = _read(settings, stored)
    if encoding.packed and not packed:
        raise CheckpointError(
            f"{SETTINGS} names {encoding.method}, but no weight of the files is packed.",
            slug="checkpoint-packed-incomplete",
            remedy=f"Remove {SETTINGS} from config.json if the weights were dequantised, or save the packed ones.",
            pointer="/checkpoint",
        )
    plain = _plain(stored.left)
    for name in packed.keys() & plain.keys():
        raise CheckpointError(
            f"{name} is stored packed and in full precision.",
            slug="checkpoint-tensors-duplicate",
            remedy="Save the quantised model again, into an empty directory.",
            pointer="/checkpoint",
        )
    return encoding, plain | packed


def _plain(tensors: Mapping[str, StoredTensor]) -> Weights:
    return {name: Weight.plain(tensor) for name, tensor in tensors.items()}


def _read(settings: dict[str, Any], stored: Stored) -> tuple[Encoding, Weights]:
    method = settings.get("quant_method")
    match method:
        case "bitnet":
            return _bitnet(settings, stored)
        case "gptq":
            # transformers' GPTQConfig: `format` by its present name, the older one first.
            form = settings.get("checkpoint_format") or settings.get("format") or "gptq"
            if not isinstance(form, str) or form.lower() not in _GPTQ_FORMATS:
                raise _refused(f"format {quoted(form)} of gptq is not read")
            return _gptq("gptq", settings, stored, lowered=_GPTQ_FORMATS[form.lower()])
        case "awq":
            layout = str(settings.get("version") or settings.get("format") or "gemm").lower()
            if layout != "gemm":
                raise _refused(f"version {quoted(layout)} of awq is not read, gemm is")
            return _awq("awq", settings, stored)
        case "auto-round" | "intel/auto-round":
            return _auto_round(settings, stored)
        case "compressed-tensors":
            return _compressed(settings, stored)
        case "fp8" | "fbgemm_fp8":
            tile = settings.get("weight_block_size", fp8.TILE if method == "fp8" else None)
            return _fp8(method, tile, stored)
        case _:
            raise _refused(f"quant_method {quoted(method)} is not read")


def _bitnet(settings: dict[str, Any], stored: Stored) -> tuple[Encoding, Weights]:
    """Defaults and meanings: transformers, `BitNetQuantConfig` and integrations/bitnet.py."""
    kind, mode = settings.get("linear_class") or "bitlinear", settings.get("quantization_mode") or "offline"
    if kind not in ("bitlinear", "autobitlinear") or mode not in ("online", "offline"):
        raise _refused(f"linear_class {quoted(kind)} with quantization_mode {quoted(mode)} of bitnet is not read")
    if settings.get("use_rms_norm"):
        raise _refused("use_rms_norm of bitnet puts norms into linear maps, which are not audited")
    scheme = Scheme("ternary", activation_bits=8)
    if kind == "autobitlinear" and mode == "online":
        _refuse_full_maps(settings, stored)
        detail = "Latent weights of quantisation-aware training, ternary by absmean in each pass; 8-bit activations."
        return Encoding("bitnet", scheme, False, detail), {}
    found = bitnet.weights(stored, divides=kind == "bitlinear")
    detail = f"Ternaries with one scale per linear map ({kind}), 8-bit activations."
    return Encoding("bitnet", scheme, True, detail), found


def _gptq(method: str, settings: dict[str, Any], stored: Stored, *, lowered: bool) -> tuple[Encoding, Weights]:
    bits, group = _whole(settings, "bits", gptq.BITS), _group(settings)
    if settings.get("dynamic"):
        raise _refused(f"{method} with settings by module (dynamic) is not read")
    found = gptq.weights(stored, bits=bits, group=group, lowered=lowered)
    return _integers(method, bits, group, "zero points" if settings.get("sym") is False else "symmetric"), found


def _awq(method: str, settings: dict[str, Any], stored: Stored) -> tuple[Encoding, Weights]:
    bits = _whole(settings, "bits", (awq.BITS,))
    group = _group(settings)
    return _integers(method, bits, group, "zero points"), awq.weights(stored, group=group)


def _auto_round(settings: dict[str, Any], stored: Stored) -> tuple[Encoding, Weights]:
    form, kind = settings.get("packing_format") or "auto_round:auto_gptq", settings.get("data_type") or "int"
    if kind != "int":
        raise _refused(f"data_type {quoted(kind)} of auto-round is not read")
    extra = settings.get("extra_config") or {}
    if not isinstance(form, str) or not isinstance(extra, dict):
        raise _refused(f"packing_format {quoted(form)} or extra_config {quoted(extra)} of auto-round is not read")
    for module, own in extra.items():
        # Modules left at 16 bits are stored as they are; other settings of their own would need their own layout.
        if not isinstance(own, dict) or own.get("bits", 16) not in (16, 32, settings.get("bits")):
            raise _refused(f"auto-round with settings of its own for {quoted(module)} ({quoted(own)}) is not read")
    if form in _AUTO_ROUND_AWQ:
        return _awq("auto-round", settings, stored)
    if form not in _AUTO_ROUND_FORMATS:
        raise _refused(f"packing_format {quoted(form)} of auto-round is not read")
    return _gptq("auto-round", settings, stored, lowered=_AUTO_ROUND_FORMATS[form])


def _compressed(settings: dict[str, Any], stored: Stored) -> tuple[Encoding, Weights]:
    form = settings.get("format")
    if form not in _COMPRESSED_FORMATS:
        raise _refused(f"format {quoted(form)} of compressed-tensors is not read")
    sparsity = settings.get("sparsity_config") or {}
    if settings.get("transform_config") or (
        isinstance(sparsity, dict) and sparsity.get("format") not in (None, "dense")
    ):
        raise _refused("compressed-tensors with transforms or packed sparsity is not read")
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
        raise _refused(f"config_groups of compressed-tensors are {quoted(groups)}")
    layouts: list[compressed.Layout] = []
    schemes: set[Scheme | None] = set()
    tiles: set[tuple[int, int] | None] = set()
    rounded = False  # activations, in a way that is not done here
    for group in groups.values():
        weights, inputs = group.get("weights"), group.get("input_activations")
        if not isinstance(weights, dict):
            raise _refused(f"weights of a group of compressed-tensors are {quoted(weights)}")
        eight = isinstance(inputs, dict) and _per_token(inputs)
        rounded |= bool(inputs) and not eight
        if weights.get("type", "int") == "float":
            _whole(weights, "num_bits", (8,))
            schemes.add(None)
            tiles.add(_tile(weights.get("block_structure")) if weights.get("strategy") == "block" else None)
            continue
        bits, size = _whole(weights, "num_bits", tuple(range(2, 9))), None
        strategy = weights.get("strategy")
        if strategy == "group":
            size = _group(weights)
        elif strategy not in (None, "channel", "tensor"):
            raise _refused(f"strategy {quoted(strategy)} of compressed-tensors is not read")
        layouts.append(compressed.Layout(bits, size))
        schemes.add(Scheme("int", bits, size, 8 if eight else None))
    if len(tiles) > 1:
        raise _refused("compressed-tensors with 8-bit floats in tiles of several sizes is not read")
    found = compressed.weights(stored, tuple(dict.fromkeys(layouts)), tile=tiles.pop() if tiles else None)
    scheme = schemes.pop() if len(schemes) == 1 else None
    detail = f"compressed-tensors, {form}: {scheme or 'several weight classes, or 8-bit floats'}."
    if rounded:
        detail += " Its activations are rounded in use, in a way that the audit leaves out."
    return Encoding("compressed-tensors", scheme, True, detail), found


def _per_token(inputs: Mapping[str, Any]) -> bool:
    """Whether activations are rounded as `+a8` does: to 8 bits, symmetrically, each token by its own largest."""
    wanted = {"type": "int", "num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}
    return {"type": "int", "symmetric": True, **inputs}.items() >= wanted.items()


def _refuse_full_maps(settings: Mapping[str, Any], stored: Stored) -> None:
    """Of latent weights nothing shows which maps of a block were left out of the training in ternaries."""
    kept = settings.get("modules_to_not_convert") or []
    # The library takes them for regular expressions too; a checkpoint's are never run: they can take for ever.
    if not isinstance(kept, list) or not all(isinstance(name, str) and _PLAIN_NAME.fullmatch(name) for name in kept):
        raise _refused(f"modules_to_not_convert of bitnet is {quoted(kept)}; plain names of modules are read")
    for name in stored.modules("weight"):
        if _IN_A_BLOCK.search(name) and any(name.endswith(key) or f"{name}.".startswith(f"{key}.") for key in kept):
            raise _refused(f"modules_to_not_convert of bitnet leaves {name} in full precision")


def _tile(sizes: Any) -> tuple[int, int]:
    valid = (
        isinstance(sizes, list | tuple) and len(sizes) == 2 and all(type(side) is int and side > 0 for side in sizes)
    )
    if not valid:
        raise _invalid(f"the size of its tiles is {quoted(sizes)} and not two numbers")
    return sizes[0], sizes[1]


def _fp8(method: str, sizes: Any, stored: Stored) -> tuple[Encoding, Weights]:
    tile = None if sizes is None else _tile(sizes)
    found = fp8.weights(stored, tile=tile)
    scales = f"a scale for each tile of {tile[0]} by {tile[1]}" if tile else "a scale per tensor or output channel"
    return Encoding(method, None, True, f"8-bit floats with {scales}."), found


def _integers(method: str, bits: int, group: int | None, zero: str) -> Encoding:
    grouped = f"groups of {group}" if group else "one scale per output channel"
    return Encoding(method, Scheme("int", bits, group), True, f"{method}: {bits} bits, {grouped}, {zero}.")


def _whole(settings: Mapping[str, Any], name: str, allowed: tuple[int, ...]) -> int:
    value = settings.get(name)
    if type(value) is not int or value not in allowed:
        raise _refused(f"{name} = {quoted(value)}; read are {', '.join(map(str, allowed))}")
    return value


def _group(settings: Mapping[str, Any]) -> int | None:
    """Input channels per scale; None for all of them, which the files call −1."""
    value = settings.get("group_size", settings.get("q_group_size", 128))
    if value in (-1, None):
        return None
    if type(value) is not int or not 0 < value <= 1 << 20:
        raise _invalid(f"group_size is {quoted(value)}; a number of input channels or -1 is needed")
    return value


def _invalid(problem: str) -> CheckpointError:
    return CheckpointError(
        f"{SETTINGS} in config.json is not valid: {problem}.",
        slug="checkpoint-config-invalid",
        remedy="Restore the config.json that was saved with the quantised weights.",
        pointer="/checkpoint",
    )


def _refused(problem: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"config.json has a {SETTINGS} that cannot be audited: {problem}.",
        slug="model-quantised",
        remedy="Audit the checkpoint before quantisation, or save it dequantised and without quantization_config.",
        pointer="/checkpoint",
    )
