"""Tells a person what a launch is doing: finished/total, time left, tokens per second.

A live line on a terminal, plain lines elsewhere, JSON lines where asked for, and a small state that `raystudy status`
reads from another process. Knows nothing of how runs are made.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from raystudy.execute.log_events import Level, LogFormat, event_line, log_format
from raystudy.execute.work import MAX_FAILURES, RunReport
from raystudy.study.wanted import WantedRun

_PLAIN_SECONDS = 10.0  # between plain lines
_LIVE_SECONDS = 0.2
_KEEP_SECONDS = 2.0  # between states that are kept


class Progress:
    """Progress of one launch, written to `stream` (default standard error), as `chosen` or RAYSTUDY_LOG_FORMAT says."""

    def __init__(self, stream: TextIO | None = None, chosen: LogFormat | None = None) -> None:
        self._stream = stream or sys.stderr
        self.is_json = (chosen or log_format()) == "json"
        self._is_live = self._stream.isatty() and not self.is_json
        self._study = ""
        self._keep: Callable[[dict[str, Any]], None] | None = None
        self._label = ""
        self._total = self._finished = self._failed = self._lost = self._tokens = 0
        self._used: dict[str, float] = {}
        self._num_preemptions = 0
        self._flops_total = self._flops_done = 0.0
        self._seconds_before = self._flops_before = 0.0  # of the launch's earlier waves
        self._started = self._told = self._kept = time.monotonic()

    def keep(self, keep: Callable[[dict[str, Any]], None]) -> None:
        """Give `keep` a state from now on, at most every two seconds."""
        self._keep = keep
        self._kept = time.monotonic() - _KEEP_SECONDS

    def say(self, line: str, level: Level = "info", event: str = "message", **about: Any) -> None:
        """One line of its own; `about`: what else the event says as JSON."""
        if self.is_json:
            line = event_line(event, level, line.strip(), study=self._study, **about)
        if self._is_live:
            self._stream.write("\r\033[K")
        self._stream.write(line + "\n")
        self._stream.flush()

    def begin(self, study: str, **about: Any) -> None:
        """A launch of `study` begins: an event for programs, and no news to a person."""
        self._study = study
        if self.is_json:
            self.say(f"{study}: launch begins", event="launch-started", **about)

    def start(self, label: str, total: int, flops: float) -> None:
        """A wave of `total` runs begins."""
        now = time.monotonic()
        if self._total:
            self._seconds_before += now - self._started
            self._flops_before += self._flops_done
        self._label, self._total, self._flops_total = label, total, flops
        self._finished = self._failed = self._lost = self._tokens = 0
        self._flops_done = 0.0
        self._started = self._told = now
        self.say(f"{label}: {total} runs", event="wave-started", label=label, total=total, flops=flops)
        self._keep_state(now)

    def used(self, shares: dict[str, float], num_preemptions: int) -> None:
        """So far runs have used these shares of the device time, by device, and were preempted so often."""
        self._used, self._num_preemptions = shares, num_preemptions

    def run_ended(self, run: WantedRun, report: RunReport) -> None:
        """A run has ended: a person is told of those that failed or left a note, a program of all.

        Of runs that one death of their worker made fail a person is told together. The loss of a node is no failure of
        its run: see losses.py, which tells of it.
        """
        status = "lost" if report.loss else report.status
        lines: list[tuple[Level, str]] = [("warning", f"{run}: {report.note}")] if report.note else []
        if status == "failed" and (self.is_json or report.num_together):
            is_one = self.is_json or report.num_together == 1
            which = f"{run}" if is_one else f"{report.num_together} runs of a task (first: {run})"
            more = "" if is_one else f"; each is tried at most {MAX_FAILURES} times"
            lines.append(("error", f"failed: {which}: {report.cause}{more}"))
        if self.is_json:
            about: dict[str, Any] = {
                "run_id": report.run_id,
                "recipe": run.recipe,
                "model": run.model,
                "lr": run.lr,
                "seed": run.seed,
            }
            about |= {"status": status, "seconds": report.seconds, "tokens": report.num_tokens}
            usual: Level = "info" if status == "finished" else "warning"
            level, line = lines[-1] if lines else (usual, f"{status}: {run}")
            self.say(line, level, "run-ended", **about, note=report.note, cause=report.cause)
        self.ended(status, report.num_tokens, run.flops)
        for level, line in () if self.is_json else lines:
            self.say(line, level)

    def ended(self, status: str, tokens: int, flops: float) -> None:
        """A run has ended; "lost" is one that is still to be made, by no failure of its own."""
        self._lost += status == "lost"
        self._finished += status not in ("failed", "lost")
        self._failed += status == "failed"
        flops = 0.0 if status == "lost" else flops
        self._tokens += tokens
        self._flops_done += flops
        now = time.monotonic()
        is_last = self._finished + self._failed + self._lost == self._total
        if is_last or now - self._told >= (_LIVE_SECONDS if self._is_live else _PLAIN_SECONDS):
            self._told = now
            self._tell(is_last)
        if is_last or now - self._kept >= _KEEP_SECONDS:
            self._keep_state(now)

    def _keep_state(self, now: float) -> None:
        if self._keep is None:
            return
        self._kept = now
        seconds = self._seconds_before + now - self._started
        speed = (self._flops_before + self._flops_done) / seconds if seconds > 0 else 0.0
        state = {"label": self._label, "total": self._total, "finished": self._finished, "failed": self._failed}
        about = {"device_time_used": self._used, "num_preemptions": self._num_preemptions}
        self._keep({**state, "flops_per_second": speed, **about})

    def _tell(self, is_last: bool) -> None:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        left = elapsed * (self._flops_total - self._flops_done) / max(self._flops_done, 1.0)
        parts = [f"{self._label}: {self._finished}/{self._total} runs"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._lost:
            parts.append(f"{self._lost} lost, to be made again")
        parts.append(f"{elapsed:.0f} s in all" if is_last else f"about {left:.0f} s left")
        parts.append(f"{self._tokens / elapsed:,.0f} tokens/s")
        line = " | ".join(parts)
        about: dict[str, Any] = {
            "label": self._label,
            "total": self._total,
            "finished": self._finished,
            "failed": self._failed,
        }
        about |= {"seconds": round(elapsed, 3), "seconds_left": round(left, 3)}
        if self._is_live and not is_last:
            self._stream.write("\r\033[K" + line)
            self._stream.flush()
        else:
            self.say(line, event="progress", **about)
