"""How much memory this machine and its GPUs have. Knows nothing of torch: a GPU's memory is nvidia-smi's word."""

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raystudy.execute.gpus import visible_gpus
from raystudy.specs.engines import DeepSpeedEngine
from raystudy.specs.memory import GIB
from raystudy.specs.study import StudySpec

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_NVIDIA_SMI_SECONDS = 10.0
_QUERY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class WorkerMemory:
    """Bytes that one worker has (None: not known here), and whence that is known, in words."""

    num_bytes: int | None
    source: str


def memory_of_worker(engine: DeepSpeedEngine) -> WorkerMemory:
    """What the study says, else what this machine has."""
    if engine.memory_gib is not None:
        return WorkerMemory(round(engine.memory_gib * GIB), "engine.memory_gib")
    if engine.device == "cuda":
        smallest = gpu_memory()
        if smallest is None:
            return WorkerMemory(None, "no GPU is seen here, and engine.memory_gib is not given")
        return WorkerMemory(smallest, "this machine's GPU")
    total = machine_memory()
    if total is None:
        return WorkerMemory(None, "this system does not tell its memory, and engine.memory_gib is not given")
    shared = f" shared by {engine.workers} workers" if engine.workers > 1 else ""
    return WorkerMemory(total // engine.workers, f"this machine's {total / GIB:.3g} GiB{shared}")


def machine_memory() -> int | None:
    """Bytes of memory that processes here may use: the machine's, or the container's limit; None: not told."""
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            found.append(int(path.read_text(encoding="ascii")))
    return min((size for size in found if size > 0), default=None)


def gpu_memory() -> int | None:
    """Bytes of the smallest GPU here; None where nvidia-smi is not there or does not answer."""
    return min(_gpu_sizes(), default=None)


def gpus_for_groups(study: StudySpec) -> int:
    """GPUs here that groups of workers may have, as nvidia-smi says; 0 where no model of the study asks for any."""
    if not any(engine.gpus_per_worker for engine in study.deepspeed_engines().values()):
        return 0
    return min(len(visible_gpus(by_torch=False)), len(_gpu_sizes()))


def _gpu_sizes() -> list[int]:
    """Bytes of each GPU."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run(
            [command, *_QUERY], capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True
        )
        return [int(line) * 2**20 for line in done.stdout.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
