"""Small studies whose runs a command makes, on data that raystudy never sees."""

import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

STUB = Path(__file__).with_name("stub_trainer.py")


def external_study(folder: Path, /, *behaviour: str, **engine: Any) -> Path:
    """A study file in `folder` whose trainer is the stub, copied beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STUB, folder / STUB.name)
    command = {"command": ["{python}", STUB.name, "{spec}", *behaviour]}
    trainer = {"kind": "command", "version": "stub-1", "grace_seconds": 0.2, **command, **engine}
    trainer = {key: value for key, value in trainer.items() if value is not None}
    recipes = [
        {"name": name, "kind": "external", "dimension": "corpus", "version": f"{name}@1", "path": f"/data/{name}"}
        for name in ("clean", "mixed", "noisy")
    ]
    space = {"lr": {"grid": [0.003, 0.01, 0.03]}}
    study = {
        "name": "foreign",
        "recipes": recipes,
        "validation": {name: {"source": {"kind": "external", "version": f"{name}@1"}} for name in ("held", "wiki")},
        "models": {
            "small": {"kind": "external", "parameters": 1000, "engine": trainer},
            "large": {
                "kind": "external",
                "parameters": 5000,
                "flops_per_token": 40_000,
                "context": 8,
                "settings": {"blocks": 3},
                "engine": trainer,
                "training": {"steps": 6},
            },
        },
        "training": {"steps": 4, "batch_tokens": 64, "schedule": {"kind": "constant"}},
        "protocols": {
            "truth": {"kind": "tuned", "model": "large", "space": space, "seeds": [0, 1]},
            "standard": {
                "kind": "standard-lr",
                "model": "small",
                "seeds": [0, 1],
                "lr": {"ratio": 1, "baseline": "clean", "space": space},
            },
        },
        "truth": "truth",
        "comparison": {"resamples": 100},
    }
    path = folder / "study.yaml"
    write_study(path, study)
    return path


def read_study(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(path))


def write_study(path: Path, study: dict[str, Any]) -> None:
    with path.open("w") as file:
        YAML(typ="safe").dump(study, file)
