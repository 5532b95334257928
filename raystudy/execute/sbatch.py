"""The script for Slurm's sbatch that makes a wave as an array of jobs. Text alone; runs nothing.

Options as the manual of sbatch has them (https://slurm.schedmd.com/sbatch.html). What a name or a path could do in a
script is undone by quoting; in `#SBATCH` lines, which a shell does not read, stand plain words only.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from raystudy.execute.threads import thread_settings

SIGNAL_SECONDS = 120  # before the walltime's end Slurm sends SIGUSR1, or at its half; it may be a minute early
NOT_ACCEPTED = 75  # exit status of submit.sh where sbatch refused; no status of `raystudy run-task`


@dataclass(frozen=True)
class JobShape:
    """An array of `num_jobs`, at most `limit` at once, each making `per_job` tasks."""

    name: str
    num_jobs: int
    per_job: int
    limit: int


def sbatch_script(study: str, job: JobShape, tasks: Path, cpus: int, gpus: int, walltime: int) -> str:
    """The whole script. `walltime`: seconds of one job."""
    gpu_lines = [
        "# GPUs of one job. CHANGE: some clusters want --gres=gpu:N, or a type: --gpus-per-node=h100:N",
        f"#SBATCH --gpus-per-node={gpus}",
    ]
    time = duration(walltime)
    lines = [
        "#!/bin/bash",
        f"# A wave of the raystudy study {study!r}, as an array of {job.num_jobs} jobs of {job.per_job} tasks.",
        "# Submit it with sbatch from this folder (or all arrays: bash submit.sh); once it has ended, `raystudy plan",
        "# STUDY --emit slurm-array` writes the next wave. Lines after CHANGE are yours.",
        "#",
        f"#SBATCH --job-name=raystudy-{job.name}",
        "# How many jobs go on at once, after the %. CHANGE it to what you may use",
        f"#SBATCH --array=0-{job.num_jobs - 1}%{job.limit}",
        "# CHANGE, as your cluster wants it: remove a # to use a line",
        "##SBATCH --partition=NAME",
        "##SBATCH --account=NAME",
        "# Memory of one job; without this line the cluster's default",
        "##SBATCH --mem=8G",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        f"#SBATCH --cpus-per-task={cpus}",
        *(gpu_lines if gpus else ()),
        "# The time of one job. CHANGE it in both places, here and below: what it cuts short stops at a checkpoint, is",
        "# put back into the queue and goes on there",
        f"#SBATCH --time={time}",
        f"#SBATCH --signal=B:USR1@{min(SIGNAL_SECONDS, max(1, walltime // 2))}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=%x-%A_%a.log",
        "",
        "# CHANGE: whatever makes this Python work on the nodes, such as `module load cuda`",
        f"cd -- {shlex.quote(str(Path.cwd()))} || exit 1",
        f"export {' '.join(f'{name}={value}' for name, value in thread_settings(1).items())}",
        "exec \\",
        f"  {shlex.quote(sys.executable)} -m raystudy run-task {shlex.quote(str(tasks))} \\",
        f'  --index "$SLURM_ARRAY_TASK_ID" --count {job.per_job} --walltime {time} --requeue',
    ]
    return "\n".join(lines) + "\n"


def submit_script(study: str, scripts: Sequence[str], num_failures: int = 0) -> str:
    """What submits all arrays of a wave at once, the largest jobs first; options go on to sbatch (`--wait`).

    It ends with NOT_ACCEPTED where sbatch took one of them not, else as the first sbatch that did not end with 0. What
    sbatch prints for a job that it took tells the two apart, for with `--wait` it ends as the job does.
    `num_failures`: of the wave's runs so far; two waves alike to the letter came no step on.
    """
    lines = ["#!/bin/bash", f"# Submits the current wave of the raystudy study {study!r}."]
    if not scripts:
        lines.append("# Nothing of it is missing: there is nothing to submit.")
    lines.append('cd -- "$(dirname -- "$0")" || exit 1')
    if not scripts:
        return "\n".join(lines) + "\n"
    lines += [
        f"# Its runs have failed {num_failures} times so far.",
        "said=$(mktemp -d) || exit 1",
        "jobs=()",
        """trap 'kill "${jobs[@]}" 2> /dev/null; exit 130' INT TERM""",
        """trap 'rm -rf -- "$said"' EXIT""",
        "submit() {",
        '  sbatch "${@:2}" "$1" > "$said/${#jobs[@]}" &',
        "  jobs+=($!)",
        "}",
        *(f'submit {shlex.quote(script)} "$@"' for script in scripts),
        "status=0",
        'for place in "${!jobs[@]}"; do',
        '  wait "${jobs[place]}"',
        "  ended=$?",
        '  cat "$said/$place"',
        '  if [ "$ended" -ne 0 ] && [ ! -s "$said/$place" ]; then',
        f"    status={NOT_ACCEPTED}",
        '  elif [ "$status" -eq 0 ]; then',
        '    status="$ended"',
        "  fi",
        "done",
        'exit "$status"',
    ]
    return "\n".join(lines) + "\n"


def duration(seconds: int) -> str:
    """As Slurm writes a time: HH:MM:SS."""
    return f"{seconds // 3600:02d}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
