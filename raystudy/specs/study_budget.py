"""What a study may cost in all, and what devices cost: the sections `budget` and `budget.prices` of a study file.

Hard, and part of no run's identity. Prices are the user's own, with the day they were looked up: none are shipped.
"""

import datetime
import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from raystudy.specs.base import Name, Spec

_CURRENCY = re.compile(r"[A-Z]{3}")
NO_PRICES = (
    "a budget of money needs prices, but there are none. Add `prices: {as_of: YYYY-MM-DD, cpu_core: ...}` (and `gpus: "
    "{H100: ...}` for runs on GPUs) to the budget, or bound device_hours instead"
)


def _check_day(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ValueError(f"must be a day as YYYY-MM-DD, but got {text!r}") from error


def _check_currency(text: str) -> str:
    if not _CURRENCY.fullmatch(text):
        raise ValueError(f"must be three capital letters (ISO 4217), such as EUR, but got {text!r}")
    return text


Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Prices(Spec):
    """What an hour of one device costs, in the budget's currency."""

    as_of: Annotated[str, AfterValidator(_check_day)] = Field(description="the day these prices were looked up")
    cpu_core: Price | None = Field(default=None, description="of one CPU core, for runs without a GPU")
    gpus: dict[Name, Price] = Field(
        default={},
        description="of one GPU, by a part of the name it gives itself, such as H100; the longest part that fits "
        "counts, and for a GPU that is not known yet the dearest",
    )

    def gpu(self, device_name: str = "") -> float:
        """Of a GPU called `device_name`: the longest name that is part of it, else the dearest."""
        fits = [name for name in self.gpus if name.lower() in device_name.lower()]
        return self.gpus[max(fits, key=len)] if fits else max(self.gpus.values(), default=0.0)


class StudyBudget(Spec):
    """The most that all runs of a study may take together, those on record included."""

    device_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="of GPUs, or of CPU cores for runs without one"
    )
    money: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(default=None, description="in `currency`")
    currency: Annotated[str, AfterValidator(_check_currency)] | None = Field(default=None, description="ISO 4217: EUR")
    prices: Prices | None = Field(default=None, description="without a limit in money: what `raystudy plan` shows")

    @model_validator(mode="after")
    def _is_whole(self) -> "StudyBudget":
        if self.device_hours is None and self.money is None and self.prices is None:
            raise ValueError("a budget must bound device_hours or money, but bounds nothing. Give one, or leave it out")
        if self.money is not None and self.prices is None:
            raise ValueError(NO_PRICES)
        if self.prices is not None and self.currency is None:
            raise ValueError("prices and money must say their currency, but do not. Add `currency: EUR` or another")
        return self
