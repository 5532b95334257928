"""How a launch went, and what is told of one that did not make all that was wanted."""

from dataclasses import dataclass, field

from raystudy.errors import BudgetError, IncompleteError


@dataclass
class Launch:
    """How a launch went. `causes` holds the last cause of every run that stayed without a result.

    `num_made`: runs that had no record when their wave began, or were made again; `num_evaluated`: those that had one
    and were given what it lacked.
    `budget`: the budget at which it stopped, in words; empty where it went on to the end. `num_left`: wanted runs
    that it left. `num_preemptions`: how often a run was cut short by the loss of its node, which is no failure.
    `device_time_used`: the share of device time that runs used, in words.
    """

    name: str
    num_wanted: int = 0
    num_done_before: int = 0
    num_made: int = 0
    num_evaluated: int = 0
    num_left: int = 0
    num_preemptions: int = 0
    device_time_used: str = ""
    budget: str = ""
    causes: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)

    def ended(self, *, has_record: bool, is_made: bool) -> None:
        """A run has its result. `has_record`: it had one when its wave began; `is_made`: as its report says."""
        if has_record and not is_made:
            self.num_evaluated += 1
        else:
            self.num_made += 1

    @property
    def is_complete(self) -> bool:
        """Whether every wanted run has its result."""
        return not self.causes and not self.waiting and not self.budget

    def raise_if_incomplete(self) -> None:
        """Raises BudgetError with how many runs are left, or IncompleteError that names what is missing and why."""
        if self.budget:
            raise BudgetError(
                f"stopped at the budget ({self.budget}): {self.num_left} wanted runs of {self.name!r} are left. "
                f"Finished runs are kept; run the study again to go on, with a higher `budget` where that of the study "
                f"is used up"
            )
        if not self.is_complete:
            lines = [f"  {run}: {cause}" for run, cause in self.causes.items()] + [f"  {w}" for w in self.waiting]
            raise IncompleteError(
                f"all wanted runs of {self.name!r} must have a result, but these have none. "
                f"Run the study again to try them again\n" + "\n".join(lines)
            )
