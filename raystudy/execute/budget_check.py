"""Whether a study, or one launch of it, fits into the study's own budget, asked before it is handed to a cluster."""

from dataclasses import replace

from raystudy.artifacts.storage import Storage
from raystudy.errors import BudgetError, UnreadableError
from raystudy.execute.budget import Budget, Spending
from raystudy.execute.frozen_data import find_data
from raystudy.execute.local import num_cores
from raystudy.specs.load import LoadedStudy
from raystudy.study.results import read_frozen, read_records
from raystudy.study.spending import Cost, StudySpending, over_budget, read_spending, tried_seconds
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave


def check_budget(loaded: LoadedStudy, storage: Storage, launch: Budget | None = None) -> str:
    """See that what the `launch` may use fits into what the study's budget has left; builds nothing.

    Without limits of its own a launch may use all that is missing. Returns why that cannot be known here, where this
    machine does not see the storage: then the driver alone keeps to the budget; else an empty string.

    Raises:
        BudgetError: it does not fit, by the estimate that `raystudy plan` shows.
    """
    if loaded.spec.budget is None:
        return ""
    try:
        state = _read(loaded, storage) if storage.is_there else None
    except UnreadableError:
        state = None
    if state is None:
        return (
            f"what {storage.root} holds cannot be looked at from here, so that the budget was not checked; the driver "
            f"stops at it"
        )
    spending = read_spending(state, storage)
    over = over_budget(spending, measuring="`raystudy submit STUDY --max-runs 4`")
    if over and launch is not None and launch != Budget():
        over = _over_for(launch, state, storage, spending)
    if over:
        raise BudgetError(over)
    return ""


def _read(loaded: LoadedStudy, storage: Storage) -> StudyState:
    frozen = read_frozen(storage.study(loaded.spec.name))
    data = find_data(loaded, storage, frozen)
    return read_records(storage, loaded.spec, data.before, frozen.rules)


def _over_for(launch: Budget, state: StudyState, storage: Storage, spending: StudySpending) -> str | None:
    """Why such a launch must not start, which takes only runs that fit: it could start none, or asks for too much."""
    study, hours = state.study, launch.max_device_hours
    allowed = Spending(launch, study.resources, num_cores(), study.deepspeed_engines(), study.own_resources)
    allowed.tried = tried_seconds(state, storage)
    if not allowed.affordable(make_wave(state).todo, state):
        return f"something must fit into {allowed.words()}, but no run does. Raise the budget"
    missing = spending.missing
    if hours is None or launch.max_runs is not None or not spending.is_measured or not missing.device_hours:
        return None
    share = min(1.0, hours / missing.device_hours)
    asked = Cost(missing.device_hours * share, missing.money * share)
    return over_budget(replace(spending, missing=asked), f"what --max-device-hours {hours:g} allows")
