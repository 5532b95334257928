"""Plants records in a ledger: studies whose losses are known, without training anything."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from raystudy.artifacts.results import Record
from raystudy.specs.run import ProbeRun
from raystudy.specs.study import StudySpec
from raystudy.study.state import StudyInputs, StudyState
from raystudy.study.wanted import WantedRun
from raystudy.study.waves import make_wave

Loss = Callable[[WantedRun], float]
RECIPES = ("a", "b", "c", "d", "e", "f", "g", "h")
MEASURED = (("gradient-alignment", -1), ("preconditioned-gradient-cosine", -1), ("sharpness", 1), ("likeness", 1))
SPACE = {"lr": {"grid": [1e-3, 1e-2, 1e-1]}}


def study_spec(**changes: object) -> StudySpec:
    """A study of eight recipes: a tuned truth, a standard, a reduced LR and a ladder."""
    source = {"kind": "embedded", "domains": ["prose"]}
    rule = {"baseline": "a", "space": SPACE}
    data: dict[str, object] = {
        "name": "planted",
        "recipes": [
            {"name": name, "kind": "text", "dimension": "corpus", "sources": {"s": source}} for name in RECIPES
        ],
        "validation": {"p": {"source": source}, "q": {"source": source}},
        "models": {
            "proxy": {"kind": "decoder", "layers": 1, "width": 8, "heads": 1, "context": 8},
            "target": {"kind": "decoder", "layers": 1, "width": 16, "heads": 1, "context": 8},
        },
        "training": {"steps": 10, "batch_tokens": 64},
        "protocols": {
            "truth": {"kind": "tuned", "model": "target", "space": SPACE, "seeds": [0, 1, 2]},
            "standard": {"kind": "standard-lr", "model": "proxy", "lr": {"ratio": 1, **rule}, "seeds": [0, 1, 2]},
            "reduced": {"kind": "reduced-lr", "model": "proxy", "lr": {"ratio": 0.1, **rule}, "seeds": [0, 1, 2]},
            "ladder": {"kind": "lr-ladder", "model": "proxy", "space": SPACE, "seeds": [0, 1, 2]},
        },
        "truth": "truth",
        "comparison": {"contrast": ["reduced", "standard"], "resamples": 300},
    }
    return StudySpec.model_validate_json(json.dumps({**data, **changes}))


def synthetic_spec(**changes: object) -> StudySpec:
    """The same study with random-feature models on synthetic recipes."""
    places = range(len(RECIPES))
    data: dict[str, object] = {
        "recipes": [
            {"name": name, "kind": "synthetic", "dimension": "corpus", "weights": {"x": 1 + place, "y": 8 - place}}
            for place, name in zip(places, RECIPES, strict=True)
        ],
        "synthetic": {"inputs": 8, "domains": {"x": {"exponent": 1.2}, "y": {"exponent": 1.0, "teacher_shift": 0.5}}},
        "validation": {name: {"source": {"kind": "synthetic", "domain": name}} for name in ("x", "y")},
        "models": {
            "proxy": {"kind": "random-features", "features": 3, "training": {"steps": 5}},
            "target": {"kind": "random-features", "features": 4, "training": {"steps": 9}},
        },
        "training": None,
    }
    return study_spec(**{**data, **changes})


def inputs_of(study: StudySpec) -> StudyInputs:
    """Made-up digests."""
    shards = {recipe.name: f"shards-{recipe.name}" for recipe in study.recipes}
    return StudyInputs(shards, {name: f"validation-{name}" for name in study.validation}, vocabulary=32)


def record_of(wanted: WantedRun, loss: float, inputs: StudyInputs, floor: float = 9.0) -> Record:
    """A record that says `loss` on every validation set; an infinite loss is a diverged run."""
    if isinstance(wanted.run, ProbeRun):
        measured = {
            (name, getattr(wanted.run, "validation", wanted.run.shards)): sign * loss for name, sign in MEASURED
        }
        return Record(wanted.run_id, "finished", measured, {"seconds": {"total": 0.0}})
    status = "finished" if np.isfinite(loss) else "diverged"
    metrics = {("unigram-loss", digest): floor for digest in inputs.validation.values()}
    if status == "finished":
        metrics |= {("loss", digest): loss for digest in inputs.validation.values()}
    return Record(wanted.run_id, status, metrics, {"seconds": {"total": 2.0}, "epochs_per_source": [0.5]})


def planted_state(loss: Loss, study: StudySpec | None = None, floor: float = 9.0) -> StudyState:
    """The state after all waves, every run having ended with `loss`."""
    study = study or study_spec()
    inputs, records = inputs_of(study), {}
    while todo := make_wave(state := StudyState(study, inputs, records)).todo:
        records = {**records, **{run.run_id: record_of(run, loss(run), inputs, floor) for run in todo}}
    return state


def curved_loss(
    tuned: dict[str, float], best_lr: dict[str, float], curvature: float = 0.2, noise: float = 0.002, seed: int = 0
) -> Loss:
    """Loss = the recipe's tuned loss + curvature x (log10 distance from its best LR)^2 + seed noise."""

    def loss(run: WantedRun) -> float:
        draw = np.random.default_rng([seed, *run.run_id.encode()]).normal(0, noise)
        distance = 0.0 if run.lr is None else np.log10(run.lr) - np.log10(best_lr[run.recipe])
        return float(tuned[run.recipe] + curvature * distance**2 + draw)

    return loss


def write_study(folder: Path, text: str, name: str = "study.yaml") -> Path:
    """A study file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
