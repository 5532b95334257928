"""A real MLflow server on loopback and W&B offline, told by real launches; leaves docs/results/trackers-<date>.json.

mlflow and wandb are in an environment of their own beside this one's packages: `--python` names one that has them, else
one is made for the time of the check (900 MB from the package registry).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.ray_cluster import free_port
from tests.slow.results import table, today, write_result

STUDY = ROOT / "tests" / "chaos" / "study.yaml"
FEW = ("recipes=[mix-0012, mix-3000]", "models.target.training.steps=500", "protocols.truth.seeds=[0]")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.trackers", description=__doc__)
    parser.add_argument("--python", type=Path, help="of an environment that has mlflow and wandb")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends with the check
    with tempfile.TemporaryDirectory(prefix="rs-track-") as folder:
        place = Path(folder)
        python = beside_ours(options.python or _new_environment(place / "venv"))
        check = Check(python, place)
        try:
            for step in (check.up, check.down, check.killed, check.offline):
                check.take(step)
        finally:
            check.stop_server()
    check.write()
    return 0 if all(row["good"] for row in check.rows) else 1


def _new_environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "mlflow>=3.10", "wandb>=0.22"], check=True)
    return python


def beside_ours(python: Path) -> Path:
    """The environment of `python`, to which this one's packages are added after its own."""
    words = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    (Path(site) / "beside-raystudy.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


class Check:
    """The steps of the check and what they saw."""

    def __init__(self, python: Path, place: Path) -> None:
        self.python, self.place = python, place
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.rows: list[dict[str, Any]] = []
        self._server: subprocess.Popen[bytes] | None = None

    def take(self, step: Callable[[], tuple[bool, str]]) -> None:
        started = time.monotonic()
        is_good, seen = step()
        row = {"step": (step.__doc__ or "").strip(), "good": is_good, "seen": seen}
        self.rows.append({**row, "seconds": round(time.monotonic() - started, 1)})
        print(self.rows[-1], flush=True)

    def up(self) -> tuple[bool, str]:
        """MLflow is up: a launch tells it; a second one and `track` tell the rest, if any, and nothing twice."""
        seconds = self.start_server()
        first = self.launch("up")
        num_first = len(self.listed("up"))
        again = self.launch("up")
        told = self.call("track", "chaos", "--storage", str(self.place / "up"))
        runs, results = self.listed("up"), self.results("up")
        by_id = {run["id"]: run for run in runs}
        is_equal = by_id.keys() == results.keys() and all(
            abs(by_id[i]["metrics"]["loss/target"] - loss) < 1e-12 for i, loss in results.items() if loss is not None
        )
        is_good = is_equal and len(runs) == len(by_id) and told.returncode == 0 and num_first > 0
        is_said = len(first[1]) == (num_first < len(runs)) and len(again[1]) <= 1  # a line where some are left
        return is_good and is_said, (
            f"{num_first} runs of {len(results)} there after a launch of {first[0]:.1f} s, which said: {first[1]}; "
            f"{len(runs)}, once each, after a second, which said: {again[1]}, and `track`; losses equal: {is_equal}; "
            f"server up after {seconds:.0f} s"
        )

    def down(self) -> tuple[bool, str]:
        """MLflow is down: the launch ends well and says so once; `track` tells of all afterwards."""
        self.stop_server()
        seconds, said = self.launch("down")
        self.start_server()
        told = self.call("track", "chaos", "--storage", str(self.place / "down"))
        ids = [run["id"] for run in self.listed("down")]
        is_good = len(said) == 1 and sorted(ids) == sorted(self.results("down")) and told.returncode == 0
        return is_good, f"launch {seconds:.1f} s, said: {said}; then {len(ids)} runs of {len(self.results('down'))}"

    def killed(self) -> tuple[bool, str]:
        """`track` killed five times at work, and its memory removed: every run is there once."""
        self.launch("killed", track=False)
        kills = 0
        for number in range(5):
            words = self.words("track", "--storage", str(self.place / "killed"), *self.options("killed"))
            process = subprocess.Popen(words, cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL)
            before = len(self.listed("killed"))
            while process.poll() is None and len(self.listed("killed")) <= before:
                time.sleep(0.05)
            kills += process.poll() is None
            process.kill()
            process.wait()
            if number % 2:
                for path in (self.place / "killed").glob("studies/*/tracked/*.json"):
                    path.unlink()
        told = self.call("track", "--storage", str(self.place / "killed"), *self.options("killed"))
        runs = self.listed("killed")
        ids, ended = [run["id"] for run in runs], all(run["status"] in ("FINISHED", "FAILED") for run in runs)
        is_good = sorted(ids) == sorted(self.results("killed")) and ended and told.returncode == 0
        return is_good, f"killed at work {kills} times; then {len(ids)} runs, {len(set(ids))} ids, all ended: {ended}"

    def offline(self) -> tuple[bool, str]:
        """W&B offline: one folder for every run, none again."""
        self.launch("wandb", track=False)
        options = ("--storage", str(self.place / "wandb"), *self._sets("name=chaos", "track={wandb: {mode: offline}}"))
        started = time.monotonic()
        told = self.call("track", *options)
        seconds = time.monotonic() - started
        again = self.call("track", *options)
        folders = list((self.place / "wandb").glob("studies/chaos/wandb/wandb/offline-run-*"))
        ids = [folder.name.rpartition("-")[2] for folder in folders]
        is_good = sorted(ids) == sorted(self.results("wandb")) != [] and told.returncode == again.returncode == 0
        return (
            is_good,
            f"{len(ids)} folders, {len(set(ids))} ids of {len(self.results('wandb'))} runs in {seconds:.0f} s",
        )

    @property
    def environment(self) -> dict[str, str]:
        """Without any tracker's settings of the person who checks."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "WANDB_", "RAY"))}
        return {**kept, "PYTHONPATH": str(ROOT)}

    def words(self, verb: str, *options: str) -> list[str]:
        study = [] if options and options[0] == "chaos" else [str(STUDY)]
        return [str(self.python), "-m", "raystudy", verb, *study, *options]

    def _sets(self, *settings: str) -> list[str]:
        return [word for setting in (*FEW, *settings) for word in ("--set", setting)]

    def options(self, name: str) -> list[str]:
        """The study, which an experiment of this name is told of."""
        return self._sets(f"track={{mlflow: {{experiment: {name}, tracking_uri: '{self.uri}'}}}}")

    def call(self, verb: str, *options: str) -> "subprocess.CompletedProcess[str]":
        words = self.words(verb, *options)
        done = subprocess.run(words, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300)
        if done.returncode:
            print(words, done.stdout, done.stderr)
        return done

    def launch(self, name: str, *, track: bool = True) -> tuple[float, list[str]]:
        """Seconds that it took, and what it said of MLflow."""
        started = time.monotonic()
        options = self.options(name) if track else self._sets()
        done = self.call("run", "--storage", str(self.place / name), "--local", "--workers", "1", *options)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stderr.splitlines() if "mlflow" in line.lower() or "tracker" in line.lower()]
        return time.monotonic() - started, said

    def results(self, name: str) -> dict[str, float | None]:
        """Finished runs on the storage, and their loss."""
        found = {}
        for path in (self.place / name).glob("runs/*/result.json"):
            rows = json.loads(path.read_text())["metrics"]
            found[path.parent.name] = next((row["value"] for row in rows if row["name"] == "loss"), None)
        return found

    def listed(self, name: str) -> list[dict[str, Any]]:
        """What MLflow has, as its own API says."""
        found = self._asked(f"experiments/get-by-name?experiment_name={name}")
        if found is None:
            return []
        about = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 1000}
        answer = self._asked("runs/search", about) or {}
        return [
            {
                "id": next(tag["value"] for tag in run["data"]["tags"] if tag["key"] == "raystudy.run_id"),
                "status": run["info"]["status"],
                "metrics": {each["key"]: each["value"] for each in run["data"].get("metrics", [])},
            }
            for run in answer.get("runs", [])
        ]

    def _asked(self, path: str, about: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """An answer of the server; None where it has none."""
        content = None if about is None else json.dumps(about).encode()
        url = f"{self.uri}/api/2.0/mlflow/{path}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, content, {"Content-Type": "application/json"}), timeout=60
            ) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError:
            return None

    def start_server(self) -> float:
        """Seconds until it answers."""
        started, words = time.monotonic(), [str(self.python), "-m", "mlflow", "server", "--host", "127.0.0.1"]
        words += ["--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.place}/ml.db", "--workers", "1"]
        words += ["--artifacts-destination", str(self.place / "art")]
        log = (self.place / "server.log").open("a")
        environment = {**self.environment, "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._server = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        while time.monotonic() - started < 400:  # on a machine at work
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                if answer.status == 200:
                    return time.monotonic() - started
            time.sleep(0.2)
        raise AssertionError((self.place / "server.log").read_text())

    def stop_server(self) -> None:
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def write(self) -> None:
        code = "import mlflow, wandb, pandas; print(mlflow.__version__, wandb.__version__, pandas.__version__)"
        versions = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True).stdout.split()
        about = dict(zip(("mlflow", "wandb", "pandas"), versions, strict=True))
        date = today()
        lines = [
            f"# Trackers, {date}",
            "",
            "Made by `python -m tests.slow trackers`: a real MLflow server on loopback (sqlite) and W&B offline, told",
            f"by `raystudy run --local` and `raystudy track` with {', '.join(f'{k} {v}' for k, v in about.items())}.",
            "",
            *table("step", ("good", "seen", "seconds"), self.rows),
        ]
        write_result("trackers", {"date": date, "versions": about, "rows": self.rows}, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
