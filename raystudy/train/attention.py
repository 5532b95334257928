"""Causal attention over heads, and rotary positions. Holds no parameters."""

import torch
from torch import Tensor
from torch.nn import functional


def rotary_table(context: int, width: int, base: float) -> Tensor:
    """Cosines and sines [2, context, width / 2] of every position's angles (Su et al., arXiv 2104.09864)."""
    frequencies = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the first dimensions of x [batch, heads, length, head width] by `table` [2, context, half of them].

    Dimension i is paired with the one half of the rotated width further on, as in GPT-NeoX. Worked out in the table's
    precision, given back in that of x.
    """
    cosine, sine = table[:, : x.shape[-2]]
    half = cosine.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine, rest), dim=-1).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Each token's mixture of the values up to it.

    Args:
        query: [batch, heads, length, head width].
        key, value: [batch, key heads, length, head width]; consecutive heads of queries share one.
        scale: of the products of queries and keys; None is 1 / sqrt(head width).

    Returns:
        [batch, length, heads x head width].
    """
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    return mixed.transpose(1, 2).flatten(2)
