"""Whether a study fits into its own budget, asked before it is handed to a cluster."""

from raystudy.artifacts.storage import Storage
from raystudy.errors import BudgetError
from raystudy.execute.frozen_data import find_data
from raystudy.specs.load import LoadedStudy
from raystudy.study.results import read_frozen, read_records
from raystudy.study.spending import over_budget, read_spending


def check_budget(loaded: LoadedStudy, storage: Storage) -> None:
    """See that what is missing of the study fits into what its budget has left; builds nothing.

    Raises:
        BudgetError: it does not, by the estimate that `raystudy plan` shows.
    """
    if loaded.spec.budget is None:
        return
    frozen = read_frozen(storage.study(loaded.spec.name))
    data = find_data(loaded, storage, frozen)
    state = read_records(storage, loaded.spec, data.before, frozen.rules)
    over = over_budget(read_spending(state, storage))
    if over:
        raise BudgetError(over)
