"""`raystudy parity` on a Ray cluster: one worker of the engine is the trainer of one process, a group of Ray Train the
reference. What they see goes through a folder of the storage, which all nodes see.

The one worker is there twice, before and after the group, and not in between: a cluster that just holds the group will
do. torch is loaded in the workers, and here where the answer comes back.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystudy.artifacts.files import (
    StoragePath,
    download,
    names_in,
    upload,
)
from raystudy.artifacts.storage import Storage
from raystudy.distribute.cluster_nodes import possible_nodes
from raystudy.distribute.connection import connected, import_ray, need_train
from raystudy.distribute.group_folder import folder_below
from raystudy.distribute.group_places import check_fits
from raystudy.distribute.shared_storage import NotSharedError, in_ray_job
from raystudy.errors import RaystudyError
from raystudy.execute.first_cause import Cause
from raystudy.execute.inputs import need_packages
from raystudy.execute.parity import (
    Answer,
    Question,
    answer_here,
    in_one_process,
    need_trainers,
    reference_seen,
    tell_workers,
)
from raystudy.execute.parity_rank import make_cases
from raystudy.execute.progress import Progress
from raystudy.execute.shapes import shape_of_engine
from raystudy.execute.work import RunReport, Task
from raystudy.specs.engines import DeepSpeedEngine

if TYPE_CHECKING:
    from raystudy.reference.parity.judging import Parity

_ONE, _GROUP = "one-process", "group"  # the folders of what was seen of each trainer


@contextmanager
def answering(address: str | None, storage: Storage, *, is_local: bool = False) -> Iterator[Answer]:
    """Who answers: the cluster at `address`, of RAY_ADDRESS or of this job, else this machine.

    Raises:
        MissingPackageError: a trainer is not installed on this machine; of a cluster's answer: torch or Ray Train.
        NotSharedError: in a Ray job or on several nodes, the storage is the default or a relative path.
    """
    if is_local or not (address or os.environ.get("RAY_ADDRESS") or in_ray_job()):
        need_trainers()
        yield answer_here
        return
    if in_ray_job() and not storage.is_absolute:
        raise NotSharedError("this is a Ray job, whose working directory is a copy that goes with the job")
    need_packages("torch", use="where the answer of a cluster is read")
    need_train()
    with connected(address) as ray:
        num_nodes = sum(node["Alive"] for node in ray.nodes())
        if num_nodes > 1 and not storage.is_absolute:
            raise NotSharedError(f"this Ray cluster has {num_nodes} nodes")
        yield partial(_answer, ray)


def _answer(ray: Any, question: Question, progress: Progress) -> "Parity":
    """
    Raises:
        SpecError: the cluster can never hold the workers.
        RaystudyError: a worker failed, with the first cause.
    """
    from raystudy.distribute.train_group import fit_group

    task = question.task()
    nodes, may_grow = possible_nodes(ray)
    check_fits(shape_of_engine(question.engine), task.model, nodes, may_grow=may_grow)
    with folder_below(question.storage.root / "built") as folder:
        _in_worker(ray, question.engine, make_first_side, question, folder)
        tell_workers(question, progress)
        # The folder's name is drawn anew each time, and Ray must not see a name twice.
        _, cause = fit_group(task, f"parity-{folder.name.rpartition('-')[2]}", folder, partial(make_on_worker, folder))
        parity: Parity = _in_worker(ray, question.engine, judge_sides, question, folder, cause)
        return parity


@contextmanager
def _scratch(*taken: StoragePath) -> Iterator[Path]:
    """A folder of this node, with the files of the folders `taken`."""
    with tempfile.TemporaryDirectory(prefix="raystudy-parity-") as folder:
        for source in taken:
            for name in names_in(source):
                download(source / name, Path(folder) / name)
        yield Path(folder)


def _keep(folder: Path, to: StoragePath) -> None:
    """Put what lies in a folder of this node on the storage."""
    for path in folder.iterdir():
        upload(path, to / path.name)


def _in_worker(ray: Any, engine: DeepSpeedEngine, action: Callable[..., Any], *arguments: object) -> Any:
    """What `action` returns in a process that has what one worker of the engine has.

    Raises:
        RaystudyError: it failed.
    """
    remote = ray.remote(num_cpus=engine.cpus_per_worker, num_gpus=engine.gpus_per_worker, max_retries=0)(action)
    try:
        return ray.get(remote.remote(*arguments))
    except import_ray().exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, RaystudyError):
            raise cause from error
        said = str(cause if cause is not None else error).strip().splitlines() or [type(error).__name__]
        raise RaystudyError(f"a worker on the cluster must train in one process, but failed: {said[-1]}") from error


def make_first_side(question: Question, folder: StoragePath) -> None:
    """In a worker: train in one process; leaves the cases and what was seen in them."""
    from raystudy.reference.parity.cases import write_cases
    from raystudy.reference.parity.observed import write_observed

    need_packages("torch")
    one = in_one_process(question)
    with _scratch() as scratch:
        write_cases(scratch, one.cases)
        for case in one.cases:
            write_observed(scratch, case.name, one.seen(case))
        _keep(scratch, folder / _ONE)
    one.release()


def make_on_worker(folder: StoragePath, task: Task, told: Callable[[RunReport], None]) -> list[RunReport]:  # noqa: ARG001
    """In each worker of the group: make the cases with the others; no run is reported."""
    from raystudy.reference.parity.cases import read_cases, write_cases
    from raystudy.reference.world import join

    need_packages("deepspeed", extra="deepspeed")
    world = join(DeepSpeedEngine.model_validate_json(task.group).device)
    with _scratch(folder / _ONE) as given, _scratch() as scratch:
        write_cases(scratch, read_cases(given))
        make_cases(task, scratch, world)
        world.first(lambda: _keep(scratch, folder / _GROUP))
    return []


def judge_sides(question: Question, folder: StoragePath, cause: Cause | None) -> "Parity":
    """In a worker: compare what both sides have left; `cause`: why the reference's workers did not end well.

    Raises:
        RaystudyError: they failed.
    """
    from raystudy.reference.parity.cases import read_cases
    from raystudy.reference.parity.observed import read_observed

    with _scratch(folder / _ONE) as own, _scratch(folder / _GROUP) as others:
        cases = read_cases(own)
        reference = reference_seen(cases, others, cause)
        seen = {case.name: read_observed(own, case.name) for case in cases}
        return in_one_process(question, cases, seen).judge(question.model, reference)
