"""Learning-rate schedules of a study file: what they are, not what they work out to (see `train/schedule.py`).

A part of a schedule is as long as a share of the run's steps says, or as a number of steps says.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raystudy.specs.base import Spec

Share = Annotated[float, Field(ge=0, le=1)]
StepCount = Annotated[int, Field(ge=0, lt=2**53)]  # what a JSON number holds exactly


class _Warmed(Spec):
    """A linear warm-up comes first; it reaches the peak at its last step."""

    warmup: Share = Field(default=0.05, description="share of the run's steps")
    warmup_steps: StepCount | None = Field(default=None, description="in place of `warmup`")

    @model_validator(mode="after")
    def _one_length_each(self) -> "_Warmed":
        for name in ("warmup", "decay"):
            given, default = getattr(self, name, None), getattr(type(self).model_fields.get(name), "default", None)
            if getattr(self, f"{name}_steps", None) is not None and given != default:
                raise ValueError(f"only one of {name} and {name}_steps may be given, but got {given:g} beside steps")
        return self

    def warmup_length(self, steps: int) -> int:
        """Steps of warm-up in a run of `steps`."""
        return round(self.warmup * steps) if self.warmup_steps is None else self.warmup_steps

    def check_fits(self, steps: int) -> None:
        """See that what is given in steps fits into a run of `steps`.

        Raises:
            ValueError: it does not.
        """
        if self.warmup_steps is not None and self.warmup_steps > steps:
            raise ValueError(
                f"the schedule must fit into the run, but got {self.warmup_steps} warm-up steps of {steps}"
            )


class WarmupStableDecay(_Warmed):
    """Warm-up, constant, decay to zero (Hu et al., arXiv 2404.06395).

    The decay is linear or 1 - sqrt(progress) (Haegele et al., arXiv 2405.18392).
    """

    kind: Literal["wsd"]
    decay: Share = Field(default=0.2, description="share of the run's steps")
    decay_steps: StepCount | None = Field(default=None, description="in place of `decay`")
    decay_shape: Literal["linear", "1-sqrt"] = "linear"

    @model_validator(mode="after")
    def _fits(self) -> "WarmupStableDecay":
        are_shares = self.warmup_steps is None and self.decay_steps is None
        if are_shares and self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay <= 1 must hold, but got {self.warmup:g} + {self.decay:g}")
        return self

    def decay_length(self, steps: int) -> int:
        """Steps of decay, the last, in a run of `steps`."""
        return round(self.decay * steps) if self.decay_steps is None else self.decay_steps

    def check_fits(self, steps: int) -> None:
        """See that warm-up and decay fit into a run of `steps`, where one is given in steps.

        Raises:
            ValueError: they do not.
        """
        warmup, decay = self.warmup_length(steps), self.decay_length(steps)
        if (self.warmup_steps, self.decay_steps) != (None, None) and warmup + decay > steps:
            raise ValueError(
                f"the schedule must fit into the run: warm-up steps + decay steps <= steps, "
                f"but got {warmup} + {decay} and {steps} steps"
            )


class Cosine(_Warmed):
    """Warm-up, then a cosine to `final` times the peak (Loshchilov & Hutter, arXiv 1608.03983)."""

    kind: Literal["cosine"]
    final: Share = 0.1


class Constant(_Warmed):
    """Warm-up, then the peak to the end."""

    kind: Literal["constant"]


class Linear(_Warmed):
    """Warm-up, then a straight line to `final` times the peak."""

    kind: Literal["linear"]
    final: Share = 0.0


Schedule = Annotated[WarmupStableDecay | Cosine | Constant | Linear, Field(discriminator="kind")]
