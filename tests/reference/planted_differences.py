"""A rank of a comparison whose reference is spoilt, each time in another way: what parity must find and name.

Each plant patches the reference's own functions around the very cases that parity makes; what is seen under it goes to
a folder of its name. DeepSpeed is started once for all of them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional

from raystudy.artifacts.shards import RecipeView
from raystudy.execute.parity_rank import main
from raystudy.reference import evaluation, training
from raystudy.reference.parity.cases import PROBE, STUDY, TINY, Case
from raystudy.reference.parity.observing import observe_all_on_ranks
from raystudy.reference.training import ReferenceTraining
from raystudy.reference.world import World
from raystudy.specs.training import AdamW
from raystudy.train.evaluation import Evaluation
from raystudy.train.optimizer import build_optimizer
from raystudy.train.run import ValidationSets

ReadShare = Callable[[ReferenceTraining], np.ndarray]


def in_bf16(cases: list[Case]) -> list[Case]:
    """The cases of a study in bf16 with masters: the probe stays in FP32."""
    return [
        Case(case.name, case.run.model_copy(update={"precision": "bf16-master"}), case.engine)
        if case.name != PROBE
        else case
        for case in cases
    ]


@contextmanager
def no_masters() -> Iterator[None]:
    """Weights are rounded to bf16 when training begins and after every step."""
    begin, take_step = ReferenceTraining._begin, ReferenceTraining._take_step

    def rounded(own: ReferenceTraining) -> None:
        for name, weight in own.masters.weights():
            own.masters.set_weight(name, weight.to(torch.bfloat16).float())

    def begin_rounded(own: ReferenceTraining) -> None:
        begin(own)
        rounded(own)

    def step_rounded(own: ReferenceTraining):
        row = take_step(own)
        rounded(own)
        return row

    steps = patch.object(ReferenceTraining, "_take_step", step_rounded)
    with patch.object(ReferenceTraining, "_begin", begin_rounded), steps:
        yield


@contextmanager
def weighed(batch_of: Callable[[ReferenceTraining, int], float]) -> Iterator[None]:
    """A part counts for its sequences over `batch_of` it, in place of over those of the batch."""
    backward = ReferenceTraining._backward

    def spoilt(own: ReferenceTraining, part, any_row):
        whole = own._run
        update = {"batch_sequences": batch_of(own, len(part))}
        own._run = whole.model_copy(update={"settings": whole.settings.model_copy(update=update)})
        try:
            return backward(own, part, any_row)
        finally:
            own._run = whole

    with patch.object(ReferenceTraining, "_backward", spoilt):
        yield


def means_of_micro_batches():
    return weighed(lambda own, rows: max(rows, 1) * own._micro_batches * own._world.size)


def means_of_workers():
    return weighed(lambda own, _: (own._last - own._first) * own._world.size)


@contextmanager
def optimizer_with(change: Callable[[torch.optim.Optimizer, AdamW], None]) -> Iterator[None]:
    def spoilt(model, spec, lr):
        made = build_optimizer(model, spec, lr)
        change(made, spec)
        return made

    with patch.object(training, "build_optimizer", spoilt):
        yield


def decay_everywhere():
    def change(optimizer, spec):
        for group in optimizer.param_groups:
            group["weight_decay"] = spec.weight_decay / group["lr_factor"]

    return optimizer_with(change)


def epsilon(of: Callable[[float], float]):
    def change(optimizer, spec):
        for group in optimizer.param_groups:
            group["eps"] = of(spec.eps)

    return optimizer_with(change)


@contextmanager
def clipped_before() -> Iterator[None]:
    """Each rank scales its own gradient to the largest norm, before ranks are averaged."""
    read_share, factors = ReferenceTraining._read_share, {}

    def read_and_clip(own: ReferenceTraining):
        batch = read_share(own)
        tokens = torch.from_numpy(batch)
        loss = functional.cross_entropy(own.model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        share = len(batch) * own._world.size / own._run.settings.batch_sequences
        norm = torch.nn.utils.get_total_norm(torch.autograd.grad(loss * share, list(own.model.parameters())))
        factors[id(own)] = min(1.0, own._run.settings.clip / float(norm))
        return batch

    with ExitStack() as stack:
        stack.enter_context(patch.object(ReferenceTraining, "_read_share", read_and_clip))
        whole = lambda own, _: own._run.settings.batch_sequences / factors[id(own)]  # noqa: E731
        stack.enter_context(weighed(whole))
        backward = ReferenceTraining._backward
        told = lambda own, part, any_row: backward(own, part, any_row) / factors[id(own)]  # noqa: E731
        stack.enter_context(patch.object(ReferenceTraining, "_backward", told))
        yield


@contextmanager
def evaluated(spoil: Callable[[Evaluation, int], np.ndarray]) -> Iterator[None]:
    """The sums per document are what `spoil` makes of them."""
    whole = evaluation.evaluate_on_ranks

    def spoilt(model, documents, context, world: World) -> Evaluation:
        found = whole(model, documents, context, world)
        return Evaluation(spoil(found, world.size), found.num_tokens, found.num_bytes)

    with patch.object(evaluation, "evaluate_on_ranks", spoilt):
        yield


def mean_of_means(found: Evaluation, size: int) -> np.ndarray:
    """What averaging the workers' means gives, as if every document had that loss per token."""
    means = [found.loss_sum[r::size].sum() / found.num_tokens[r::size].sum() for r in range(size)]
    return found.num_tokens * np.mean(means)


def times(place: int, factor: float) -> Callable[[Evaluation, int], np.ndarray]:
    def spoil(found: Evaluation, _: int) -> np.ndarray:
        sums = found.loss_sum.copy()
        sums[place] *= factor
        return sums

    return spoil


TRAINING_PLANTS = {
    "none": ExitStack,
    "no masters": no_masters,
    "means of micro-batches": means_of_micro_batches,
    "means of workers": means_of_workers,
    "decay everywhere": decay_everywhere,
    "fixed epsilon": lambda: epsilon(lambda _: 1e-8),
    "three times the epsilon": lambda: epsilon(lambda asked: 3 * asked),
    "clipped before": clipped_before,
}
EVALUATION_PLANTS = {
    "mean of means": lambda: evaluated(mean_of_means),
    "dropped": lambda: evaluated(times(4, 0.0)),
    "doubled": lambda: evaluated(times(2, 2.0)),
}
WITH_MASTERS = ("none", "no masters", "none in bf16", "no masters in bf16")  # where the tiny rate has a say
BF16_PLANTS = {"none in bf16": ExitStack, "no masters in bf16": no_masters}


def observe(cases: list[Case], view: RecipeView, validation: ValidationSets, world: World, folder: Path) -> None:
    study = [case for case in cases if case.name == STUDY]
    bf16 = [case for case in in_bf16(cases) if case.name != PROBE]
    short = {id(c): [case for case in c if case.name != TINY] for c in (cases, study, bf16)}
    for plants, chosen in ((TRAINING_PLANTS, cases), (EVALUATION_PLANTS, study), (BF16_PLANTS, bf16)):
        for name, plant in plants.items():
            (folder / name).mkdir(exist_ok=True)
            with plant():
                observe_all_on_ranks(
                    chosen if name in WITH_MASTERS else short[id(chosen)], view, validation, world, folder / name
                )


if __name__ == "__main__":
    sys.exit(main(observe=observe))
