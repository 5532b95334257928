"""A process that is one rank of a group: `python -m raystudy.reference`, however it was started.

    python -m raystudy.reference --task FILE                       one task (JSON of Task), as `raystudy run` starts it
    torchrun --nproc-per-node 8 -m raystudy.reference STUDY --model NAME --storage URI
                                                                   all runs of a model that are wanted and missing

Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as torchrun, the deepspeed launcher or Slurm set them.
Exit status as of `raystudy run`; non-zero when a run is missing.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from raystudy.errors import RaystudyError, StoppedError
from raystudy.execute.first_cause import Cause, cause_of, is_consequence, leave_cause
from raystudy.execute.groups import FOLDER_VARIABLE, PARENT_VARIABLE, STOP_FILE
from raystudy.execute.hang_watch import WatchThread
from raystudy.execute.rank import GroupEndedError, make_on_rank
from raystudy.execute.work import RunReport, Task
from raystudy.specs.engines import DeepSpeedEngine

# How long a collective may last: days, since a rank that hangs is found by the watch, and rank 0 may build data long.
PATIENCE_SECONDS = 7 * 86_400.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(words: Sequence[str] | None = None) -> int:
    """Be one rank; returns the exit status."""
    options = _parser().parse_args(words)
    end_with_parent()
    if (options.task is None) == (options.study is None):
        _parser().error("give either --task FILE or STUDY with --model")
    try:
        if options.task is not None:
            return _make_task(Path(options.task))
        from raystudy.execute.ranks_study import make_study_on_rank

        return make_study_on_rank(options, PATIENCE_SECONDS)
    except GroupEndedError as error:
        told = "lost the others" if error.cause.kind == "consequence" else "failed"
        end_at_once(f"worker {error.cause.rank} {told}: {error.cause.words}")
    except KeyboardInterrupt:
        os._exit(130)
    except RaystudyError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # what all ranks of a machine find wrong is told once
            print(f"raystudy: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    except Exception as error:
        if not is_consequence(error):
            raise
        end_at_once(f"worker {os.environ.get('RANK', '0')} lost the others: {str(error).splitlines()[0]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m raystudy.reference", description="One rank of the group that makes reference runs."
    )
    parser.add_argument("--task", metavar="FILE", help="a task as JSON; all ranks are given the same")
    parser.add_argument("study", metavar="STUDY", nargs="?", help="path of a study file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--storage", metavar="URI", help="where shards, runs and studies lie; the same for all ranks")
    parser.add_argument("--model", metavar="NAME", help="the model whose runs are made: one of engine deepspeed")
    parser.add_argument("--recipe", metavar="NAME", help="only runs of this recipe")
    parser.add_argument("--lr", type=float, metavar="X", help="only runs at this learning rate")
    parser.add_argument("--seed", type=int, metavar="N", help="only runs of this seed")
    parser.add_argument(
        "--local_rank", help=argparse.SUPPRESS
    )  # the deepspeed launcher adds it; LOCAL_RANK says it too
    return parser


def end_at_once(words: str) -> NoReturn:
    """Say why and end without the way out: what is left of a lost group may wait for ever."""
    print(f"raystudy: {words}", file=sys.stderr, flush=True)
    os._exit(1)


def _make_task(path: Path) -> int:
    task = Task(**json.loads(path.read_text(encoding="utf-8")))
    engine = DeepSpeedEngine.model_validate_json(task.group)
    named = os.environ.get(FOLDER_VARIABLE)
    folder = Path(named) if named else None
    rank = int(os.environ.get("RANK", "0"))
    try:
        reports = _in_group(task, engine, folder)
    except GroupEndedError as error:
        _leave(folder, error.cause)
        raise
    except StoppedError:
        raise
    except Exception as error:
        _leave(folder, cause_of(error, rank, "", 0, is_out_of_memory=False))
        raise
    return 1 if any(report.status == "failed" for report in reports) and folder is None else 0


def _in_group(task: Task, engine: DeepSpeedEngine, folder: Path | None) -> list[RunReport]:
    from raystudy.reference.world import join, leave

    meeting = None if folder is None else folder / "meeting"
    world = join(engine.device, PATIENCE_SECONDS, meeting=meeting)
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(WatchThread(folder, world.rank, world.size, 60 * engine.hang_minutes))
        file: IO[str] = sys.stdout
        if folder is not None and world.rank == 0:
            file = stack.enter_context((folder / "reports.jsonl").open("a", encoding="utf-8"))
        must_stop = None if folder is None else (folder / STOP_FILE).exists
        told = partial(_tell, file=file)
        reports = make_on_rank(task, told, must_stop)
    leave(world)
    return reports


def _tell(report: RunReport, file: IO[str]) -> None:
    print(json.dumps(asdict(report)), file=file, flush=True)


def _leave(folder: Path | None, cause: Cause) -> None:
    if folder is not None:
        leave_cause(folder, cause)


def end_with_parent() -> None:
    """End when the process that started this rank ends, if it asked for that; even when this one is stopped then."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        os._exit(1)

    def watch() -> None:
        # Not by sys.stdin: its lock, held by this thread, would abort the interpreter's own end.
        while os.read(0, 4096):  # nothing more comes when the parent has ended
            pass
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
