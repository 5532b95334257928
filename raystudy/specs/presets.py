"""Named sets of a decoder's fields: families, models as published, and small models for a laptop.

A preset is a way to write a study file. A study and its runs hold the fields alone, never the preset's name, so that
a preset and the same fields written out are the same run.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raystudy.specs.yaml_file import KeyPath, Problem, YamlDocument, show_path

_GPT2: Mapping[str, Any] = {"activation": "gelu-tanh"}
_PYTHIA: Mapping[str, Any] = {
    "positions": "rotary",
    "rotary_share": 0.25,
    "parallel_residual": True,
    "tie_embeddings": False,
    "init": "gpt-neox",
}
_OPT: Mapping[str, Any] = {"position_offset": 2, "activation": "relu", "init": "opt"}
_LLAMA: Mapping[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "activation": "silu",
    "gated": True,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_embeddings": False,
    "init": "llama",
}
_STABLELM: Mapping[str, Any] = {**_LLAMA, "norm": "layer", "rotary_share": 0.25, "init": "gpt2"}
_GPT2_SOURCE = "Radford et al. 2019, table 2; shapes of the weights that were released"
_PYTHIA_SOURCE = "Biderman et al., arXiv 2304.01373, table 1"
_OPT_SOURCE = "Zhang et al., arXiv 2205.01068, table 1"
_LLAMA_SOURCE = "raystudy's own shapes in the manner of Touvron et al., arXiv 2302.13971"
_STABLELM_SOURCE = "Stability-AI/StableLM, configs/stablelm-3b-4e1t.yml, and StableLmConfig of transformers"
_LAPTOP_SOURCE = "raystudy's own, for a laptop; named by its non-embedding parameters"


@dataclass(frozen=True)
class Preset:
    """Fields that a preset fills in, and where they come from.

    `vocabulary` is that of the published weights, for comparison; a study's comes from its tokenizer.
    """

    fields: Mapping[str, Any]
    source: str
    vocabulary: int | None = None


def _shaped(
    family: Mapping[str, Any], shape: tuple[int, int, int, int], source: str, vocabulary: int | None = None, **own: Any
) -> Preset:
    """A preset of a family; `shape` is layers, width, heads and context."""
    named = dict(zip(("layers", "width", "heads", "context"), shape, strict=True))
    return Preset({**named, **family, **own}, source, vocabulary)


PRESETS: dict[str, Preset] = {
    # Families: the shape is the study's.
    "gpt2": Preset(_GPT2, _GPT2_SOURCE),
    "pythia": Preset(_PYTHIA, _PYTHIA_SOURCE),
    "opt": Preset(_OPT, _OPT_SOURCE),
    "llama": Preset(_LLAMA, "Touvron et al., arXiv 2302.13971, section 2.2"),
    "stablelm": Preset(_STABLELM, _STABLELM_SOURCE),
    # As published.
    "gpt2-124m": _shaped(_GPT2, (12, 768, 12, 1024), _GPT2_SOURCE, 50257),
    "gpt2-355m": _shaped(_GPT2, (24, 1024, 16, 1024), _GPT2_SOURCE, 50257),
    "gpt2-774m": _shaped(_GPT2, (36, 1280, 20, 1024), _GPT2_SOURCE, 50257),
    "pythia-70m": _shaped(_PYTHIA, (6, 512, 8, 2048), _PYTHIA_SOURCE, 50304),
    "pythia-160m": _shaped(_PYTHIA, (12, 768, 12, 2048), _PYTHIA_SOURCE, 50304),
    "pythia-410m": _shaped(_PYTHIA, (24, 1024, 16, 2048), _PYTHIA_SOURCE, 50304),
    "pythia-1b": _shaped(_PYTHIA, (16, 2048, 8, 2048), _PYTHIA_SOURCE, 50304),
    "opt-125m": _shaped(_OPT, (12, 768, 12, 2048), _OPT_SOURCE, 50272),
    "stablelm-3b": _shaped(_STABLELM, (32, 2560, 32, 4096), _STABLELM_SOURCE, 50304, mlp_width=6912),
    # Llama-style: named by all parameters with Llama's 32,000 tokens.
    "llama-60m": _shaped(_LLAMA, (8, 512, 8, 2048), _LLAMA_SOURCE, 32000, kv_heads=4, mlp_width=1728),
    "llama-150m": _shaped(_LLAMA, (12, 768, 12, 2048), _LLAMA_SOURCE, 32000, kv_heads=4, mlp_width=2944),
    "llama-300m": _shaped(_LLAMA, (18, 1024, 16, 2048), _LLAMA_SOURCE, 32000, kv_heads=4, mlp_width=3392),
    # For a laptop.
    "gpt2-50k": _shaped(_GPT2, (1, 64, 4, 128), _LAPTOP_SOURCE),
    "opt-100k": _shaped(_OPT, (2, 64, 4, 128), _LAPTOP_SOURCE),
    "pythia-200k": _shaped(_PYTHIA, (4, 64, 4, 128), _LAPTOP_SOURCE),
    "llama-400k": _shaped(_LLAMA, (2, 128, 4, 128), _LAPTOP_SOURCE, kv_heads=2, mlp_width=384),
    "gpt2-800k": _shaped(_GPT2, (4, 128, 4, 128), _LAPTOP_SOURCE),
    "pythia-1.6m": _shaped(_PYTHIA, (2, 256, 8, 256), _LAPTOP_SOURCE),
    "llama-3m": _shaped(_LLAMA, (4, 256, 8, 256), _LAPTOP_SOURCE, kv_heads=4, mlp_width=704),
    "opt-5m": _shaped(_OPT, (6, 256, 8, 256), _LAPTOP_SOURCE),
    "gpt2-10m": _shaped(_GPT2, (6, 384, 6, 256), _LAPTOP_SOURCE),
}

_STAND_IN: Mapping[str, Any] = {"layers": 1, "width": 2, "heads": 1, "context": 2}


def expand_presets(document: YamlDocument) -> None:
    """Replace `preset: NAME` in the models of the study in `document` by the preset's fields.

    What the file gives beside it stays. A broken preset is a problem, and a shape that is right stands in for it: one
    cause, one message.
    """
    models = document.data.get("models")
    for name, model in (models if isinstance(models, dict) else {}).items():
        if isinstance(model, dict) and "preset" in model:
            chosen = model.pop("preset")
            fields = _fields_of(document, ("models", name), model, chosen)
            models[name] = {**fields, **model}


def _fields_of(document: YamlDocument, at: KeyPath, model: Mapping[str, Any], chosen: Any) -> Mapping[str, Any]:
    def tell(key: str, rule: str, way_out: str) -> None:
        path = (*at, key)
        document.problems.append(Problem(document.position(path), show_path(path), rule, way_out))

    if model.get("kind", "decoder") != "decoder":
        tell("kind", f"a preset is a decoder's, but got {model['kind']!r}", "Leave `kind` or `preset` out")
        return {}
    preset = PRESETS.get(chosen) if isinstance(chosen, str) else None
    if preset is None:
        matches = difflib.get_close_matches(str(chosen), PRESETS, n=1)
        way_out = f"Did you mean '{matches[0]}'?" if matches else f"Known: {', '.join(PRESETS)}"
        tell("preset", f"must be the name of a preset, but got {chosen!r}", way_out)
    return {"kind": "decoder", **(_STAND_IN if preset is None else preset.fields)}
