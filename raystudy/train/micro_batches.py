"""The gradient of a batch, taken in parts where memory does not hold it whole. Same result within rounding.

Knows nothing of optimizers or of where batches come from.
"""

import gc
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from raystudy.specs.training import Precision
from raystudy.train.precision import autocast, products

_ALLOCATION_FAILED = ("out of memory", "can't allocate", "ALLOC_FAILED")  # CUDA, the CPU allocator, cuBLAS


class MicroBatches:
    """Accumulates gradients over parts of a batch. `rows`: sequences of one part, as memory has allowed so far."""

    def __init__(self, most_tokens: int | Literal["auto"], batch_sequences: int, context: int) -> None:
        self._halves = most_tokens == "auto"
        asked = batch_sequences if most_tokens == "auto" else max(1, most_tokens // context)
        self.rows = min(asked, batch_sequences)

    def backward(self, model: nn.Module, batch: npt.NDArray[np.int64], device: str, precision: Precision) -> Tensor:
        """Leave the gradient of the batch's mean loss in the parameters; returns that loss.

        Where memory does not suffice and the size of a part is not given, parts are halved and the batch begun anew:
        no weight has changed yet.

        Args:
            batch: token ids [sequence, context + 1].
        """
        while True:
            try:
                return self._backward(model, batch, device, precision)
            except (MemoryError, RuntimeError) as error:
                if not (self._halves and self.rows > 1 and is_out_of_memory(error)):
                    raise
            self.rows = -(-self.rows // 2)
            release_memory()  # here the error, whose frames hold tensors, is gone

    def _backward(self, model: nn.Module, batch: npt.NDArray[np.int64], device: str, precision: Precision) -> Tensor:
        model.zero_grad(set_to_none=True)
        whole = torch.zeros((), device=device)
        with products(precision):
            for first in range(0, len(batch), self.rows):
                part = batch[first : first + self.rows]
                tokens = torch.from_numpy(part).to(device)
                with autocast(precision, device):
                    logits = model(tokens[:, :-1])
                loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
                if len(part) == len(batch):
                    torch.autograd.backward(loss)
                    return loss.detach()
                share = loss * (len(part) / len(batch))
                torch.autograd.backward(share)
                whole += share.detach()
        return whole


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice, on any device."""
    is_told = isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_FAILED)
    return isinstance(error, MemoryError) or is_told


def release_memory() -> None:
    """Give back what no tensor holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
