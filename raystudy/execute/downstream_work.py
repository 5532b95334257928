"""Downstream tasks put to a trained decoder: at the end of its run, or later to kept weights, without training."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystudy.artifacts.downstream import mended_answers, task_metrics, write_answers
from raystudy.artifacts.items import ItemShard, open_items
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.weights import read_weights
from raystudy.errors import DataError, RaystudyError, StorageError
from raystudy.specs.downstream import TASK_METRICS
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from torch import nn

Tasks = Mapping[str, str]  # digest of the items -> the task's name


def answer_at_end(
    run: TrainRun, storage: Storage, tasks: Tasks, weights: Mapping[str, Any], device: str
) -> tuple[list[dict[str, Any]], float]:
    """Put every task to a run's final weights and keep the answers; metric rows for its result, and the seconds."""
    if not tasks:
        return [], 0.0
    from raystudy.train.run import load_weights

    started = time.perf_counter()
    model = load_weights(run, weights, device)
    rows = []
    for digest, name in tasks.items():
        answers = answer(model, run, open_items_once(storage.root, digest), device)
        write_answers(storage.runs.folder(run.run_id), answers)
        rows += [_row(metric, digest, name, value) for metric, value in task_metrics(answers).items()]
    return rows, time.perf_counter() - started


def answer_kept(run: TrainRun, storage: Storage, tasks: Tasks, device: str, train_again: Callable[[], object]) -> None:
    """Put the tasks that a finished run has not answered to its kept weights.

    `train_again` is called where they are torn: it must leave the answers.

    Raises:
        RaystudyError: the weights were not kept.
    """
    runs, step = storage.runs, run.settings.steps
    lacking = {d: name for d, name in tasks.items() if mended_answers(runs, run.run_id, d, step) is None}
    if not lacking:
        return
    try:
        arrays = read_weights(runs.folder(run.run_id), step)
    except StorageError as error:
        runs.put_weights_aside(run.run_id, step, str(error))
        train_again()
        return
    if arrays is None:
        raise RaystudyError(
            f"run {run.run_id} must answer the tasks {', '.join(lacking.values())}, but its weights were not kept. "
            f"Remove its folder from the storage to train it again"
        )
    from raystudy.train.process import reset_state

    reset_state(run.seed)
    answer_at_end(run, storage, lacking, arrays, device)


def answer(model: "nn.Module", run: TrainRun, shard: ItemShard, device: str) -> dict[str, Any]:
    """The model's answers to the items, as `artifacts.downstream` keeps them.

    Raises:
        DataError: the items are those of another vocabulary.
        RaystudyError: a log-probability is not finite.
    """
    from raystudy.train.downstream import score_continuations

    if shard.vocabulary_size != run.model.vocabulary:
        raise DataError(
            f"a task's items must be of the model's vocabulary ({run.model.vocabulary}), but those of "
            f"{shard.digest} are of {shard.vocabulary_size}. Run the study again with its own tokenizer"
        )
    pairs = [(choice.context, choice.continuation) for item in shard.items for choice in item.choices]
    logs = [score.log_probability for score in score_continuations(model, pairs, run.model.context, device)]
    if not all(map(math.isfinite, logs)):
        lost = sum(not math.isfinite(value) for value in logs)
        raise RaystudyError(
            f"every choice of a task must have a finite log-probability, but {lost} of {len(logs)} have none by run "
            f"{run.run_id}: its logits overflow. Lower its learning rate"
        )
    return {
        "run_id": run.run_id,
        "items": shard.digest,
        "step": run.settings.steps,
        "readout": "last",
        "right": [item.right for item in shard.items],
        "log_probability": _per_item(shard, logs),
        "characters": [[choice.num_characters for choice in item.choices] for item in shard.items],
    }


def _per_item(shard: ItemShard, flat: Sequence[float]) -> list[list[float]]:
    values = iter(flat)
    return [[next(values) for _ in item.choices] for item in shard.items]


def _row(metric: str, digest: str, name: str, value: float) -> dict[str, Any]:
    about = {"name": metric, "dataset": digest, "dataset_name": name, "value": value}
    return {**about, "unit": TASK_METRICS[metric], "direction": "higher-is-better"}


@lru_cache(maxsize=32)
def open_items_once(root: Path, digest: str) -> ItemShard:
    """The items called `digest`, read once per process."""
    return open_items(root, digest)
