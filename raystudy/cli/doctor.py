"""Check, before training, what it needs of this machine, or with --address of a cluster."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from raystudy.artifacts.storage import Storage, locate_storage
from raystudy.cli.options import add_json, add_storage, add_study, put_json, wants_only_json
from raystudy.execute.doctor import Finding, Needs, examine, needs_of
from raystudy.specs.load import load_study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser, required=False)
    add_storage(parser)
    add_json(parser)
    help_text = "look at the cluster whose dashboard this is instead, from here and from every node"
    parser.add_argument("--address", metavar="URL", help=help_text)
    help_text = "with --address: send this variable's value along; whoever reaches the dashboard sees it"
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help=help_text)
    parser.add_argument("--python", default="python", metavar="PATH", help="with --address: the nodes' Python")


def call(options: argparse.Namespace) -> int:
    """Say what is found; ends non-zero on a problem. With a study only what it needs is one."""
    loaded = None if options.study is None else load_study(Path(options.study), options.overrides)
    is_given = options.storage is not None or loaded is not None or bool(os.environ.get("RAYSTUDY_STORAGE"))
    storage = locate_storage(options.storage, loaded) if is_given else None
    needs = Needs() if loaded is None else needs_of(loaded.spec)
    findings = examine(needs, storage) if options.address is None else _examine_cluster(options, needs, storage)
    problems = sum(finding.severity == "problem" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    if not wants_only_json(options):
        for finding in findings:
            print(finding)
        print(f"{problems} problems, {warnings} warnings")
    put_json(options, {"findings": [asdict(finding) for finding in findings], "problems": problems})
    return 1 if problems else 0


def _examine_cluster(options: argparse.Namespace, needs: Needs, storage: Storage | None) -> list[Finding]:
    """What is found on a cluster; a relative storage is a finding, since no node could share it."""
    from raystudy.distribute.cluster_doctor import examine_cluster
    from raystudy.distribute.jobs.server import open_job_server
    from raystudy.distribute.jobs.submission import check_forwarded

    is_shared = storage is not None and storage.is_absolute
    location = str(storage.root) if storage is not None and is_shared else None
    server = open_job_server(options.address)
    findings = examine_cluster(server, location, needs, check_forwarded(options.env), options.python)
    if storage is not None and not is_shared:
        found = "the default or a relative path, which goes with a job"
        findings.append(Finding("storage", "problem", found, "Give --storage an absolute path or a URI"))
    return findings
