"""Which weights a score is read from: after which step, as they were or averaged, of the run or of a branch of it.

None of it is part of a run's identity but the branch, which is a run of its own.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from raystudy.specs.base import Spec

Step = Annotated[int, Field(ge=1, lt=2**53)]
Part = Annotated[float, Field(gt=0, le=1)]


class Average(Spec):
    """The mean of the weights after `points` evenly spaced steps, the last of them the step that is scored."""

    kind: Literal["average"]
    share: Part = Field(default=0.2, description="of the steps up to the scored one, the last, over which to average")
    points: int = Field(default=10, ge=1, le=1_000_000, description="how many weights are averaged, at most")

    def steps(self, last: int) -> tuple[int, ...]:
        """The steps after which weights are taken for a score after `last` steps; ascending."""
        window = max(1, round(self.share * last))
        count = min(self.points, window)
        return tuple(last - (count - 1 - place) * window // count for place in range(count))


class Ema(Spec):
    """A mean of the weights after every step, in which those of `half_life` steps ago count half as much."""

    kind: Literal["ema"]
    half_life: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="in steps; null: `share` of the scored step"
    )
    share: Part = 0.05

    def steps_to_half(self, last: int) -> float:
        """The half-life, in steps, for a score after `last` steps."""
        return self.half_life if self.half_life is not None else self.share * last


Readout = Annotated[Average | Ema, Field(discriminator="kind")]


def _named(value: Any) -> Any:
    """A plain name stands for the read-out with its defaults; the last weights are none."""
    if value == "last":
        return None
    return {"kind": value} if isinstance(value, str) else value


NamedReadout = Annotated[
    Readout | None,
    BeforeValidator(_named, json_schema_input_type=Readout | Literal["last", "average", "ema"] | None),
]


class Reading(Spec):
    """Weights of one run: after `step` of its steps, as they were where `readout` is null."""

    step: Step
    readout: Readout | None = None

    def __str__(self) -> str:
        return f"step {self.step}" + (f", {self.readout.kind}" if self.readout is not None else "")


class Asked(Spec):
    """What studies ask of a run besides an evaluation of its last weights.

    `checkpoints`: steps after which weights and optimizer are kept, for branches to start from.
    """

    readings: tuple[Reading, ...] = ()
    checkpoints: tuple[Step, ...] = ()

    def joined(self, other: "Asked") -> "Asked":
        """What both ask, each once, in order of step."""
        readings = {*self.readings, *other.readings}
        ordered = sorted(readings, key=lambda reading: (reading.step, str(reading.readout)))
        return Asked(readings=tuple(ordered), checkpoints=tuple(sorted({*self.checkpoints, *other.checkpoints})))


class Branch(Spec):
    """A run of its own, from weights and optimizer after step `at`, whose learning rate falls to 0 in `steps` steps."""

    at: Step
    steps: Step
    decay_shape: Literal["linear", "1-sqrt"] = "linear"


class Scoring(Spec):
    """How a protocol takes a score from the run it wants: at a step, from a read-out, or of a branch."""

    step: Step | None = None
    readout: Readout | None = None
    branch: Branch | None = None


class ScoredRun(Spec):
    """The fields of a protocol that choose its scoring. `at_steps` stands for one candidate per step."""

    step: Step | None = Field(default=None, description="score the weights after this step; default: the last")
    at_steps: Annotated[tuple[Step, ...], Field(min_length=1)] | None = Field(
        default=None, description="one candidate `<name>@step<k>` for each of these steps"
    )
    readout: NamedReadout = Field(default=None, description="last (default), average or ema, or one with its settings")
    branch: Branch | None = Field(default=None, description="score a decay branch of the run, a run of its own")

    @model_validator(mode="after")
    def _one_way(self) -> "ScoredRun":
        given = [name for name in ("step", "at_steps", "branch") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"at most one of step, at_steps and branch may be given, but got {' and '.join(given)}")
        if self.at_steps is not None and len(set(self.at_steps)) < len(self.at_steps):
            raise ValueError(f"the steps of at_steps must differ, but got {list(self.at_steps)}")
        return self

    @property
    def scoring(self) -> Scoring | None:
        """None where the last weights of the run itself are scored."""
        if self.step is None and self.readout is None and self.branch is None:
            return None
        return Scoring(step=self.step, readout=self.readout, branch=self.branch)
