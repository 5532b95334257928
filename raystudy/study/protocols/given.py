"""`known` and `table`: scores that are given, no runs. Lower is better; they stand for the primary metric."""

from pathlib import Path

import numpy as np
import pandas as pd

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
    """Scores from a CSV file with columns recipe, score and optionally seed."""

    def __init__(self, name: str, spec: TableProtocol) -> None:
        super().__init__(name)
        self.spec = spec

    def demand(self, state: StudyState) -> Demand:  # noqa: ARG002
        """No runs."""
        return Demand([])

    def scored(self, state: StudyState) -> list[Scored]:
        """One column per seed of the table, averaged into one score."""
        scores = Scores(self.name, state.recipes, read_score_table(Path(self.spec.file), state.recipes))
        return [Scored(self.name, self.spec.kind, {state.primary_metric: scores})]


def read_score_table(path: Path, recipes: tuple[str, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Scores [recipe, seed] from a CSV file; NaN where the table has none.

    Raises:
        DataError: the file is missing, lacks a column, repeats a cell or holds a score that is no number.
    """
    try:
        frame = pd.read_csv(
            path, dtype={"recipe": str}, keep_default_na=False, na_values={"score": [""]}, index_col=False
        )
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must be a CSV file with columns recipe and score, but: {error}") from error
    lacking = {"recipe", "score"} - set(frame.columns)
    if lacking:
        raise DataError(f"{path} must have the columns recipe and score, but lacks {', '.join(sorted(lacking))}")
    score = pd.to_numeric(frame["score"], errors="coerce")
    wrong = frame.loc[score.isna() & frame["score"].notna(), "score"]
    if len(wrong):
        raise DataError(f"{path}: every score must be a number, but got {wrong.iloc[0]!r} in line {wrong.index[0] + 2}")
    frame = frame.assign(score=score, seed=frame["seed"] if "seed" in frame.columns else 0)
    repeated = frame[frame.duplicated(["recipe", "seed"])]
    if len(repeated):
        name = repeated.iloc[0]["recipe"]
        raise DataError(f"{path}: each recipe and seed must occur once, but {name!r} occurs again")
    wide = frame.pivot(index="recipe", columns="seed", values="score").reindex(list(recipes))
    return wide.to_numpy(dtype=np.float64)
