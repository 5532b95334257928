"""Writes the record of a run that a command made: result, curve, and evaluations beside it, as for runs of our own.

Losses on validation sets that raystudy holds count its own tokens, so that their bits per byte, and the floor of the
recipe's word counts, follow without the trainer.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from raystudy.artifacts.results import Record
from raystudy.artifacts.shards import source_sizes
from raystudy.execute.command_result import Wish
from raystudy.execute.workplace import Workplace
from raystudy.specs.command_result import CommandResult, ResultMetric
from raystudy.specs.commission import Commission
from raystudy.specs.epochs import expected_epochs
from raystudy.specs.metrics import BITS_PER_BYTE, LOSS
from raystudy.specs.reading import Reading
from raystudy.study.ngrams import unigram_probabilities

Row = dict[str, Any]


def write_record(
    wish: Wish,
    result: CommandResult,
    seconds: float,
    started_at: str,
    at: Workplace,
    commission: Commission,
    *,
    before: Record | None,
) -> None:
    """Leave what the trainer told; of a run that has a record from `before`, only the evaluations that lack."""
    run, runs = wish.run, at.storage.runs
    floors = _floors(wish, at, commission) if result.status == "finished" else {}
    _write_evaluations(wish, result, at, floors, before)
    if before is not None:
        return
    if result.curve:
        runs.write_curve(run.run_id, [_numbers(row.model_dump()) for row in result.curve])
    epochs = _epochs(wish, at, commission) if result.epochs_per_source is None else [*result.epochs_per_source]
    value = {
        "status": result.status,
        "spec": run.model_dump(mode="json"),
        "metrics": _metrics(wish, result, floors),
        "num_tokens": run.num_tokens if result.num_tokens is None else result.num_tokens,
        "seconds": {"total": seconds if result.seconds is None else result.seconds},
        "provenance": {
            **at.about,
            "started_at": started_at,
            "engine": _engine(commission),
            "trainer": result.provenance,
        },
        "moved": {},
        "epochs_per_source": epochs,
    }
    runs.write_result(run.run_id, {**value, **({"cause": result.cause} if result.cause else {})})


def _engine(commission: Commission) -> Row:
    """What was started; of the environment the names alone, since values may be nobody's business."""
    engine = commission.engine
    called = {"command": [*engine.command]} if engine.command is not None else {"callable": engine.callable}
    about = {"kind": engine.kind, "version": engine.version, "folder": engine.folder}
    return {**about, **called, "environment": sorted(engine.environment)}


def _numbers(row: Mapping[str, Any]) -> dict[str, float | None]:
    """The columns of a logged step that are numbers."""
    return {
        name: value
        for name, value in row.items()
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }


def _epochs(wish: Wish, at: Workplace, commission: Commission) -> list[float]:
    """How often each source was read if the trainer reads evenly what it is given; none where sizes are not known."""
    if commission.data is None:
        sizes = [(size.weight, size.num_tokens) for size in source_sizes(at.storage.root, wish.run.shards)]
    else:
        sizes = [] if commission.unique_tokens is None else [(1.0, commission.unique_tokens)]
    return [expected_epochs(weight, tokens, wish.run) for weight, tokens in sizes]


def _floors(wish: Wish, at: Workplace, commission: Commission) -> dict[str, float]:
    """The unigram loss of the recipe's shards on each validation set of text, by digest; nats per token."""
    if commission.data is not None:
        return {}
    sources = at.view(wish.run.shards).sources
    found = unigram_probabilities([source.weight for source in sources], [source.unigram_counts for source in sources])
    floors = {}
    for digest, name in wish.validation.items():
        if name in wish.shards:
            documents = wish.shards[name].documents()
            tokens = np.concatenate([np.asarray(document[1:], dtype=np.int64) for document in documents])
            floors[digest] = -float(np.log(found[tokens]).mean())
    return floors


def _metrics(wish: Wish, result: CommandResult, floors: Mapping[str, float]) -> list[Row]:
    """Rows of the ledger: those after the last step, bits per byte and floors with them."""
    digests = {name: digest for digest, name in wish.validation.items()}
    rows: dict[tuple[str, str], Row] = {}

    def add(name: str, dataset: str, value: float, unit: str, direction: str = "lower-is-better") -> None:
        about = {"name": name, "dataset": digests[dataset], "dataset_name": dataset, "value": value}
        rows.setdefault((name, dataset), {**about, "unit": unit, "direction": direction})

    for row in (row for row in result.metrics if wish.step_of(row) == wish.run.settings.steps):
        if result.status == "diverged" and row.name in (LOSS, BITS_PER_BYTE):
            continue  # a diverged run has no last loss
        if row.name != LOSS:
            add(row.name, row.dataset, row.value, row.unit, row.direction)
            continue
        loss, tokens, size = (sum(column) for column in _columns(row, wish))
        add(LOSS, row.dataset, loss / tokens, row.unit)
        if size:
            add(BITS_PER_BYTE, row.dataset, loss / math.log(2) / size, "bits per byte")
        if digests[row.dataset] in floors:
            add("unigram-loss", row.dataset, floors[digests[row.dataset]], row.unit)
    return list(rows.values())


def _columns(row: ResultMetric, wish: Wish) -> tuple[list[float], list[int], list[int]]:
    """Summed loss, tokens and bytes of each document, or of all as one where the trainer gave their mean alone.

    Bytes of raystudy's own shards are the shards'; none: they are not known.
    """
    shard = wish.shards.get(row.dataset)
    sizes = None if shard is None else shard.document_bytes.tolist()
    if row.loss_sum is not None and row.num_tokens is not None:
        return [*row.loss_sum], [*row.num_tokens], sizes or [*(row.num_bytes or [0] * len(row.loss_sum))]
    if shard is None or sizes is None:
        return [row.value], [1], [0]
    tokens = int(shard.document_tokens.sum()) - shard.num_documents
    return [row.value * tokens], [tokens], [sum(sizes)]


def _write_evaluations(
    wish: Wish, result: CommandResult, at: Workplace, floors: Mapping[str, float], before: Record | None
) -> None:
    """Evaluations of the steps that are asked for, and of the last where the result itself does not say all.

    Losses that the record has from `before` stay as they are: a second evaluation could contradict them.
    """
    runs, run, last = at.storage.runs, wish.run, wish.run.settings.steps
    losses = {(row.dataset, wish.step_of(row)): row for row in result.metrics if row.name == LOSS}
    told = set() if before is None else {r["dataset"] for r in before.result["metrics"] if r["name"] == LOSS}
    for digest, name in wish.validation.items():
        for step in (*wish.steps, last):
            row, reading = losses.get((name, step)), Reading(step=step)
            about: Row = {"validation": digest, "step": step}
            if runs.read_evaluation(run.run_id, digest, reading) is not None or result.status == "out-of-memory":
                continue
            if result.status == "diverged" and (row is None or step == last):
                if step != last:
                    runs.write_evaluation(run.run_id, {**about, "status": "diverged"})
                continue
            assert row is not None, "a finished run has every loss that is asked for"
            if step == last and (digest in told or (row.loss_sum is None and before is None)):
                continue
            loss, tokens, size = _columns(row, wish)
            sums = {"loss_sum": loss, "num_tokens": tokens, "num_bytes": size}
            runs.write_evaluation(
                run.run_id, {**about, "unigram_loss": floors.get(digest), "trigram_loss": None, **sums}
            )
