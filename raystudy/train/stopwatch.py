"""Where a run's time goes. On a GPU the device's own timeline is measured, without making the host wait for it."""

import time
from collections.abc import Mapping

import torch


class Stopwatch:
    """Seconds by phase; each phase ends with a `lap`."""

    def __init__(self, device: str) -> None:
        self._is_cuda = torch.device(device).type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event]] = []
        self._last = 0.0

    def start(self) -> None:
        """A phase begins now; what came before is no one's."""
        if self._is_cuda:
            self._mark("")
        else:
            self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """The time since the last mark was `phase`."""
        if self._is_cuda:
            self._mark(phase)
            return
        now = time.perf_counter()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what was measured elsewhere too."""
        for phase, value in seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + value

    def _mark(self, phase: str) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append((phase, event))

    def seconds(self) -> dict[str, float]:
        """Seconds of every phase so far; waits for the device."""
        if self._events:
            self._events[-1][1].synchronize()
        for (_, before), (phase, event) in zip(self._events, self._events[1:], strict=False):
            if phase:
                self._seconds[phase] = self._seconds.get(phase, 0.0) + before.elapsed_time(event) / 1000
        self._events = self._events[-1:]
        return dict(self._seconds)
