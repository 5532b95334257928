"""What a protocol costs: runs, tokens, FLOPs and device-seconds, each run once."""

from collections.abc import Sequence

from raystudy.study.state import StudyState
from raystudy.study.wanted import WantedRun


def cost(state: StudyState, runs: Sequence[WantedRun]) -> dict[str, float]:
    """What a protocol takes, tuning and the parents of branches included; device-seconds on whatever device ran it.

    Of a run that goes on beyond the step that is scored, or branched from, the steps up to there. Tokens are those
    trained on or, by a probe, read: as its record says, where it has one.
    """
    shares: dict[str, float] = {}
    for run in runs:
        shares[run.run_id] = max(run.share_needed, shares.get(run.run_id, 0.0))
    unique = {run.run_id: run for run in runs}
    records = {run_id: record for run_id, run in unique.items() if (record := state.record(run)) is not None}
    read = {run_id: int(record.result.get("num_tokens", 0)) for run_id, record in records.items()}
    return {
        "num_runs": len(unique),
        "tokens": sum(
            round((read.get(run_id) or run.run.num_tokens) * shares[run_id]) for run_id, run in unique.items()
        ),
        "flops": float(sum(run.flops * shares[run_id] for run_id, run in unique.items())),
        "device_seconds": sum(record.device_seconds * shares[run_id] for run_id, record in records.items()),
    }
