"""Executes tasks as trials of Ray Tune: a fresh Tuner per shape and block of tasks, never a restored one.

The ledger is the truth; Tune only places work. Tuners of several shapes run at once where the cluster has room: the
largest shape has what it can use, and smaller ones what that surely leaves (group_places.py), so that neither waits for
the other's last run and none can be kept from its places for good. A trial's parameters show recipe, model, learning
rate and seed beside the run's id, so that Tune's own tools stay readable. The trial of a task that several workers make
takes next to nothing itself: it starts the workers (train_group.py) and waits for them.
"""

import json
import os
import queue
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from raystudy.distribute.cluster_nodes import cluster_of, devices_of
from raystudy.distribute.connection import connected, import_ray, need_train, set_up_process
from raystudy.distribute.doubtful_nodes import DoubtfulNodes
from raystudy.distribute.ends import Ends
from raystudy.distribute.group_places import TRIAL_CPUS, Cluster, check_fits, num_at_once, num_groups, shares
from raystudy.distribute.lanes import Lane, Lanes
from raystudy.distribute.node_loss import node_of_text
from raystudy.distribute.shared_storage import NotSharedError
from raystudy.errors import RaystudyError
from raystudy.execute.first_cause import needs_mending
from raystudy.execute.gpus import check_gpus
from raystudy.execute.shapes import Shape, by_shape, shape_of_engine
from raystudy.execute.utilisation import Devices
from raystudy.execute.work import RunReport, Task, do_task, failed_report, failed_reports, settle_process
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.study import Resources

if TYPE_CHECKING:
    from raystudy.distribute.tune_lane import Events, Told

Work = Callable[[Task], list[RunReport]]
GroupWork = Callable[[Task, Callable[[RunReport], None]], list[RunReport]]

_LOOK_SECONDS = 1.0  # between looks at what nodes there are
_FIRST_SECONDS = 300.0  # for the first node that has a CPU
_PATIENCE_SECONDS = 1800.0  # for nodes to come back, when all have gone that could hold a shape that is left


def run_trial(config: dict[str, Any], tasks: dict[str, str], work: Work) -> dict[str, Any]:
    """What a trial does: one task, whose reports are the trial's only result."""
    reports = work(Task(**json.loads(tasks[config["task"]["task_id"]])))
    settle_process()
    return _told(reports)


def run_group_trial(
    config: dict[str, Any],
    tasks: dict[str, str],
    attempts: dict[str, int],
    work: GroupWork,
    avoid: tuple[str, ...] = (),
) -> Any:
    """What the trial of a task of several workers does: runs of Ray Train, of which each worker calls `work`.

    What becomes of a run is told as soon as it has ended. `avoid`: ids of nodes to place no workers on.
    """
    task = Task(**json.loads(tasks[config["task"]["task_id"]]))
    set_up_process()  # the nodes of a cluster that was there before us do not have our driver's environment
    try:
        from ray import tune

        from raystudy.distribute.train_group import train_group

        def tell(report: RunReport) -> None:
            tune.report({**_told([report]), "raystudy_is_part": True})

        reports = train_group(task, attempts[task.task_id], work, tell=tell, avoid=avoid)
    except Exception as error:  # of this trial, which no attempt at the runs met: an unwritable storage, no ray[train]
        known = failed_reports(task, "")
        is_final = needs_mending(error)
        reports = [
            replace(failed_report(r.run_id, error), is_final=is_final) if r.status == "failed" else r for r in known
        ]
    return _told(reports)


def _told(reports: Sequence[RunReport]) -> dict[str, Any]:
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    return {"raystudy_reports": json.dumps([asdict(report) for report in reports]), "raystudy_node": node}


def do_on_rank(task: Task, told: Callable[[RunReport], None]) -> list[RunReport]:
    """What each worker of a group does; loaded there only, since it needs torch."""
    from raystudy.execute.rank import make_on_rank

    return make_on_rank(task, told)


class TuneExecutor:
    """Makes tasks on the Ray cluster at `address` (None: see connection.py)."""

    def __init__(
        self,
        address: str | None,
        resources: Sequence[Resources],
        *,
        is_storage_shared: bool = True,
        work: Work = do_task,
        group_work: GroupWork = do_on_rank,
    ) -> None:
        """`resources`: what runs of one process may take; `is_storage_shared`: the storage is named so that it can be
        the same on all nodes; `work` makes a task of one process, `group_work` is what each worker of a group calls
        (see `execute.rank.make_on_rank`)."""
        self._address, self._resources, self._work, self._group_work = address, resources, work, group_work
        self._attempts: Counter[str] = Counter()
        self._is_storage_shared = is_storage_shared
        self._open = ExitStack()
        self._full_nodes: set[str] = set()
        self._doubtful, self._avoided = DoubtfulNodes(), set[str]()
        self._had_room: set[Shape] = set()
        self._had_nodes: dict[Shape, float] = {}  # when there was last a node for a task of the shape
        self._num_waves, self._drawn = 0, secrets.token_hex(4)  # parts of names that Ray never sees twice

    def __enter__(self) -> Self:
        # Left in reverse: Ray ends before the folder goes that a Tuner may still be writing to.
        scratch = tempfile.TemporaryDirectory(prefix="raystudy-tune-", ignore_cleanup_errors=True)
        self._scratch = self._open.enter_context(scratch)
        ray = self._open.enter_context(connected(self._address))
        try:
            self._ray = ray
            self._await_nodes()
            if len(self._cluster.present) > 1 and not self._is_storage_shared:
                raise NotSharedError(f"this Ray cluster has {len(self._cluster.present)} nodes")
            check_gpus(self._resources, int(sum(n.gpus * n.count for n in self._cluster.possible)), "this Ray cluster")
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _await_nodes(self) -> None:
        """A driver may be there before the cluster's first workers are, beside a head that has no CPUs for runs."""
        self._look()
        started = time.monotonic()
        while not self._cluster.may_grow and self.devices.cpus == 0 and time.monotonic() - started < _FIRST_SECONDS:
            time.sleep(_LOOK_SECONDS)
            self._look()

    def _look(self) -> None:
        """See what nodes there are."""
        self._avoided = self._full_nodes | self._doubtful.among(self._ray.nodes(), self._full_nodes)
        self._cluster: Cluster = cluster_of(self._ray, self._avoided)
        self._looked = time.monotonic()

    @property
    def devices(self) -> Devices:
        """What the nodes hold that are there."""
        return devices_of(self._cluster)

    def group_places(self, engine: DeepSpeedEngine) -> int:
        """How many groups of `engine` the cluster is asked for at once; at least one."""
        self._look()
        return num_at_once(shape_of_engine(engine), self._cluster)

    def run(self, tasks: Sequence[Task]) -> Iterator[RunReport]:
        """Tuners for each shape and block of its tasks; reports come as runs end.

        Raises:
            SpecError: the cluster can never hold a task, or its workers; nothing was started then.
            MissingPackageError: a task needs Ray Train, which is not installed.
        """
        self._look()
        self._had_nodes = {}
        self._check(by_shape(tasks))
        events: Events = queue.Queue()
        lanes, ends = Lanes(tasks), Ends(self._ray, tasks)
        self._num_waves += 1
        lanes.allow(shares(lanes.left(), self._cluster))
        while not lanes.is_done or ends.has_deaths:
            if time.monotonic() - self._looked >= _LOOK_SECONDS:
                self._look()
                lanes.allow(shares(lanes.left(), self._cluster))
                self._check_patience(lanes)
            lane = lanes.new()
            if lane is not None:
                self._start(lanes, lane, events)
            yield from self._next(lanes, events, ends)

    def _next(self, lanes: Lanes, events: "Events", ends: Ends) -> Iterator[RunReport]:
        """What comes next, if anything does soon."""
        from raystudy.distribute.tune_lane import Death, LaneEnd, Told

        with suppress(queue.Empty):
            event = events.get(timeout=_LOOK_SECONDS)
            if isinstance(event, Told):
                self._doubtful.told(event.node)
                for report in ends.told(event.task_id, event.reports, is_part=event.is_part):
                    yield self._moved_on(report, event, lanes)
            elif isinstance(event, Death):
                ends.died(event.task_id, event.error, event.seconds)
                self._doubt(event.task_id, event.error, lanes)
            elif isinstance(event, LaneEnd):
                has_more = bool(event.lane.waiting)
                taken = lanes.close(event.lane)
                # Of no matter once all is told: Tune then only sums up what it kept, of which we need nothing.
                if event.error is not None and (has_more or ends.lacks(taken)):
                    raise _of_ray(event.error) from event.error
                yield from ends.vanished(taken)
        yield from ends.settled()

    def _doubt(self, task_id: str, error: str, lanes: Lanes) -> None:
        """A trial died, perhaps of its node; tasks that are left go to other nodes where that is likely."""
        before = self._avoided
        self._doubtful.died(task_id, node_of_text(error))
        self._look()
        if self._avoided - before:
            lanes.turn_away()

    def _moved_on(self, report: RunReport, told: "Told", lanes: Lanes) -> RunReport:
        """The report; where a node's disk is full, tasks go to other nodes from now on, if there are any."""
        if report.loss != "node-full" or told.lane.shape.workers:  # a group has tried other nodes by itself
            return report
        self._full_nodes.add(told.node)
        lanes.turn_away()
        self._look()
        has_other = num_groups(told.lane.shape, self._cluster.possible) > 0
        return replace(report, is_unwritable=not has_other)

    def _check(self, shapes: Sequence[tuple[Shape, list[Task]]]) -> None:
        """Of shapes that had room before, the nodes may come back that have gone since."""
        for shape, tasks in shapes:
            if shape.workers:
                need_train()
            if shape not in self._had_room:
                check_fits(shape, tasks[0].model, self._cluster.possible, may_grow=self._cluster.may_grow)
        self._had_room |= {shape for shape, _ in shapes}

    def _check_patience(self, lanes: Lanes) -> None:
        """Give up once only such tasks are left as no node could hold for long; others go on to their end before.

        Raises:
            SpecError: with what is asked for and what is there.
        """
        left, now = [shape for shape, _ in lanes.left()], time.monotonic()
        for shape in left:
            if num_groups(shape, self._cluster.possible):
                self._had_nodes[shape] = now
        if left and all(now - self._had_nodes.setdefault(shape, now) > _PATIENCE_SECONDS for shape in left):
            check_fits(left[0], lanes.model_of(left[0]), self._cluster.possible, may_grow=self._cluster.may_grow)

    def _start(self, lanes: Lanes, lane: Lane, events: "Events") -> None:
        import_ray()
        from raystudy.distribute.tune_lane import Doing, run_lane

        by_id = {task_id: json.dumps(asdict(task)) for task_id, task in lane.tasks.items()}
        avoid = tuple(sorted(self._avoided))
        work: Callable[..., Any] = run_trial
        given: dict[str, Any] = {"tasks": by_id, "work": self._work}
        asks, kept_from = {"CPU": lane.shape.cpus, "GPU": lane.shape.gpus}, avoid
        if lane.shape.workers:  # whose trial may be anywhere
            attempts = {task_id: self._attempts[task_id] for task_id in lane.tasks}
            work, given = run_group_trial, {"tasks": by_id, "work": self._group_work, "attempts": attempts}
            given, asks, kept_from = {**given, "avoid": avoid}, {"CPU": TRIAL_CPUS}, ()
            self._attempts.update(lane.tasks.keys())
        self._stand_somewhere()
        name = f"wave-{self._drawn}-{self._num_waves}-{lane.number}"
        doing = Doing(name, work, given, asks, kept_from, tempfile.mkdtemp(dir=self._scratch))
        threading.Thread(target=run_lane, args=(lanes, lane, doing, events), daemon=True).start()

    def _stand_somewhere(self) -> None:
        """Tune asks for the working folder, which a job's is no more once the temporary folder has been cleaned."""
        try:
            os.getcwd()
        except FileNotFoundError:
            os.chdir(self._scratch)


def _of_ray(error: BaseException) -> BaseException:
    """The message for what ended a Tuner in the middle, where it is not one for the user already."""
    if isinstance(error, RaystudyError) or not isinstance(error, Exception):
        return error
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return RaystudyError(
        f"Ray must go on to the end of a launch, but {type(error).__name__}: {first}. Finished runs are kept; see "
        f"that the cluster lives and nothing cleans its temporary folder, and run the same command again"
    )
