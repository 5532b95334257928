"""Work of a group that trains nothing: every worker takes every step, and rank 0 leaves checkpoint and record.

Run as a program it is a launch on the cluster of RAY_ADDRESS: STORAGE, then for each task the name of what happens in
it ("beside": a task of one process). It prints each report as a line of JSON.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from raystudy.artifacts.storage import Storage
from raystudy.distribute.tune_executor import TuneExecutor
from raystudy.errors import DataError
from raystudy.execute.first_cause import cause_of
from raystudy.execute.rank import GroupEndedError
from raystudy.execute.work import RunReport, Task
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun
from raystudy.specs.study import Resources
from tests.train.test_training import a_run

STEPS, MEMBERS = 6, 3
RAISED = "one rank finds no tokens"
BESIDE = "beside"


def a_group_task(storage: Path, happens: str, *, members: int = MEMBERS, workers: int = 2, **engine: object) -> Task:
    """A task of so many runs, whose ids differ with what happens in it."""
    shards = happens.encode().hex().ljust(32, "0")[:32]
    runs = [a_run(shards, steps=STEPS, seed=seed).model_copy(update={"engine": "deepspeed"}) for seed in range(members)]
    group = DeepSpeedEngine(kind="deepspeed", workers=workers, **engine).model_dump_json()
    return Task(tuple(run.model_dump_json() for run in runs), str(storage), {}, recipe=happens, model="m", group=group)


def train_together(task: Task, told: Callable[[RunReport], None]) -> list[RunReport]:
    """What `make_on_rank` promises: members with a record are passed over, others go on from their checkpoint."""
    storage, rank = Path(task.storage), dist.get_rank()
    ledger, reports = Storage(storage).runs, []
    for run in task.specs():
        assert isinstance(run, TrainRun)
        started = time.perf_counter()
        is_done = _of_rank_0(ledger.read(run.run_id) is not None)
        checkpoint = storage / f"checkpoint-{run.run_id}"
        step = _of_rank_0(int(checkpoint.read_text()) if checkpoint.exists() else 0)
        while not is_done and step < STEPS:
            _note(storage, run=run.run_id, rank=rank, size=dist.get_world_size(), step=step, at=time.time())
            _happens(task, run, rank, step)
            total = torch.tensor([float(rank + 1)])
            dist.all_reduce(total)
            assert total.item() == sum(range(1, dist.get_world_size() + 1))
            step += 1
            if rank == 0:
                checkpoint.write_text(str(step))
        if rank == 0 and not is_done:
            ledger.write_spec(run)
            result = {"status": "finished", "spec": run.model_dump(mode="json"), "metrics": []}
            total = {"total": time.perf_counter() - started}
            ledger.write_result(run.run_id, {**result, "seconds": total, "provenance": {}})
        seconds = time.perf_counter() - started
        reports.append(RunReport(run.run_id, "finished", run.num_tokens, seconds, is_made=not is_done))
        if rank == 0:
            told(reports[-1])
    return reports if rank == 0 else []


def _of_rank_0(value: int) -> int:
    held = torch.tensor([int(value)])
    dist.broadcast(held, 0)
    return int(held.item())


def _happens(task: Task, run: TrainRun, rank: int, step: int) -> None:
    """Slow: time to kill the driver in; a worker dies in the second member, once; the third fails on one rank."""
    if task.recipe != "slow":
        return
    time.sleep(0.3)
    if (rank, run.seed, step) == (1, 1, 3):
        with suppress(FileExistsError):
            (Path(task.storage) / f"killed-{run.run_id}").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    if (rank, run.seed, step) == (1, 2, 2):
        raise GroupEndedError(cause_of(DataError(RAISED), rank, run.run_id, step, is_out_of_memory=False))


def _note(storage: Path, **what: object) -> None:
    """One line in one write, so that ranks do not tear each other's."""
    with (storage / "notes.jsonl").open("a") as notes:
        notes.write(json.dumps({**what, "pid": os.getpid()}) + "\n")


def notes_on(storage: Path) -> list[dict[str, object]]:
    path = storage / "notes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def a_task_beside(storage: Path) -> Task:
    """A task of one process that finds room beside a group of two workers on two CPUs."""
    run = a_run(BESIDE.encode().hex().ljust(32, "0"), steps=STEPS)
    return Task((run.model_dump_json(),), str(storage), {}, recipe=BESIDE, model="m", cpus=0.05)


def report_at_once(task: Task) -> list[RunReport]:
    """STUB work of a task of one process: nothing is made."""
    return [RunReport(task.task_id, "finished")]


def main() -> None:
    storage, happenings = Path(sys.argv[1]), sys.argv[2:]
    tasks = [a_task_beside(storage) if name == BESIDE else a_group_task(storage, name) for name in happenings]
    with TuneExecutor(None, [Resources()], work=report_at_once, group_work=train_together) as executor:
        print(json.dumps({"at": time.time()}), flush=True)
        for report in executor.run(tasks):
            print(json.dumps({**asdict(report), "at": time.time()}), flush=True)


if __name__ == "__main__":
    main()
