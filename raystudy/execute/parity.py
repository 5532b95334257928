"""Whether a study's reference trainer is the same thing as `train`, asked on this machine: `raystudy parity`.

Both make short runs of the same specs, in a scratch folder: nothing of them is a record. torch is loaded here, in
functions.
"""

import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
    from raystudy.reference.parity.judging import Parity
    from raystudy.reference.parity.observed import Observed

ENTRY = (sys.executable, "-m", "raystudy.execute.parity_rank")
DEFAULT_STEPS = 20
_DEFAULT_RATE = 1e-3  # where every learning rate of the model waits for results
_PREFIX = "raystudy-parity-"


def parities(
    study: StudySpec, storage: Storage, model: str | None, steps: int, progress: Progress
) -> Iterator["Parity"]:
    """Compare both trainers on every model of engine deepspeed, or on the one that is named.

    Raises:
        SpecError: there is none, or the one named is none, or the number of steps does not fit.
        MissingPackageError: torch or DeepSpeed is not installed.
        RaystudyError: the reference's workers failed.
    """
    chosen = reference_models(study, model)
    need_packages("torch", "safetensors", "tokenizers")
    if find_spec("deepspeed") is None:
        raise MissingPackageError("deepspeed must be installed to compare with it. Install raystudy[deepspeed]")
    for name, engine in chosen.items():
        yield _parity(study, storage, name, engine, steps, progress)


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


def _parity(
    study: StudySpec, storage: Storage, name: str, engine: DeepSpeedEngine, steps: int, progress: Progress
) -> "Parity":
    from raystudy.reference.parity.cases import study_case
    from raystudy.reference.parity.judging import OneProcess

    run, recipe = short_run(study, storage, name)
    study_case(run, engine, steps)  # a number of steps that does not fit is told before anything is built
    storage.prepare()
    run, validation = _with_data(study, storage, run, recipe, progress)
    at = Workplace(storage, validation, engine.device, {})
    progress.say(f"{name}: {steps} steps on {recipe}, first in one process")
    one = OneProcess(study_case(run, engine, steps), at.view(run.shards), at.documents(), engine.device)
    for case in one.cases:
        one.seen(case)
    one.release()
    progress.say(f"{name}: the same by {engine.workers} workers under DeepSpeed")
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        return one.judge(name, observe_reference(one.cases, storage, validation, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def observe_reference(
    cases: Sequence["Case"], storage: Storage, validation: Mapping[str, str], folder: Path
) -> dict[str, "Observed"]:
    """What the reference does in each case, by its name.

    Raises:
        RaystudyError: the workers failed, with the first cause.
    """
    from raystudy.reference.parity.observed import read_observed, without_memory

    cause = start_workers(cases, storage, validation, folder)
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
