"""The short runs that both trainers make for a comparison. Knows nothing of torch.

study       as the study says, in few steps
tiny rate   at a learning rate so small that only FP32 master weights move
probe       in FP32, with settings under which every known difference shows: unequal micro-batches and shares,
            gradients that are clipped, an epsilon and a decay that matter
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from raystudy.errors import SpecError
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import TrainRun
from raystudy.specs.schedules import Constant
from raystudy.specs.training import AdamW, RunSettings

STUDY, TINY, PROBE = "study", "tiny rate", "probe"
MOST_STEPS = 99  # every step of a run up to here has its row of the curve
_TINY_RATE, _TINY_STEPS = 1e-6, 4
_PROBE_STEPS = 6
_PROBE_RATE = 1e-3  # of AdamW, whose step this is
_DECAY_A_STEP = 1e-2  # share that a decaying weight loses in one step of the probe: ten times what AdamW moves it
_EPS_SHARE = 0.1  # the probe's epsilon over the root mean square of its clipped gradients
_CLIP_SHARE = 0.5  # the probe's largest norm over that of its first gradient
_ROWS = 2  # sequences of a micro-batch of the probe
_FILE = "cases.json"
_STEADY = Constant(kind="constant", warmup=0)


@dataclass(frozen=True)
class Case:
    """One short run for both trainers, and how the reference makes it."""

    name: str
    run: TrainRun
    engine: DeepSpeedEngine

    @property
    def asked(self) -> Asked:
        """The weights after the first step, beside the last."""
        return Asked(readings=(Reading(step=1), Reading(step=self.run.settings.steps)))

    @property
    def parts(self) -> list[list[tuple[int, int]]]:
        """Of each worker, first and one after the last sequence of each micro-batch that it takes of a batch."""
        batch, size, context = self.run.settings.batch_sequences, self.engine.workers, self.run.model.context
        largest = -(-batch // size)
        tokens = self.engine.micro_batch_tokens
        rows = largest if tokens == "auto" else min(largest, max(1, tokens // context))
        ends = [rank * batch // size for rank in range(size + 1)]
        return [
            [(first, min(first + rows, end)) for first in range(begin, end, rows)]
            for begin, end in itertools.pairwise(ends)
        ]


def in_one_process(run: TrainRun) -> TrainRun:
    """The run as `train` makes it: it has no bf16 working weights, and its nearest are bf16 products."""
    precision = "bf16-autocast" if run.precision == "bf16-master" else run.precision
    return run.model_copy(update={"engine": "torch", "precision": precision})


def study_case(run: TrainRun, engine: DeepSpeedEngine, steps: int) -> Case:
    """The study's own run, shortened to `steps`.

    Raises:
        SpecError: the number of steps is out of range, or the schedule does not fit into it.
    """
    if not 2 <= steps <= MOST_STEPS:
        raise SpecError(f"--steps must be from 2 to {MOST_STEPS}, but got {steps}")
    fields = {name: getattr(run.settings, name) for name in RunSettings.model_fields}
    try:
        settings = RunSettings(**{**fields, "steps": steps})
    except ValidationError as error:
        rule = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SpecError(f"{rule}. Raise --steps, or give warm-up and decay as shares of the run") from error
    return Case(STUDY, run.model_copy(update={"settings": settings, "starts_from": None}), engine)


def tiny_case(study: Case) -> Case:
    """A few steps at a tiny rate, else as the study says."""
    changed = {"steps": _TINY_STEPS, "lr": _TINY_RATE, "schedule": _STEADY}
    settings = study.run.settings.model_copy(update=changed)
    return Case(TINY, study.run.model_copy(update={"settings": settings}), study.engine)


def probe_rows(study: Case) -> int:
    """Sequences of a batch of the probe: the first worker has one fewer than the others, all have two micro-batches."""
    return 2 * _ROWS * study.engine.workers - 1


def probe_case(study: Case, gradient_norm: float, num_weights: int) -> Case:
    """The probe; `gradient_norm` is that of its first batch, before clipping, over all `num_weights`."""
    run, optimizer = study.run, study.run.settings.optimizer
    clip = _rounded(_CLIP_SHARE * gradient_norm)
    lr = _PROBE_RATE if isinstance(optimizer, AdamW) else run.settings.lr
    changed = {"weight_decay": _rounded(_DECAY_A_STEP / lr)}
    if isinstance(optimizer, AdamW):
        changed["eps"] = _rounded(_EPS_SHARE * clip / math.sqrt(num_weights))
    settings = run.settings.model_copy(
        update={
            "steps": _PROBE_STEPS,
            "batch_sequences": probe_rows(study),
            "lr": lr,
            "schedule": _STEADY,
            "optimizer": optimizer.model_copy(update=changed),
            "clip": clip,
        }
    )
    engine = study.engine.model_copy(update={"micro_batch_tokens": _ROWS * run.model.context})
    return Case(PROBE, run.model_copy(update={"settings": settings, "precision": "fp32"}), engine)


def _rounded(value: float) -> float:
    return float(f"{value:.1e}")


def write_cases(folder: Path, cases: Sequence[Case]) -> None:
    """Leave the cases in `folder`, for other processes."""
    plain = [
        {"name": case.name, "run": case.run.model_dump(mode="json"), "engine": case.engine.model_dump(mode="json")}
        for case in cases
    ]
    (folder / _FILE).write_text(json.dumps(plain), encoding="utf-8")


def read_cases(folder: Path) -> list[Case]:
    """What `write_cases` has left."""
    return [
        Case(each["name"], TrainRun.model_validate(each["run"]), DeepSpeedEngine.model_validate(each["engine"]))
        for each in json.loads((folder / _FILE).read_text(encoding="utf-8"))
    ]
