"""Lets each trainer make a case and writes down what it did: `train` in this process, `reference` on all ranks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from raystudy.artifacts.shards import RecipeView
from raystudy.reference.parity.cases import Case, in_one_process
from raystudy.reference.parity.observed import Arrays, Observed, Sums, without_memory, write_observed
from raystudy.reference.run import train_on_ranks
from raystudy.reference.training import share_of
from raystudy.reference.world import World
from raystudy.train.evaluation import Evaluation, ValidationDocuments
from raystudy.train.micro_batches import is_out_of_memory, release_memory
from raystudy.train.on_the_way import Keeping, Read
from raystudy.train.run import Means, Outcome, ValidationSets, train

_MOST_DOCUMENTS = 65  # of one validation set
_MOST_WINDOWS = 128  # contexts of text of one validation set


class _Kept:
    """The weights read on the way, by step."""

    def __init__(self) -> None:
        self.weights: dict[int, Arrays] = {}
        self.keeping = Keeping(read=self._read, branch_point=lambda *_: None)

    def _read(self, read: Read) -> None:
        self.weights[read.reading.step] = read.weights


def some_documents(documents: ValidationDocuments, context: int, workers: int) -> ValidationDocuments:
    """The first documents, as few as a short evaluation needs: a number that `workers` do not share out evenly."""
    count, room = 0, _MOST_WINDOWS * context
    for tokens in documents.tokens[:_MOST_DOCUMENTS]:
        room -= len(tokens)
        if room < 0 and count > workers:
            break
        count += 1
    if workers > 1 and count > workers and count % workers == 0:
        count -= 1
    return ValidationDocuments(documents.tokens[:count], documents.num_bytes[:count], documents.overlap)


def some_of_all(validation: ValidationSets, case: Case) -> dict[str, ValidationDocuments]:
    """`some_documents` of every validation set."""
    context, workers = case.run.model.context, case.engine.workers
    return {digest: some_documents(each, context, workers) for digest, each in validation.items()}


def observe_in_one_process(case: Case, view: RecipeView, validation: ValidationSets, device: str) -> Observed:
    """What `train` does in the case; memory that does not suffice is its problem, not an error."""
    kept, run = _Kept(), in_one_process(case.run)
    tokens = case.engine.micro_batch_tokens
    some = some_of_all(validation, case)
    try:
        outcome = train(run, view, some, device, Means(tokens), asked=case.asked, keeping=kept.keeping)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        release_memory()
        return without_memory("in one process")
    return _observed(outcome, kept, [run.settings.batch_sequences])


def observe_on_ranks(case: Case, view: RecipeView, validation: ValidationSets, world: World) -> Observed | None:
    """What `reference` does in the case, on rank 0, None elsewhere; to be called by all ranks alike."""
    kept = _Kept()
    first, last = share_of(case.run.settings.batch_sequences, world)
    rows = world.gather_everywhere(last - first)
    some = some_of_all(validation, case)
    outcome = train_on_ranks(case.run, view, some, case.engine, world, asked=case.asked, keeping=kept.keeping)
    return None if outcome is None else _observed(outcome, kept, rows)


def observe_all_on_ranks(
    cases: list[Case], view: RecipeView, validation: ValidationSets, world: World, folder: Path
) -> None:
    """Make all cases by all ranks; rank 0 leaves what was seen in `folder`."""
    for case in cases:
        seen = observe_on_ranks(case, view, validation, world)

        def keep(case: Case = case, seen: Observed | None = seen) -> None:
            if seen is not None:
                write_observed(folder, case.name, seen)

        world.first(keep)


def _observed(outcome: Outcome, kept: _Kept, rows: list[int]) -> Observed:
    steps = sorted(kept.weights)
    first, last = (kept.weights[step] for step in (steps[0], steps[-1])) if len(steps) > 1 else ({}, {})
    return Observed(
        problem="" if outcome.status == "finished" and first and last else outcome.cause or "it diverged",
        curve=outcome.curve,
        before=_sums(outcome.initial),
        after=_sums(outcome.final),
        rows=rows,
        data_order=outcome.data_order,
        first=first,
        last=last,
    )


def _sums(evaluations: Mapping[str, Evaluation]) -> dict[str, Sums]:
    return {
        digest: Sums(np.asarray(each.loss_sum), np.asarray(each.num_tokens)) for digest, each in evaluations.items()
    }
