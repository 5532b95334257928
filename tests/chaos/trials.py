"""One trial: a study as a job on a cluster that something happens to, submitted again, and what was seen of it."""

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.cluster import API, RAY, Cluster, Job
from tests.chaos.places import NAME, Folder, Place
from tests.conftest import ROOT
from tests.faults.trials import Times, Trial

STUDY = "tests/chaos/study.yaml"
STOPPED = ("STOPPED", "SUCCEEDED")  # the latter where it had ended before
FIRST_RUN, STOP, STATUS = "submit to first finished run", "stop to ended job", "status"
SLOWEST = 150.0  # seconds that a job may take here at the most
_PROGRESS = ("wave ", "Running entrypoint for job", "20", "[20")  # Ray's own lines begin with the date
_SUMS = (" runs made, ", ": device time used by runs")


@dataclass
class Seen(Trial):
    """What a trial on a cluster saw. `moment`: finished runs when it happened; `ends`: exit and job status of jobs."""

    is_equal: bool = False  # until it has been seen to be
    seed: int = 0
    moment: int = 0
    ends: list[str] = field(default_factory=list)
    message: str = ""
    num_messages: int = 0  # those that end a launch
    num_lines: int = 0  # all that a person is told beside progress
    seconds: float = 0.0
    told: list[str] = field(default_factory=list)
    latencies: dict[str, float] = field(default_factory=dict)  # seconds, by what was waited for


def undisturbed(path: Path, overrides: Sequence[str] = ()) -> tuple[Any, int]:
    """The comparison that must come out, and the number of runs."""
    sets = [word for override in overrides for word in ("--set", override)]
    words = [sys.executable, "-m", "raystudy", "run", STUDY, "--storage", str(path), "--local", "--workers", "1", *sets]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return Folder(path).comparison(), len(Folder(path).results())


class Stage:
    """What a fault works on: a cluster that is up and whole, an empty place, and the moments that its seed draws."""

    def __init__(
        self, cluster: Cluster, place: Place, expected: tuple[Any, int], seed: int, overrides: Sequence[str] = ()
    ) -> None:
        """`overrides`: of the study, in every job."""
        cluster.complete()
        self.cluster, self.place, self.seed, self._overrides = cluster, place, seed, overrides
        self._reference, self.num_runs = expected
        self.moments = random.Random(seed)
        self.seen = Seen(seed=seed)
        self._before: Times = {}
        self._started = time.monotonic()

    @property
    def by_raystudy(self) -> bool:
        """Whether this trial uses raystudy's own commands for jobs, not Ray's: two seeds in four."""
        return self.seed // 2 % 2 == 0

    def submit(self, *overrides: str, via: str = API) -> Job:
        """The study as a job that is followed, by `raystudy submit` or the plain line."""
        sets = [word for override in (*self._overrides, *overrides) for word in ("--set", override)]
        where = ["--storage", self.place.location, *sets]
        if self.by_raystudy:
            words = [sys.executable, "-m", "raystudy", "submit", STUDY, *where, "--address", via, "--follow"]
            return Job(self.cluster, words, via=via)
        return self.submit_plainly(["python", "-m", "raystudy", "run", STUDY, *where], via=via)

    def submit_plainly(self, entrypoint: Sequence[str], *, via: str = API, cwd: Path = ROOT) -> Job:
        """`ray job submit` with a working directory."""
        name = f"s{self.seed}-{time.monotonic_ns()}"
        words = [
            RAY,
            "job",
            "submit",
            "--address",
            via,
            "--submission-id",
            name,
            "--working-dir",
            ".",
            "--",
            *entrypoint,
        ]
        return Job(self.cluster, words, name=name, via=via, cwd=cwd)

    def stop(self, job: Job) -> "subprocess.Popen[bytes]":
        """The command that stops it, on its way."""
        own = [sys.executable, "-m", "raystudy", "stop", "--address", API]
        return job.ask_to_stop(own if self.by_raystudy else [RAY, "job", "stop", "--address", API])

    def wait_for_work(self, job: Job, *, least: float = 0.0, most: float = 0.8) -> None:
        """Until a random number of runs have finished, between those shares of all, and a moment longer."""
        at_least = self.moments.randint(int(least * self.num_runs), int(most * self.num_runs))
        deadline = time.monotonic() + SLOWEST
        if not at_least:  # while it starts
            time.sleep(self.moments.uniform(0, 4.0))
        while (num := len(self.place.results())) < at_least:
            self._note_first(job, num)
            assert time.monotonic() < deadline, f"no work was seen: {job.log()[-20:]}"
            if job.follower.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(self.moments.uniform(0, 0.5))
        self.seen.moment = len(self.place.results())
        self.seen.disturbed += job.follower.poll() is None

    def _note_first(self, job: Job, num_results: int) -> None:
        if num_results:
            self.seen.latencies.setdefault(FIRST_RUN, time.monotonic() - job.submitted)

    def stopped(self, job: Job) -> None:
        """Stop it, and see it to its end."""
        asked = time.monotonic()
        self.seen.check(self.stop(job).wait(60) == 0, "the stop was not taken")
        self.ended(job, STOPPED)
        if self.seen.ends[-1].endswith(STOPPED[0]):
            self.seen.latencies[STOP] = time.monotonic() - asked

    def ask_status(self) -> None:
        """`raystudy status` from where the storage is reached."""
        asked = time.monotonic()
        words = [sys.executable, "-m", "raystudy", "status", NAME, "--storage", self.place.location]
        done = subprocess.run(words, cwd=ROOT, env=self.cluster.environment, capture_output=True, text=True, timeout=60)
        self.seen.check(done.returncode in (0, 1) and "Traceback" not in done.stderr, f"status: {done.stderr}")
        self.seen.latencies[STATUS] = time.monotonic() - asked

    def ended(self, job: Job, expected: Sequence[str], *, silent: bool = False, follows: bool = True) -> None:
        """See a job to its end. `expected`: statuses it may have; `silent`: nothing can have told why it ended."""
        code, status = job.wait(SLOWEST)
        seen, log = self.seen, job.log()
        self._before = self.place.results()
        seen.ends.append(f"{code} {status or 'no cluster'}")
        seen.check((status or "no cluster") in expected, f"the job ended {status or 'no cluster'}: {log[-6:]}")
        if follows:
            is_rays = code == 0 and status == "STOPPED" and not self.by_raystudy  # Ray's own command ends so
            seen.check(is_rays or (code == 0) == (status == "SUCCEEDED"), f"exit status {code} of a job that {status}")
        is_whole = len(self._before) >= self.num_runs
        seen.check(is_whole or status != "SUCCEEDED", "the job succeeded and runs are missing")
        told = [line for line in log if line.strip() and not line.startswith(_PROGRESS)]
        told = [line for line in told if not any(each in line for each in _SUMS)]
        seen.told += told
        messages = [line for line in told if line.startswith("raystudy:")]
        seen.num_messages += len(messages)
        seen.num_lines += len(told)
        seen.message = seen.message or (messages or told or [""])[0][:300]
        is_rays = not self.by_raystudy and log == job.followed()  # no log is left but what Ray's own command told
        seen.check(is_rays or not any("Traceback" in line for line in log), f"a traceback: {log[-12:]}")
        seen.check(not any("a defect of raystudy" in line for line in log), f"a defect: {messages}")
        if silent and follows and self.by_raystudy and status == "FAILED":
            told_by_follower = any("submit the study again" in line for line in job.followed()[-3:])
            seen.check(told_by_follower or bool(messages), f"no way on was told: {job.followed()[-3:]}")
        if not silent and status != "SUCCEEDED" and not is_whole:
            seen.check(len(messages) == 1, f"{len(messages)} messages: {messages or log[-6:]}")

    def finish(self, job: Job | None = None) -> Seen:
        """Submit again (or see `job` end) until all is there; nothing is lost or repeated, and it compares as ever."""
        seen, last = self.seen, job or self.submit()
        code, status = last.wait(SLOWEST)
        if not status and any(" has finished: " in line for line in last.followed()):
            status = "SUCCEEDED"  # nothing was left to submit to a cluster that is new
        seen.ends.append(f"{code} {status}")
        seen.check((code, status) == (0, "SUCCEEDED"), f"the last job ended {code} {status}: {last.log()[-8:]}")
        after = self.place.results()
        seen.lost += len(self._before.keys() - after.keys())
        seen.repeated += sum(after[run] != times for run, times in self._before.items() if run in after)
        seen.repeated += self.place.num_late()
        seen.check(len(after) == self.num_runs, f"{len(after)} of {self.num_runs} runs are done")
        seen.check(not self.place.num_damaged(), "something was taken for damaged")
        seen.is_equal = self.place.comparison() == self._reference
        seen.seconds = round(time.monotonic() - self._started, 1)
        return seen
