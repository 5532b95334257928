"""Our weights in the form of `transformers` and back, and the files of a folder that `from_pretrained` loads.

Arrays in and out; neither torch nor transformers is needed.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raystudy.specs.run import ResolvedDecoder
from raystudy.train.parametrisation import attention_scale, output_multiplier
from raystudy.train.transformers_families import Module, family_of

Arrays = Mapping[str, npt.NDArray[Any]]


def to_transformers(spec: ResolvedDecoder, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Our weights under the names and in the layout of the architecture that holds `spec`; a tied head left out.

    muP's factors of attention and of the logits, which no configuration can say, are multiplied into weights.
    """
    own = _with_factors(spec, arrays)
    found: dict[str, npt.NDArray[Any]] = {}
    for module in family_of(spec).modules(spec.layers):
        for ending in ("weight", "bias"):
            array = own.get(f"{module.ours}.{ending}")
            if array is not None:
                parts = _to_layout(module, array, spec)
                found |= {f"{name}.{ending}": part for name, part in zip(module.theirs, parts, strict=True)}
    return found


def from_transformers(spec: ResolvedDecoder, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Weights (or gradients) as `Decoder` has them: the inverse of `to_transformers` where there is no muP."""
    found: dict[str, npt.NDArray[Any]] = {}
    for module in family_of(spec).modules(spec.layers):
        for ending in ("weight", "bias"):
            parts = [arrays[f"{name}.{ending}"] for name in module.theirs if f"{name}.{ending}" in arrays]
            if parts and not (module.ours == "head" and spec.tie_embeddings):
                found[f"{module.ours}.{ending}"] = _from_layout(module, parts, spec)
    return found


def model_files(
    spec: ResolvedDecoder, arrays: Arrays, about: Mapping[str, str], end_of_text: int | None
) -> dict[str, bytes]:
    """config.json and model.safetensors, which `AutoModelForCausalLM.from_pretrained` loads from a folder.

    Raises:
        DataError: no architecture holds `spec`.
    """
    from safetensors.numpy import save  # an optional package, needed only where something trains

    family = family_of(spec)
    config = {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "dtype": "float32",
        "vocab_size": spec.vocabulary,
        "tie_word_embeddings": spec.tie_embeddings,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        **family.config(spec),
    }
    weights = {name: np.ascontiguousarray(array) for name, array in to_transformers(spec, arrays).items()}
    return {
        "config.json": (json.dumps(config, indent=1) + "\n").encode(),
        "model.safetensors": save(weights, {"format": "pt", **about}),
    }


def _with_factors(spec: ResolvedDecoder, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    own = dict(arrays)
    scale, multiplier = attention_scale(spec), output_multiplier(spec)
    if multiplier != 1.0:
        own |= {name: own[name] * np.float32(multiplier) for name in ("norm.weight", "norm.bias") if name in own}
    if scale is None:
        return own
    factor, queries = np.float32(scale * math.sqrt(spec.head_width)), spec.width
    for name, array in arrays.items():
        if name.endswith(".query_norm.weight"):
            own[name] = array * factor
        elif ".attention_in." in name and not spec.qk_norm:
            own[name] = np.concatenate((array[:queries] * factor, array[queries:]))
    return own


def _to_layout(module: Module, array: npt.NDArray[Any], spec: ResolvedDecoder) -> list[npt.NDArray[Any]]:
    if module.layout == "stacked":
        return np.split(array, _ends(module, spec))
    if module.layout == "by-head":
        return [_regrouped(array, (3, spec.heads, spec.head_width))]
    return [array.T if module.layout == "transposed" else array]


def _from_layout(module: Module, parts: list[npt.NDArray[Any]], spec: ResolvedDecoder) -> npt.NDArray[Any]:
    if module.layout == "stacked":
        return np.concatenate(parts)
    if module.layout == "by-head":
        return _regrouped(parts[0], (spec.heads, 3, spec.head_width))
    return parts[0].T if module.layout == "transposed" else parts[0]


def _ends(module: Module, spec: ResolvedDecoder) -> list[int]:
    """Where the parts of a stacked module end, but for the last."""
    if module.ours.endswith("mlp_in"):
        return [spec.hidden_width]
    return [spec.width, spec.width + spec.num_kv_heads * spec.head_width]


def _regrouped(array: npt.NDArray[Any], groups: tuple[int, int, int]) -> npt.NDArray[Any]:
    """`array` with rows in `groups`, the outer two of which change places."""
    return array.reshape(*groups, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)
