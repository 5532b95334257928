"""Which share of the device time that a launch had its runs have used.

Device time that was had: the GPUs and CPU cores of all workers, while they were there. Used: the seconds of every run,
failed ones too, times the devices that it held, once it has ended. A run with GPUs counts for these alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun
from raystudy.specs.study import Resources, StudySpec
from raystudy.study.wanted import WantedRun

_SECONDS_PER_HOUR = 3600.0
_NAMES = {"cpu": "CPU", "cuda": "GPU"}


@dataclass(frozen=True)
class Devices:
    """CPU cores and GPUs that runs may take."""

    cpus: float
    gpus: float = 0.0


class Utilisation:
    """Of one launch."""

    def __init__(self, study: StudySpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._study, self._clock = study, clock
        self._engines = study.deepspeed_engines()
        self._there, self._since = Devices(0.0), clock()
        self._had = {"cpu": 0.0, "cuda": 0.0}
        self._used = {"cpu": 0.0, "cuda": 0.0}

    def has(self, devices: Devices) -> None:
        """These are there from now on."""
        now = self._clock()
        self._had["cpu"] += self._there.cpus * (now - self._since)
        self._had["cuda"] += self._there.gpus * (now - self._since)
        self._there, self._since = devices, now

    def ended(self, run: WantedRun, seconds: float) -> None:
        """A run has ended, or failed, after so many seconds."""
        engine = self._engines.get(run.model) if isinstance(run.run, TrainRun) else None
        takes: DeepSpeedEngine | Resources = engine or self._study.resources_of(run.model)
        self._used[takes.device] += seconds * takes.num_devices

    @property
    def shares(self) -> dict[str, float]:
        """By device, "cpu" or "cuda", the share used of what was had; of those devices alone that were used."""
        return {kind: used / self._had[kind] for kind, used in self._used.items() if used and self._had[kind]}

    def words(self) -> str:
        """For a person; empty where nothing was used."""
        parts = [
            f"{share:.0%} of {self._had[kind] / _SECONDS_PER_HOUR:.3g} {_NAMES[kind]}-hours"
            for kind, share in self.shares.items()
        ]
        return f"device time used by runs: {' and '.join(parts)}" if parts else ""
