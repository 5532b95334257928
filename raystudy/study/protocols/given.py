"""`known` and `table`: scores that are given, no runs. Lower is better; they stand for the primary metric."""

import numpy as np

from raystudy.artifacts.files import StoragePath
from raystudy.artifacts.score_table import read_score_table, table_path
from raystudy.compare.long_form import scores_of_cells
from raystudy.compare.scores import FloatArray, Scores
from raystudy.errors import DataError
from raystudy.specs.protocol import KnownProtocol, TableProtocol
from raystudy.study.protocols.base import Demand, ProtocolKind, Scored
from raystudy.study.state import PRIMARY_METRIC, StudyState
from raystudy.study.synthetic import best_achievable_loss, data_of, validation_data


class Known(ProtocolKind):
    """Scores written in the study file, or worked out for synthetic recipes; free of noise."""

    def __init__(self, name: str, spec: KnownProtocol) -> None:
        super().__init__(name)
        self.spec = spec

    def demand(self, state: StudyState) -> Demand:  # noqa: ARG002
        """No runs."""
        return Demand([])

    def scored(self, state: StudyState) -> list[Scored]:
        """One noise-free score per recipe; NaN for a recipe that has none."""
        given = self.spec.scores
        if isinstance(given, str):
            by_metric = _best_achievable(state)
        else:
            by_metric = {state.primary_metric: np.array([given.get(recipe, np.nan) for recipe in state.recipes])}
        scores = {
            metric: Scores(self.name, state.recipes, values[:, None], noise_free=True)
            for metric, values in by_metric.items()
        }
        return [Scored(self.name, self.spec.kind, scores)]


def _best_achievable(state: StudyState) -> dict[str, FloatArray]:
    """The lowest loss that the recipe's own best predictor can have on each validation set; metric to [recipe]."""
    study = state.study
    recipes = [data_of(study, recipe) for recipe in study.recipes]
    by_set = {
        name: np.array([best_achievable_loss(data, validation_data(study, name)) for data in recipes])
        for name in study.validation
    }
    by_metric = {f"{PRIMARY_METRIC}/{name}": losses for name, losses in by_set.items()}
    return {PRIMARY_METRIC: np.mean(list(by_set.values()), axis=0), **by_metric}


class Table(ProtocolKind):
    """Scores from a CSV, TSV or Parquet file with columns recipe, score and optionally protocol, seed and metric."""

    def __init__(self, name: str, spec: TableProtocol) -> None:
        super().__init__(name)
        self.spec = spec

    def demand(self, state: StudyState) -> Demand:  # noqa: ARG002
        """No runs."""
        return Demand([])

    def scored(self, state: StudyState) -> list[Scored]:
        """One column per seed of the table, averaged into one score."""
        scores = table_scores(table_path(self.spec.file), self.name, state.recipes, state.primary_metric)
        return [Scored(self.name, self.spec.kind, {state.primary_metric: scores})]


def table_scores(path: StoragePath, name: str, recipes: tuple[str, ...], metric: str) -> Scores:
    """The scores of protocol `name` for `recipes` from a table; NaN where it has none.

    Of a table with several protocols or metrics the rows of `name` and of `metric` count.

    Raises:
        DataError: the table cannot be read, or has no such rows.
    """
    rows = read_score_table(path)
    for noun, wanted in (("protocol", name), ("metric", metric)):
        there = sorted({value for row in rows if (value := getattr(row, noun)) is not None})
        if len(there) > 1 and wanted not in there:
            shown = ", ".join(map(repr, there[:20]))
            raise DataError(f"{path} must have rows whose {noun} is {wanted!r}, but its {noun}s are {shown}")
        rows = rows if len(there) < 2 else [row for row in rows if getattr(row, noun) == wanted]
    return scores_of_cells(name, {(row.recipe, row.seed or ""): row.score for row in rows}, recipes)[0]
