"""What a process must be like before DeepSpeed is used in it: nothing is compiled, its talk stays out of logs."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from raystudy.errors import MissingPackageError

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


def initialize(model: nn.Module, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]) -> Any:
    """DeepSpeed's engine around the model and its optimizer; what it prints of memory meanwhile is left out."""
    import deepspeed

    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=dict(config))
    return engine
