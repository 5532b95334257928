"""Runs that were cut short by no failure of their own: a node went, or has no room. They are made again, with a limit.

Counted apart from failures; the records of such runs tell how often (`num_preemptions`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from raystudy.artifacts.records import RunLedger
from raystudy.execute.progress import Progress
from raystudy.execute.work import MAX_PREEMPTIONS, RunReport, Task, attempt_of
from raystudy.study.wanted import WantedRun


class Losses:
    """Of one launch. `of_wave`: runs, by id, that this wave did not make and that are to be made again."""

    def __init__(self, ledger: RunLedger, progress: Progress) -> None:
        self._ledger, self._progress = ledger, progress
        self._preemptions: Counter[str] = Counter()
        self._moves: Counter[str] = Counter()
        self.of_wave: set[str] = set()

    @property
    def num_preemptions(self) -> int:
        """Of all runs."""
        return self._preemptions.total()

    def told(self, tasks: Sequence[Task]) -> list[Task]:
        """A wave begins with these tasks: they get to know how often their runs were preempted."""
        self.of_wave = set()
        if not self._preemptions:
            return list(tasks)
        counts = [{run.run_id: self._preemptions[run.run_id] for run in task.specs()} for task in tasks]
        return [
            replace(task, preemptions={run_id: n for run_id, n in count.items() if n})
            for task, count in zip(tasks, counts, strict=True)
        ]

    def count(self, run: WantedRun, report: RunReport) -> None:
        """A run has ended, or is lost; what tries of it took that its own task began again is kept."""
        if report.status != "failed":
            leave_tries(self._ledger, run, report)
        self._preemptions[report.run_id] += report.num_preemptions + (report.loss == "preempted")
        self._moves[report.run_id] += report.loss == "node-full"

    def may_go_on(self, run: WantedRun, report: RunReport) -> bool:
        """Whether the run of this report is made again; tells of it."""
        if not report.loss or max(self._preemptions[run.run_id], self._moves[run.run_id]) > MAX_PREEMPTIONS:
            return False
        self.of_wave.add(run.run_id)
        if report.loss != "not-begun":
            what = "preempted" if report.loss == "preempted" else "moved on"
            self._progress.say(f"{what}: {run}: {report.cause}; it is made again")
            self._ledger.write_attempt(run.run_id, {**attempt_of(str(run), report), "loss": report.loss})
        return True


def leave_tries(ledger: RunLedger, run: WantedRun, report: RunReport) -> None:
    """Note what tries of a run took that did not end as it did; they are no failures of it."""
    if report.tried_seconds:
        told = {"cause": report.note, "run": str(run), "seconds": report.tried_seconds, "begun_again": True}
        ledger.write_attempt(run.run_id, told)
