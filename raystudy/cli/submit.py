"""Submit a study to a Ray cluster as a job, over HTTP, with exactly the files it needs."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from raystudy.artifacts.endpoint import endpoint_of, is_of_this_machine
from raystudy.artifacts.storage import Storage, folder_name, locate_storage
from raystudy.cli.logs import follow_to_end
from raystudy.cli.options import add_address, add_storage, add_study
from raystudy.distribute.jobs.job import CONTENT_KEY, STORAGE_KEY, STUDY_KEY, Job, id_prefix
from raystudy.distribute.jobs.parcel import LIMIT_BYTES, Parcel, pack, working_folder
from raystudy.distribute.jobs.server import JobServer, given_address, job_address, open_job_server
from raystudy.distribute.jobs.server_errors import JobServerError
from raystudy.distribute.jobs.staging import content_digest, stage
from raystudy.distribute.jobs.submission import STOP_SECONDS, Driver, Submission, check_forwarded, run_words
from raystudy.distribute.jobs.submitting import Decision, decide, is_complete_on, submit
from raystudy.distribute.shared_storage import NotSharedError
from raystudy.errors import MissingPackageError, SpecError
from raystudy.execute.budget import Budget
from raystudy.execute.budget_check import check_budget
from raystudy.execute.log_events import LOG_FORMATS
from raystudy.specs.load import LoadedStudy, load_study

_MOST_SHOWN = 10
_NO_ADDRESS, _NO_HEAD = "http://HOST:8265", "HEAD-NODE-ID"  # in a plain line, where no cluster has told them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_study(parser)
    add_storage(parser)
    add_address(parser)
    parser.add_argument("--follow", action="store_true", help="print the job's log and end as the job does")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would travel and the plain line; submit nothing"
    )
    _add_launch(parser)
    help_text = "CPUs that the driver takes (default: 0 on the head, where it mostly waits; else 0.1)"
    parser.add_argument("--driver-cpus", type=float, metavar="N", help=help_text)
    help_text = "where the driver runs (default: head, as for every job of Ray)"
    parser.add_argument("--driver-on", choices=("any", "head", "workers"), default="head", help=help_text)
    help_text = "send this variable's value along; whoever reaches the dashboard sees it. May be repeated"
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help=help_text)
    help_text = "the folder that the job's working folder copies (default: the current one, if the study lies in it)"
    parser.add_argument("--working-dir", metavar="DIR", help=help_text)
    help_text = "a file or folder below --working-dir that must travel besides; may be repeated"
    parser.add_argument("--include", action="append", default=[], metavar="PATH", help=help_text)
    help_text = "the nodes' Python (default: python, of the PATH there)"
    parser.add_argument("--python", default="python", metavar="PATH", help=help_text)
    help_text = "use the raystudy that the nodes have instead of sending this one"
    parser.add_argument("--installed-raystudy", action="store_true", help=help_text)


def _add_launch(parser: argparse.ArgumentParser) -> None:
    """Those options of `run` that are for a job too."""
    group = parser.add_argument_group("of the launch, as in `raystudy run`")
    group.add_argument("--max-runs", type=int, metavar="N", help="start at most N runs; the next launch goes on")
    help_text = "start no run that would take the launch beyond so many device-hours"
    group.add_argument("--max-device-hours", type=float, metavar="H", help=help_text)
    help_text = "resolve learning rates and data anew that were frozen by earlier launches, even if all is done"
    group.add_argument("--resolve-again", action="store_true", help=help_text)
    help_text = "how the job's log tells progress: for people (default), or one JSON object a line"
    group.add_argument("--log-format", choices=LOG_FORMATS, help=help_text)


def call(options: argparse.Namespace) -> int:
    """Submit, or attach to the job that runs already; with --follow ends as the job does."""
    forwarded = check_forwarded(options.env)
    launch = Budget(options.max_runs, options.max_device_hours)
    loaded = load_study(Path(options.study), options.overrides)
    storage = _shared_storage(options, loaded)
    root = working_folder(loaded.path, options.working_dir)
    parcel = pack(loaded, root, options.include, with_raystudy=not options.installed_raystudy)
    _tell_parcel(parcel)
    if options.driver_cpus is not None and not 0 <= options.driver_cpus < 10_000:
        raise SpecError(f"--driver-cpus must be 0 or more, but got {options.driver_cpus}")
    server, jobs = _open(options)
    endpoint = endpoint_of(str(storage.root))
    prefix = id_prefix(loaded.spec, root, str(storage.root), next(iter(endpoint.values()), ""))
    content = content_digest(parcel.files)
    words = _words(options, parcel, storage)

    def is_complete() -> bool | None:
        return False if options.resolve_again else is_complete_on(storage, loaded)

    decision = decide(prefix, jobs, content, is_complete)
    if decision.action == "done":
        return _tell_done(decision, loaded.spec.name, storage)
    if decision.action == "start":
        unchecked = check_budget(loaded, storage, launch)
        if unchecked:
            print(f"note: {unchecked}")
        not_on = (server.head_node() if server else _NO_HEAD) if options.driver_on == "workers" else ""
        submission = Submission(
            job_id=decision.job_id,
            words=words,
            working_dir=stage(parcel.files, folder_name(loaded.spec.name)),
            driver=Driver(options.driver_cpus or 0.0, options.driver_on, not_on),
            forwarded=forwarded,
            metadata={STUDY_KEY: loaded.spec.name, STORAGE_KEY: str(storage.root), CONTENT_KEY: content},
            endpoint=endpoint,
        )
        _tell_submission(submission, _url(options, server))
        if options.dry_run or server is None:
            return 0
        decision = submit(server, submission, prefix)
    _tell_job(decision, _url(options, server), content, words)
    return follow_to_end(server, decision.job_id) if server and options.follow and not options.dry_run else 0


def _open(options: argparse.Namespace) -> tuple[JobServer | None, list[Job]]:
    """The job server and its jobs; for a dry run also none, where no cluster answers."""
    try:
        if options.dry_run and not given_address(options.address):
            raise JobServerError("no --address is given")
        server = open_job_server(options.address)
        jobs = server.jobs()
    except (JobServerError, MissingPackageError) as error:
        if not options.dry_run:
            raise
        print(f"note: no cluster told whether a job runs already, so that this is as for a first attempt: {error}")
        return None, []
    for note in server.notes:
        print(f"note: {note}")
    return server, jobs


def _url(options: argparse.Namespace, server: JobServer | None) -> str:
    if server is not None:
        return server.url
    return job_address(options.address) if given_address(options.address) else _NO_ADDRESS


def _words(options: argparse.Namespace, parcel: Parcel, storage: Storage) -> tuple[str, ...]:
    """The job's command."""
    given = {"max-runs": options.max_runs, "max-device-hours": options.max_device_hours}
    given["log-format"] = options.log_format
    more = [f"--{name}={value}" for name, value in given.items() if value is not None]
    more += ["--resolve-again"] if options.resolve_again else []
    return run_words(options.python, str(parcel.study), str(storage.root), options.overrides, more)


def _shared_storage(options: argparse.Namespace, loaded: LoadedStudy) -> Storage:
    """The storage as this machine resolves it, which the job is told; raises NotSharedError."""
    storage = locate_storage(options.storage, loaded)
    if not storage.is_absolute:
        raise NotSharedError("a job's working folder is a copy that goes with the job")
    return storage


def _tell_parcel(parcel: Parcel) -> None:
    own = f", {parcel.num_own} of them raystudy itself" if parcel.num_own else "; raystudy is the nodes' own"
    size = parcel.num_bytes
    print(f"to send: {len(parcel.files)} files, {size:,} bytes{own}")
    for title, lines in (("read on the nodes as it stands", parcel.on_nodes), ("not sent", parcel.left_out)):
        for line in lines[:_MOST_SHOWN]:
            print(f"{title}: {line}")
        if len(lines) > _MOST_SHOWN:
            print(f"{title}: {len(lines) - _MOST_SHOWN} more")
    if size > LIMIT_BYTES:
        largest = sorted(parcel.files.items(), key=lambda item: -item[1].stat().st_size)[:3]
        named = ", ".join(f"{place} ({file.stat().st_size:,} bytes)" for place, file in largest)
        raise SpecError(
            f"a job must send at most {LIMIT_BYTES:,} bytes, which is what Ray's dashboard takes, but this is "
            f"{size:,}; the largest: {named}. Put sources on storage that all nodes see and write their absolute "
            f"paths in the study"
        )


def _tell_submission(submission: Submission, url_of_server: str) -> None:
    print(f"driver: {submission.driver}; stopped by SIGINT, killed {STOP_SECONDS} s later")
    for name, url in submission.endpoint.items():
        print(f"the storage is reached at {url}, which goes along as {name}")
        if is_of_this_machine(url):
            print("note: that is this machine's own address, where other nodes do not find it")
    for name in submission.forwarded:
        print(
            f"raystudy: {name} goes along in clear, for whoever reaches the dashboard to see. Where nodes have a role "
            f"of their own (instance role, workload identity), leave it out"
        )
    print(f"the same by Ray's own command: {submission.plain_line(url_of_server)}")


def _tell_done(decision: Decision, name: str, storage: Storage) -> int:
    who = decision.job_id if decision.job and decision.job.status == "SUCCEEDED" else name
    print(f"{who} has finished: every wanted run is done, and nothing was sent")
    where = f"{shlex.quote(name)} --storage {shlex.quote(str(storage.root))}"
    for verb in ("compare", "report"):
        print(f"read it: raystudy {verb} {where}")
    return 0


def _tell_job(decision: Decision, url: str, content: str, words: Sequence[str]) -> None:
    job_id, job = decision.job_id, decision.job
    if decision.action == "attach":
        print(f"{job_id} is {'running' if job is None else job.status.lower()} already; attached to it")
        if job is not None and job.metadata.get(CONTENT_KEY, content) != content:
            print("note: it was submitted with other files than those here now; stop it first to send these")
        if job is not None and job.entrypoint and job.entrypoint != shlex.join(words):
            print(f"note: it goes on as it was submitted ({job.entrypoint}); stop it first for other options")
    else:
        print(f"submitted {job_id}")
    print(f"follow it: raystudy logs {job_id} --follow --address {url}")
    print(f"stop it:   raystudy stop {job_id} --address {url}")
