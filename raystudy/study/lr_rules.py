"""From a learning-rate rule to a learning rate: absolute, or a ratio to a tuned one.

A rule that rests on a sweep is resolved only when every point of that sweep has ended, so that the order
of completion cannot change it. A rule that was frozen keeps its learning rate.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raystudy.specs.base import canonical_json, digest, round_significant
from raystudy.specs.metrics import read_metric
from raystudy.specs.point import Changes, Point
from raystudy.specs.protocol import LearningRateRule, ReducedLrProtocol, StandardLrProtocol
from raystudy.specs.space import LR_DIGITS
from raystudy.study.extension import extended_grid
from raystudy.study.frozen import FrozenRule, RuleBasis, find_frozen
from raystudy.study.state import StudyState
from raystudy.study.sweep import Sweep, read_sweep
from raystudy.study.wanted import WantedRun


@dataclass(frozen=True)
class ResolvedRule:
    """A rule's learning rate, or why there is none yet, and the sweep it rests on.

    `edge`: the best point of that sweep is the last of its grid on that side. `fresh`: what its records say now, which
    a frozen rule does not follow. `most_more`: how many learning rates the sweep may still add. `changes`: the other
    settings that come with the learning rate.
    """

    lr: float | None
    baseline_runs: list[WantedRun]
    reason: str = ""
    edge: str | None = None
    fresh: FrozenRule | None = None
    basis: RuleBasis | None = None
    is_frozen: bool = False
    most_more: int = 0
    changes: Changes = ()

    @property
    def point(self) -> Point | None:
        """What the protocol's runs are made at."""
        return None if self.lr is None else Point(self.lr, self.changes)


def describe_rule(rule: LearningRateRule) -> str:
    """The rule in words, for tables."""
    if rule.absolute is not None:
        return f"{rule.absolute:g}, absolute"
    factor = "" if rule.ratio == 1 else f"{rule.ratio:g} x "
    chosen = "best on average over recipes" if rule.best_on_average else f"tuned on {rule.baseline!r}"
    carried = "" if rule.model is None else f" with model {rule.model!r}"
    settings = " and the other settings of that best point" if rule.with_settings else ""
    return f"{factor}the LR {chosen}{carried}{settings}"


def resolve_rule(state: StudyState, model: str, rule: LearningRateRule, seeds: tuple[int, ...]) -> ResolvedRule:
    """Resolve `rule` for a protocol of `model`; the protocol's own `seeds` serve the sweep where it names none."""
    if rule.absolute is not None:
        return ResolvedRule(round_significant(rule.absolute), [])
    return state.once(("rule", model, rule, seeds), lambda: _resolve(state, rule.model or model, rule, seeds))


def _resolve(state: StudyState, model: str, rule: LearningRateRule, protocol_seeds: tuple[int, ...]) -> ResolvedRule:
    assert rule.space is not None
    assert rule.ratio is not None
    recipes = list(state.headline) if rule.best_on_average else [str(rule.baseline)]
    seeds, on = rule.seeds or protocol_seeds, "all recipes" if rule.best_on_average else f"baseline {rule.baseline!r}"
    grid = extended_grid(state, model, recipes, rule.space, seeds)
    runs = state.grid(model, recipes, grid.points, seeds)
    sweeps = [read_sweep(state, model, recipe, grid.points, seeds, space=rule.space) for recipe in recipes]
    sweep = average_sweep(sweeps)
    basis = _basis(state, model, rule, recipes, seeds)
    fresh, reason = None, f"the sweep of {model!r} on {on}"
    if sweep.is_terminal and sweep.best_point is not None:
        lr = round_significant(rule.ratio * sweep.best_point.lr, LR_DIGITS)
        fresh = FrozenRule(lr, sweep.edge, basis, describe_rule(rule), sweep.best_point.changes)
    elif sweep.is_terminal:
        reason = f"a learning rate at which {model!r} on {on} does not diverge"
    frozen = find_frozen(state.frozen, basis)
    known = frozen or fresh
    if known is None:
        return ResolvedRule(None, runs, reason, basis=basis, most_more=grid.most_more)
    # Where a longer grid has shown the frozen learning rate to be inside, it is on no edge any more.
    edge = fresh.edge if fresh is not None and fresh.lr == known.lr else known.edge
    is_frozen, changes = frozen is not None, known.changes if rule.with_settings else ()
    return ResolvedRule(known.lr, runs, "", edge, fresh, basis, is_frozen, grid.most_more, changes)


def average_sweep(sweeps: Sequence[Sweep]) -> Sweep:
    """The mean over recipes as one sweep: at each point finite only if every run of every recipe is."""
    losses = np.concatenate([sweep.losses for sweep in sweeps], axis=1)
    return replace(sweeps[0], losses=losses, is_terminal=all(sweep.is_terminal for sweep in sweeps))


def _basis(
    state: StudyState, model: str, rule: LearningRateRule, recipes: Sequence[str], seeds: Sequence[int]
) -> RuleBasis:
    assert rule.space is not None
    run = json.loads(canonical_json(state.want(model, recipes[0], rule.space.lrs()[0], seeds[0]).run))
    for part in ("shards", "seed"):
        del run[part]
    del run["settings"]["lr"]
    fixed = {"run": run, "ratio": rule.ratio, "on_average": rule.best_on_average, "metric": state.primary_metric}
    metric = read_metric(state.primary_metric)
    if metric.is_task:
        fixed["items"] = state.inputs.tasks.get(metric.chosen)
    if not rule.space.is_plain or rule.space.random is not None:
        fixed["space"] = rule.space.model_copy(update={"lr": None}) if rule.space.random is None else rule.space
    return RuleBasis(
        fixed=digest(fixed),
        shards=tuple(sorted({state.inputs.shards[recipe] for recipe in recipes})),
        lrs=rule.space.lrs(),
        extend=rule.space.lr.extend,
        seeds=tuple(sorted(seeds)),
        validation=tuple(sorted(set(state.inputs.validation.values()))),
    )


def rules_of(state: StudyState) -> dict[str, ResolvedRule]:
    """Every rule of the study that rests on results, by protocol."""
    return {
        name: resolve_rule(state, spec.model, spec.lr, spec.seeds)
        for name, spec in state.study.protocols.items()
        if isinstance(spec, ReducedLrProtocol | StandardLrProtocol) and spec.lr.absolute is None
    }


def newly_resolved(state: StudyState) -> dict[str, FrozenRule]:
    """The rules that are resolved and not frozen yet, by their basis's digest."""
    resolved = [rule.fresh for rule in rules_of(state).values() if not rule.is_frozen and rule.fresh is not None]
    return {rule.basis.digest: rule for rule in resolved}


def without_rules_of(state: StudyState) -> dict[str, FrozenRule]:
    """What is frozen, less all that the study's rules go by now."""
    bases = [rule.basis for rule in rules_of(state).values() if rule.basis is not None]
    return {
        key: frozen
        for key, frozen in state.frozen.items()
        if not any(basis.has_grown_from(frozen.basis) for basis in bases)
    }


def drift(state: StudyState) -> list[str]:
    """A line for every rule whose frozen learning rate is not what the records say now."""
    return [
        f"{name}: the LR is frozen at {now.name}; resolved anew it would be {fresh.name} "
        f"(`raystudy run --resolve-again` changes it)"
        for name, now, fresh in _frozen_points(state)
        if fresh != now
    ]


def _frozen_points(state: StudyState) -> Iterator[tuple[str, Point, Point]]:
    """Of every frozen rule its protocol, the point it is frozen at, and the one that the records give now."""
    for name, rule in rules_of(state).items():
        if rule.is_frozen and rule.fresh is not None and rule.point is not None:
            spec = state.study.protocols[name]
            assert isinstance(spec, ReducedLrProtocol | StandardLrProtocol)
            yield name, rule.point, Point(rule.fresh.lr, rule.fresh.changes if spec.lr.with_settings else ())
