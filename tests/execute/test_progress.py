"""Progress: a live line on a terminal, plain lines elsewhere; finished/total, time left, tokens per second."""

import io

from raystudy.execute.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO) -> str:
    progress = Progress(stream)
    progress.start("wave 1", 3, flops=30.0)
    for status in ("finished", "failed", "diverged"):
        progress.ended(status, tokens=100, flops=10.0)
    return stream.getvalue()


def test_elsewhere_plain_lines_say_how_it_ended():
    text = shown(io.StringIO())
    assert "\r" not in text
    assert text.splitlines()[0] == "wave 1: 3 runs"
    assert text.splitlines()[-1].startswith("wave 1: 2/3 runs | 1 failed | 0 s in all | ")
    assert text.rstrip().endswith("tokens/s")


def test_on_a_terminal_one_line_is_rewritten():
    assert "\r\033[K" in shown(Terminal())


def test_time_left_follows_the_work_left_not_the_number_of_runs():
    stream = Terminal()
    progress = Progress(stream)
    progress.start("wave 1", 2, flops=100.0)
    progress._started -= 9.0
    progress._told -= 9.0
    progress.ended("finished", tokens=9, flops=90.0)
    assert "1/2 runs | about 1 s left" in stream.getvalue()


def test_a_state_is_kept_at_a_waves_start_and_end_and_seldom_in_between():
    kept = []
    progress = Progress(io.StringIO())
    progress.keep(kept.append)
    progress.start("wave 1", 100, flops=100.0)
    progress._started -= 10.0
    for _ in range(100):
        progress.ended("finished", tokens=1, flops=1.0)
    assert [state["finished"] for state in kept] == [0, 100]
    assert abs(kept[-1]["flops_per_second"] - 10.0) < 1.0
    progress.start("wave 2", 5, flops=5.0)
    assert abs(kept[-1]["flops_per_second"] - 10.0) < 1.0, "the speed is that of the whole launch"
