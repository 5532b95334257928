"""From the runs of a wave to tasks, the unit that is scheduled. Which runs share a task changes no result."""

from collections.abc import Mapping, Sequence

from raystudy.execute.work import Task
from raystudy.specs.run import TrainRun
from raystudy.study.state import WantedRun

MOST_TOGETHER = 200  # short runs in one task, so that a dead worker costs no more


def make_tasks(todo: Sequence[WantedRun], root: str, validation: Mapping[str, str], device: str) -> list[Task]:
    """Tasks in the order of their first runs: a decoder's run alone, random-feature runs on one recipe together."""
    groups: dict[tuple[str, int], list[WantedRun]] = {}
    counts: dict[str, int] = {}
    for run in todo:
        if isinstance(run.run, TrainRun):
            groups[run.run_id, 0] = [run]
            continue
        place = counts.get(run.run.shards, 0)
        counts[run.run.shards] = place + 1
        groups.setdefault((run.run.shards, place // MOST_TOGETHER), []).append(run)
    return [
        Task(
            tuple(member.run.model_dump_json() for member in members),
            root,
            validation,
            device,
            members[0].recipe,
            members[0].model,
        )
        for members in groups.values()
    ]
