"""Executes tasks as trials of Ray Tune: a fresh Tuner per shape and block of tasks, never a restored one.

The ledger is the truth; Tune only places work. Actors are reused (a trial start costs seconds otherwise),
scheduling is first in, first out, and Tune writes no logs of its own. A trial's parameters show recipe,
model, learning rate and seed beside the run's id, so that Tune's own tools stay readable. The trial of a task that
several workers make takes next to nothing itself: it starts the workers (train_group.py) and waits for them.
"""

import json
import queue
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Self

from raystudy.distribute.cluster_nodes import possible_nodes, present_nodes
from raystudy.distribute.connection import connected, import_ray, need_train, set_up_process
from raystudy.distribute.group_places import TRIAL_CPUS, check_fits, num_at_once
from raystudy.distribute.shared_storage import NotSharedError
from raystudy.execute.first_cause import needs_mending
from raystudy.execute.gpus import check_gpus
from raystudy.execute.shapes import Shape, by_shape, shape_of_engine
from raystudy.execute.work import RunReport, Task, do_task, failed_report, failed_reports, settle_process
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import ProbeRun
from raystudy.specs.study import Resources

_REPORT = "raystudy_reports"

Work = Callable[[Task], list[RunReport]]
GroupWork = Callable[[Task, Callable[[RunReport], None]], list[RunReport]]

# Tasks of one Tuner: what Tune keeps of a trial (its state, placed and finished) grows with their number and is
# looked through on every event. Enough for each slot that the wait for a block's last task is a small part.
_MOST_TRIALS, _TRIALS_PER_SLOT = 200, 20

# How a trial ended: its task and the reports or the cause of death; an error of Tune itself; None: all have ended.
Ended = queue.Queue[tuple[str, list[RunReport] | str] | BaseException | None]


def run_trial(config: dict[str, Any], tasks: dict[str, str], work: Work) -> dict[str, Any]:
    """What a trial does: one task, whose reports are the trial's only result."""
    reports = work(Task(**json.loads(tasks[config["task"]["task_id"]])))
    settle_process()
    return {_REPORT: json.dumps([asdict(report) for report in reports])}


def run_group_trial(config: dict[str, Any], tasks: dict[str, str], attempts: dict[str, int], work: GroupWork) -> Any:
    """What the trial of a task of several workers does: runs of Ray Train, of which each worker calls `work`."""
    task = Task(**json.loads(tasks[config["task"]["task_id"]]))
    set_up_process()  # the nodes of a cluster that was there before us do not have our driver's environment
    try:
        from raystudy.distribute.train_group import train_group

        reports = train_group(task, attempts[task.task_id], work)
    except Exception as error:  # of this trial, which no attempt at the runs met: an unwritable storage, no ray[train]
        known = failed_reports(task, "")
        is_final = needs_mending(error)
        reports = [
            replace(failed_report(r.run_id, error), is_final=is_final) if r.status == "failed" else r for r in known
        ]
    return {_REPORT: json.dumps([asdict(report) for report in reports])}


def do_on_rank(task: Task, told: Callable[[RunReport], None]) -> list[RunReport]:
    """What each worker of a group does; loaded there only, since it needs torch."""
    from raystudy.execute.rank import make_on_rank

    return make_on_rank(task, told)


class TuneExecutor:
    """Makes tasks on the Ray cluster at `address` (None: see connection.py)."""

    def __init__(
        self,
        address: str | None,
        resources: Resources,
        *,
        is_storage_shared: bool = True,
        work: Work = do_task,
        group_work: GroupWork = do_on_rank,
    ) -> None:
        """`is_storage_shared`: the storage is named so that it can be the same on all nodes; `work` makes a task of one
        process, `group_work` is what each worker of a group calls (see `execute.rank.make_on_rank`)."""
        self._address, self._resources, self._work, self._group_work = address, resources, work, group_work
        self._attempts: Counter[str] = Counter()
        self._is_storage_shared = is_storage_shared
        self._open = ExitStack()

    def __enter__(self) -> Self:
        # Left in reverse: Ray ends before the folder goes that a Tuner may still be writing to.
        scratch = tempfile.TemporaryDirectory(prefix="raystudy-tune-", ignore_cleanup_errors=True)
        self._scratch = self._open.enter_context(scratch)
        ray = self._open.enter_context(connected(self._address))
        try:
            self._ray = ray
            nodes = [node for node in ray.nodes() if node["Alive"]]
            if len(nodes) > 1 and not self._is_storage_shared:
                raise NotSharedError(f"this Ray cluster has {len(nodes)} nodes")
            check_gpus(self._resources, int(ray.cluster_resources().get("GPU", 0)), "this Ray cluster")
            self._block = max(_MOST_TRIALS, int(_TRIALS_PER_SLOT * self._num_slots(ray.cluster_resources())))
        except BaseException:
            self._open.close()
            raise
        return self

    def _num_slots(self, resources: dict[str, float]) -> float:
        """Tasks that the cluster can hold at once."""
        asked = {"CPU": self._resources.cpus_per_run, "GPU": self._resources.gpus_per_run}
        return min(resources.get(name, 0.0) / amount for name, amount in asked.items() if amount)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def group_places(self, engine: DeepSpeedEngine) -> int:
        """How many groups of `engine` the cluster is asked for at once; at least one."""
        return self._num_at_once(shape_of_engine(engine))

    def _num_at_once(self, shape: Shape) -> int:
        nodes, _ = possible_nodes(self._ray)
        return num_at_once(shape, present_nodes(self._ray), nodes)

    def run(self, tasks: Sequence[Task]) -> Iterator[RunReport]:
        """A Tuner for each shape and block of its tasks, the largest shape first; reports come as trials end.

        Raises:
            SpecError: the cluster can never hold the workers of a task; nothing was started then.
            MissingPackageError: a task needs Ray Train, which is not installed.
        """
        shapes = by_shape(tasks)
        self._check(shapes)
        for shape, those in shapes:
            for first in range(0, len(those), self._block):
                yield from self._run_block(those[first : first + self._block], shape)

    def _check(self, shapes: Sequence[tuple[Shape, list[Task]]]) -> None:
        for shape, tasks in shapes:
            if shape.workers:
                need_train()
                nodes, may_grow = possible_nodes(self._ray)
                check_fits(shape, tasks[0], nodes, may_grow=may_grow)

    def _run_block(self, tasks: Sequence[Task], shape: Shape) -> Iterator[RunReport]:
        ended: Ended = queue.Queue()
        started: dict[str, float] = {}
        fit = threading.Thread(target=self._fit, args=(tasks, shape, ended, started), daemon=True)
        fit.start()
        left = {task.task_id: task for task in tasks}
        while (end := ended.get()) is not None:
            if isinstance(end, BaseException):
                raise end
            task_id, reports = end
            task = left.pop(task_id, None)
            if task is not None:
                yield from _died(task, reports, started) if isinstance(reports, str) else reports
        fit.join()
        for task in left.values():
            yield from _died(task, "the trial ended without a report", started)

    def _fit(self, tasks: Sequence[Task], shape: Shape, ended: "Ended", started: dict[str, float]) -> None:
        try:
            self._tuner(tasks, shape, ended, started).fit()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    def _tuner(self, tasks: Sequence[Task], shape: Shape, ended: "Ended", started: dict[str, float]) -> Any:
        import_ray()
        from ray import tune

        trainable, at_once = self._trainable(tasks, shape)
        return tune.Tuner(
            trainable,
            param_space={"task": tune.grid_search([_shown(task) for task in tasks])},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=at_once),
            run_config=tune.RunConfig(
                name="wave",
                storage_path=tempfile.mkdtemp(dir=self._scratch),
                verbose=0,
                callbacks=[_reporter(ended, started)],
            ),
        )

    def _trainable(self, tasks: Sequence[Task], shape: Shape) -> tuple[Any, int | None]:
        """What a trial does, with what it asks for, and how many may go on at once (None: as many as fit)."""
        from ray import tune

        by_id = {task.task_id: json.dumps(asdict(task)) for task in tasks}
        if not shape.workers:
            asked = {"cpu": self._resources.cpus_per_run, "gpu": self._resources.gpus_per_run}
            return tune.with_resources(tune.with_parameters(run_trial, tasks=by_id, work=self._work), asked), None
        attempts = {task_id: self._attempts[task_id] for task_id in by_id}
        self._attempts.update(by_id.keys())
        doing = tune.with_parameters(run_group_trial, tasks=by_id, attempts=attempts, work=self._group_work)
        return tune.with_resources(doing, {"cpu": TRIAL_CPUS}), self._num_at_once(shape)


def _shown(task: Task) -> dict[str, Any]:
    """What Tune shows of a task: its first run."""
    first, about = task.specs()[0], {"recipe": task.recipe, "model": task.model, "runs": len(task.runs)}
    if not isinstance(first, ProbeRun):
        about |= {"lr": first.settings.lr, "seed": first.seed, "steps": first.settings.steps}
    return {"task_id": first.run_id, **about}


def _died(task: Task, cause: str, started: dict[str, float]) -> list[RunReport]:
    now = time.monotonic()
    return failed_reports(task, cause, now - started.get(task.task_id, now))


def _reporter(ended: "Ended", started: dict[str, float]) -> Any:
    """A Tune callback that passes each trial's reports, or its first cause of death, to the loop; notes its start."""
    from ray.tune import Callback

    class Reporter(Callback):  # type: ignore[misc]
        def __init__(self, put: Callable[[tuple[str, list[RunReport] | str]], None]) -> None:
            self._put = put

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles its callbacks; no one unpickles this one

        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
            started[trial.config["task"]["task_id"]] = time.monotonic()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:  # noqa: ARG002
            if _REPORT in result:
                reports = [RunReport(**report) for report in json.loads(result[_REPORT])]
                self._put((trial.config["task"]["task_id"], reports))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
            self._put((trial.config["task"]["task_id"], _first_cause(trial)))

    return Reporter(ended.put)


def _first_cause(trial: Any) -> str:
    error = trial.get_error() if hasattr(trial, "get_error") else None
    text = str(error).strip() if error is not None else "the worker died"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the worker died: {lines[0][:200]}" if lines else "the worker died"
