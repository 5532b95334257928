"""Learning-rate schedules as a factor of the peak. No torch, no state."""

import math

from raystudy.specs.schedules import Constant, Cosine, Linear, Schedule, WarmupStableDecay


def lr_factor(schedule: Schedule, step: int, steps: int) -> float:
    """The factor of the peak learning rate at `step` (from 0) of a run of `steps`.

    Warm-up rises linearly and reaches 1 at its last step. A cosine ends at `final`; a decay of WSD would reach 0 and
    a linear schedule `final` one step after the last.
    """
    warmup = schedule.warmup_length(steps)
    if step < warmup:
        return (step + 1) / warmup
    if isinstance(schedule, Constant):
        return 1.0
    if isinstance(schedule, Cosine):
        progress = (step - warmup) / max(1, steps - 1 - warmup)
        return schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * progress))
    if isinstance(schedule, Linear):
        return schedule.final + (1 - schedule.final) * (steps - step) / (steps - warmup)
    return _decay_factor(schedule, step, steps)


def _decay_factor(schedule: WarmupStableDecay, step: int, steps: int) -> float:
    decay, remaining = schedule.decay_length(steps), steps - step
    if not decay or remaining >= decay:
        return 1.0
    return remaining / decay if schedule.decay_shape == "linear" else 1 - math.sqrt(1 - remaining / decay)
