"""How fast a study's runs are made: those of one process, and those of groups of workers, each kind at its own speed.

A group holds as many places as it has workers. Kinds are made one after another, so their times add up.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.run import TrainRun
from raystudy.study.protocols.registry import protocols_of
from raystudy.study.protocols.training_kinds import TRAINING_KINDS
from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun

ASSUMED_FLOPS_PER_SECOND = 3e10  # of one run on one core; an assumption (the demo measured 3.3e10) until records say
ASSUMED_GPU_FLOPS_PER_SECOND = 1e12  # of one run on one GPU; likewise: low for a GPU, of which small models use little


@dataclass(frozen=True, order=True)
class Kind:
    """What makes a run: one process, or `workers` together, each with so many GPUs; on which device."""

    workers: int = 0
    gpus_per_worker: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Speed:
    """Of one kind of runs. `flops_per_second`: of one run; `at_once`: how many are made at a time."""

    workers: int
    gpus_per_worker: int
    flops_per_second: float
    is_measured: bool
    at_once: int


@dataclass
class Flops:
    """FLOPs by the kind that makes them."""

    by_kind: dict[Kind, float] = field(default_factory=dict)

    def add(self, kind: Kind, flops: float) -> None:
        """Count `flops` more of `kind`."""
        self.by_kind[kind] = self.by_kind.get(kind, 0.0) + flops

    @property
    def total(self) -> float:
        """Of all kinds."""
        return float(sum(self.by_kind.values()))


class Speeds:
    """The speeds of a study's kinds of runs, by its records, on `slots` places of one process each and `num_gpus`."""

    def __init__(self, state: StudyState, slots: int, num_gpus: int = 0) -> None:
        self._slots, self._num_gpus, self._study = slots, num_gpus, state.study
        self._engines = state.study.deepspeed_engines()
        self._protocols = state.study.protocols
        self._kinds: dict[str, Kind] = {}
        self._measured: dict[Kind, tuple[float, float]] = {}
        for protocol in protocols_of(state.study).values():
            self._measure(state, protocol.demand(state).runs)

    def _measure(self, state: StudyState, runs: Iterable[WantedRun]) -> None:
        for run in runs:
            record = state.record(run)
            if record is not None and run.flops > 0 and record.seconds > 0:
                flops, seconds = self._measured.get(self.kind_of(run), (0.0, 0.0))
                self._measured[self.kind_of(run)] = flops + run.flops, seconds + record.seconds

    def kind_of(self, run: WantedRun) -> Kind:
        """What makes a run."""
        is_grouped = isinstance(run.run, TrainRun) and run.run.engine == "deepspeed"
        return _kind(self._engines[run.model]) if is_grouped else self._of_one_process(run.model)

    def kind_of_protocol(self, name: str) -> Kind:
        """What makes the runs that a protocol cannot name yet. `name`: with the step, where there are several."""
        spec = self._protocols[name] if name in self._protocols else self._protocols[name.rpartition("@step")[0]]
        model = getattr(spec, "model", None) or ""
        engine = self._engines.get(model) if spec.kind in TRAINING_KINDS else None
        return self._of_one_process(model) if engine is None else _kind(engine)

    def _of_one_process(self, model: str) -> Kind:
        if model not in self._kinds:
            self._kinds[model] = Kind(device=self._study.resources_of(model).device)
        return self._kinds[model]

    def seconds(self, flops: Flops) -> float:
        """What runs of so many FLOPs take when every place is in use."""
        speeds = {kind: self.speed(kind) for kind in flops.by_kind}
        return sum(flops.by_kind[kind] / (s.flops_per_second * s.at_once) for kind, s in speeds.items())

    def speed(self, kind: Kind) -> Speed:
        """Of one kind, measured where records of it are there."""
        flops, seconds = self._measured.get(kind, (0.0, 0.0))
        assumed = assumed_flops_per_second(kind.workers, is_on_gpu=kind.device == "cuda")
        speed, at_once = flops / seconds if seconds else assumed, self._slots
        if kind.workers:
            at_once = groups_at_once(kind.workers, kind.workers * kind.gpus_per_worker, self._slots, self._num_gpus)
        return Speed(kind.workers, kind.gpus_per_worker, speed, seconds > 0, at_once)

    def of_one_process(self) -> Speed:
        """That of the study's runs of one process; where they are made on several devices, of what is no model's."""
        devices = {each.device for each in self._study.all_resources}
        usual = self._study.resources.device
        return self.speed(Kind(device=usual if usual in devices else min(devices)))

    def of_groups(self) -> list[Speed]:
        """Those of the study's groups, the largest first."""
        return [self.speed(kind) for kind in sorted({_kind(e) for e in self._engines.values()}, reverse=True)]


def assumed_flops_per_second(workers: int, *, is_on_gpu: bool) -> float:
    """Of one run by so many workers (0: by one process), until records say."""
    return (ASSUMED_GPU_FLOPS_PER_SECOND if is_on_gpu else ASSUMED_FLOPS_PER_SECOND) * max(workers, 1)


def _kind(engine: DeepSpeedEngine) -> Kind:
    return Kind(engine.workers, engine.gpus_per_worker, engine.device)


def groups_at_once(workers: int, gpus: int, num_places: int, num_gpus: int) -> int:
    """How many groups of so many workers and GPUs fit at once into `num_places` and `num_gpus`; at least one."""
    fit = num_places // workers
    return max(1, min(fit, num_gpus // gpus) if gpus else fit)
