"""Reads what a trainer of one's own left, and refuses what does not hold what its run is asked for.

Every refusal is one sentence that becomes the run's cause of failure. Knows nothing of processes or of the ledger.
"""

import contextlib
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from raystudy.artifacts.files import unreadable
from raystudy.artifacts.shards import TokenShard
from raystudy.errors import RaystudyError
from raystudy.specs.command_result import NATS, CommandResult, ResultMetric
from raystudy.specs.metrics import BITS_PER_BYTE, LOSS
from raystudy.specs.run import CommandRun

RESULT = "result.json"
_UNITS = {LOSS: NATS, "initial-loss": NATS, "unigram-loss": NATS, "trigram-loss": NATS, BITS_PER_BYTE: "bits per byte"}


@dataclass(frozen=True)
class Wish:
    """What a run's result must hold: losses on `validation` (digest to name), after its last step and after `steps`.

    `metric`: the rows that the study's primary metric rests on. `held`: names of the sets that raystudy does not hold;
    `shards`: the others, by name.
    """

    run: CommandRun
    validation: dict[str, str]
    steps: tuple[int, ...] = ()
    metric: str = LOSS
    held: frozenset[str] = frozenset()
    shards: Mapping[str, TokenShard] = field(default_factory=dict)

    def step_of(self, row: ResultMetric) -> int:
        """The step after which a number was measured."""
        return self.run.settings.steps if row.step is None else row.step


def read_result(path: Path, wish: Wish) -> CommandResult:
    """The result in `path`.

    Raises:
        RaystudyError: it is missing, torn, of another run, breaks the schema, or lacks what is asked. It is then kept
            as `refused-result.json`.
    """
    try:
        result = _parse(path)
        _check(result, wish)
    except RaystudyError as error:
        aside = put_aside(path)
        raise RaystudyError(f"{error}" + (f" (kept as {aside})" if aside else "")) from error
    return result


def put_aside(path: Path) -> Path | None:
    """Keep a result that does not count, so that the next attempt does not find it; None where there is none."""
    aside = path.with_name(f"refused-{path.name}")
    with contextlib.suppress(FileNotFoundError):
        path.replace(aside)
        return aside
    return None


def _parse(path: Path) -> CommandResult:
    try:
        value = json.loads(path.read_bytes(), parse_constant=_refuse)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise RaystudyError(
            f"{RESULT} must be whole JSON, but is torn or foreign ({error}). Write it under another name, "
            f"then rename it"
        ) from error
    try:
        return CommandResult.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        message = first["msg"].removeprefix("Value error, ")
        shown = repr(first["input"]) if first["type"] not in ("value_error", "missing") else ""
        raise RaystudyError(
            f"{RESULT} must keep to its schema (raystudy schema result), but {where}: {message}"
            + (f", got {shown[:80]}" if shown else "")
        ) from error


def _refuse(constant: str) -> None:
    raise ValueError(
        f"{constant} is no JSON: a run whose loss is not finite has the status diverged, and null stands in its curve"
    )


def _check(result: CommandResult, wish: Wish) -> None:
    """Raise RaystudyError for the first thing that does not fit the run."""
    for problem in _problems(result, wish):
        raise RaystudyError(f"{RESULT} {problem}")


def _problems(result: CommandResult, wish: Wish) -> Iterator[str]:
    if result.run_id != wish.run.run_id:
        yield f"must be of run {wish.run.run_id}, but is of {result.run_id!r}. Take run_id from spec.json"
    names, seen, last = list(wish.validation.values()), set[tuple[str, str, int]](), wish.run.settings.steps
    for row in result.metrics:
        key = (row.name, row.dataset, wish.step_of(row))
        if row.dataset not in names:
            yield f"must name validation sets of spec.json, but names {row.dataset!r}. {_closest(row.dataset, names)}"
        if key in seen:
            yield f"must hold each number once, but holds {row.name!r} on {row.dataset!r} after step {key[2]} again"
        if key[2] > last:
            yield f"must hold numbers of the run's {last} steps, but holds {row.name!r} after step {row.step}"
        unit = _UNITS.get(row.name, row.unit)
        if row.unit != unit or (row.name in _UNITS and row.direction != "lower-is-better"):
            yield f"must give {row.name!r} in {unit}, lower is better, but gives {row.unit!r}, {row.direction}"
        if row.dataset in wish.shards:
            yield from _unlike_shard(row, wish.shards[row.dataset])
        seen.add(key)
    if result.status == "finished":
        for step in (last, *wish.steps):
            yield from _lacking(result, wish, step)


def _unlike_shard(row: ResultMetric, shard: TokenShard) -> Iterator[str]:
    """Where a row's lists are not of the documents of raystudy's own shard: another tokenizer, or a token twice."""
    if row.loss_sum is not None and len(row.loss_sum) != shard.num_documents:
        yield (
            f"must give losses of all {shard.num_documents} documents of {row.dataset!r}, in their order, but gives "
            f"{len(row.loss_sum)}. Leave the lists out to give their mean alone"
        )
        return
    tokens, sizes = (shard.document_tokens - 1).tolist(), shard.document_bytes.tolist()
    for name, told, wanted in (("num_tokens", row.num_tokens, tokens), ("num_bytes", row.num_bytes, sizes)):
        for place, (came, right) in enumerate(zip(told or (), wanted, strict=False)):
            if came != right:
                yield (
                    f"must give {name} of {row.dataset!r} as its shard has them, but gives {came} instead of {right} "
                    f"for document {place} (of {shard.num_documents}, from 0). Score the shard's own tokens, every one "
                    f"after a document's first once"
                )
                return


def _lacking(result: CommandResult, wish: Wish, step: int) -> Iterator[str]:
    """The losses that a finished run must have after `step`."""
    rows = [row for row in result.metrics if wish.step_of(row) == step]
    when = "" if step == wish.run.settings.steps else f" after step {step}"
    having = {row.dataset for row in rows if row.name == LOSS}
    lacking = [name for name in wish.validation.values() if name not in having]
    if lacking:
        yield f"of a finished run must hold a 'loss' on every validation set, but lacks {', '.join(lacking)}{when}"
    if wish.metric == BITS_PER_BYTE:
        told = {row.dataset for row in rows if row.name == BITS_PER_BYTE and step == wish.run.settings.steps}
        told |= {row.dataset for row in rows if row.num_bytes and sum(row.num_bytes)}
        unknown = [name for name in wish.validation.values() if name in wish.held and name not in told]
        if unknown:
            yield (
                f"must hold {BITS_PER_BYTE!r}, on which the study's primary metric rests, but lacks it on "
                f"{', '.join(unknown)}{when}. Give each document's loss_sum, num_tokens and num_bytes"
            )


def _closest(word: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {matches[0]!r}?" if matches else f"Known: {', '.join(known)}"
