"""Tasks for runs that commands make: each run is one, with all that its worker must know beside the run's identity."""

from collections.abc import Mapping, Sequence

from raystudy.execute.work import Task
from raystudy.specs.commission import commission_of
from raystudy.specs.run import CommandRun
from raystudy.specs.study import StudySpec
from raystudy.study.wanted import WantedRun


def split_commands(todo: Sequence[WantedRun]) -> tuple[list[WantedRun], list[WantedRun]]:
    """The runs that commands make, and those that raystudy makes itself."""
    commands = [run for run in todo if isinstance(run.run, CommandRun)]
    return commands, [run for run in todo if not isinstance(run.run, CommandRun)]


def make_command_tasks(
    todo: Sequence[WantedRun], root: str, validation: Mapping[str, str], study: StudySpec
) -> list[Task]:
    """A task for each run, in order."""
    return [
        Task(
            (run.run.model_dump_json(),),
            root,
            validation,
            study.resources_of(run.model).device,
            run.recipe,
            run.model,
            asked=(run.everything_asked.model_dump_json(),) if run.asks else (),
            command=commission_of(study, run.model, run.recipe).model_dump_json(),
            num_devices=study.resources_of(run.model).num_devices,
            cpus=study.resources_of(run.model).cpus_per_run,
            gpus=study.resources_of(run.model).gpus_per_run,
        )
        for run in todo
    ]
