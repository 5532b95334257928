"""Tells a person what a launch is doing: finished/total, time left, tokens per second.

A live line on a terminal, plain lines elsewhere. Knows nothing of how runs are made.
"""

import sys
import time
from typing import TextIO

_PLAIN_SECONDS = 10.0  # between plain lines
_LIVE_SECONDS = 0.2


class Progress:
    """Progress of one launch, written to `stream` (default standard error)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_live = self._stream.isatty()
        self._label = ""
        self._total = self._finished = self._failed = self._tokens = 0
        self._flops_total = self._flops_done = 0.0
        self._started = self._told = time.monotonic()

    def say(self, line: str) -> None:
        """One line of its own."""
        if self._is_live:
            self._stream.write("\r\033[K")
        self._stream.write(line + "\n")
        self._stream.flush()

    def start(self, label: str, total: int, flops: float) -> None:
        """A wave of `total` runs begins."""
        self._label, self._total, self._flops_total = label, total, flops
        self._finished = self._failed = self._tokens = 0
        self._flops_done = 0.0
        self._started = self._told = time.monotonic()
        self.say(f"{label}: {total} runs")

    def ended(self, status: str, tokens: int, flops: float) -> None:
        """A run has ended."""
        self._finished += status != "failed"
        self._failed += status == "failed"
        self._tokens += tokens
        self._flops_done += flops
        now = time.monotonic()
        is_last = self._finished + self._failed == self._total
        if is_last or now - self._told >= (_LIVE_SECONDS if self._is_live else _PLAIN_SECONDS):
            self._told = now
            self._tell(is_last)

    def _tell(self, is_last: bool) -> None:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        left = elapsed * (self._flops_total - self._flops_done) / max(self._flops_done, 1.0)
        parts = [f"{self._label}: {self._finished}/{self._total} runs"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        parts.append(f"{elapsed:.0f} s in all" if is_last else f"about {left:.0f} s left")
        parts.append(f"{self._tokens / elapsed:,.0f} tokens/s")
        line = " | ".join(parts)
        if self._is_live and not is_last:
            self._stream.write("\r\033[K" + line)
            self._stream.flush()
        else:
            self.say(line)
