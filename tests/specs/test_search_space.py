"""Search spaces in a study file: what is refused, and in which words."""

import re

import pytest

from raystudy.errors import SpecError
from raystudy.specs.load import load_study
from raystudy.specs.yaml_file import parse_yaml
from tests.study.test_points import space_of

BAD = {
    "lr={grid: [1e-3], choice: [1e-3]}": "exactly one of 'grid' and 'log_grid'",
    "lr={choice: [1e-3]}": "an axis of a grid has 'grid' or 'log_grid', but got 'choice' for lr",
    "weight_decay={uniform: {low: 0, high: 1}}": "but got 'uniform' for weight_decay",
    "weight_decay={grid: [-0.1]}": "weight_decay must be at least 0, but got -0.1",
    "beta2={grid: [0.9, 1.0]}": "beta2 must be at least 0 and under 1, but got 1",
    "warmup={grid: [1.5]}": "warmup must be at least 0 and at most 1, but got 1.5",
    "batch_tokens={grid: [64.5]}": "batch_tokens must be whole numbers",
    "batch_tokens={grid: [256, 100]}": "a multiple of the model's context, but got 100 and context 32",
    "warmup={grid: [0.1, 0.9]}": r"model 'target': warmup \+ decay <= 1 must hold, but got 0.9 \+ 0.2",
    "random={points: 5}": "an axis of a random space has 'choice' or 'uniform' or 'log_uniform', but got 'grid' for lr",
    "weigth_decay={grid: [0.1]}": "Did you mean 'weight_decay'",
}


@pytest.mark.parametrize("change", BAD)
def test_a_space_that_no_run_can_be_made_of_is_refused_in_words(change, root):
    with pytest.raises(SpecError, match=BAD[change]):
        load_study(root / "search_spaces" / "tiny.yaml", [f"protocols.truth.space.{change}"])


def test_random_feature_models_have_only_learning_rates_to_sweep(root):
    change = "protocols.truth.space.weight_decay={grid: [0.1]}"
    with pytest.raises(SpecError, match=r"space.weight_decay: a random-feature model has only learning rates"):
        load_study(root / "search_spaces" / "tiny-features.yaml", [change])


def test_a_space_refuses_what_it_cannot_give():
    many = {"grid": list(range(1, 99))}
    for space, words in (
        ({"lr": {"choice": [1e-3, 1e-2]}, "random": {"points": 5}}, "2 different points, but got 5"),
        ({"lr": {"log_uniform": {"low": 1e-3, "high": 1e-2}, "extend": 1}, "random": {"points": 5}}, "leave it out"),
        ({"lr": {"uniform": {"low": 0, "high": 1}}, "random": {"points": 5}}, "lr must be above 0"),
        ({"lr": {"grid": [1.0]}, "tokens": many, "batch_tokens": many, "weight_decay": many}, "at most 10000 points"),
    ):
        with pytest.raises(ValueError, match=words):
            space_of(space)


def test_the_spaces_in_the_docs_are_right(root):
    section = (
        (root / "docs" / "training.md").read_text().partition("## Sweeping other settings")[2].partition("\n## ")[0]
    )
    grid, random = (
        space_of(parse_yaml(block, "docs").data) for block in re.findall(r"```yaml\n(.*?)```", section, re.S)
    )
    assert len(grid.points()) == 5 * 2 * 2
    assert len(random.points()) == 24
