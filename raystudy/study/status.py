"""How far a study is, from what lies on its storage: counts, failures with their first cause, time left.

Knows nothing of drivers or processes: who holds the study, if anyone does, is told from outside.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raystudy.artifacts.records import failures_among
from raystudy.artifacts.results import Record
from raystudy.study.results import StudyResults
from raystudy.study.waves import make_wave, waiting_lines

FORMAT = "raystudy-status/1"


@dataclass(frozen=True)
class FailedRun:
    """A wanted run without a result that has been tried: how often, and why the first try failed."""

    run: str
    run_id: str
    num_attempts: int
    first_cause: str


@dataclass(frozen=True)
class Status:
    """A study at one moment.

    `missing` counts all wanted runs without a result, those that failed too; `waiting` are not wanted by name yet.
    `num_preemptions`: how often a run that is wanted was cut short by the loss of its node, as records and attempts
    tell. `device_time_used`: by device ("cpu", "cuda") the share of the driver's device time that ended runs used.
    `seconds_left`: of the driver that is running, None where none is or nothing has ended yet.
    """

    study: str
    driver: str | None
    wanted: int
    done: dict[str, int]
    missing: int
    failed: list[FailedRun]
    waiting: list[str]
    tokens_done: int
    tokens_wanted: int
    seconds_left: float | None
    num_preemptions: int = 0
    device_time_used: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"format": FORMAT, **asdict(self)}


def read_status(results: StudyResults, driver: str | None) -> Status:
    """The status of a study that `driver` holds (None: nobody), from its records and the driver's progress file."""
    state = results.state
    wave = make_wave(state)
    done = [run for run in wave.wanted.values() if state.is_done(run)]
    statuses = Counter(record.status for run in done if (record := state.record(run)) is not None)
    failed = []
    num_preemptions = sum(_num_preemptions(record) for run in done if (record := state.record(run)) is not None)
    tries = results.storage.runs.read_all_attempts([run.run_id for run in wave.todo], results.folder.compacted)
    for run in wave.todo:
        num_preemptions += sum(attempt.get("loss") == "preempted" for attempt in tries[run.run_id])
        failures = failures_among(tries[run.run_id])
        if failures:
            failed.append(FailedRun(str(run), run.run_id, len(failures), _cause(failures[0])))
    flops_left = sum(run.flops for run in wave.todo) + sum(item.flops for _, item in wave.waiting)
    progress = results.folder.read_progress() if driver is not None else {}
    speed, used = progress.get("flops_per_second"), progress.get("device_time_used")
    is_known = isinstance(speed, int | float) and speed > 0
    return Status(
        study=results.study.name,
        driver=driver,
        wanted=len(wave.wanted),
        done=dict(sorted(statuses.items())),
        missing=len(wave.todo),
        failed=failed,
        waiting=waiting_lines(wave),
        tokens_done=sum(run.run.num_tokens for run in done),
        tokens_wanted=sum(run.run.num_tokens for run in wave.wanted.values()),
        seconds_left=flops_left / float(speed) if is_known and speed is not None else None,
        num_preemptions=num_preemptions,
        device_time_used={str(k): float(v) for k, v in used.items()} if isinstance(used, Mapping) else {},
    )


def _num_preemptions(record: Record) -> int:
    return int(record.result.get("provenance", {}).get("num_preemptions", 0))


def _cause(attempt: Any) -> str:
    return str(attempt.get("cause", "unknown")) if isinstance(attempt, Mapping) else "unknown"
