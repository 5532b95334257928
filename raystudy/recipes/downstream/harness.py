"""Multiple-choice tasks of lm-evaluation-harness as questions: its own prompts, choices and right answers.

The harness makes them once, where the study is built; runs then answer the items on storage and need neither the
harness nor a hub. Its data come from the Hugging Face hub or that library's cache, or from local files that a task's
own YAML names. The YAML files of `include` may name Python code beside them, which the harness runs.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

from raystudy.errors import DataError, MissingPackageError
from raystudy.recipes.downstream.questions import Question
from raystudy.specs.downstream import HarnessTask


def harness_identity(task: HarnessTask) -> list[Any]:
    """What the questions depend on, as far as it can be known without the hub: the harness's version, own files.

    Raises:
        DataError: `include` is no folder.
        MissingPackageError: the harness is not installed.
    """
    return [_version(), [[path.name, _sha256(path)] for path in _included(task)]]


def harness_questions(task: HarnessTask) -> list[Question]:
    """The questions of the task's evaluation split, in its order.

    Raises:
        DataError: there is no such task, it is no multiple-choice task with one right answer, or its data cannot be
            had here.
        MissingPackageError: the harness is not installed.
    """
    _version()
    loaded = _load(task)
    if loaded.OUTPUT_TYPE != "multiple_choice" or loaded.multiple_target:
        kind = "several right answers" if loaded.multiple_target else f"outputs of type {loaded.OUTPUT_TYPE!r}"
        raise DataError(
            f"a task of the harness must be multiple-choice with one right answer, but {task.task!r} has {kind}. "
            f"Choose another"
        )
    loaded.set_config(key="num_fewshot", value=task.fewshot)
    loaded.set_fewshot_seed(seed=0)
    loaded.build_all_requests(limit=task.max_items)
    questions = []
    for _, group in groupby(loaded.instances, key=lambda instance: instance.doc_id):
        instances = list(group)
        doc = instances[0].doc
        texts = tuple(map(str, loaded.doc_to_choice(doc)))
        gold = loaded.doc_to_text(doc) if loaded.multiple_input else loaded.doc_to_target(doc)
        place = texts.index(gold) if isinstance(gold, str) and gold in texts else gold
        if not isinstance(place, int) or not 0 <= place < len(texts) or len(texts) < 2:
            continue  # an item without a right answer, as the harness counts none
        pairs = tuple((str(instance.args[0]), str(instance.args[1])) for instance in instances[: len(texts)])
        questions.append(Question(pairs, texts, place))
    if not questions:
        raise DataError(f"a task must have items with a right answer, but {task.task!r} of the harness has none")
    return questions


def _load(task: HarnessTask) -> Any:
    manager = None if task.include is None else _manager(task.include)
    if manager is None or task.task not in manager.all_subtasks:
        manager = _manager(None)
    if task.task not in manager.all_subtasks:
        raise DataError(
            f"`task` must be the name of a task of lm-evaluation-harness {_version()}, but got {task.task!r}. "
            f"`lm-eval ls subtasks` lists them; own YAML files go in the folder `include`"
        )
    try:
        loaded = manager.load(task.task)["tasks"][task.task]
        next(iter(loaded.eval_docs))
    except Exception as error:  # whatever the hub's client, a cache or the task's own code may raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the data of the harness's task {task.task!r} must be had from its hub, a cache or local files, but: "
            f"{first}. Build the study where the hub can be reached and copy the storage, set HF_HOME to a filled "
            f"cache, or give the items as a task of kind `jsonl`"
        ) from error
    return loaded


@lru_cache(maxsize=4)
def _manager(include: str | None) -> Any:
    """The harness's index of one folder's tasks, or of its own, of which there are thousands."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include, include_defaults=include is None)


def _version() -> str:
    try:
        return version("lm_eval")
    except PackageNotFoundError as error:
        raise MissingPackageError(
            "tasks of kind `harness` need lm-evaluation-harness, which is not installed; run: "
            "pip install 'raystudy[tasks]'"
        ) from error


def _included(task: HarnessTask) -> Iterator[Path]:
    """Every file in the folder `include`, at any depth."""
    if task.include is None:
        return
    folder = Path(task.include)
    if not folder.is_dir():
        raise DataError(f"`include` must be a folder of YAML files, but {folder} is none. Correct the path")
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} must be readable, but: {error.strerror or error}. Check its rights") from error
