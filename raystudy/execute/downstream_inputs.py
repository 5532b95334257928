"""What a study's downstream tasks stand for on the storage: builds their items, or finds them built."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from raystudy.artifacts.files import is_folder
from raystudy.artifacts.items import open_items
from raystudy.artifacts.shards import tokens_size
from raystudy.artifacts.storage import Storage
from raystudy.errors import DamagedError, DataError, MissingPackageError
from raystudy.execute.inputs import UNBUILT, mending
from raystudy.execute.progress import Progress
from raystudy.recipes.downstream.build import build_task, find_task
from raystudy.recipes.downstream.harness import harness_identity
from raystudy.recipes.downstream.jsonl import jsonl_questions
from raystudy.specs.downstream import ContinuationTask, DownstreamTask, HarnessTask, JsonlTask
from raystudy.specs.study import StudySpec
from raystudy.study.inputs import StudyInputs


def with_tasks(
    inputs: StudyInputs, study: StudySpec, storage: Storage, progress: Progress | None = None
) -> StudyInputs:
    """The inputs with the digests of the tasks' items and the sizes of the validation sets.

    With `progress` what is not built is built; without, a stand-in takes its place.

    Raises:
        DataError: a task's items cannot be made; the message names the task.
    """
    if study.is_synthetic:
        return inputs
    make = _find if progress is None else partial(_build, progress=progress)
    tasks = {name: make(name, task, inputs, study, storage) for name, task in study.tasks.items()}
    sizes = {name: _size(storage, inputs.validation[name]) for name in study.text_validation}
    return replace(inputs, tasks=tasks, sizes={name: size for name, size in sizes.items() if size is not None})


def check_tasks(study: StudySpec) -> None:
    """See that the files of the study's tasks can be read; asks no hub.

    Raises:
        DataError: one cannot; the message names the task.
    """
    for name, task in study.tasks.items():
        with _naming(name):
            if isinstance(task, JsonlTask):
                jsonl_questions(task)
            elif isinstance(task, HarnessTask):
                harness_identity(task)


def mend_tasks(study: StudySpec, storage: Storage, inputs: StudyInputs, progress: Progress) -> None:
    """Build items anew that are gone from the storage or damaged.

    Raises:
        DataError: what is built anew is not what was there before.
    """
    built = with_tasks(inputs, study, storage, progress).tasks
    changed = [name for name, digest in inputs.tasks.items() if built[name] != digest]
    if changed:
        raise DataError(
            f"damaged items built anew must be what they were, but those of the tasks {', '.join(changed)} are not. "
            f"Run the study again: it then asks the new ones"
        )


def _set_of(task: DownstreamTask, inputs: StudyInputs) -> str:
    return inputs.validation.get(task.validation, UNBUILT) if isinstance(task, ContinuationTask) else ""


def _build(
    name: str, task: DownstreamTask, inputs: StudyInputs, study: StudySpec, storage: Storage, *, progress: Progress
) -> str:
    def build() -> str:
        digest = build_task(task, _set_of(task, inputs), study.tokenizer, storage.root)
        open_items(storage.root, digest)
        return digest

    with _naming(name):
        return mending(build, progress)


def _find(name: str, task: DownstreamTask, inputs: StudyInputs, study: StudySpec, storage: Storage) -> str:
    stand_in = f"{UNBUILT}task:{name}"
    try:
        with _naming(name):
            return find_task(task, _set_of(task, inputs), study.tokenizer, storage.root) or stand_in
    except MissingPackageError:
        return stand_in
    except DamagedError as error:
        storage.runs.damage.append(str(error))
        return error.path.name if is_folder(error.path) else stand_in


def _size(storage: Storage, digest: str) -> tuple[int, int] | None:
    if digest.startswith(UNBUILT):
        return None
    try:
        return tokens_size(storage.root, digest)
    except DamagedError:
        return None  # told where the shard itself is looked for


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except DamagedError:
        raise
    except DataError as error:
        raise DataError(f"task {name!r}: {error}") from error
