"""Whether runs that are compared are paired: at one seed every recipe must start and be fed alike.

A decoder's first weights and the random streams behind its order of samples are functions of its seed alone, so the
loss before the first step and the record's `data_order` must be equal over recipes; where they are not, differences
between recipes hold the difference between two starts, and the intervals are wrong. Random-feature models all start
from a head of zero and draw their samples per recipe: of them only the seeds are compared.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun

# Relative. Rounding of fp32 sums is some 1e-7 (assumption: less than this between devices and library versions);
# two seeds of the smallest shipped decoders differ by 2e-5 to 6e-4 (measured on the tiny study).
_ROUNDING = 2e-6


def unpaired(state: StudyState, runs: Mapping[str, Sequence[WantedRun]]) -> list[str]:
    """Recipes of which a run starts or is fed unlike the runs of most recipes at the same place among their seeds."""
    named: set[str] = set()
    for place in range(max((len(members) for members in runs.values()), default=0)):
        column = {recipe: members[place] for recipe, members in runs.items() if place < len(members)}
        named |= _odd({recipe: run.seed for recipe, run in column.items()})
        results = {recipe: record for recipe, run in column.items() if (record := state.record(run)) is not None}
        orders = {recipe: record.result.get("data_order") for recipe, record in results.items()}
        named |= _odd({recipe: order for recipe, order in orders.items() if order is not None})
        for dataset in state.inputs.validation.values():
            starts = {recipe: record.metric("initial-loss", dataset) for recipe, record in results.items()}
            named |= _apart({recipe: start for recipe, start in starts.items() if start is not None})
    return [recipe for recipe in runs if recipe in named]


def _odd(values: Mapping[str, object]) -> set[str]:
    """Those whose value is not the most common one; all, if no value occurs twice."""
    counts = Counter(values.values())
    if len(counts) < 2:
        return set()
    common, count = counts.most_common(1)[0]
    return {name for name, value in values.items() if count == 1 or value != common}


def _apart(values: Mapping[str, float]) -> set[str]:
    """Those that differ from the median by more than rounding; all, if no two are alike."""
    if len(values) < 2:
        return set()
    middle = float(np.median(list(values.values())))
    apart = {name for name, value in values.items() if abs(value - middle) > _ROUNDING * abs(middle)}
    return apart if len(apart) < len(values) - 1 else set(values)
