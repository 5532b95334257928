"""GPUs of this machine: whether there are any, and which worker process sees which.

Knows nothing of Ray, which shares out the GPUs of its nodes itself. torch is loaded only where GPUs are asked for by
runs that raystudy itself makes.
"""

import math
import os
import subprocess
from collections.abc import Iterable, Sequence

from raystudy.errors import SpecError
from raystudy.specs.study import Resources, StudySpec


def visible_gpus(*, by_torch: bool = True) -> list[str]:
    """The GPUs that torch finds here, or those that others may use, as names for CUDA_VISIBLE_DEVICES.

    Not `by_torch`, which then need not be there: what CUDA_VISIBLE_DEVICES names up to the first that is none (as CUDA
    reads it, "-1" hides the rest), else what nvidia-smi lists.
    """
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [name.strip() for name in (told or "").split(",") if name.strip()]
    if not by_torch:
        hidden = (place for place, name in enumerate(named) if name.startswith("-") or name == "NoDevFiles")
        return _listed_gpus() if told is None else named[: next(hidden, len(named))]
    from raystudy.train.process import num_gpus

    count = num_gpus()
    return named[:count] if len(named) >= count else [str(index) for index in range(count)]


def _listed_gpus() -> list[str]:
    """The indices of the GPUs that nvidia-smi lists; none where it is not there or fails."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))]


def check_gpus(resources: Iterable[Resources], available: int, where: str) -> None:
    """See that one run of every kind gets the GPUs it asks for.

    Raises:
        SpecError: there are fewer.
    """
    asked = max(each.gpus_per_run for each in resources)
    if asked > available:
        raise SpecError(
            f"{where} must have the {asked:g} GPUs that resources.gpus_per_run asks for, but has "
            f"{available}. Set it to 0 to train on CPUs, or go where there are GPUs and a build of torch for them"
        )


def check_group_gpus(study: StudySpec, available: int, where: str) -> None:
    """See that the groups of workers of every model get the GPUs they ask for.

    Raises:
        SpecError: there are fewer.
    """
    for name, engine in study.deepspeed_engines().items():
        asked = engine.workers * engine.gpus_per_worker
        if asked > available:
            raise SpecError(
                f"{where} must have the {asked} GPUs that models.{name}.engine asks for ({engine.workers} workers x "
                f"{engine.gpus_per_worker} GPU each), but has {available}. Ask for fewer workers, set gpus_per_worker "
                f"to 0 to train on CPUs, or go where there are so many GPUs and a build of torch for them"
            )


def gpu_places(visible: Sequence[str], per_run: float) -> list[str]:
    """For each run that fits at once, the GPUs it sees; runs that take less than one share it."""
    if per_run < 1:
        return [name for name in visible for _ in range(math.floor(1 / per_run + 1e-9))]
    count = math.ceil(per_run)
    return [",".join(visible[first : first + count]) for first in range(0, len(visible) - count + 1, count)]
