"""STUB work that trains nothing: it notes where Ray placed it, waits for others, or dies. A program: one launch.

    python -m tests.distribute.placed_work FOLDER

On the cluster of RAY_ADDRESS, with tasks of four shapes: a group of two workers of a whole GPU each, one of a whole
GPU, five of a quarter, two without, of which one is killed and one raises what Ray says of a lost node. The group, the
whole one and a quarter wait until all of them are at work, and so do the other quarters: one that is kept from its
place fails. Prints what is reported of each.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from raystudy.distribute.node_loss import _node_of
from raystudy.distribute.tune_executor import TuneExecutor
from raystudy.execute.work import RunReport, Task
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.study import Resources
from tests.train.test_training import a_run

KILLED, RAISES = "killed", "raises"
TOGETHER = ("group-0", "group-1", "whole", "share")
SHARES = ("share-0", "share-1", "share-2", "share-3")
LIKE_RAY = "The actor died because its node has died.\n\tactor_id: 0123456789abcdef\nThe actor 01ab is unavailable: x"
_PATIENCE_SECONDS = 90.0


def note_place(task: Task) -> list[RunReport]:
    """The stub of a task of one process."""
    if task.recipe == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if task.recipe == RAISES:
        raise RuntimeError(LIKE_RAY)
    context = ray.get_runtime_context()
    _note(task, task.recipe, gpus=task.gpus, is_found=_node_of(context.get_actor_id()) == context.get_node_id())
    return [RunReport(task.task_id, "finished")]


class NoteRank:
    """The stub of each worker of a group, which joins no process group: that of GPUs wants a CUDA device."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        sys.modules["raystudy.reference.world"] = SimpleNamespace(join=lambda *_, **__: None)  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {"is": "there"}  # else it would not be set

    def __call__(self, task: Task, told: Callable[[RunReport], None]) -> list[RunReport]:
        rank = int(os.environ["RANK"])
        _note(task, f"group-{rank}", gpus=1.0)
        reports = [RunReport(task.task_id, "finished")] if rank == 0 else []
        for report in reports:
            told(report)
        return reports


def _note(task: Task, name: str, **what: object) -> None:
    """Notes what it was given, and from when to when; in between it waits for the others."""
    place, visible = int(os.environ.get("LOCAL_RANK", "0")), os.environ.get("CUDA_VISIBLE_DEVICES")
    folder, given = Path(task.storage), {**what, "visible": visible, "place": place, "from": time.time()}
    (folder / f"{name}.begun").touch()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not all((folder / f"{other}.begun").exists() for other in (TOGETHER if name in TOGETHER else SHARES)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} has met {[path.name for path in folder.glob('*.begun')]}")
        time.sleep(0.1)
    time.sleep(0.5)
    (folder / f"{name}.json").write_text(json.dumps({**given, "to": time.time()}))


def a_group_task(folder: str) -> Task:
    engine = DeepSpeedEngine(kind="deepspeed", workers=2, cpus_per_worker=0.1, gpus_per_worker=1)
    run = a_run("1" * 32).model_copy(update={"engine": "deepspeed"})
    return Task((run.model_dump_json(),), folder, {}, recipe="group", group=engine.model_dump_json())


def main() -> None:
    folder = sys.argv[1]
    asks = [("whole", 0.1, 1.0), *((name, 0.05, 0.25) for name in ("share", *SHARES))]
    asks += [(name, 0.05, 0.0) for name in (KILLED, RAISES)]
    tasks = [
        Task((a_run("0" * 32, seed=seed).model_dump_json(),), folder, {}, "cuda", recipe=name, cpus=cpus, gpus=gpus)
        for seed, (name, cpus, gpus) in enumerate(asks)
    ]
    tasks.append(a_group_task(folder))
    names = {task.task_id: task.recipe for task in tasks}
    with TuneExecutor(None, [Resources(gpus_per_run=1)], work=note_place, group_work=NoteRank()) as executor:
        for report in executor.run(tasks):
            told = {"name": names[report.run_id], "status": report.status, "loss": report.loss, "cause": report.cause}
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
