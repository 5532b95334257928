"""What becomes of the tasks of a wave: from what trials tell, or died of, to one report for each run.

A run whose node was lost has not failed. Where that is not known yet its report waits, while others go on.
"""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raystudy.distribute.node_loss import text_tells_loss
from raystudy.execute.work import RunReport, Task, failed_reports, lost_reports

_LONGEST = 200


@dataclass(frozen=True)
class _Death:
    task: Task
    error: str
    seconds: float  # that the task had gone on
    met: float


class Ends:
    """Of the tasks of one wave."""

    def __init__(self, ray: Any, tasks: Sequence[Task]) -> None:
        self._ray = ray
        self._left = {task.task_id: task for task in tasks}
        self._deaths: list[_Death] = []
        self._told_seconds = defaultdict[str, float](float)  # by task, in reports

    def told(self, task_id: str, reports: str, *, is_part: bool) -> list[RunReport]:
        """A trial's reports, as JSON; those that are new."""
        task = self._left.get(task_id)
        if task is None:
            return []
        left = {run.run_id for run in task.specs()}
        new = [report for report in (RunReport(**each) for each in json.loads(reports)) if report.run_id in left]
        rest = task.without({report.run_id for report in new})
        self._told_seconds[task_id] += sum(report.seconds + report.tried_seconds for report in new)
        if is_part and rest.runs:
            self._left[task_id] = rest
        else:
            del self._left[task_id]
        return new

    def died(self, task_id: str, error: str, seconds: float) -> None:
        """A trial has died of an error, which has this text, so long after its start; see `settled`."""
        task = self._left.pop(task_id, None)
        if task is not None:
            left = max(0.0, seconds - self._told_seconds[task_id])
            self._deaths.append(_Death(task, error, left, time.monotonic()))

    def vanished(self, task_ids: Sequence[str]) -> list[RunReport]:
        """Trials of these tasks ended and told nothing."""
        tasks = [self._left.pop(task_id) for task_id in task_ids if task_id in self._left]
        return [report for task in tasks for report in failed_reports(task, "the trial ended without a report")]

    def lacks(self, task_ids: Sequence[str]) -> bool:
        """Whether any of these tasks has not been told of to its end."""
        return any(task_id in self._left for task_id in task_ids)

    @property
    def has_deaths(self) -> bool:
        """Whether there are deaths that are not settled."""
        return bool(self._deaths)

    def settled(self) -> list[RunReport]:
        """Reports of the runs of those trials of which it is known now what they died of."""
        reports, deaths, self._deaths = list[RunReport](), self._deaths, []
        for death in deaths:
            is_loss = text_tells_loss(self._ray, death.error, time.monotonic() - death.met)
            if is_loss is None:
                self._deaths.append(death)
            elif is_loss:
                reports += lost_reports(death.task, "its node was lost", death.seconds)
            else:
                reports += failed_reports(death.task, _first_cause(death.error), death.seconds)
        return reports


def _first_cause(error: str) -> str:
    """In a line: of what a worker itself raised, the exception; else what Ray says first of a worker that is gone.

    Of a traceback Ray leaves frames, indented by two, and the exception below them; "Traceback" it replaces.
    """
    lines = [line for line in error.splitlines() if line.strip()]
    if not lines:
        return "the worker died"
    below_frames = [place for place, line in enumerate(lines, start=1) if line.startswith("  ")]
    place = below_frames[-1] if below_frames and below_frames[-1] < len(lines) else 0
    told = lines[place].strip()[:_LONGEST].rstrip(".")
    return f"the worker died: {told}"
