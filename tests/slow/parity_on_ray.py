"""`raystudy parity` on a Ray cluster as on this machine: the same table, verdict and exit status; and a planted fault.

Leaves docs/results/parity-on-ray-<date>. Called with `--planted ARGUMENTS` it is the verb with a reference whose
workers hold their weights in bf16, without FP32 masters.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raystudy.cli.main import main as raystudy
from raystudy.distribute import parity
from raystudy.execute.work import RunReport, Task
from tests.conftest import ROOT
from tests.ray_cluster import running_cluster
from tests.reference.planted_differences import no_masters
from tests.reference.test_group_studies import STUDY
from tests.slow.results import table, today, write_result

STEPS = 10
LOST_MASTERS = "weights held in bf16, without FP32 masters"
COLUMNS = ("exit_status", "verdict", "rows", "rows_not_the_same", "largest_share_of_a_bound", "seconds")


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--planted"]:
        return _planted(arguments[1:])
    with tempfile.TemporaryDirectory(prefix="rs-parity-") as folder, running_cluster() as environment:
        study = Path(folder) / "groups.yaml"
        study.write_text(STUDY)
        words = ["parity", str(study), "--storage", f"{folder}/storage", "--steps", str(STEPS), "--json"]
        asked = [sys.executable, "-m", "raystudy", *words]
        found = {
            "this machine (--local)": _ask([*asked, "--local"], environment),
            "Ray": _ask(asked, environment),
            "Ray, masters lost": _ask([*asked[:2], "tests.slow.parity_on_ray", "--planted", *words], environment),
        }
        left = [str(path) for path in Path(folder).rglob(".writing-*")] + [
            str(path) for path in Path(folder).glob("storage/runs/*")
        ]
    problems = _problems(found, left)
    _write([{"where": where, **_row(each)} for where, each in found.items()], problems)
    print("\n".join(problems))
    return 1 if problems else 0


def _planted(words: list[str]) -> int:
    parity.make_on_worker = make_without_masters
    return raystudy(words)


def make_without_masters(folder: Path, task: Task, told: Callable[[RunReport], None]) -> list[RunReport]:
    """In a worker: what `make_on_worker` does, of weights without masters."""
    from raystudy.distribute.parity import make_on_worker

    with no_masters():
        return make_on_worker(folder, task, told)


def _ask(words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    started = time.monotonic()
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )
    print(words[-1], done.returncode, done.stderr[-500:], flush=True)
    told = json.loads(done.stdout)[0] if done.returncode in (0, 9, 10) else {"verdict": done.stderr[-300:], "rows": []}
    return {**told, "exit_status": done.returncode, "seconds": round(time.monotonic() - started, 1)}


def _row(answer: dict[str, Any]) -> dict[str, Any]:
    shares = [row["difference"] / row["bound"] for row in answer["rows"] if row["bound"] and row["difference"]]
    return {
        **{key: answer[key] for key in ("exit_status", "verdict", "seconds")},
        "rows": len(answer["rows"]),
        "rows_not_the_same": sum(row["is_same"] is not True for row in answer["rows"]),
        "largest_share_of_a_bound": f"{max(shares, default=0.0):.2g}",
        "named": answer.get("named", []),
    }


def _problems(found: dict[str, dict[str, Any]], left: list[str]) -> list[str]:
    """What is not as it must be."""
    here, there, spoilt = found.values()
    problems = [f"left behind: {left}"] if left else []
    for name, answer in (("here", here), ("on Ray", there)):
        if (answer["exit_status"], answer["verdict"]) != (0, "same"):
            problems.append(f"{name}: {answer['exit_status']}, {answer['verdict']}")
    if [row["quantity"] for row in here["rows"]] != [row["quantity"] for row in there["rows"]]:
        problems.append("the two tables have other rows")
    if (spoilt["exit_status"], spoilt.get("named")) != (9, [LOST_MASTERS]):
        problems.append(f"lost masters: {spoilt['exit_status']}, {spoilt['verdict']}, {spoilt.get('named')}")
    return problems


def _write(rows: list[dict[str, Any]], problems: list[str]) -> None:
    date = today()
    lines = [
        f"# `raystudy parity` on a Ray cluster, {date}",
        "",
        "`python -m tests.slow parity_on_ray`: a model of one layer, two DeepSpeed workers (ZeRO 2, FP32, CPU),",
        f"{STEPS} steps, on this machine and on a Ray cluster of two CPUs; then on it with workers that round their",
        "weights to bf16 after every step, which must end with status 9 and be named alone. Largest share of a bound:",
        "over all quantities that have one.",
        "",
        *table("where", COLUMNS, rows),
        "",
        f"Problems: {'; '.join(problems) or 'none'}.",
    ]
    write_result("parity-on-ray", {"date": date, "rows": rows, "problems": problems}, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
