"""The decoder, built from its spec. Knows nothing of data, optimizers or storage.

Pre-norm GPT-2 layout (Radford et al. 2019) with exact GELU. Initialisation as published there: normal with
standard deviation 0.02, residual projections divided by sqrt(2 x layers), biases zero.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from raystudy.specs.run import ResolvedDecoder

_INIT_STD = 0.02


class _Block(nn.Module):
    def __init__(self, spec: ResolvedDecoder) -> None:
        super().__init__()
        width, hidden = spec.width, spec.width * spec.mlp_ratio
        self.heads = spec.heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        projected = self.attention_in(self.attention_norm(x))
        query, key, value = projected.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
        hidden = functional.gelu(self.mlp_in(self.mlp_norm(x)))
        return x + cast(Tensor, self.mlp_out(hidden))


class Decoder(nn.Module):
    """Token ids [batch, length <= context] to logits [batch, length, vocabulary]."""

    def __init__(self, spec: ResolvedDecoder, seed: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(spec.vocabulary, spec.width)
        self.positions = nn.Embedding(spec.context, spec.width)
        self.blocks = nn.ModuleList(_Block(spec) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.width)
        self.head = None if spec.tie_embeddings else nn.Linear(spec.width, spec.vocabulary, bias=False)
        self._initialise(spec, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def _initialise(self, spec: ResolvedDecoder, generator: torch.Generator) -> None:
        residual_std = _INIT_STD / math.sqrt(2 * spec.layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = residual_std if name.endswith(("attention_out.weight", "mlp_out.weight")) else _INIT_STD
                parameter.normal_(0.0, std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        head = self.tokens.weight if self.head is None else self.head.weight
        return functional.linear(self.norm(x), head)
