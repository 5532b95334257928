"""Downstream tasks put to a trained decoder: at the end of its run, or later to kept weights, without training."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from raystudy.artifacts.downstream import task_metrics, write_answers
from raystudy.artifacts.evaluations import plain_readout
from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.items import ItemShard, open_items
from raystudy.artifacts.storage import Storage
from raystudy.errors import DataError, RaystudyError
from raystudy.specs.downstream import TASK_METRICS
from raystudy.specs.reading import Reading
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from torch import nn

Tasks = Mapping[str, str]  # digest of the items -> the task's name


def answer_tasks(
    run: TrainRun, storage: Storage, tasks: Tasks, weights: Mapping[str, Any], device: str, reading: Reading
) -> tuple[list[dict[str, Any]], float]:
    """Put every task to the weights of a reading and keep the answers; metric rows for a result, and the seconds."""
    if not tasks:
        return [], 0.0
    from raystudy.train.run import load_weights

    started = time.perf_counter()
    model = load_weights(run, weights, device)
    rows = []
    for digest, name in tasks.items():
        answers = answer(model, run, open_items_once(storage.root, digest), device)
        about = {"step": reading.step, "readout": plain_readout(reading.readout)}
        write_answers(storage.runs.folder(run.run_id), {**answers, **about})
        rows += [_row(metric, digest, name, value) for metric, value in task_metrics(answers).items()]
    return rows, time.perf_counter() - started


def answer(model: "nn.Module", run: TrainRun, shard: ItemShard, device: str) -> dict[str, Any]:
    """The model's answers to the items, as `artifacts.downstream` keeps them, save the step and read-out.

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
def open_items_once(root: StoragePath, digest: str) -> ItemShard:
    """The items called `digest`, read once per process."""
    return open_items(root, digest)
