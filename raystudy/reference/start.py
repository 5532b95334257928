"""What a process must be like before DeepSpeed is used in it: nothing is compiled, its talk stays out of logs."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raystudy.errors import MissingPackageError, RaystudyError
from raystudy.reference.builds import prepare_builds

# The op that DeepSpeed compiles when a group of CPU processes forms; only its inference uses it.
_COMPILED_AT_START = "deepspeed_shm_comm"


def prepare_deepspeed(local_rank: int, device: str) -> None:
    """Before `deepspeed.initialize`, and before anything else imports it: nothing is compiled, no compiler is needed.

    Args:
        local_rank: of the GPU, on this machine.
        device: what this process computes on.

    Raises:
        MissingPackageError: DeepSpeed is not installed.
    """
    os.environ["LOCAL_RANK"] = str(local_rank)  # DeepSpeed asks for it even where the group exists
    os.environ["DS_ACCELERATOR"] = device.partition(":")[0]  # else it takes a GPU wherever it finds one
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # Of its own use of torch, several at every collective; none is the user's to mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|deepspeed)(\.|$)")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|deepspeed)(\.|$)")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"deepspeed(\.|$)")
    try:
        import deepspeed.ops
    except ImportError as error:
        raise MissingPackageError(
            f"engine 'deepspeed' needs the package deepspeed, which cannot be imported here ({error}). "
            f"Install raystudy[deepspeed], or choose engine: torch"
        ) from error
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # its import sets another
    deepspeed.ops.__compatible_ops__[_COMPILED_AT_START] = False
    _prepare_builds(local_rank)


def _prepare_builds(local_rank: int) -> None:
    """Settle where operations are built, should any be; one rank of a machine says what there is to say."""

    def say(line: str) -> None:
        if local_rank == 0:
            print(f"raystudy: {line}", file=sys.stderr, flush=True)

    try:
        prepare_builds(say)
    except OSError as error:  # nothing may need to be built
        say(f"operations that DeepSpeed builds have no folder ({error}): see `raystudy doctor`")


def initialize(model: nn.Module, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]) -> Any:
    """DeepSpeed's engine around the model and its optimizer; what it prints of memory meanwhile is left out.

    Raises:
        RaystudyError: DeepSpeed does not take the configuration.
    """
    import deepspeed

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=dict(config))
    except (ValueError, TypeError, KeyError, AssertionError, NotImplementedError) as error:
        raise RaystudyError(
            f"engine.config must be what DeepSpeed {deepspeed.__version__} takes with the rest of the engine, but it "
            f"says {type(error).__name__}: {error}. Mend it, or leave it out"
        ) from error
    return engine


def end(engine: Any) -> None:
    """Give up the engine; another may begin in this process.

    Two things of DeepSpeed's stage 3 outlive its own `destroy` (0.19.8) and would keep the model and all its state: a
    list of modules, and the cache of a method.
    """
    from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator

    engine.destroy()
    parameter_offload.FWD_MODULE_STACK.clear()
    for member in vars(partitioned_param_coordinator.PartitionedParameterCoordinator).values():
        for cell in getattr(member, "__closure__", None) or ():
            clear = getattr(cell.cell_contents, "cache_clear", None)
            if clear is not None:
                clear()
