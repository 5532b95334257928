"""What is left of a group's task, and what is done after an attempt that did not make all of it.

A worker that died or hangs: again, from the newest checkpoint, `engine.max_failures` times a run; where no run had
begun the group counts it, and gives up all that is left. A preempted one: again, at most MAX_PREEMPTIONS times. Out of
memory: again with half the micro-batch where that is "auto", else a result that says so. An exception: once more, since
it may be the machine's; not when it comes again at the same step, or is one that a person must mend. What is given up
is final for the launch. Knows nothing of how a group is started.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from raystudy.artifacts.storage import open_storage
from raystudy.errors import RaystudyError
from raystudy.execute.decoder_work import check_same_end
from raystudy.execute.first_cause import Cause
from raystudy.execute.recording import Recording
from raystudy.execute.work import MAX_PREEMPTIONS, RunReport, Task, about_task, failed_report
from raystudy.execute.workplace import Workplace
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.reading import Asked
from raystudy.specs.run import TrainRun


class Attempts:
    """The runs of one group task. `reports`: of those that have ended."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._engine = DeepSpeedEngine.model_validate_json(task.group)
        self._runs = {run.run_id: run for run in task.specs() if isinstance(run, TrainRun)}
        self._asked = dict(zip(self._runs, task.asked_of(), strict=True))
        self._notes: list[str] = []  # of the run that is first now
        self._errors: list[tuple[str, int]] = []  # of that run: exceptions so far, with their steps
        self._failures: Counter[str] = Counter()
        self._start_failures = 0  # in a row, before any run had begun
        self._sequences: int | None = None  # of a micro-batch, where memory has made it smaller
        self._preemptions = Counter(task.preemptions)
        self._tried_seconds = 0.0  # of attempts at the run that is first now
        self.reports: list[RunReport] = []

    @property
    def left(self) -> Task | None:
        """The task for the next attempt; None when all runs have ended."""
        runs = [run for run_id, run in self._runs.items() if run_id not in self._ended()]
        if not runs:
            return None
        engine = self._engine
        if self._sequences is not None:
            engine = engine.model_copy(update={"micro_batch_tokens": self._sequences * runs[0].model.context})
        return replace(
            self._task,
            runs=tuple(run.model_dump_json() for run in runs),
            asked=tuple(self._asked[run.run_id].model_dump_json() for run in runs) if self._task.asked else (),
            micro_batch_tokens=engine.micro_batch_tokens,
            group=engine.model_dump_json(),
            notes=(*self._task.notes, *self._notes),
            preemptions=dict(self._preemptions),
        )

    def made(self, report: RunReport) -> None:
        """A run has ended."""
        if report.run_id not in self._runs or report.run_id in self._ended():
            return
        notes = [] if report.status == "failed" else [note for note in self._notes if note not in report.note]
        note = "; ".join([*([report.note] if report.note else []), *notes])
        times = self._preemptions[report.run_id] - self._task.preemptions.get(report.run_id, 0)
        tried, self._tried_seconds = self._tried_seconds, 0.0
        self.reports.append(replace(report, note=note, num_preemptions=times, tried_seconds=tried))
        self._notes, self._errors, self._start_failures = [], [], 0

    def begun_again(self, times: Mapping[str, int]) -> None:
        """Runs, by id, that were begun again so often after the loss of a node, without a new attempt."""
        self._preemptions.update(times)

    def _ended(self) -> set[str]:
        return {report.run_id for report in self.reports}

    def failed(self, cause: Cause, seconds: float = 0.0, *, has_begun: bool = True) -> None:
        """An attempt ended by `cause`, after so many seconds since the last run had ended.

        `has_begun`: it had come to train some run, as far as is known. Where it had not, the group cannot start.
        """
        run = next((run for run_id, run in self._runs.items() if run_id not in self._ended()), None)
        if run is None:
            return
        num_ended = len(self.reports)
        self._judge(run, cause, seconds, has_begun=has_begun)
        if len(self.reports) == num_ended:
            self._tried_seconds += seconds

    def _judge(self, run: TrainRun, cause: Cause, seconds: float, *, has_begun: bool) -> None:
        """Begin `run` again, or give it up."""
        if cause.kind == "preempted":
            self._preemptions[run.run_id] += 1
            if self._preemptions[run.run_id] > MAX_PREEMPTIONS:
                self._give_up(run, cause, seconds, all_left=False)
            else:
                self._note(f"{cause.words}; begun again from its newest checkpoint")
        elif cause.kind == "out-of-memory":
            self._out_of_memory(run, cause, seconds)
        elif cause.kind in ("refused", "node-full") or (cause.words, cause.step) in self._errors:
            self._give_up(run, cause, seconds, all_left=cause.is_unwritable or not cause.run_id)
        else:
            self._errors += [(cause.words, cause.step)] if cause.kind == "program" else []
            is_start = not has_begun and not cause.run_id
            self._start_failures = self._start_failures + 1 if is_start else 0
            self._failures[run.run_id] += not is_start
            if max(self._failures[run.run_id], self._start_failures) > self._engine.max_failures:
                self._give_up(run, cause, seconds, all_left=is_start)
            else:
                self._note(f"{cause.words}; begun again from its newest checkpoint")

    def _note(self, note: str) -> None:
        """Keep what the run's record is to tell, once however often it comes."""
        if note not in self._notes:
            self._notes.append(note)

    def _give_up(self, run: TrainRun, cause: Cause, seconds: float, *, all_left: bool) -> None:
        chosen = [run_id for run_id in self._runs if run_id not in self._ended()] if all_left else [run.run_id]
        for run_id in chosen:
            told = {"is_unwritable": cause.is_unwritable, "damaged": cause.damaged}
            told |= {"is_final": not cause.damaged}  # damaged shards are made anew for the next wave
            self.made(RunReport(run_id, "failed", 0, seconds / len(chosen), cause.words, **told))  # type: ignore[arg-type]

    def _out_of_memory(self, run: TrainRun, cause: Cause, seconds: float) -> None:
        share = -(-run.settings.batch_sequences // self._engine.workers)
        now = min(share, cause.rows or self._sequences or share)
        if self._engine.micro_batch_tokens == "auto" and now > 1:
            self._sequences = -(-now // 2)
            tried = f" with micro-batches of {now * run.model.context} tokens" if cause.rows else ""
            tokens = self._sequences * run.model.context
            self._note(f"out of memory{tried}; begun again with micro-batches of {tokens}")
            return
        try:
            self.made(RunReport(run.run_id, self._record_out_of_memory(run, cause.words), run.num_tokens, seconds))
        except RaystudyError as error:  # trained again it did not end as it had
            self.made(replace(failed_report(run.run_id, error, seconds), is_final=True))

    def _record_out_of_memory(self, run: TrainRun, words: str) -> str:
        """Leave a result that says so; the run's status. Of a run that is trained again the result stays as it is."""
        storage = open_storage(self._task.storage)
        storage.runs.mends = True
        about = about_task(replace(self._task, preemptions=dict(self._preemptions)), {}, run.run_id)
        at = Workplace(storage, self._task.validation, self._task.device, about, notes=self._notes)
        record = storage.runs.read(run.run_id, run=run)
        status = Recording(run, at, {}, Asked(), is_again=record is not None).out_of_memory(words)
        check_same_end(run, record, status)
        return status
