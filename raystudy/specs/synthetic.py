"""Synthetic domains: what a recipe of kind `synthetic` mixes, and what a random-feature model learns from.

An input x of a domain is normal in `inputs` dimensions with covariance eigenvalues gain * j^-exponent (their sum is
`gain`); its label is y = theta'x + noise. Only what is written in the file; `study/synthetic.py` holds the numbers
that follow from it. Knows nothing of training.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raystudy.specs.base import Name, Spec

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Domain(Spec):
    """One synthetic domain. The first domain of a study sets the scale of the teacher that all share."""

    exponent: NotNegative = Field(description="decay of the covariance's eigenvalues, j^-exponent")
    gain: Positive = Field(default=1.0, description="trace of the covariance")
    noise_variance: NotNegative = Field(default=0.1, description="of the labels")
    teacher_shift: NotNegative = Field(
        default=0.0, description="standard deviation of the change of each coordinate of the teacher, relative to it"
    )


class SyntheticDomains(Spec):
    """The study's synthetic domains; `draw` draws the teacher (its signs and shifts) anew."""

    inputs: int = Field(default=512, ge=2, le=2**16)
    draw: int = Field(default=0, ge=0, lt=2**31)
    domains: dict[Name, Domain] = Field(min_length=1)


class SyntheticData(Spec):
    """A mixture of domains, complete in itself: what stands for a synthetic recipe or validation set on storage.

    `weights` sum to 1 and stand in the order of `domains`; names are no part of it.
    """

    kind: Literal["synthetic"] = "synthetic"
    inputs: int
    draw: int
    domains: tuple[Domain, ...]
    weights: tuple[NotNegative, ...]

    @model_validator(mode="after")
    def _one_weight_per_domain(self) -> "SyntheticData":
        if len(self.weights) != len(self.domains):
            raise ValueError(
                f"every domain must have one weight, but {len(self.domains)} domains have {len(self.weights)} weights"
            )
        return self


def mixture(domains: SyntheticDomains, weights: dict[str, float]) -> SyntheticData:
    """The data of a recipe with these weights by domain's name; raises KeyError for a domain that is not there."""
    unknown = set(weights) - set(domains.domains)
    if unknown:
        raise KeyError(sorted(unknown)[0])
    total = sum(weights.values())
    return SyntheticData(
        inputs=domains.inputs,
        draw=domains.draw,
        domains=tuple(domains.domains.values()),
        weights=tuple(weights.get(name, 0.0) / total for name in domains.domains),
    )
