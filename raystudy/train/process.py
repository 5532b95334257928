"""What a process that trains must be like, the first time and the tenth: threads, memory, seeds, types.

A reused process must give the same losses as a fresh one, so everything a run could leave behind is set here.
"""

import contextlib
import ctypes
import gc
import platform
import random
import resource
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# glibc's M_MMAP_MAX and M_TRIM_THRESHOLD: keep freed memory. Measured 1.1 to 1.24 times the tokens per second.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1
_CLEAR_REFERENCES, _PROCESS_STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PYTHON_GENERATOR = 3  # the version of Python's generator state
_prepared = False


def prepare_process() -> None:
    """Once per process: one thread, and an allocator that keeps memory (glibc only, else nothing)."""
    global _prepared
    if _prepared:
        return
    torch.set_num_threads(1)
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
    except (OSError, AttributeError):
        pass
    _prepared = True


def reset_state(seed: int) -> None:
    """Before every run: the same global state whatever ran before."""
    prepare_process()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    torch.set_float32_matmul_precision("highest")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        _CLEAR_REFERENCES.write_text("5")


def take_gpu_share(share: float) -> None:
    """Let this process allocate at most that share (above 1: all) of its GPU's memory; what is beyond is told as OOM.

    Ray and CUDA_VISIBLE_DEVICES only say which GPU is shared; this keeps those that share it from one another.
    """
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0) or 1.0)


def peak_memory(device: str) -> dict[str, int | str]:
    """The most bytes held since `reset_state`: on a GPU what torch allocated, else what the process had in memory.

    Where the system cannot begin anew (other than Linux) it is the most since the process began.
    """
    if torch.device(device).type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "device"}
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = _PROCESS_STATUS.read_text(encoding="ascii")
        return {"bytes": int(text.split("VmHWM:")[1].split()[0]) * 1024, "of": "process"}
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "of": "process since it began"}


def num_gpus() -> int:
    """CUDA devices that torch can use here."""
    return torch.cuda.device_count()


def device_name(device: str) -> str:
    """What the device calls itself."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def generators(device: str) -> dict[str, npt.NDArray[Any]]:
    """The states of all random generators, as arrays."""
    kind, keys, *numbers = np.random.get_state()
    assert kind == "MT19937"
    version, words, gauss = random.getstate()
    assert version == _PYTHON_GENERATOR
    states = {
        "torch": torch.get_rng_state().numpy(),
        "numpy": np.asarray(keys),
        "numpy-numbers": np.array(numbers, dtype=np.float64),
        "python": np.array(words, dtype=np.int64),
        "python-gauss": np.array([] if gauss is None else [gauss], dtype=np.float64),
    }
    if torch.device(device).type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device).numpy()
    return states


def set_generators(states: dict[str, npt.NDArray[Any]], device: str) -> None:
    """Put all random generators into `states`, which came from `generators`."""
    torch.set_rng_state(torch.from_numpy(np.array(states["torch"])))
    place, has_gauss, gauss = states["numpy-numbers"].tolist()
    np.random.set_state(("MT19937", states["numpy"], int(place), int(has_gauss), gauss))
    kept = states["python-gauss"].tolist()
    random.setstate((_PYTHON_GENERATOR, tuple(states["python"].tolist()), kept[0] if kept else None))
    if torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(torch.from_numpy(np.array(states["cuda"])), device)


def versions() -> dict[str, str]:
    """Versions of what the numbers rest on."""
    return {"torch": torch.__version__, "numpy": np.__version__}
