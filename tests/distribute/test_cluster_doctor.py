"""What doctor says of a cluster, from what its nodes say of themselves (here made up, except the look itself)."""

import time
from typing import Any

import pytest

from raystudy.artifacts import files
from raystudy.artifacts.files import write_bytes
from raystudy.artifacts.remote_retries import patience_seconds
from raystudy.artifacts.storage import open_storage
from raystudy.distribute import cluster_doctor, cluster_probe
from raystudy.distribute.cluster_doctor import examine_cluster
from raystudy.distribute.cluster_probe import look_around
from raystudy.distribute.jobs.server import JobServer
from raystudy.errors import UnwritableError
from raystudy.execute.doctor import Finding, Needs, examine


def a_node(number: int, **more: Any) -> dict[str, Any]:
    """What a healthy node says; `more` changes it."""
    packages = {"ray": "2.60.0", "torch": "2.13.0", "raystudy": "", "deepspeed": "0.19.8"}
    node = {"address": "10.0.0.1", "id": f"{number}" * 56, "host": f"n{number}", "resources": {"CPU": 4.0, "GPU": 1.0}}
    node |= {
        "python": "3.11.7",
        "packages": packages,
        "gpus_listed": 1,
        "disk": {"/tmp": 2**40, "/c": 2**40},
        "cache": "/c",
    }
    return (
        node
        | {"storage_trouble": "", "sees_driver": True, "is_seen": True, "ahead_seconds": 0.01, "ahead_within": 0.02}
        | more
    )


def findings(
    monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, Any], needs: Needs | None = None, ahead: float = 0
) -> list[Finding]:
    monkeypatch.setattr(cluster_doctor, "_run_probe", lambda *_: {"nodes": list(nodes)})
    monkeypatch.setattr(cluster_doctor, "_server_ahead", lambda _: ahead)
    server = JobServer(None, "http://h:1", ray_version="2.60.0")
    server.wants_token = True
    return examine_cluster(server, "/shared", needs or Needs())


def test_a_healthy_cluster_has_no_findings_but_good_ones(monkeypatch):
    found = findings(monkeypatch, a_node(1), a_node(2), needs=Needs(gpus=2))
    assert {finding.severity for finding in found if finding.name != "torch"} == {"ok"}
    assert sum("storage" in finding.name for finding in found) == 2


@pytest.mark.parametrize(
    ("node", "severity", "said"),
    [
        ({"python": "3.12.1"}, "problem", "the nodes must agree. Use one image"),
        ({"packages": {**a_node(1)["packages"], "torch": "2.12.0"}}, "problem", "2.12.0, 2.13.0 on the nodes"),
        ({"packages": {**a_node(1)["packages"], "deepspeed": ""}}, "problem", "none, 0.19.8 on the nodes"),
        ({"storage_trouble": "s: Read-only file system"}, "problem", "Read-only file system. Mount it there"),
        (
            {"sees_driver": False},
            "problem",
            "another folder there than where the driver runs. Name a folder that all nodes share",
        ),
        (
            {"is_seen": False},
            "problem",
            "another folder there than where the driver runs. Name a folder that all nodes share",
        ),
        ({"trouble": "the actor died"}, "problem", "does not answer: the actor died"),
        ({"disk": {"/tmp": 2**20}}, "warning", "free in /tmp. Free some: jobs"),
        (
            {"disk": {"/c": 2**20}},
            "warning",
            "free in /c, where shards are fetched to. Free some, or set RAYSTUDY_CACHE",
        ),
        ({"ahead_seconds": -90.0}, "warning", "-90.0 s from the head's. Let NTP"),
        ({"resources": {}}, "warning", "more than Ray knows on n2"),
        ({"resources": {}, "gpus_listed": 0}, "problem", "but 2 are needed at once"),
    ],
)
def test_what_is_wrong_with_one_node_is_told_with_what_to_do(monkeypatch, node, severity, said):
    found = [
        str(f)
        for f in findings(monkeypatch, a_node(1), a_node(2, **node), needs=Needs(gpus=2))
        if f.severity == severity
    ]
    assert any(said in line for line in found), found


def test_a_deepspeed_that_no_node_has_is_a_problem_where_a_study_needs_it(monkeypatch):
    without = a_node(1, packages={**a_node(1)["packages"], "deepspeed": ""})
    for is_needed in (True, False):
        found = findings(monkeypatch, without, needs=Needs(deepspeed=is_needed))
        problems = [finding for finding in found if finding.severity == "problem"]
        assert [(p.name, p.way_out) for p in problems] == [("deepspeed", "Install raystudy[deepspeed]")] * is_needed


def test_a_head_whose_clock_is_wrong_or_that_wants_no_token_is_told(monkeypatch):
    found = findings(monkeypatch, a_node(1), ahead=3600)
    assert any("3600 s ahead of this machine's. Let NTP" in str(finding) for finding in found)
    server = JobServer(None, "http://h:1")
    open_to_all = [str(finding) for finding in examine_cluster(server, None, Needs())]
    assert any("can run anything on the cluster" in line for line in open_to_all)


def test_a_node_looks_at_itself_and_tells_a_storage_that_it_cannot_write(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "not" / "made"))
    healthy = look_around(str(tmp_path / "storage"), "t", "node0")
    assert (healthy["storage_trouble"], healthy["sees_driver"]) == ("", False)  # no driver has written there
    assert healthy["packages"]["ray"]
    assert healthy["cache"] == str(tmp_path / "not" / "made")
    assert healthy["disk"][healthy["cache"]] > 0
    assert [path.name for path in (tmp_path / "storage").iterdir()] == [".raystudy-doctor-t-node0"]
    (tmp_path / "file").write_text("")
    assert "must be writable" in look_around(str(tmp_path / "file"), "t", "node0")["storage_trouble"]
    assert look_around(None, "t", "x")["sees_driver"]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({}, ""),
        ({"read_bytes": lambda _: b"something else"}, "is not read back"),
        ({"write_bytes": lambda path, content, **_: write_bytes(path, content)}, "a second writer replaces the first"),
        ({"names_in": lambda _: []}, "is not listed"),
    ],
    ids=["healthy", "reads", "replaces", "lists"],
)
def test_what_a_storage_does_not_keep_is_told_alike_by_a_launch_by_doctor_and_by_every_node(
    monkeypatch, tmp_path, broken, told
):
    for name, function in broken.items():
        monkeypatch.setattr(files, name, function)
    kind = f"memory://doctor/{tmp_path.name}"
    for place in (f"{kind}/one", str(tmp_path / "there")):
        said = look_around(place, "t", "node0")["storage_trouble"]
        assert told in said
        assert bool(said) == bool(told)
    for place in (f"{kind}/two", str(tmp_path)):
        (finding,) = (each for each in examine(Needs(), open_storage(place)) if each.name == "storage")
        assert (finding.severity, told in finding.found) == ("problem" if told else "ok", True)
    if told:
        with pytest.raises(UnwritableError, match=told):
            open_storage(f"{kind}/three").prepare()


def test_hung_nodes_and_a_storage_that_does_not_answer_leave_time_to_tell_of_the_rest():
    one_deadline = cluster_probe._ALL_NODES_SECONDS + cluster_probe._REMOVAL_SECONDS
    assert 2 * cluster_probe._PATIENCE_SECONDS + one_deadline < cluster_doctor._JOB_SECONDS
    began = time.monotonic()
    assert cluster_probe._left(began + 50) > 40
    assert cluster_probe._left(began - 50) == 1.0


def test_the_look_is_impatient_with_a_storage(monkeypatch):
    seen = []
    monkeypatch.setattr(cluster_probe, "broken_promise", lambda _: seen.append(patience_seconds()))
    monkeypatch.setattr(cluster_probe, "remove_file", lambda _: seen.append(patience_seconds()))
    look_around("memory://doctor/three", "t", "node0")
    cluster_probe._remove("memory://doctor/three", "t", "node0")
    assert seen == [10.0, 1.0]
