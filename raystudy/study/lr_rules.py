"""From a learning-rate rule to a learning rate: absolute, or a ratio to a tuned one.

A rule that rests on a sweep is resolved only when every point of that sweep has ended, so that the order
of completion cannot change it.
"""

from dataclasses import dataclass

from raystudy.specs.base import round_significant
from raystudy.specs.protocol import LearningRateRule
from raystudy.specs.space import LR_DIGITS
from raystudy.study.state import StudyState, WantedRun
from raystudy.study.sweep import read_sweep


@dataclass(frozen=True)
class ResolvedRule:
    """A rule's learning rate, or why there is none yet, and the sweep it rests on.

    `edge`: the baseline's best learning rate is the last of its grid on that side.
    """

    lr: float | None
    baseline_runs: list[WantedRun]
    reason: str = ""
    edge: str | None = None


def describe_rule(rule: LearningRateRule) -> str:
    """The rule in words, for tables."""
    if rule.absolute is not None:
        return f"{rule.absolute:g}, absolute"
    factor = "" if rule.ratio == 1 else f"{rule.ratio:g} x "
    return f"{factor}the LR tuned on {rule.baseline!r}"


def resolve_rule(state: StudyState, model: str, rule: LearningRateRule, seeds: tuple[int, ...]) -> ResolvedRule:
    """Resolve `rule` for `model`; the protocol's own `seeds` serve the sweep where the rule names none."""
    if rule.absolute is not None:
        return ResolvedRule(round_significant(rule.absolute), [])
    assert rule.baseline is not None
    assert rule.space is not None
    assert rule.ratio is not None
    lrs, sweep_seeds = rule.space.lr.values(), rule.seeds or seeds
    runs = state.grid(model, [rule.baseline], lrs, sweep_seeds)
    sweep = read_sweep(state, model, rule.baseline, lrs, sweep_seeds)
    if not sweep.is_terminal:
        return ResolvedRule(None, runs, f"the sweep of {model!r} on baseline {rule.baseline!r}")
    if sweep.best_lr is None:
        return ResolvedRule(None, runs, f"a learning rate at which {model!r} on {rule.baseline!r} does not diverge")
    return ResolvedRule(round_significant(rule.ratio * sweep.best_lr, LR_DIGITS), runs, edge=sweep.edge)
