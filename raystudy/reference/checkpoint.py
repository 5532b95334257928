"""When a reference run's checkpoint is written, which are kept, and how a run goes on from one.

Checkpoints are whole files in `train`'s format, named by their step; the newest two are kept. What they hold does not
depend on the number of ranks or the ZeRO stage. Rank 0 reads and writes; its clock says when one is due. All methods
must be called by all ranks alike.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from raystudy import __version__
from raystudy.artifacts.checkpoints import (
    Checkpoint,
    read_checkpoint_file,
    remove_step_checkpoints,
    step_checkpoints,
    write_step_checkpoint,
)
from raystudy.artifacts.damage import look, set_aside
from raystudy.artifacts.files import StoragePath
from raystudy.errors import RaystudyError, StoppedError, StorageError
from raystudy.reference.training import ReferenceTraining
from raystudy.reference.world import World
from raystudy.specs.base import digest
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.reading import Asked
from raystudy.train.process import versions

_KEPT = 2  # checkpoints: the newest may be torn by a failing disk


class Checkpoints:
    """Checkpoints of the run `run_id` in its folder, as often as `engine` says; `asked`: what the run is read for.

    `resumed_from`: the step that the run went on from, 0 where it began anew. `note`: what a person should know of it.
    `must_stop`: asked after every step, of rank 0; all ranks must have it or none.
    """

    def __init__(
        self,
        folder: StoragePath,
        run_id: str,
        engine: DeepSpeedEngine,
        world: World,
        asked: Asked | None = None,
        must_stop: Callable[[], bool] | None = None,
    ) -> None:
        self._folder, self._run_id, self._engine, self._world = folder, run_id, engine, world
        self._must_stop = must_stop
        self._made_with = {"raystudy": __version__, **versions(), "device": torch.device(world.device).type}
        if asked is not None and asked != Asked():
            self._made_with["readings"] = digest(asked)
        self._last = time.perf_counter()
        self.resumed_from = 0
        self.note = ""

    def restore(self, training: ReferenceTraining) -> None:
        """Put `training` into the state that the newest whole checkpoint holds, if there is one that can be used.

        Raises:
            RaystudyError: it is that of another run, or of another number of ranks where `engine` refuses that.
        """
        found = self._world.first(self._find)
        about = self._world.broadcast(None if found is None else {"step": found.step, "about": found.about})
        self.note = self._world.broadcast(self.note)
        if about is None:
            return
        training.load_state(found.arrays if found else None, about["about"]["training"])
        self.resumed_from = about["step"]

    def _find(self) -> Checkpoint | None:
        """The newest checkpoint that is whole and can be used."""
        notes: list[str] = []
        for path in step_checkpoints(self._folder):
            seen = look(path)
            try:
                found = read_checkpoint_file(path, self._run_id)
            except StorageError as error:
                aside = set_aside(path, seen)
                notes.append(f"{error}; " + (f"kept as {aside.name}" if aside else "left out"))
                continue
            if found is None:
                continue
            refusal = self._refusal(path, found.about)
            if refusal:
                notes.append(refusal)
                found = None
            elif found.about["world_size"] != self._world.size:
                notes.append(f"{path} was made by {found.about['world_size']} workers; went on from it")
            elif notes:
                notes.append(f"went on from {path.name}")
            self.note = "; ".join(notes)
            return found
        self.note = "; ".join([*notes, "begun anew"]) if notes else ""
        return None

    def _refusal(self, path: StoragePath, about: Mapping[str, Any]) -> str:
        """Why a whole checkpoint is not gone on from; empty where it is."""
        if about["made_with"] != self._made_with:
            return f"{path} was made with {_words(about['made_with'])}, not {_words(self._made_with)}; begun anew"
        began, now = about["world_size"], self._world.size
        if began == now or self._engine.on_other_world_size == "continue":
            return ""
        if self._engine.on_other_world_size == "restart":
            return f"{path} was made by {began} workers, not {now}; begun anew"
        raise RaystudyError(
            f"a run must go on with the workers that began it, but {path} was made by {began} workers and there are "
            f"{now}. Set engine.workers to {began}, or engine.on_other_world_size to restart or to continue"
        )

    def keep_if_due(self, training: ReferenceTraining) -> float:
        """Write a checkpoint after the steps taken so far if one is due; the seconds that took.

        Raises:
            StoppedError: the ranks must stop; the checkpoint is written.
        """
        is_due, is_last = self._is_due(training.step)
        if not is_due:
            return 0.0
        began = time.perf_counter()
        arrays, about = training.state()
        content = {
            "made_with": self._made_with,
            "world_size": self._world.size,
            "engine": self._engine.model_dump(mode="json"),
            "training": about,
        }
        checkpoint = Checkpoint(self._run_id, training.step, arrays, content)
        self._world.first(lambda: self._write(checkpoint))
        self._last = time.perf_counter()
        if is_last:
            raise StoppedError(f"stopped after step {training.step} of run {self._run_id}, as asked")
        return self._last - began

    def _is_due(self, step: int) -> tuple[bool, bool]:
        """Whether a checkpoint is due, and whether it is the last before a stop."""
        every, minutes = self._engine.checkpoint_steps, self._engine.checkpoint_minutes
        is_due = every is not None and step % every == 0
        if self._must_stop is None and (is_due or minutes is None):
            return is_due, False
        is_late = minutes is not None and time.perf_counter() - self._last >= 60 * minutes
        is_late, is_last = self._world.broadcast([is_late, self._must_stop is not None and self._must_stop()])
        return is_due or is_late or is_last, is_last

    def _write(self, checkpoint: Checkpoint) -> None:
        write_step_checkpoint(self._folder, checkpoint)
        remove_step_checkpoints(self._folder, all_but_newest=_KEPT)


def _words(made_with: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in made_with.items())
