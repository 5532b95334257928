"""The deepspeed launcher and torchrun start the ranks of a study's model: the runs of `raystudy run --local`.

Leaves docs/results/launchers-<date>. That torchrun's restart takes half of what ran out of memory is tested in
tests/reference/test_group_studies.py.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, run_cli
from tests.execute.test_local import copy_inputs
from tests.ray_cluster import free_port
from tests.reference.test_group_studies import STUDY, losses
from tests.slow.results import table, today, write_result

_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "-m"]
_NODE = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nnodes",
    "2",
    "--nproc-per-node",
    "1",
    "--rdzv-backend",
    "c10d",
]
_NODE += ["--rdzv-id", "1", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "-m"]
_DEEPSPEED = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--module"]
LAUNCHERS = {"torchrun": [_TORCHRUN], "torchrun, as two nodes": [_NODE, _NODE], "deepspeed": [_DEEPSPEED]}
COLUMNS = ("exit_status", "runs", "largest_difference", "seconds")


def main(arguments: list[str]) -> int:
    assert not arguments
    with tempfile.TemporaryDirectory(prefix="rs-launchers-") as folder:
        place = Path(folder)
        study = place / "groups.yaml"
        study.write_text(STUDY)
        done = run_cli("run", study, "--storage", place / "local", "--local", timeout=600)
        assert done.returncode == 0, done.stderr
        rows = [_row(name, place, study) for name in LAUNCHERS]
    date = today()
    lines = [
        f"# Ranks started by launchers, {date}",
        "",
        "`python -m tests.slow launchers`: all runs of the larger model of a study (two DeepSpeed workers, ZeRO 2,",
        "FP32, CPU), by `raystudy run --local` and with each launcher. Largest difference: relative, of all losses.",
        "",
        *table("launcher", COLUMNS, rows),
    ]
    write_result("launchers", {"date": date, "rows": rows}, lines)
    return 0 if all(row["is_good"] for row in rows) else 1


def _row(name: str, place: Path, study: Path) -> dict[str, Any]:
    storage = copy_inputs(place / "local", place / name)
    words = ["raystudy.reference", str(study), "--storage", str(storage), "--model", "target"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = time.monotonic()
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    started_ones = [subprocess.Popen([*own, *words], cwd=ROOT, env=environment, **pipes) for own in LAUNCHERS[name]]
    said = [one.communicate(timeout=600)[1] for one in started_ones]
    status = max((one.returncode for one in started_ones), key=abs)
    print(name, status, [each[-300:] for each in said], flush=True)
    expected, made = losses(place / "local"), losses(storage) if (storage / "runs").exists() else {}
    pairs = [pair for run in made for pair in zip(made[run], expected[run], strict=True)]
    difference = max((abs(a - b) / abs(b) for a, b in pairs), default=None)
    is_good = status == 0 and len(made) == 4 and difference is not None and difference <= 1e-6
    row = {"launcher": name, "exit_status": status, "runs": len(made), "largest_difference": difference}
    return {**row, "seconds": round(time.monotonic() - started, 1), "is_good": is_good}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
