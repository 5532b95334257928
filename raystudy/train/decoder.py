"""The decoder, built from its spec: one module for all families. Knows nothing of data, optimizers or storage.

Names of parameters are those of kept weights, and their order is that in which initialisation draws them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from raystudy.specs.run import ResolvedDecoder
from raystudy.train.attention import attend, rotary_table, rotate
from raystudy.train.initialisation import initialise
from raystudy.train.parametrisation import attention_scale, output_multiplier

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu-tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


def _norm(spec: ResolvedDecoder) -> nn.Module:
    kind = nn.LayerNorm if spec.norm == "layer" else nn.RMSNorm
    return kind(spec.width, eps=spec.norm_eps)


class _Block(nn.Module):
    """One layer: residual stream [batch, length, width] in and out."""

    def __init__(self, spec: ResolvedDecoder) -> None:
        super().__init__()
        self._heads = (spec.heads, spec.num_kv_heads, spec.num_kv_heads)  # of queries, keys and values
        self._head_width, self._scale = spec.head_width, attention_scale(spec)
        self._activation, self._gated = _ACTIVATIONS[spec.activation], spec.gated
        self._parallel = spec.parallel_residual
        width, hidden = spec.width, spec.hidden_width
        self.attention_norm = _norm(spec)
        self.attention_in = nn.Linear(width, sum(self._heads) * spec.head_width, bias=spec.attention_bias)
        self.attention_out = nn.Linear(width, width, bias=spec.attention_bias)
        self.mlp_norm = _norm(spec)
        self.mlp_in = nn.Linear(width, hidden * (2 if spec.gated else 1), bias=spec.mlp_bias)
        self.mlp_out = nn.Linear(hidden, width, bias=spec.mlp_bias)
        self.query_norm = nn.RMSNorm(spec.head_width, eps=spec.norm_eps) if spec.qk_norm else None
        self.key_norm = nn.RMSNorm(spec.head_width, eps=spec.norm_eps) if spec.qk_norm else None

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        attended = self._attention(self.attention_norm(x), rotation)
        if self._parallel:
            return x + attended + self._mlp(self.mlp_norm(x))
        x = x + attended
        return x + self._mlp(self.mlp_norm(x))

    def _attention(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        parts = self.attention_in(x).split([heads * self._head_width for heads in self._heads], dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self._head_width)).transpose(1, 2) for part in parts)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return cast(Tensor, self.attention_out(attend(query, key, value, self._scale)))

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.mlp_in(x)
        if self._gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = self._activation(gate) * hidden
        else:
            hidden = self._activation(hidden)
        return cast(Tensor, self.mlp_out(hidden))


class Decoder(nn.Module):
    """Token ids [batch, length <= context] to logits [batch, length, vocabulary]."""

    def __init__(self, spec: ResolvedDecoder, seed: int) -> None:
        super().__init__()
        self.spec = spec
        self._multiplier = output_multiplier(spec)
        self.tokens = nn.Embedding(spec.vocabulary, spec.width)
        self.positions = nn.Embedding(spec.num_positions, spec.width) if spec.num_positions else None
        self.blocks = nn.ModuleList(_Block(spec) for _ in range(spec.layers))
        self.norm = _norm(spec)
        self.head = None if spec.tie_embeddings else nn.Linear(spec.width, spec.vocabulary, bias=False)
        rotated = spec.rotary_width
        rotation = rotary_table(spec.context, rotated, spec.rotary_base) if rotated else None
        self.register_buffer("_rotation", rotation, persistent=False)
        initialise(self, spec, torch.Generator().manual_seed(seed))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens)
        if self.positions is not None:
            places = torch.arange(tokens.shape[1], device=tokens.device) + self.spec.position_offset
            x = x + self.positions(places)
        rotation = cast(Tensor | None, self._rotation)
        for block in self.blocks:
            x = block(x, rotation)
        head = self.tokens.weight if self.head is None else self.head.weight
        logits = functional.linear(self.norm(x), head)
        return logits if self._multiplier == 1.0 else logits * self._multiplier
