"""The result file of the day: every trial that was made, in pieces or at once, and a page with a line a fault."""

import fcntl
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raystudy.execute.code_digest import code_digest
from tests.chaos.trials import FIRST_RUN, STATUS, STOP, STUDY, Seen
from tests.conftest import ROOT
from tests.slow.results import table, today, write_result

_MOST_TOLD = 5  # lines that a trial's job told, of those kept
_COLUMNS = ("trials", "good", "at_work", "lost", "repeated", "equal", "ends", "lines", "seconds")


def kept(date: str) -> list[dict[str, Any]]:
    """The trials that the file of a day holds."""
    path = ROOT / "docs" / "results" / f"cluster-chaos-{date}.json"
    return list(json.loads(path.read_text())["trials"]) if path.exists() else []


def are_made() -> set[tuple[str, int]]:
    """Faults and seeds of the day's trials."""
    return {(trial["fault"], trial["seed"]) for trial in kept(today())}


def keep(fault: str, seen: Seen, faults: Sequence[str]) -> None:
    """Add a trial, in place of one of the same fault and seed; `faults`: all there are, in their order.

    Rows may be made at once by several commands.
    """
    with (Path(tempfile.gettempdir()) / "raystudy-chaos.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _keep(fault, seen, faults)


def _keep(fault: str, seen: Seen, faults: Sequence[str]) -> None:
    date = today()
    trials = [trial for trial in kept(date) if (trial["fault"], trial["seed"]) != (fault, seen.seed)]
    about = {
        "fault": fault,
        "good": seen.is_good,
        "at": time.strftime("%H:%M UTC", time.gmtime()),
        "code": code_digest(),
    }
    trials.append(
        {**about, **asdict(seen), "told": [line.replace(str(ROOT), "PROJECT") for line in seen.told[:_MOST_TOLD]]}
    )
    trials.sort(key=lambda trial: (faults.index(trial["fault"]), trial["seed"]))
    write_result("cluster-chaos", {"date": date, "trials": trials}, page(date, trials, faults))


def page(date: str, trials: Sequence[dict[str, Any]], faults: Sequence[str]) -> list[str]:
    """The page's lines."""
    by_fault = {fault: [trial for trial in trials if trial["fault"] == fault] for fault in faults}
    lines = [
        f"# Faults on a Ray cluster, {date}",
        "",
        f"`python -m tests.chaos` on `{STUDY}`: a job over HTTP (`raystudy submit --follow`, `ray job submit`) on a",
        "head and a node of one CPU each, in network, process and mount namespaces of their own. A trial is disturbed",
        "at a random moment of its seed, submitted again and compared, digit for digit, with an undisturbed one. Good:",
        "no finished run lost, none started again, equal, an exit status that says what became of the job, one message",
        "where a launch does not succeed, no traceback. At work: it hit a job that had not ended. Ends: of the",
        "disturbed job, the follower's exit status and the job's. Lines: the most that a trial's job told beside its",
        "progress. Moments and messages of every trial, and the digest of raystudy's source, are in the JSON file.",
        "",
        *table("fault", _COLUMNS, [_row(fault, those) for fault, those in by_fault.items() if those]),
        "",
        *(f"- {trial['fault']}, seed {trial['seed']}: {problem}" for trial in trials for problem in trial["problems"]),
    ]
    lines += ["", *_latencies(trials)]
    few = [f"{fault} ({len(those)})" for fault, those in by_fault.items() if len(those) < 5]
    return [*lines, "", f"Fewer than five trials: {', '.join(few)}."] if few else lines


def _latencies(trials: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for what in (FIRST_RUN, STOP, STATUS):
        if seconds := [trial["latencies"][what] for trial in trials if what in trial["latencies"]]:
            spread = f"{statistics.median(seconds):.1f} s in the middle, {min(seconds):.1f} to {max(seconds):.1f}"
            lines.append(f"- {what}: {spread}, of {len(seconds)} trials")
    return lines


def _row(fault: str, trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "fault": fault,
        "trials": len(trials),
        "good": sum(trial["good"] for trial in trials),
        "at_work": sum(trial["disturbed"] > 0 for trial in trials),
        "lost": sum(trial["lost"] for trial in trials),
        "repeated": sum(trial["repeated"] for trial in trials),
        "equal": sum(trial["is_equal"] for trial in trials),
        "ends": ", ".join(sorted({trial["ends"][0] for trial in trials if trial["ends"]})),
        "lines": max(trial["num_lines"] for trial in trials),
        "seconds": round(sum(trial["seconds"] for trial in trials)),
    }
