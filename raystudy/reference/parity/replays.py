"""The probe trained in one process with one known difference built in, to see whether the reference does the same.

A step here is that of `train`, taken in the reference's parts, so that each part and each worker can be treated in a
way of its own. With no difference it gives `train`'s weights within rounding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from raystudy.artifacts.shards import RecipeView
from raystudy.reference.parity.cases import Case, in_one_process
from raystudy.reference.parity.observed import Arrays
from raystudy.train.decoder import Decoder
from raystudy.train.on_the_way import weights_of
from raystudy.train.optimizer import build_optimizer
from raystudy.train.parametrisation import rate_factor
from raystudy.train.process import reset_state
from raystudy.train.schedule import lr_factor
from raystudy.train.training import read_batch, sample_stream

_LARGE = 0.5  # quantile of gradients above which the epsilon is read off, where rounding says least


@dataclass(frozen=True)
class Difference:
    """One way in which a trainer may differ from `train`; `words` end "the reference behaves like training with".

    Attributes:
        weigh: what a part's mean loss counts for: its tokens, as it should; the same as every part of its worker; its
            share of its worker, all workers alike.
        clips: when gradients are clipped: after the workers' are averaged, as it should; before; never.
        decays_vectors: biases and gains of norms decay too.
        rounds: the weights are held in bf16.
        other_eps: an epsilon of AdamW of its own, to be read off the reference's first step.
    least_workers: fewer cannot have it.
    """

    words: str
    weigh: Literal["tokens", "parts", "workers"] = "tokens"
    clips: Literal["after", "before", "never"] = "after"
    decays_vectors: bool = False
    rounds: bool = False
    other_eps: bool = False
    least_workers: int = 1


NONE = Difference("no difference")
DIFFERENCES = {
    "master precision": Difference("weights held in bf16, without FP32 masters", rounds=True),
    "means of micro-batches": Difference(
        "the mean of micro-batches' means in place of the mean over all tokens", weigh="parts"
    ),
    "means of workers": Difference(
        "the mean of workers' means in place of the mean over all tokens", weigh="workers", least_workers=2
    ),
    "decay": Difference("weight decay on biases and norms too", decays_vectors=True),
    "epsilon": Difference("another epsilon of AdamW", other_eps=True),
    "clipping before": Difference(
        "gradients clipped on each worker before they are averaged", clips="before", least_workers=2
    ),
    "no clipping": Difference("gradients that are not clipped", clips="never"),
}


@dataclass(frozen=True)
class Replay:
    """Weights after the first and after the last step. `first_gradient`: what the optimizer was given first.

    Only a replay with no difference has the gradient.
    """

    first: Arrays = field(repr=False)
    last: Arrays = field(repr=False)
    first_gradient: Arrays = field(repr=False)


def initial_weights(case: Case) -> Arrays:
    """The weights with which both trainers begin."""
    return weights_of(Decoder(case.run.model, case.run.seed))


def replay(
    case: Case, view: RecipeView, device: str, difference: Difference = NONE, eps: float | None = None
) -> Replay:
    """Train the case as `train` does, but for `difference`; `eps` is that of a difference that has one."""
    run, settings = in_one_process(case.run), case.run.settings
    reset_state(run.seed)
    model = Decoder(run.model, run.seed).to(device)
    optimizer = build_optimizer(model, settings.optimizer, settings.lr)
    for group in optimizer.param_groups:
        if difference.decays_vectors:
            group["weight_decay"] = settings.optimizer.weight_decay / group["lr_factor"]
        if eps is not None:
            group["eps"] = eps
    stream = sample_stream(run, view)
    after_step: Callable[[], None] = (lambda: _round(model)) if difference.rounds else (lambda: None)
    after_step()
    first: Arrays = {}
    gradient: Arrays = {}
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * lr_factor(settings.schedule, step, settings.steps) * group["lr_factor"]
        count = settings.batch_sequences
        batch = read_batch(view, stream, step * count, count, run.model.context)
        _put_gradient(model, batch, case.parts, device, difference, settings.clip)
        if not step and difference is NONE:
            gradient = _gradients(model)
        optimizer.step()
        after_step()
        if not step:
            first = weights_of(model)
    return Replay(first, weights_of(model), gradient)


def _put_gradient(
    model: Decoder,
    batch: npt.NDArray[np.int64],
    parts: list[list[tuple[int, int]]],
    device: str,
    difference: Difference,
    clip: float | None,
) -> None:
    """Leave in the parameters what the optimizer is to be given."""
    weights = list(model.parameters())
    total: list[Tensor] = [torch.zeros_like(weight) for weight in weights]
    for worker in parts:
        model.zero_grad(set_to_none=True)
        for begin, end in worker:
            tokens = torch.from_numpy(batch[begin:end]).to(device)
            logits = model(tokens[:, :-1])
            loss = functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
            share = _share(difference, end - begin, worker, len(batch), len(parts))
            torch.autograd.backward(loss * share)
        if clip is not None and difference.clips == "before":
            torch.nn.utils.clip_grad_norm_(weights, clip / len(parts))  # what is summed is 1 / workers of its own
        for held, weight in zip(total, weights, strict=True):
            if weight.grad is not None:
                held += weight.grad
    for held, weight in zip(total, weights, strict=True):
        weight.grad = held
    if clip is not None and difference.clips == "after":
        torch.nn.utils.clip_grad_norm_(weights, clip)


def _share(difference: Difference, rows: int, worker: list[tuple[int, int]], batch: int, workers: int) -> float:
    """What the mean loss of a part of `rows` sequences counts for in that of the batch."""
    if difference.weigh == "parts":
        return 1 / len(worker) / workers
    if difference.weigh == "workers":
        return rows / (worker[-1][1] - worker[0][0]) / workers
    return rows / batch


def _round(model: Decoder) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16))


def _gradients(model: Decoder) -> Arrays:
    return {
        name: weight.grad.cpu().float().numpy().copy()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }


def is_in_bf16(arrays: Arrays) -> bool:
    """Whether no weight has more digits than bf16 has."""
    return all(not (np.asarray(a, dtype=np.float32).view(np.uint32) & 0xFFFF).any() for a in arrays.values())


def epsilon_of(case: Case, start: Arrays, gradient: Arrays, seen: Arrays) -> float:
    """The epsilon with which AdamW's first step leads from `start` to `seen`; 0 where none does.

    AdamW's first step, its moments corrected for their start at 0, is w - lr * decay * w - lr * g / (|g| + eps)
    (Loshchilov & Hutter, arXiv 1711.05101): of matrices, whose decay is known, eps = |g| * (1 / |step| - 1), of which
    the median over the larger gradients is taken.
    """
    settings = case.run.settings
    found: list[npt.NDArray[Any]] = []
    factors = _factors(case)
    for name, value in start.items():
        if value.ndim < 2:
            continue
        lr = settings.lr * lr_factor(settings.schedule, 0, settings.steps) * factors[name]
        decay = settings.optimizer.weight_decay / factors[name]
        before, after = value.astype(np.float64), seen[name].astype(np.float64)
        step = np.abs(before * (1 - lr * decay) - after) / lr
        size = np.abs(gradient[name].astype(np.float64))
        chosen = (size > np.quantile(size, _LARGE)) & (step > 0)
        found.append(size[chosen] * (1 / step[chosen] - 1))
    values = np.concatenate(found) if found else np.zeros(1)
    eps = float(np.median(values)) if len(values) else 0.0
    return float(f"{max(eps, 0.0):.2e}") if math.isfinite(eps) else 0.0


def _factors(case: Case) -> Mapping[str, float]:
    model = Decoder(case.run.model, case.run.seed)
    kind = case.run.settings.optimizer.kind
    return {name: rate_factor(model.spec, name, weight.ndim, kind) for name, weight in model.named_parameters()}
