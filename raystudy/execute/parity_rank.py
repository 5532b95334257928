"""A process that is one rank of a comparison: `python -m raystudy.execute.parity_rank --folder F --task FILE`.

It makes the cases in F/cases.json with its group; rank 0 leaves what it saw in F. No record is written.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raystudy.artifacts.storage import open_storage
from raystudy.execute.first_cause import cause_of, leave_cause
from raystudy.execute.groups import FOLDER_VARIABLE
from raystudy.execute.hang_watch import WatchThread
from raystudy.execute.rank_process import PATIENCE_SECONDS, end_at_once, end_with_parent
from raystudy.execute.work import Task
from raystudy.execute.workplace import Workplace
from raystudy.reference import beat
from raystudy.specs.engines import DeepSpeedEngine

if TYPE_CHECKING:
    from raystudy.artifacts.shards import RecipeView
    from raystudy.reference.parity.cases import Case
    from raystudy.reference.world import World
    from raystudy.train.run import ValidationSets

    Observe = Callable[[list[Case], RecipeView, ValidationSets, World, Path], None]


def main(words: Sequence[str] | None = None, observe: "Observe | None" = None) -> int:
    """Be one rank; `observe` makes the cases (default: as the reference makes them)."""
    parser = argparse.ArgumentParser(prog="python -m raystudy.execute.parity_rank")
    parser.add_argument("--folder", required=True, help="where the cases are, and what is seen of them goes")
    parser.add_argument("--task", required=True, help="the group's task, as JSON")
    options = parser.parse_args(words)
    end_with_parent()
    meeting = Path(os.environ[FOLDER_VARIABLE])
    rank = int(os.environ["RANK"])
    try:
        _make(
            Task(**json.loads(Path(options.task).read_text(encoding="utf-8"))), Path(options.folder), meeting, observe
        )
    except Exception as error:
        from raystudy.train.micro_batches import is_out_of_memory

        cause = cause_of(error, rank, "", beat.now().step, is_out_of_memory=is_out_of_memory(error))
        leave_cause(meeting, cause)
        end_at_once(f"worker {rank}: {cause.words}")
    return 0


def _make(task: Task, folder: Path, meeting: Path, observe: "Observe | None") -> None:
    from raystudy.reference.world import join, leave

    engine = DeepSpeedEngine.model_validate_json(task.group)
    world = join(engine.device, PATIENCE_SECONDS, meeting=meeting / "meeting")
    with WatchThread(meeting, world.rank, world.size, 60 * engine.hang_minutes):
        make_cases(task, folder, world, observe)
    leave(world)


def make_cases(task: Task, folder: Path, world: "World", observe: "Observe | None" = None) -> None:
    """Make the cases that lie in `folder`, by all ranks of a group that has formed; rank 0 leaves what it saw there."""
    from raystudy.reference.parity.cases import read_cases
    from raystudy.reference.parity.observing import observe_all_on_ranks

    at = Workplace(open_storage(task.storage), task.validation, world.device, {})
    cases = read_cases(folder)
    view, documents = world.together(lambda: (at.view(cases[0].run.shards), at.documents()))
    (observe or observe_all_on_ranks)(cases, view, documents, world, folder)


if __name__ == "__main__":
    sys.exit(main())
