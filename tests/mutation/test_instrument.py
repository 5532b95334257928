"""The mutation test of the instrument: defects are planted one at a time, and a named guard catches each.

Every row says what is planted, in the real code path or on the storage, and which guard must see it; the same guard
must be silent on the twin without the defect. docs/guards.md has the table.
"""

import io
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raystudy.compare.figures
import raystudy.study.protocols.given
import raystudy.study.protocols.lr_ladder
import raystudy.train.run
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.verification import verify
from raystudy.compare.scores import Scores
from raystudy.errors import DataError
from raystudy.execute.local import InlineExecutor
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.recipes.sources import text
from raystudy.recipes.steps import STEPS
from raystudy.specs.load import load_study
from raystudy.study.comparing import compare_study
from raystudy.study.results import StudyResults
from raystudy.study.state import StudyState
from tests.mutation.known_truth import unrecovered
from tests.planted import RECIPES, curved_loss, planted_state

KNOWN_TRUTH = Path(__file__).with_name("known-truth.yaml")
Seen = dict[str, Any]


def instrument(path: Path, root: Path) -> Seen:
    """Run the study (what is done is not done again), compare it, and see what was said."""
    loaded, storage, said = load_study(path), Storage(root), io.StringIO()
    launch = run_study(loaded, storage, InlineExecutor, Progress(said))
    comparison = StudyResults(Storage(root), Storage(root).study(loaded.spec.name), loaded.spec).comparison_json
    return {**comparison, "said": said.getvalue(), "made": launch.num_made}


def without_seconds(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**entry, "cost": {k: v for k, v in entry["cost"].items() if "seconds" not in k}} for entry in entries]


# ---- Labels, signs, seeds: a study with a known truth. Runs are shared by all rows, so nothing trains twice.


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("known-truth")
    instrument(KNOWN_TRUTH, root)
    return root


@pytest.fixture(scope="module")
def known_twin(known) -> Seen:
    """The study seen again without any defect."""
    twin = instrument(KNOWN_TRUTH, known)
    assert twin["made"] == 0
    return twin


def next_recipe(state: StudyState, recipe: str) -> str:
    return state.recipes[(state.recipes.index(recipe) + 5) % len(state.recipes)]


def shuffle_what_runs_read(patch: pytest.MonkeyPatch) -> None:
    real = StudyState.want
    patch.setattr(
        StudyState,
        "want",
        lambda state, model, recipe, lr, seed: replace(
            real(state, model, next_recipe(state, recipe), lr, seed), recipe=recipe
        ),
    )


def shuffle_two_recipes_that_runs_read(patch: pytest.MonkeyPatch) -> None:
    real, swapped = StudyState.want, {"mix-0102": "mix-0120", "mix-0120": "mix-0102"}
    patch.setattr(
        StudyState,
        "want",
        lambda state, model, recipe, lr, seed: replace(
            real(state, model, swapped.get(recipe, recipe), lr, seed), recipe=recipe
        ),
    )


def shuffle_all_losses(patch: pytest.MonkeyPatch) -> None:
    real = StudyState.loss

    def loss(state, wanted, metric):
        other = next_recipe(state, wanted.recipe)
        return real(state, state.want(wanted.model, other, wanted.lr, wanted.seed), metric)

    patch.setattr(StudyState, "loss", loss)


def changed_scores(patch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    real = raystudy.study.protocols.lr_ladder.score_at

    def score_at(*arguments):
        scored = real(*arguments)
        scores = {m: Scores(s.name, s.recipes, change(s.values), s.runs_per_score) for m, s in scored.scores.items()}
        return replace(scored, scores=scores)

    patch.setattr(raystudy.study.protocols.lr_ladder, "score_at", score_at)


def changed_truth(patch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    real = raystudy.study.protocols.given._best_achievable
    patch.setattr(
        raystudy.study.protocols.given,
        "_best_achievable",
        lambda state: {metric: change(values) for metric, values in real(state).items()},
    )


def flip_all_losses(patch: pytest.MonkeyPatch) -> None:
    real = StudyState.loss
    patch.setattr(StudyState, "loss", lambda state, wanted, metric: -real(state, wanted, metric))


def flip_regret(patch: pytest.MonkeyPatch) -> None:
    real = raystudy.compare.figures.best_of_k
    patch.setattr(raystudy.compare.figures, "best_of_k", lambda truth, scores, k: real(truth, -scores, k))


def flip_correlations(patch: pytest.MonkeyPatch) -> None:
    real = raystudy.compare.figures.spearman
    patch.setattr(raystudy.compare.figures, "spearman", lambda truth, scores: real(truth, -scores))
    ranked = raystudy.compare.figures.rank_correlation
    patch.setattr(raystudy.compare.figures, "rank_correlation", lambda truth, scores: -ranked(truth, scores))


def turn_the_seeds_of_one_recipe(patch: pytest.MonkeyPatch) -> None:
    real = StudyState.grid

    def grid(state, model, recipes, lrs, seeds):
        names = list(recipes)
        return real(state, model, names, lrs, tuple(seeds)[::-1] if names == ["mix-0300"] else seeds)

    patch.setattr(StudyState, "grid", grid)


def contradiction(words: str) -> Callable[[Seen], bool]:
    """The guard `contradictions`: told with these words, and the verdict blocked."""
    return lambda seen: (
        any(words in told for told in seen["contradictions"]) and seen["verdict"]["outcome"] == "blocked"
    )


def known_truth(seen: Seen) -> bool:
    """The guard `known truth` (tests/mutation/known_truth.py)."""
    return unrecovered(seen) is not None


def unpaired(seen: Seen) -> bool:
    """The guard `unpaired`, on the truth or a candidate."""
    return any(guards["unpaired"] for guards in all_guards(seen))


def all_guards(seen: Seen) -> list[dict[str, list[str]]]:
    return [seen["truth_guards"], *(entry["guards"] for entry in seen["comparisons"])]


ROWS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[Seen], bool]]] = {
    "labels shuffled: what runs read": (shuffle_what_runs_read, contradiction("must read its data")),
    "labels shuffled: two recipes": (shuffle_two_recipes_that_runs_read, contradiction("must read its data")),
    "labels shuffled: one protocol's scores": (
        lambda patch: changed_scores(patch, lambda values: np.roll(values, 5, axis=0)),
        contradiction("must be the losses of their runs"),
    ),
    "labels shuffled: all losses": (shuffle_all_losses, known_truth),
    "labels shuffled: the truth": (lambda patch: changed_truth(patch, lambda values: np.roll(values, 5)), known_truth),
    "sign flipped: all losses": (flip_all_losses, contradiction("can be under")),
    "sign flipped: one protocol's scores": (
        lambda patch: changed_scores(patch, np.negative),
        contradiction("must be the losses of their runs"),
    ),
    "sign flipped: the truth": (lambda patch: changed_truth(patch, np.negative), known_truth),
    "sign flipped: regret": (flip_regret, contradiction("must give regret")),
    "sign flipped: correlations": (flip_correlations, contradiction("must give spearman")),
    "seeds not paired: one recipe's seeds in another order": (turn_the_seeds_of_one_recipe, unpaired),
}


@pytest.mark.parametrize("defect", ROWS)
def test_a_planted_defect_of_labels_signs_or_seeds_is_caught_and_its_twin_passes(defect, known, known_twin):
    plant, fires = ROWS[defect]
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        assert fires(instrument(KNOWN_TRUTH, known)), "the guard must fire"
    assert not fires(known_twin), "the guard must be silent on the twin"
    assert known_twin["contradictions"] == []


# ---- Paired starts and leaked text: decoders on own text, each of a few steps.

TEXT_STUDY = """
name: mutation-text
recipes:
  - {kind: text, name: a, dimension: corpus, sources: {s: {kind: text, files: [a.txt], holdout: 0.3}}}
  - {kind: text, name: b, dimension: corpus, steps: [{step: keep-best, share: 1}],
     sources: {s: {kind: text, files: [b.txt]}}}
  - {kind: text, name: c, dimension: corpus, sources: {s: {kind: text, files: [c.txt, extra.txt]}}}
validation:
  held: {source: {kind: text, files: [a.txt], holdout: 0.3}}
models:
  proxy: {kind: decoder, layers: 1, width: 8, heads: 1, context: 16}
training: {steps: 3, batch_tokens: 64}
protocols:
  truth: {kind: tuned, model: proxy, space: {lr: {grid: [1e-3, 1e-2]}}, seeds: [0]}
  reduced: {kind: reduced-lr, model: proxy, lr: 1e-3, seeds: [0]}
truth: truth
comparison: {resamples: 100}
"""


def own_text(folder: Path) -> Path:
    """The study and its files: words drawn at random, some 12 documents of 600 words each file."""
    generator = np.random.default_rng(3)
    words = ["".join(generator.choice(list("abcdefghijklmnopqrstuvwxyz"), 5)) for _ in range(400)]
    for name in ("a", "b", "c", "extra"):
        documents = [" ".join(generator.choice(words, 600)) for _ in range(12)]
        (folder / f"{name}.txt").write_text("\n\n".join(documents))
    (folder / "study.yaml").write_text(TEXT_STUDY)
    return folder / "study.yaml"


def held_documents(folder: Path) -> list[str]:
    """What the validation set holds."""
    documents = text.cut_into_documents((folder / "a.txt").read_text())
    return [document for document in documents if text.hash_share(document) < 0.3]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the text study, run without any defect."""
    folder = tmp_path_factory.mktemp("text")
    instrument(own_text(folder), folder / "storage")
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy of the files without a storage."""
    for path in trained.glob("*.*"):
        shutil.copy(path, tmp_path)
    return tmp_path


def start_at_other_weights(patch: pytest.MonkeyPatch) -> None:
    real, calls = raystudy.train.run.Decoder, itertools.count()
    patch.setattr(raystudy.train.run, "Decoder", lambda spec, seed: real(spec, 100 * next(calls) + seed))


def draw_samples_by_recipe(patch: pytest.MonkeyPatch) -> None:
    real, calls = raystudy.train.run.SampleStream, itertools.count()
    patch.setattr(
        raystudy.train.run,
        "SampleStream",
        lambda weights, windows, seed: real(weights, windows, 100 * next(calls) + seed),
    )


@pytest.mark.parametrize("plant", [start_at_other_weights, draw_samples_by_recipe])
def test_runs_that_are_not_paired_are_told_in_guards_and_verdict_and_the_twin_passes(plant, trained, folder):
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        seen = instrument(folder / "study.yaml", folder / "storage")
    assert all(guards["unpaired"] == ["a", "b", "c"] for guards in all_guards(seen))
    assert "starts or is fed unlike the other recipes" in seen["verdict"]["sentence"]
    twin = instrument(trained / "study.yaml", trained / "storage")
    assert twin["made"] == 0
    assert not unpaired(twin)
    assert "unlike" not in twin["verdict"]["sentence"]


def leak_by_a_step(folder: Path, patch: pytest.MonkeyPatch) -> str:
    """A step that puts validation text, in capitals, behind the documents it gets."""
    brought = "\n".join(held_documents(folder)).upper()
    patch.setitem(STEPS, "keep-best", lambda _, texts: [f"{one}\n{brought}" for one in texts])
    return "b"


def leak_by_a_copy(folder: Path, patch: pytest.MonkeyPatch) -> str:  # noqa: ARG001
    """A file that holds validation text with other blanks and case, so that no document is equal."""
    copied = "\n".join(held_documents(folder)).title().replace(" ", "   \t")
    (folder / "extra.txt").write_text(copied)
    return "c"


@pytest.mark.parametrize("plant", [leak_by_a_step, leak_by_a_copy])
def test_validation_text_in_a_built_recipe_blocks_the_verdict_and_the_twin_passes(plant, trained, folder):
    with pytest.MonkeyPatch.context() as patch:
        recipe = plant(folder, patch)
        seen = instrument(folder / "study.yaml", folder / "storage")
    assert {row["recipe"] for row in seen["leaked"]} == {recipe}
    assert all(guards["leaked"] == [recipe] for guards in all_guards(seen))
    assert seen["verdict"]["outcome"] == "blocked"
    assert f"{recipe!r} holds 100% of the documents of validation set 'held'" in seen["verdict"]["sentence"]
    assert "LEAKED" in seen["said"]
    twin = instrument(trained / "study.yaml", trained / "storage")
    assert twin["leaked"] == []
    assert twin["verdict"]["outcome"] != "blocked"


def test_a_source_that_keeps_its_held_out_documents_is_refused_by_check_disjoint(trained, folder, monkeypatch):
    real = text._read
    with monkeypatch.context() as patch:
        patch.setattr(
            text,
            "_read",
            lambda s, files, held: real(s if held else s.model_copy(update={"holdout": 0.0}), files, held),
        )
        with pytest.raises(DataError, match="no document may be both trained on and validated on"):
            instrument(folder / "study.yaml", folder / "storage")
    assert instrument(trained / "study.yaml", trained / "storage")["made"] == 0


# ---- The truth on its grid's edge: planted losses.


def test_a_truth_on_its_grids_edge_is_flagged_and_the_twin_is_not():
    order = {name: 4.0 + 0.1 * place for place, name in enumerate(RECIPES)}
    seen, twin = (
        compare_study(planted_state(curved_loss(order, dict.fromkeys(RECIPES, best)))) for best in (1e-9, 1e-2)
    )
    assert seen["truth_guards"]["edge"] == list(RECIPES)
    assert "the truth is on its grid's edge on 8 recipes" in seen["verdict"]["sentence"]
    assert twin["truth_guards"]["edge"] == []
    assert "edge" not in twin["verdict"]["sentence"]


# ---- Records swapped between two runs: edits of the storage.


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
