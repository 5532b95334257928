"""`raystudy parity` on a cluster, which is stood in for; with a real one: `python -m tests.slow parity_on_ray`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raystudy.cli.main import main
from raystudy.distribute import parity, train_group
from raystudy.distribute.cluster_nodes import present_nodes
from raystudy.execute.first_cause import Cause
from raystudy.execute.work import Task
from raystudy.reference.parity.cases import read_cases
from raystudy.reference.parity.observed import read_observed, write_observed
from tests.conftest import TINY
from tests.reference.test_parity_verb import DEEPSPEED

pytestmark = pytest.mark.timeout(120)

ADDRESS = "127.0.0.1:1"


class Error(Exception):
    """Ray's own, around a worker's."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Cluster:
    """A Ray of one node whose workers are this process; `asked`: what they were given."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.exceptions = SimpleNamespace(RayError=Error)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def remote(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return lambda action: SimpleNamespace(remote=lambda *arguments: (action, arguments))

    def get(self, call: Any) -> Any:
        action, arguments = call
        try:
            return action(*arguments)
        except Exception as error:
            raise Error(error) from error


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("on-ray") / "storage"


@pytest.fixture
def cluster(monkeypatch) -> Cluster:
    ray = Cluster()

    @contextmanager
    def connected(address: str | None) -> Iterator[Cluster]:
        assert address == ADDRESS
        yield ray

    monkeypatch.setattr(parity, "connected", connected)
    monkeypatch.setattr(parity, "import_ray", lambda: ray)
    monkeypatch.setattr(parity, "possible_nodes", lambda _: (present_nodes(ray), False))
    monkeypatch.setattr(parity, "need_train", lambda: None)
    return ray


def groups_that(monkeypatch, do: Callable[[Task, Path], Cause | None]) -> list[str]:
    """Let a group of Ray Train be a call of `do` with its task and folder; the names of the groups."""
    names: list[str] = []

    def fit(task: Task, name: str, folder: Path, work: Any) -> tuple[None, Cause | None]:
        assert work.func is parity.make_on_worker
        names.append(name)
        return None, do(task, folder)

    monkeypatch.setattr(train_group, "fit_group", fit)
    return names


def honest(_: Task, folder: Path) -> None:
    """Workers that do what one process has done."""
    for case in read_cases(folder):
        rows = [sum(end - begin for begin, end in parts) for parts in case.parts]
        write_observed(folder, case.name, replace(read_observed(folder / "one-process", case.name), rows=rows))


def asked(storage: Path, *more: str) -> int:
    return main(["parity", str(TINY), "--storage", str(storage), "--steps", "4", *DEEPSPEED, *more])


def test_a_cluster_is_asked_for_one_worker_before_and_after_the_group_and_gives_the_table_and_the_verdict(
    storage, cluster, monkeypatch, capsys
):
    names = groups_that(monkeypatch, honest)
    assert asked(storage, "--address", ADDRESS, "--set", "models.target.engine.cpus_per_worker=0.5") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["target", "train/", "reference/", "difference", "bound", "same?"]
    assert out[-1] == "target: same: train/ and reference/ are the same trainer within the bounds above"
    assert cluster.asked == [{"num_cpus": 0.5, "num_gpus": 0, "max_retries": 0}] * 2
    assert names[0].startswith("parity-")
    assert not list(storage.rglob(".writing-*"))
    assert not list((storage / "runs").glob("*"))


@pytest.mark.usefixtures("cluster")
def test_what_goes_wrong_on_the_cluster_is_one_message_with_the_first_cause_and_leaves_nothing(
    storage, monkeypatch, capsys
):
    groups_that(monkeypatch, lambda *_: Cause("program", "KeyError: 'x'", 1))
    assert asked(storage, "--address", ADDRESS) == 1
    assert "the reference's workers must make the short runs, but failed: KeyError: 'x'" in capsys.readouterr().err
    monkeypatch.setattr(parity, "make_first_side", lambda *_: 1 / 0)
    assert asked(storage, "--address", ADDRESS) == 1
    assert "must train in one process, but failed: division by zero" in capsys.readouterr().err
    assert asked(storage, "--address", ADDRESS, "--set", "models.target.engine.workers=3") == 2
    assert "needs 3 workers x 0.9 CPU = 2.7 CPU" in capsys.readouterr().err
    assert asked(storage, "--address", ADDRESS, "--local") == 2
    assert "--local and --address exclude each other" in capsys.readouterr().err
    assert main(["parity", str(TINY), "--storage", "memory://bucket/x", "--address", ADDRESS, *DEEPSPEED]) == 3
    assert "in a folder that all nodes see, but the storage is memory://bucket/x" in capsys.readouterr().err
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(storage.parent)
    assert asked(Path("storage")) == 3
    assert "this is a Ray job" in capsys.readouterr().err
    assert not list(storage.rglob(".writing-*"))


def test_workers_that_have_not_enough_memory_leave_it_undecided(storage, cluster, monkeypatch, capsys):
    groups_that(monkeypatch, lambda *_: Cause("out-of-memory", "MemoryError: ", 1))
    monkeypatch.setenv("RAY_ADDRESS", ADDRESS)
    monkeypatch.setattr(parity, "connected", partial(_nothing_given, cluster))
    assert asked(storage) == 10
    assert "out of memory by its workers" in capsys.readouterr().out.splitlines()[-1]


@contextmanager
def _nothing_given(ray: Cluster, address: str | None) -> Iterator[Cluster]:
    assert address is None  # RAY_ADDRESS says where
    yield ray
