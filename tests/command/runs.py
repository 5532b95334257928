"""One run by the stub trainer, without a study around it."""

import sys
from pathlib import Path
from typing import Any

from raystudy.execute.work import RunReport, Task, do_task
from raystudy.specs.base import digest
from raystudy.specs.command import CommandEngine
from raystudy.specs.commission import Commission, ExternalPlace
from raystudy.specs.external import ExternalData
from raystudy.specs.model import ExternalModel
from raystudy.specs.reading import Asked
from raystudy.specs.run import COMMAND_NUMERICS, CommandRun
from raystudy.specs.schedules import Constant
from raystudy.specs.training import AdamW, RunSettings
from tests.command.studies import STUB


def held_out(name: str) -> str:
    """The digest of an external validation set."""
    return digest(ExternalData(role="validation set", version=name))


HELD = {held_out(name): name for name in ("held", "wiki")}


def a_run(seed: int = 0, steps: int = 4, **changes: Any) -> CommandRun:
    settings = RunSettings(
        steps=steps, batch_sequences=4, lr=0.01, schedule=Constant(kind="constant"), optimizer=AdamW(), clip=1.0
    )
    about = {"shards": digest(ExternalData(role="recipe", version="clean@1")), "version": "stub-1", "seed": seed}
    model = ExternalModel(kind="external", parameters=1000, context=8)
    numerics = {"kind": "train-command", "numerics": COMMAND_NUMERICS}
    return CommandRun(**{"settings": settings, "model": model, **about, **numerics, **changes})


def commission(*behaviour: str, metric: str = "loss", tokens: int | None = None, **engine: Any) -> Commission:
    command = (sys.executable, str(STUB), "{spec}", *behaviour)
    given = {"kind": "command", "version": "stub-1", "command": command, "folder": str(STUB.parent)}
    spec = CommandEngine(**{**given, "grace_seconds": 0.2, **engine})
    held = {name: ExternalPlace(path="", version=name) for name in HELD.values()}
    data = ExternalPlace(path="/data/clean", version="clean@1")
    return Commission(
        engine=spec, recipe="clean", model="small", data=data, held=held, metric=metric, unique_tokens=tokens
    )


def a_task(root: Path, how: Commission, run: CommandRun | None = None, held=HELD, asked: Asked | None = None) -> Task:
    told = () if asked is None else (asked.model_dump_json(),)
    runs = ((run or a_run()).model_dump_json(),)
    return Task(runs, str(root), held, asked=told, command=how.model_dump_json())


def make(root: Path, *behaviour: str, **engine: Any) -> RunReport:
    """The report of one run by the stub that behaves so."""
    (report,) = do_task(a_task(root, commission(*behaviour, **engine)))
    return report


def out_of(root: Path, run: CommandRun | None = None) -> Path:
    return root / "runs" / (run or a_run()).run_id / "work" / "out"
