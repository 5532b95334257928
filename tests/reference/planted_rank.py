"""A rank in which faults are planted: `python -m tests.reference.planted_rank`, in the place of raystudy.reference.

PLANTS holds a JSON list of faults {seed, rank, step, what, times}; each is met before that step of the run with that
seed, `times` times in all, counted in the folder PLANTS_MET. Only tests know this module.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from raystudy.errors import StorageError
from raystudy.execute.rank_process import main
from raystudy.reference.training import ReferenceTraining


def meet(fault: dict[str, Any]) -> None:
    met = Path(os.environ["PLANTS_MET"])
    done = len(list(met.glob(f"{fault['seed']}-{fault['what']}-*")))
    if done >= fault.get("times", 1):
        return
    (met / f"{fault['seed']}-{fault['what']}-{done}").touch()
    if fault["what"] == "sleep":
        time.sleep(600)
    elif fault["what"] in ("SIGKILL", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, fault["what"]))
    elif fault["what"] == "program":
        raise ValueError("planted")
    elif fault["what"] == "refused":
        raise StorageError("planted: mend it")
    elif fault["what"] == "memory":
        raise MemoryError


_real = ReferenceTraining._read_share


def read_share(self: ReferenceTraining) -> Any:
    for fault in json.loads(os.environ["PLANTS"]):
        if (fault["seed"], fault["rank"], fault["step"]) == (self._run.seed, self._world.rank, self.step):
            meet(fault)
    return _real(self)


if __name__ == "__main__":
    ReferenceTraining._read_share = read_share
    sys.exit(main())
