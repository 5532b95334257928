"""The paths that a study names and raystudy itself reads: of its text, tasks, tables, tokenizer and trainers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from raystudy.specs.downstream import HarnessTask, JsonlTask
from raystudy.specs.protocol import TableProtocol
from raystudy.specs.recipe import TextRecipe, TextSource
from raystudy.specs.study import StudySpec


@dataclass(frozen=True)
class Named:
    """A path that a study names: a file or pattern, a folder with all in it, or a trainer's folder."""

    what: str
    kind: Literal["files", "folder", "trainer"]
    path: str
    words: tuple[str, ...] = ()  # of a trainer's command: those that are files go along


def named_paths(study: StudySpec) -> Iterator[Named]:
    """All of them, in an order that depends on the study alone."""
    yield from _of_text(study)
    yield from _of_tasks(study)
    for name, protocol in study.protocols.items():
        if isinstance(protocol, TableProtocol):
            yield Named(f"protocol {name!r}", "files", protocol.file)
    if study.tokenizer != "embedded":
        yield Named("the tokenizer", "files", study.tokenizer)
    for name in study.models:
        engine = study.command_of(name)
        if engine is not None:
            yield Named(f"the trainer of model {name!r}", "trainer", engine.folder, tuple(engine.command or ()))


def _of_text(study: StudySpec) -> Iterator[Named]:
    for recipe in study.all_recipes:
        for name, source in recipe.sources.items() if isinstance(recipe, TextRecipe) else ():
            if isinstance(source, TextSource):
                yield from (Named(f"source {name!r} of recipe {recipe.name!r}", "files", f) for f in source.files)
    for name, validation in study.validation.items():
        if isinstance(validation.source, TextSource):
            yield from (Named(f"validation set {name!r}", "files", file) for file in validation.source.files)


def _of_tasks(study: StudySpec) -> Iterator[Named]:
    for name, task in study.tasks.items():
        if isinstance(task, JsonlTask):
            yield from (Named(f"task {name!r}", "files", file) for file in task.files)
        if isinstance(task, HarnessTask) and task.include is not None:
            yield Named(f"task {name!r}", "folder", task.include)
