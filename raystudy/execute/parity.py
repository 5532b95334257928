"""Whether a study's reference trainer is the same thing as `train`: `raystudy parity`, answered here on this machine.

Both make short runs of the same specs, in a scratch folder: nothing of them is a record. torch is loaded here, in
functions. How a cluster answers is in distribute/parity.py.
"""

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from raystudy.artifacts.storage import Storage
from raystudy.errors import MissingPackageError, RaystudyError, SpecError
from raystudy.execute.first_cause import Cause
from raystudy.execute.groups import Group
from raystudy.execute.inputs import UNBUILT, find_inputs, mending, need_packages, text_recipes
from raystudy.execute.progress import Progress
from raystudy.execute.work import Task
from raystudy.execute.workplace import Workplace
from raystudy.recipes.build import build_recipe, build_validation
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun
from raystudy.specs.study import StudyDecoder, StudySpec
from raystudy.study.state import StudyState
from raystudy.study.waves import make_wave

if TYPE_CHECKING:
    from raystudy.reference.parity.cases import Case
    from raystudy.reference.parity.judging import OneProcess, Parity
    from raystudy.reference.parity.observed import Observed

ENTRY = (sys.executable, "-m", "raystudy.execute.parity_rank")
DEFAULT_STEPS = 20
_DEFAULT_RATE = 1e-3  # where every learning rate of the model waits for results
_PREFIX = "raystudy-parity-"


@dataclass(frozen=True)
class Question:
    """What is asked of one model: whether both trainers make the same of `run`, shortened to `steps`.

    `validation` maps a set's digest to its name.
    """

    model: str
    run: TrainRun
    engine: DeepSpeedEngine
    steps: int
    storage: Storage
    validation: Mapping[str, str]

    def task(self) -> Task:
        """What the reference's workers are given."""
        runs, group = (self.run.model_dump_json(),), self.engine.model_dump_json()
        return Task(
            runs, str(self.storage.root), self.validation, device=self.engine.device, model=self.model, group=group
        )


Answer = Callable[[Question, Progress], "Parity"]


def parities(
    study: StudySpec, storage: Storage, model: str | None, steps: int, progress: Progress, answer: Answer
) -> Iterator["Parity"]:
    """Compare both trainers on every model of engine deepspeed, or on the one that is named; `answer` trains.

    Raises:
        SpecError: there is none, or the one named is none, or the number of steps does not fit.
        MissingPackageError: what builds the data is not installed.
        RaystudyError: the reference's workers failed.
    """
    for name, engine in reference_models(study, model).items():
        yield answer(_question(study, storage, name, engine, steps, progress), progress)


def reference_models(study: StudySpec, model: str | None) -> dict[str, DeepSpeedEngine]:
    """The engines of the models to compare, by name.

    Raises:
        SpecError: there are none.
    """
    found: dict[str, DeepSpeedEngine] = {}
    others: dict[str, str] = {}
    for name, spec in study.models.items():
        if isinstance(spec, StudyDecoder) and isinstance(spec.engine, DeepSpeedEngine):
            found[name] = spec.engine
        else:
            others[name] = spec.engine.kind if isinstance(spec, StudyDecoder) else spec.kind
    if model is None and found:
        return found
    if model in found:
        return {model: found[model]}
    told = ", ".join(f"{name} (engine {kind})" for name, kind in others.items() if model in (None, name))
    what = f"--model must name a model of engine deepspeed ({', '.join(found) or 'there is none'})"
    if model is None:
        what = "a study must have a model of engine deepspeed to compare with train/"
    raise SpecError(
        f"{what}, but got {told or repr(model)}. Only what raystudy itself trains by several workers is compared: set "
        f"the model's engine to deepspeed"
    )


def _question(
    study: StudySpec, storage: Storage, name: str, engine: DeepSpeedEngine, steps: int, progress: Progress
) -> Question:
    from raystudy.reference.parity.cases import study_case

    run, recipe = short_run(study, storage, name)
    study_case(run, engine, steps)  # a number of steps that does not fit is told before anything is built
    need_packages("safetensors", "tokenizers")
    storage.prepare()
    run, validation = _with_data(study, storage, run, recipe, progress)
    progress.say(f"{name}: {steps} steps on {recipe}, first in one process")
    return Question(name, run, engine, steps, storage, validation)


def need_trainers() -> None:
    """See that both trainers can be loaded here.

    Raises:
        MissingPackageError: torch or DeepSpeed is not installed.
    """
    need_packages("torch")
    if find_spec("deepspeed") is None:
        raise MissingPackageError("deepspeed must be installed to compare with it. Install raystudy[deepspeed]")


def answer_here(question: Question, progress: Progress) -> "Parity":
    """Train in this process, then by workers on this machine, and compare.

    Raises:
        RaystudyError: the workers failed, with the first cause.
    """
    one = in_one_process(question)
    for case in one.cases:
        one.seen(case)
    one.release()
    tell_workers(question, progress)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        cause = start_workers(one.cases, question.storage, question.validation, folder)
        return one.judge(question.model, reference_seen(one.cases, folder, cause))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_one_process(
    question: Question, cases: Sequence["Case"] = (), seen: Mapping[str, "Observed"] | None = None
) -> "OneProcess":
    """`train`, ready to make the cases, or with what it has `seen` in them in another process."""
    from raystudy.reference.parity.cases import study_case
    from raystudy.reference.parity.judging import OneProcess

    at = Workplace(question.storage, question.validation, question.engine.device, {})
    study = study_case(question.run, question.engine, question.steps)
    return OneProcess(
        study, at.view(question.run.shards), at.documents(), question.engine.device, cases=cases, seen=seen
    )


def tell_workers(question: Question, progress: Progress) -> None:
    """Say that the reference's workers begin."""
    progress.say(f"{question.model}: the same by {question.engine.workers} workers under DeepSpeed")


def short_run(study: StudySpec, storage: Storage, model: str) -> tuple[TrainRun, str]:
    """A run of the model that the study wants, at a learning rate amid those wanted, and its recipe."""
    inputs = find_inputs(study, storage)
    state = StudyState(study, inputs, {})
    wanted = [
        each
        for each in make_wave(state).wanted.values()
        if each.model == model and isinstance(each.run, TrainRun) and each.run.starts_from is None
    ]
    built = [each for each in wanted if not inputs.shards[each.recipe].startswith(UNBUILT)]
    recipe = (built or wanted)[0].recipe if wanted else text_recipes(study)[0].name
    own = sorted((each for each in wanted if each.recipe == recipe), key=lambda each: each.lr or math.inf)
    chosen = own[len(own) // 2] if own else state.want(model, recipe, _DEFAULT_RATE, 0)
    assert isinstance(chosen.run, TrainRun)
    return chosen.run, recipe


def _with_data(
    study: StudySpec, storage: Storage, run: TrainRun, recipe: str, progress: Progress
) -> tuple[TrainRun, dict[str, str]]:
    """The run with its shards, and the validation sets by digest, built where they are not."""
    spec = next(each for each in text_recipes(study) if each.name == recipe)
    shards = mending(partial(build_recipe, spec, study.tokenizer, storage.root), progress)
    validation = {
        mending(partial(build_validation, each, study.tokenizer, storage.root), progress): name
        for name, each in study.validation.items()
    }
    return run.model_copy(update={"shards": shards}), validation


def reference_seen(cases: Sequence["Case"], folder: Path, cause: Cause | None) -> dict[str, "Observed"]:
    """What the reference's workers have left in `folder` of each case, by its name; `cause`: why they did not end well.

    Raises:
        RaystudyError: they failed.
    """
    from raystudy.reference.parity.observed import read_observed, without_memory

    if cause is not None and cause.kind == "out-of-memory":
        return {case.name: without_memory("by its workers") for case in cases}
    if cause is not None:
        raise RaystudyError(f"the reference's workers must make the short runs, but failed: {cause.words}")
    return {case.name: read_observed(folder, case.name) for case in cases}


def start_workers(
    cases: Sequence["Case"],
    storage: Storage,
    validation: Mapping[str, str],
    folder: Path,
    entry: Sequence[str] = ENTRY,
) -> Cause | None:
    """Let the engine's workers make the cases on this machine, each started by `entry`; what they see goes to `folder`.

    Returns:
        The first cause of that they did not; None where they did.
    """
    from raystudy.reference.parity.cases import write_cases

    write_cases(folder, cases)
    engine = cases[0].engine
    runs = tuple(case.run.model_dump_json() for case in cases)
    task = Task(runs, str(storage.root), validation, device=engine.device, group=engine.model_dump_json())
    with Group(task, (*entry, "--folder", str(folder))) as group:
        return group.wait()
