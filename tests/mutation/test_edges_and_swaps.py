"""The mutation test: a truth on the edge of its grid, and records swapped between two runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raystudy.artifacts.storage import Storage
from raystudy.artifacts.verification import verify
from raystudy.study.comparing import compare_study
from tests.mutation.instrument import KNOWN_TRUTH, instrument
from tests.planted import RECIPES, curved_loss, planted_state


def test_a_truth_on_its_grids_edge_is_flagged_and_the_twin_is_not():
    order = {name: 4.0 + 0.1 * place for place, name in enumerate(RECIPES)}
    seen, twin = (
        compare_study(planted_state(curved_loss(order, dict.fromkeys(RECIPES, best)))) for best in (1e-9, 1e-2)
    )
    assert seen["truth_guards"]["edge"] == list(RECIPES)
    assert "the truth is on its grid's edge on 8 recipes" in seen["verdict"]["sentence"]
    assert twin["truth_guards"]["edge"] == []
    assert "edge" not in twin["verdict"]["sentence"]


def without_seconds(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**entry, "cost": {k: v for k, v in entry["cost"].items() if "seconds" not in k}} for entry in entries]


def two_results(root: Path) -> tuple[Path, Path]:
    """Results of two runs that finished with different losses."""
    losses: dict[Path, float] = {}
    for path in sorted(root.glob("runs/*/result.json")):
        rows = [row for row in json.loads(path.read_text())["metrics"] if row["name"] == "loss"]
        if rows:
            losses[path] = rows[0]["value"]
    first, *others = losses
    return first, next(path for path in others if losses[path] != losses[first])


def swap(root: Path, fields: Callable[[dict[str, Any]], set[str]]) -> None:
    """Exchange these fields between two results."""
    first, second = two_results(root)
    one, other = json.loads(first.read_text()), json.loads(second.read_text())
    moved = fields(one)
    first.write_text(json.dumps({**one, **{name: other[name] for name in moved}}))
    second.write_text(json.dumps({**other, **{name: one[name] for name in moved}}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (lambda result: set(result), "must hold the result of run"),
        (lambda result: set(result) - {"run_id"}, "but its spec is that of run"),
    ],
    ids=["files", "files with their ids corrected"],
)
def test_records_swapped_between_two_runs_are_told_put_aside_and_made_again(fields, told, known, tmp_path):
    root = Path(shutil.copytree(known, tmp_path / "storage"))
    twin = instrument(KNOWN_TRUTH, root)
    assert (twin["made"], told in twin["said"]) == (0, False)
    swap(root, fields)
    seen = instrument(KNOWN_TRUTH, root)
    assert seen["said"].count(told) == 2
    assert seen["made"] == 2
    assert without_seconds(seen["comparisons"]) == without_seconds(twin["comparisons"])


def test_metrics_alone_swapped_between_two_runs_are_found_by_storage_verify(trained, tmp_path):
    root = Path(shutil.copytree(trained / "storage", tmp_path / "storage"))
    assert verify(Storage(root)).problems == []
    swap(root, lambda _: {"metrics"})
    problems = verify(Storage(root)).problems
    assert len(problems) == 2
    assert all("its sums give a loss of" in problem for problem in problems)
