"""Architectures of `transformers` that hold our decoders: what each can hold, its configuration, its names of weights.

Each is one row of `FAMILIES`. Needs neither torch nor transformers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raystudy.errors import DataError
from raystudy.specs.run import ResolvedDecoder

_ACTIVATIONS = {"gelu": "gelu", "gelu-tanh": "gelu_pytorch_tanh", "relu": "relu", "silu": "silu"}


@dataclass(frozen=True)
class Module:
    """One of our modules (the weight, and the bias if there is one) and theirs.

    `layout`: same; transposed (matrices [in, out]); stacked (ours is theirs, rows one after another); by-head (rows in
    the order head, then query, key, value, where ours are query, key, value, then head).
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Literal["same", "transposed", "stacked", "by-head"] = "same"


@dataclass(frozen=True)
class Family:
    """An architecture of `transformers`: what it can hold, its configuration, and its names.

    `demands`: fields of a spec and the values they may have. `blocks` is the prefix of a layer, in front of `inner`.
    """

    model_type: str
    architecture: str
    demands: Mapping[str, tuple[Any, ...]]
    config: Callable[[ResolvedDecoder], dict[str, Any]]
    outer: tuple[Module, ...]
    blocks: str
    inner: tuple[Module, ...]
    shares_kv_heads: bool = False

    def obstacles(self, spec: ResolvedDecoder) -> list[str]:
        """What in `spec` this architecture cannot hold."""
        found = [
            f"{name} must be {' or '.join(str(value) for value in allowed)}, but is {getattr(spec, name)}"
            for name, allowed in self.demands.items()
            if getattr(spec, name) not in allowed
        ]
        if not self.shares_kv_heads and spec.num_kv_heads != spec.heads:
            found.append(f"kv_heads must be heads, but is {spec.kv_heads}")
        return found

    def modules(self, layers: int) -> Iterator[Module]:
        """All modules of a model, by full names."""
        yield from self.outer
        for layer in range(layers):
            for module in self.inner:
                theirs = tuple(self.blocks.format(layer) + name for name in module.theirs)
                yield Module(f"blocks.{layer}.{module.ours}", theirs, module.layout)


def _gpt2_config(spec: ResolvedDecoder) -> dict[str, Any]:
    return {
        "n_layer": spec.layers,
        "n_embd": spec.width,
        "n_head": spec.heads,
        "n_positions": spec.context,
        "n_inner": spec.hidden_width,
        "activation_function": _ACTIVATIONS[spec.activation],
        "layer_norm_epsilon": spec.norm_eps,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }


def _common_config(spec: ResolvedDecoder) -> dict[str, Any]:
    return {
        "num_hidden_layers": spec.layers,
        "hidden_size": spec.width,
        "num_attention_heads": spec.heads,
        "max_position_embeddings": spec.context,
        "attention_dropout": 0.0,
    }


def _neox_config(spec: ResolvedDecoder) -> dict[str, Any]:
    return {
        **_common_config(spec),
        "intermediate_size": spec.hidden_width,
        "hidden_act": _ACTIVATIONS[spec.activation],
        "rotary_pct": spec.rotary_share,
        "rotary_emb_base": spec.rotary_base,
        "layer_norm_eps": spec.norm_eps,
        "use_parallel_residual": spec.parallel_residual,
        "attention_bias": spec.attention_bias,
        "hidden_dropout": 0.0,
    }


def _opt_config(spec: ResolvedDecoder) -> dict[str, Any]:
    return {
        **_common_config(spec),
        "word_embed_proj_dim": spec.width,
        "ffn_dim": spec.hidden_width,
        "activation_function": _ACTIVATIONS[spec.activation],
        "enable_bias": spec.attention_bias,
        "do_layer_norm_before": True,
        "dropout": 0.0,
    }


def _llama_config(spec: ResolvedDecoder) -> dict[str, Any]:
    return {
        **_common_config(spec),
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_width,
        "intermediate_size": spec.hidden_width,
        "hidden_act": _ACTIVATIONS[spec.activation],
        "rms_norm_eps": spec.norm_eps,
        "rope_theta": spec.rotary_base,
        "attention_bias": spec.attention_bias,
        "mlp_bias": spec.mlp_bias,
    }


def _stablelm_config(spec: ResolvedDecoder) -> dict[str, Any]:
    return {
        **_common_config(spec),
        "num_key_value_heads": spec.num_kv_heads,
        "intermediate_size": spec.hidden_width,
        "hidden_act": _ACTIVATIONS[spec.activation],
        "layer_norm_eps": spec.norm_eps,
        "rope_theta": spec.rotary_base,
        "partial_rotary_factor": spec.rotary_share,
    }


_PLAIN = {"norm": ("layer",), "gated": (False,), "qk_norm": (False,), "mlp_bias": (True,)}
_LEARNED = {**_PLAIN, "positions": ("learned",), "parallel_residual": (False,), "attention_bias": (True,)}
_GATED = {"gated": (True,), "positions": ("rotary",), "parallel_residual": (False,)}
_GATED_RMS = {**_GATED, "norm": ("rms",), "rotary_share": (1.0,)}
_LLAMA_OUTER = (
    Module("tokens", ("model.embed_tokens",)),
    Module("norm", ("model.norm",)),
    Module("head", ("lm_head",)),
)
_LLAMA_INNER = (
    Module("attention_norm", ("input_layernorm",)),
    Module("attention_in", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "stacked"),
    Module("attention_out", ("self_attn.o_proj",)),
    Module("mlp_norm", ("post_attention_layernorm",)),
    Module("mlp_in", ("mlp.gate_proj", "mlp.up_proj"), "stacked"),
    Module("mlp_out", ("mlp.down_proj",)),
)

FAMILIES = (
    Family(
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        demands={**_LEARNED, "position_offset": (0,)},
        config=_gpt2_config,
        outer=(
            Module("tokens", ("transformer.wte",)),
            Module("positions", ("transformer.wpe",)),
            Module("norm", ("transformer.ln_f",)),
            Module("head", ("lm_head",)),
        ),
        blocks="transformer.h.{}.",
        inner=(
            Module("attention_norm", ("ln_1",)),
            Module("attention_in", ("attn.c_attn",), "transposed"),
            Module("attention_out", ("attn.c_proj",), "transposed"),
            Module("mlp_norm", ("ln_2",)),
            Module("mlp_in", ("mlp.c_fc",), "transposed"),
            Module("mlp_out", ("mlp.c_proj",), "transposed"),
        ),
    ),
    Family(
        model_type="gpt_neox",
        architecture="GPTNeoXForCausalLM",
        demands={**_PLAIN, "positions": ("rotary",)},
        config=_neox_config,
        outer=(
            Module("tokens", ("gpt_neox.embed_in",)),
            Module("norm", ("gpt_neox.final_layer_norm",)),
            Module("head", ("embed_out",)),
        ),
        blocks="gpt_neox.layers.{}.",
        inner=(
            Module("attention_norm", ("input_layernorm",)),
            Module("attention_in", ("attention.query_key_value",), "by-head"),
            Module("attention_out", ("attention.dense",)),
            Module("mlp_norm", ("post_attention_layernorm",)),
            Module("mlp_in", ("mlp.dense_h_to_4h",)),
            Module("mlp_out", ("mlp.dense_4h_to_h",)),
        ),
    ),
    Family(
        model_type="opt",
        architecture="OPTForCausalLM",
        demands={**_LEARNED, "position_offset": (2,), "norm_eps": (1e-5,)},
        config=_opt_config,
        outer=(
            Module("tokens", ("model.decoder.embed_tokens",)),
            Module("positions", ("model.decoder.embed_positions",)),
            Module("norm", ("model.decoder.final_layer_norm",)),
            Module("head", ("lm_head",)),
        ),
        blocks="model.decoder.layers.{}.",
        inner=(
            Module("attention_norm", ("self_attn_layer_norm",)),
            Module("attention_in", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "stacked"),
            Module("attention_out", ("self_attn.out_proj",)),
            Module("mlp_norm", ("final_layer_norm",)),
            Module("mlp_in", ("fc1",)),
            Module("mlp_out", ("fc2",)),
        ),
    ),
    Family(
        model_type="llama",
        architecture="LlamaForCausalLM",
        demands={**_GATED_RMS, "qk_norm": (False,)},
        config=_llama_config,
        outer=_LLAMA_OUTER,
        blocks="model.layers.{}.",
        inner=_LLAMA_INNER,
        shares_kv_heads=True,
    ),
    Family(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        demands={**_GATED_RMS, "qk_norm": (True,), "mlp_bias": (False,)},
        config=_llama_config,
        outer=_LLAMA_OUTER,
        blocks="model.layers.{}.",
        inner=(
            *_LLAMA_INNER,
            Module("query_norm", ("self_attn.q_norm",)),
            Module("key_norm", ("self_attn.k_norm",)),
        ),
        shares_kv_heads=True,
    ),
    Family(
        model_type="stablelm",
        architecture="StableLmForCausalLM",
        # Its attention may have biases of queries, keys and values only; its parallel residuals share one norm.
        demands={
            **_GATED,
            "norm": ("layer",),
            "qk_norm": (False,),
            **dict.fromkeys(("attention_bias", "mlp_bias"), (False,)),
        },
        config=_stablelm_config,
        outer=_LLAMA_OUTER,
        blocks="model.layers.{}.",
        inner=_LLAMA_INNER,
        shares_kv_heads=True,
    ),
)


def family_of(spec: ResolvedDecoder) -> Family:
    """The architecture that holds `spec`.

    Raises:
        DataError: none does; the message names what is in the way of the nearest.
    """
    obstacles = {family.model_type: family.obstacles(spec) for family in FAMILIES}
    nearest = min(obstacles, key=lambda name: len(obstacles[name]))
    if obstacles[nearest]:
        raise DataError(
            f"an architecture of transformers must hold the model, but none of {', '.join(obstacles)} does; "
            f"for the nearest, {nearest}: {'; '.join(obstacles[nearest])}"
        )
    return next(family for family in FAMILIES if family.model_type == nearest)
