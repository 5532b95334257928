"""Which run's weights a probe reads: resolved from the protocol that a checkpoint names, and its records.

Knows nothing of probes, and reads no weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raystudy.specs.base import round_significant
from raystudy.specs.protocol import Checkpoint
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import KeptWeights, TrainRun
from raystudy.study.protocols.base import ProtocolKind, Scored
from raystudy.study.protocols.training_kinds import TRAINING_KINDS
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun


@dataclass(frozen=True)
class Unavailable:
    """Why there are no weights: what they wait for, or nothing where there will be none.

    `is_diverged`: the run they would be of has diverged.
    """

    waits_for: str = ""
    is_diverged: bool = False


def checkpoint_weights(state: StudyState, at: Checkpoint, recipe: str, seed: int) -> KeptWeights | Unavailable:
    """The weights at which the probe of `recipe` with `seed` is made, once the run that leaves them has ended."""
    scored, source = _scored(state, at), at.recipe or recipe
    if scored is None:
        return Unavailable(f"the learning rate of {at.protocol!r}")
    runs = [run for run in scored.runs.get(source, ()) if run.seed == seed]
    if not runs:
        row = scored.scores[state.primary_metric].restrict([source]).values
        if np.isposinf(row).all():
            return Unavailable(is_diverged=True)
        return Unavailable(f"every point of the sweeps of {at.protocol!r}")
    wanted, record = runs[0], state.record(runs[0])
    if record is None:
        return Unavailable(f"the runs of {at.protocol!r}")
    assert isinstance(wanted.run, TrainRun)
    steps = wanted.run.settings.steps
    step = at.step or (steps if wanted.reading is None else wanted.reading.step)
    if record.status == "out-of-memory" or (record.status == "diverged" and step >= steps):
        return Unavailable(is_diverged=record.status == "diverged")
    if step < steps:
        loss = state.loss(replace(wanted, reading=Reading(step=step)), state.primary_metric)
        if not np.isfinite(loss):
            return Unavailable(is_diverged=True) if np.isposinf(loss) else Unavailable(f"the runs of {at.protocol!r}")
    return KeptWeights(run_id=wanted.run_id, step=step)


def training_runs(state: StudyState, at: Checkpoint) -> Sequence[WantedRun]:
    """The runs that stand behind a checkpoint, tuning included: those of one recipe where it names one.

    They are to keep their weights after its step, those of a sweep while it is not known which will be read.
    """
    scored = _scored(state, at)
    read = {run.run_id for own in (() if scored is None else scored.runs.values()) for run in own}
    may_be = state.study.protocols[at.protocol].kind == "tuned"
    every = _protocol(state, at).demand(state).runs
    runs = [_kept_at(run, at) if run.run_id in read or (may_be and state.record(run) is None) else run for run in every]
    if at.recipe is None:
        return runs
    others = {} if scored is None else scored.runs
    unneeded = {run.run_id for name, own in others.items() if name != at.recipe for run in own}
    is_sweep = state.study.protocols[at.protocol].kind in ("tuned", "lr-ladder")
    return [run for run in runs if (run.recipe == at.recipe if is_sweep else run.run_id not in unneeded)]


def _kept_at(wanted: WantedRun, at: Checkpoint) -> WantedRun:
    """The run, asked for its weights after the checkpoint's step, if that comes before its last."""
    if at.step is None or not isinstance(wanted.run, TrainRun) or at.step >= wanted.run.settings.steps:
        return wanted
    return replace(wanted, asked=wanted.asked.joined(Asked(readings=(Reading(step=at.step),))))


def _protocol(state: StudyState, at: Checkpoint) -> ProtocolKind:
    spec = state.study.protocols[at.protocol]
    return TRAINING_KINDS[spec.kind](at.protocol, spec)


def _scored(state: StudyState, at: Checkpoint) -> Scored | None:
    """What the named protocol gives so far, the rung at the checkpoint's learning rate of a ladder."""
    every = state.once(("scored", at.protocol), lambda: _protocol(state, at).scored(state))
    lr = None if at.lr is None else round_significant(at.lr)
    return next((scored for scored in every if lr is None or scored.lr == lr), None)
