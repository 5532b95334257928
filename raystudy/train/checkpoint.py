"""When a run's checkpoint is written, and how a run goes on from one. Off unless told where to write.

What goes on must be what began: a checkpoint made with other packages, on another kind of device or for other readings
is not used, nor is a torn one (kept aside); both are told in `note`. One of another run is refused.
"""

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from raystudy import __version__
from raystudy.artifacts.checkpoints import Checkpoint, checkpoint_path, read_checkpoint, write_checkpoint
from raystudy.artifacts.damage import look, set_aside
from raystudy.artifacts.files import StoragePath
from raystudy.errors import StorageError
from raystudy.specs.base import digest
from raystudy.specs.reading import Asked
from raystudy.train import stop_request
from raystudy.train.process import versions
from raystudy.train.tensors import Arrays


class Kept(Protocol):
    """A part of a run whose state a checkpoint holds."""

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Its state as named arrays and plain data."""
        ...

    def load_state(self, arrays: Arrays, about: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        ...


class Checkpoints:
    """Checkpoints of the run `run_id` in its folder, at least `every_seconds` apart; `asked`: what it is read for.

    `resumed_from`: the step that the run went on from, 0 where it began anew. `note`: why a checkpoint was not used.
    `replayed_steps`: of its parent, taken again for a branch, and `replayed_seconds` what that took so far; kept in the
    checkpoint, and read from the one found. While steps of a parent are taken again `replaying` is its id, and the
    checkpoint, in the branch's folder, is of that.
    """

    def __init__(
        self, folder: StoragePath, run_id: str, device: str, every_seconds: float, asked: Asked | None = None
    ) -> None:
        self._folder, self._run_id, self._every = folder, run_id, every_seconds
        self._made_with = {"raystudy": __version__, **versions(), "device": torch.device(device).type}
        if asked is not None and asked != Asked():
            self._made_with["readings"] = digest(asked)
        self._last = self._began = time.perf_counter()
        self._found: Checkpoint | None = None
        self._has_looked = False
        self.resumed_from = self.replayed_steps = 0
        self.replayed_seconds = 0.0
        self.replaying = ""
        self.note = ""

    def look(self) -> bool:
        """Whether there is a checkpoint of the run itself that can be used, which stays in memory until `restore`.

        Raises:
            RaystudyError: there is one of another run.
        """
        if not self._has_looked:
            self._found, self._has_looked = self._usable(), True
        return self._found is not None and not self._found.about.get("replaying")

    def restore(self, parts: Mapping[str, Kept]) -> None:
        """Put every part into the state that the checkpoint holds, if there is one that can be used; raises as `look`.

        What lies there is read anew the next time.
        """
        self.look()
        self.resumed_from = 0
        found, self._found, self._has_looked = self._found, None, False
        if found is None or found.about.get("replaying", "") != self.replaying:
            return  # that of a replay is of no use once what it was for is kept
        for name, part in parts.items():
            prefix = f"{name}/"
            arrays = {key.removeprefix(prefix): a for key, a in found.arrays.items() if key.startswith(prefix)}
            part.load_state(arrays, found.about["parts"][name])
        self.resumed_from = found.step

    def _usable(self) -> Checkpoint | None:
        path = checkpoint_path(self._folder)
        seen = look(path)
        try:
            found = read_checkpoint(self._folder, self._run_id)
        except StorageError as error:
            aside = set_aside(path, seen)
            self.note = f"{error}; kept as {aside.name}, and begun anew" if aside else f"{error}; begun anew"
            return None
        if found is None:
            return None
        if found.about["made_with"] != self._made_with:
            self.note = (
                f"{path} was made with {_words(found.about['made_with'])}, not {_words(self._made_with)}; begun anew"
            )
            return None
        if not self.replayed_seconds:  # else this process knows more of it
            self.replayed_steps = int(found.about.get("replayed_steps", 0))
            self.replayed_seconds = float(found.about.get("replayed_seconds", 0.0))
        return found

    def keep_if_due(self, step: int, parts: Mapping[str, Kept]) -> float:
        """Write a checkpoint after `step` steps if the last is old enough; the seconds that took.

        Raises:
            StoppedError: a stop was asked for; the checkpoint is written.
        """
        now, is_last = time.perf_counter(), stop_request.is_requested()
        if now - self._last < self._every and not is_last:
            return 0.0
        arrays: Arrays = {}
        about: dict[str, Any] = {}
        for name, part in parts.items():
            own, about[name] = part.state()
            arrays |= {f"{name}/{key}": array for key, array in own.items()}
        content = {"made_with": self._made_with, "parts": about, "replayed_steps": self.replayed_steps}
        content["replayed_seconds"] = self.replayed_seconds + (now - self._began if self.replaying else 0.0)
        content |= {"replaying": self.replaying} if self.replaying else {}
        write_checkpoint(self._folder, Checkpoint(self._run_id, step, arrays, content))
        self._last = time.perf_counter()
        if is_last:
            stop_request.raise_if_requested()
        return self._last - now


def _words(made_with: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in made_with.items())
