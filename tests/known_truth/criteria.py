"""What must hold of the draws of search_spaces/random-features.yaml, each with its value and bound.

Works on the figures of `draw.figures_of` alone. Nothing here is fitted: a criterion that fails is told as one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

Figures = Mapping[str, Any]
Z2_BOUNDS = (0.6, 1.6)
TOLERANCE, STANDARD_ERRORS = 0.05, 3.0
HIGH, LOW, REORDERS, LIMIT, SERIOUS = 0.95, 0.75, 0.8, 0.03, 0.85


@dataclass(frozen=True)
class Criterion:
    """One statement: its value, its bound in words, whether it held. `judged` is false for what is only reported."""

    part: str
    statement: str
    value: str
    bound: str
    held: bool
    judged: bool = True

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def criteria(draws: Sequence[Figures], many_seeds: Sequence[Figures]) -> list[Criterion]:
    """All criteria over `draws`; `many_seeds` are {draw, seeds, mean_z2} of studies with at least 20 seeds."""
    return [*_recursion(draws, many_seeds), *_long(draws), *_small_rate(draws), *_nothing_lost(draws), *_flips(draws)]


def mean_over(draws: Sequence[Figures], pick: Callable[[Figures], float | None]) -> float:
    """Mean of one figure; NaN if a draw lacks it."""
    values = [pick(draw) for draw in draws]
    return float("nan") if any(value is None for value in values) else float(np.mean([v or 0.0 for v in values]))


def cells(draws: Sequence[Figures]) -> dict[tuple[str, float], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By (budget, LR): measured, predicted and standard error of the measured agreement, each [draw]."""
    found = {}
    for budget in ("short", "long"):
        for place, row in enumerate(draws[0]["ladders"][budget]):
            rows = [draw["ladders"][budget][place] for draw in draws]
            errors = [one["spread"] / np.sqrt(draw["num_seeds"]) for one, draw in zip(rows, draws, strict=True)]
            columns = [one["measured"] for one in rows], [one["predicted"] for one in rows], errors
            found[budget, row["lr"]] = tuple(np.array(column) for column in columns)
    return found


def _recursion(draws: Sequence[Figures], many_seeds: Sequence[Figures]) -> list[Criterion]:
    z2 = float(np.mean([one["mean_z2"] for one in many_seeds]))
    seeds = min(one["seeds"] for one in many_seeds)
    worst, where, outside, count = 0.0, "", 0, 0
    for (budget, lr), (measured, predicted, errors) in cells(draws).items():
        distance = np.abs(measured - predicted)
        outside += int((distance > np.maximum(TOLERANCE, STANDARD_ERRORS * errors)).sum())
        count += len(distance)
        whole = abs(float((measured - predicted).mean()))
        bound = max(TOLERANCE, STANDARD_ERRORS * float(np.sqrt((errors**2).sum())) / len(errors))
        if whole / bound >= worst:
            worst, where = whole / bound, f"{whole:.3f} of {bound:.3f} at {budget}@{lr:g}"
    by_chance = int(stats.binom.ppf(0.99, count, 2 * stats.norm.sf(STANDARD_ERRORS)))
    return [
        Criterion(
            "a",
            f"mean losses of recipes match the exact recursion: mean z^2, short budget, {seeds} seeds",
            f"{z2:.2f} (by draw: {', '.join(format(one['mean_z2'], '.2f') for one in many_seeds)})",
            f"{Z2_BOUNDS[0]} to {Z2_BOUNDS[1]}",
            seeds >= 20 and Z2_BOUNDS[0] <= z2 <= Z2_BOUNDS[1],
        ),
        Criterion(
            "a",
            "single-run agreement, mean over draws, is the predicted one at every (LR, steps): largest distance",
            where,
            "max(.05, 3 standard errors)",
            worst <= 1.0,
        ),
        Criterion(
            "a",
            "the same in every draw: cells outside max(.05, 3 standard errors)",
            f"{outside} of {count}",
            f"at most {by_chance} (99% of what chance gives)",
            outside <= by_chance,
        ),
    ]


def _long(draws: Sequence[Figures]) -> list[Criterion]:
    standard = {draw["standard_lr"] for draw in draws}
    places = range(len(draws[0]["ladders"]["long"]))
    means = {
        draws[0]["ladders"]["long"][place]["lr"]: mean_over(
            draws, lambda d, p=place: d["ladders"]["long"][p]["measured"]
        )
        for place in places
    }
    smaller = {lr: mean for lr, mean in means.items() if lr < min(standard)}
    best = max(smaller, key=lambda lr: smaller[lr])
    carried = mean_over(draws, lambda d: d["candidates"].get("long-standard"))
    tuned = mean_over(draws, lambda d: d["candidates"].get("long-tuned"))
    rho = mean_over(draws, lambda d: d["orders"]["long"]["rho_tuned_standard_measured"])
    lrs = ", ".join(f"{lr:g}" for lr in sorted(standard))
    return [
        Criterion(
            "b",
            f"long budget: single-run agreement at some LR smaller than the standard one (here {best:g})",
            f"{smaller[best]:.3f}",
            f">= {HIGH}",
            smaller[best] >= HIGH,
        ),
        Criterion(
            "b", f"long budget: the carried-over standard LR ({lrs})", f"{carried:.3f}", f"< {LOW}", carried < LOW
        ),
        Criterion("b", "long budget: tuned per recipe", f"{tuned:.3f}", f">= {HIGH}", tuned >= HIGH),
        Criterion(
            "b", "long budget: rho(tuned, carried-over standard LR)", f"{rho:.3f}", f"< {REORDERS}", rho < REORDERS
        ),
    ]


def _small_rate(draws: Sequence[Figures]) -> list[Criterion]:
    alignment = mean_over(draws, lambda d: d["small_rate"]["alignment"])
    limit = max(abs(d["small_rate"]["limit"] - d["small_rate"]["alignment"]) for d in draws)
    probe = max(abs(d["small_rate"]["alignment_in_study"] - d["small_rate"]["alignment"]) for d in draws)
    measured = mean_over(draws, lambda d: d["small_rate"]["smallest_measured"])
    lr = draws[0]["small_rate"]["smallest_lr"]
    return [
        Criterion(
            "c",
            "short budget: agreement of exact losses as LR -> 0 is that of gradient alignment: largest distance",
            f"{limit:.3f}",
            f"<= {LIMIT}",
            limit <= LIMIT,
        ),
        Criterion(
            "c",
            f"short budget: measured at LR {lr:g}, mean over draws, against gradient alignment",
            f"{measured:.3f} against {alignment:.3f}",
            f"within {LIMIT}",
            abs(measured - alignment) <= LIMIT,
        ),
        Criterion("c", "gradient alignment agrees poorly", f"{alignment:.3f}", f"< {LOW}", alignment < LOW),
        Criterion(
            "c", "the study's probe is the closed form: largest distance", f"{probe:.1e}", "<= 1e-9", probe <= 1e-9
        ),
    ]


def _nothing_lost(draws: Sequence[Figures]) -> list[Criterion]:
    found = []
    for budget in ("short", "long"):
        for kind in ("exact", "measured"):
            chosen = mean_over(draws, lambda d, k=kind, b=budget: d["orders"][b][f"best_on_average_{k}"])
            tuned = mean_over(draws, lambda d, k=kind, b=budget: d["orders"][b][f"tuned_{k}"])
            rho = mean_over(draws, lambda d, k=kind, b=budget: d["orders"][b][f"rho_tuned_best_on_average_{k}"])
            words = "expected losses" if kind == "exact" else "mean of all seeds"
            found.append(
                Criterion(
                    "d",
                    f"{budget} budget: against the best-on-average LR tuning gains nothing ({words})",
                    f"{chosen:.3f} against tuned {tuned:.3f}; rho of the two orders {rho:.3f}",
                    f"no more than {TOLERANCE} lower, rho >= {REORDERS}",
                    chosen >= tuned - TOLERANCE and rho >= REORDERS,
                )
            )
    for rival in ("decay", "average"):
        for budget in ("short", "long"):
            exact = mean_over(draws, lambda d, r=rival, b=budget: d["rivals"][b][f"{r}_exact"])
            single = mean_over(draws, lambda d, r=rival, b=budget: d["rivals"][b][f"{r}_single"])
            name = "decay to zero" if rival == "decay" else "average of the last half"
            found.append(
                Criterion(
                    "d",
                    f"{budget} budget: {name} at the standard LR is a serious rival",
                    f"single run {single:.3f}, expected losses {exact:.3f}",
                    f"single run >= {SERIOUS}",
                    single >= SERIOUS,
                )
            )
    return found


def _flips(draws: Sequence[Figures]) -> list[Criterion]:
    total = {key: sum(d["flips"][key] for d in draws) for key in ("pairs", "resolved", "predicted", "measured", "both")}
    found = []
    for name, key in (("precision", "predicted"), ("recall", "measured")):
        value = total["both"] / total[key] if total[key] else float("nan")
        each = [d["flips"][name] for d in draws if d["flips"][name] is not None]
        found.append(
            Criterion(
                "e",
                f"one-step flips from a common checkpoint: {name}",
                f"{value:.4f} ({total['both']} of {total[key]} flips, {total['resolved']} of {total['pairs']} pairs "
                f"resolved; lowest draw {min(each, default=float('nan')):.3f})",
                f">= {HIGH}",
                value >= HIGH,
            )
        )
    zero = {key: sum(d["flips_from_zero"][key] for d in draws) for key in draws[0]["flips_from_zero"]}
    found.append(
        Criterion(
            "e",
            "from a head of zero one step says nothing of many: flips predicted, and flips of exact losses",
            ", ".join(f"{key.replace('_', ' ')}: {count}" for key, count in zero.items()),
            "reported",
            True,
            judged=False,
        )
    )
    return found
