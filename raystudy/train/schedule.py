"""Learning-rate schedules as a factor of the peak. No torch, no state."""

import math

from raystudy.specs.training import Constant, Cosine, Schedule


def lr_factor(schedule: Schedule, step: int, steps: int) -> float:
    """The factor of the peak learning rate at `step` (from 0) of a run of `steps`.

    Warm-up rises linearly and reaches 1 at its last step; WSD decays linearly and would reach 0 one step
    after the last; cosine ends at `final`.
    """
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if isinstance(schedule, Cosine):
        progress = (step - warmup) / max(1, steps - 1 - warmup)
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if isinstance(schedule, Constant):
        return 1.0
    decay = round(schedule.decay * steps)
    remaining = steps - step
    return min(1.0, remaining / decay) if decay else 1.0
