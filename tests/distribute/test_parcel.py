"""What travels with a job: exactly what the study names, where its paths lead, and never a secret."""

import json
import os
import re
import shlex
import subprocess
import types
from pathlib import Path, PurePosixPath

import pytest

from raystudy.artifacts.endpoint import endpoint_of
from raystudy.cli.main import main
from raystudy.distribute.jobs.parcel import Parcel, pack, working_folder
from raystudy.distribute.jobs.staging import stage
from raystudy.distribute.jobs.submission import Driver, Submission, run_words
from raystudy.errors import DataError, RaystudyError, SpecError
from raystudy.specs.load import load_study
from tests.command.studies import external_study
from tests.conftest import ROOT

PAGE = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "your-own-data.md").read_text(), re.DOTALL).group(1)


def project(folder: Path, **replaced: str) -> Path:
    """A user's own project: a study one folder down, its text, a table, and much that must stay; the study's path."""
    text = PAGE.replace("[notes/*.txt]", '["../data/[v2]/*.txt"]').replace("[web.jsonl]", "[../data/web.jsonl]")
    text = text.replace("protocols:\n", "protocols:\n  given: {kind: table, file: scores.csv}\n", 1)
    for old, new in replaced.items():
        text = text.replace(old, new)
    files = {
        "studies/study.yaml": text,
        "studies/scores.csv": "recipe,score\nnotes,1\n",
        "data/v/one.txt": "some text",
        "data/2/two.txt": "more text",
        "data/web.jsonl": '{"text": "x"}\n',
        "data/other.bin": "not named by the study",
        ".env": "TOKEN=planted",
        ".git/config": "planted",
        "studies/id_rsa": "planted",
        ".gitignore": "data/\n",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder / "studies" / "study.yaml"


def places(parcel: Parcel) -> set[str]:
    """Of the files that are not raystudy's."""
    return {str(place) for place in parcel.files if place.parts[0] != "raystudy"}


def test_exactly_what_the_study_names_travels_and_its_paths_lead_to_it_in_the_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    study = project(tmp_path / "my project")
    monkeypatch.chdir(tmp_path / "my project")
    loaded = load_study(Path("studies/study.yaml"))
    parcel = pack(loaded, working_folder(loaded.path, None), ["data/other.bin"])
    named = {"studies/study.yaml", "studies/scores.csv", "data/v/one.txt", "data/2/two.txt", "data/web.jsonl"}
    assert places(parcel) == named | {"data/other.bin"}
    assert parcel.study == PurePosixPath("studies/study.yaml")
    assert parcel.num_own == len(parcel.files) - 6 > 200
    assert PurePosixPath("raystudy/recipes/embedded/tokenizer.json") in parcel.files
    folder = stage(parcel.files, "my-study")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == {str(place) for place in parcel.files}
    again = pack(load_study(folder / parcel.study), folder, [str(folder / "data" / "other.bin")])
    assert {str(place) for place in again.files} == there
    (folder / "data" / "v" / "one.txt").write_text("somebody has changed the copy")
    assert stage(parcel.files, "my-study") == folder
    assert (folder / "data" / "v" / "one.txt").read_text() == "some text"
    assert study.exists()


def test_what_lies_elsewhere_is_refused_with_the_way_out_and_an_absolute_path_is_left_to_the_nodes(tmp_path):
    study = project(tmp_path / "p", scores=str(tmp_path / "shared" / "scores"))
    loaded = load_study(study)
    with pytest.raises(SpecError, match=r"--working-dir, or put it on storage .* absolute path"):
        pack(loaded, working_folder(study, None))
    parcel = pack(loaded, working_folder(study, str(tmp_path / "p")), with_raystudy=False)
    assert len(parcel.on_nodes) == 1
    assert "shared/scores.csv (protocol 'given')" in parcel.on_nodes[0]
    for wrong in (tmp_path / "p" / "data" / "v" / "one.txt", tmp_path / "none"):
        with pytest.raises(SpecError, match="--working-dir must be a folder"):
            working_folder(study, str(wrong))
    with pytest.raises(SpecError, match="--include must name a file or a folder that is there"):
        pack(loaded, tmp_path / "p", [str(tmp_path / "none")])
    shared = tmp_path / "shared" / "recipes.yaml"
    shared.parent.mkdir()
    shared.write_text("recipes:\n  - {name: x, kind: external, dimension: corpus, version: v}\n")
    with_catalogue = load_study(study, [f"catalogues=[{shared}]"])
    assert f"{shared} (a file of the study)" in pack(with_catalogue, tmp_path / "p", with_raystudy=False).on_nodes
    with pytest.raises(SpecError, match="a file of the study must lie below the working folder"):
        pack(load_study(study, ["catalogues=[../../shared/recipes.yaml]"]), tmp_path / "p")
    (tmp_path / "p" / "data" / "web.jsonl").unlink()
    with pytest.raises(DataError, match=r"web\.jsonl"):
        pack(loaded, tmp_path / "p")


@pytest.mark.parametrize("name", [".env", "server.pem", "credentials.json", "venv/a.txt", "link.txt", "key.txt"])
def test_a_secret_is_refused_when_it_is_named_whatever_it_is_called(tmp_path, name):
    study = project(tmp_path)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "a.txt").write_text("planted")
    (tmp_path / "link.txt").symlink_to(tmp_path / ".env")
    (tmp_path / "key.txt").write_text("-----BEGIN OPENSSH PRIVATE KEY" + "-----\nplanted\n")
    for other in ("server.pem", "credentials.json"):
        (tmp_path / other).write_text("planted")
    loaded = load_study(study, [f"recipes.0.sources.notes.files=[../{name}]"])
    with pytest.raises(SpecError, match="must be a file that may travel"):
        pack(loaded, tmp_path, with_raystudy=False)
    left = pack(load_study(study), tmp_path, [str(tmp_path)], with_raystudy=False)
    assert "data/other.bin" in places(left)
    assert not [place for place, file in left.files.items() if b"planted" in file.read_bytes()]
    assert any("id_rsa (may hold a secret" in line for line in left.left_out)


def test_a_trainers_programs_travel_and_not_what_lies_beside_them(tmp_path):
    study = external_study(tmp_path / "trainers" / "mine", folder="..", command=["./go", "{spec}", "{out}"])
    beside = {"go": "#!/bin/sh\n", "lib/model.py": "", "big.bin": "x", "secrets.yaml": "planted", "lib/.env": "planted"}
    for name, content in beside.items():
        (tmp_path / "trainers" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "trainers" / name).write_text(content)
    (tmp_path / "trainers" / "go").chmod(0o755)
    (tmp_path / "trainers" / "out.py").symlink_to("/etc/hostname")
    parcel = pack(load_study(study), tmp_path, with_raystudy=False)
    expected = {"go", "lib/model.py", "mine/study.yaml", "mine/stub_trainer.py"}
    assert places(parcel) == {f"trainers/{name}" for name in expected}
    assert parcel.left_out == [
        f"trainers/out.py (is a link out of {tmp_path})",
        "trainers/secrets.yaml (may hold a secret, by its name)",
        "3 files in trainers/ (no programs: 1 with .bin, 2 with no suffix)",
    ]


def test_what_stays_of_a_trainers_folder_is_told_with_the_reason(tmp_path):
    study, folder = external_study(tmp_path / "mine"), tmp_path / "mine"
    for name in ("lib", ".hidden", ".git"):
        (folder / name).mkdir()
    (folder / "lib" / "model.py").write_text("")
    (folder / "models").symlink_to(folder / "lib")
    (folder / "gone.py").symlink_to(folder / "nothing")
    (folder / "large.json").write_bytes(b" " * (2**20 + 1))
    parcel = pack(load_study(study), tmp_path, with_raystudy=False)
    assert sorted(parcel.left_out) == [
        "mine/.hidden/ (is hidden)",
        "mine/gone.py (is no file, or a link to none)",
        "mine/large.json (1,048,577 bytes is much for a program)",
        "mine/models/ (is a link to a folder)",
    ]


def test_what_is_called_like_a_secret_stays_unless_it_is_named_and_a_tokenizer_travels(tmp_path):
    study, folder = external_study(tmp_path / "mine"), tmp_path / "mine"
    secret = "token.txt hf_token.txt auth_token.json api_key.txt apikeys.json passwords.txt my-secrets.yaml kaggle.json"
    secret += " id_rsa_work.txt rclone.conf.txt kubeconfig.yaml Credentials.ini my_credentials.py hf.token.txt"
    programs = "tokenizer.json tokenizer_config.json count_tokens.py token_data.py special_tokens_map.json tokenize.txt"
    for name in [*secret.split(), *programs.split()]:
        (folder / name).write_text("planted")
    (folder / "id_rsa_work").write_text("planted")
    parcel = pack(load_study(study), tmp_path, with_raystudy=False)
    told = {line.split(" (may hold a secret, by its name")[0] for line in parcel.left_out if "secret" in line}
    assert told == {f"mine/{name}" for name in secret.split()}
    assert {f"mine/{name}" for name in programs.split()} <= places(parcel)
    named = pack(load_study(study), tmp_path, [str(folder / "token.txt")], with_raystudy=False)
    assert "mine/token.txt" in places(named)
    whole = pack(load_study(study), tmp_path, [str(folder)], with_raystudy=False)
    assert not [place for place in places(whole) if place.removeprefix("mine/") in {*secret.split(), "id_rsa_work"}]


def test_a_link_to_a_secret_is_one_even_where_its_target_ends_like_its_own_place(tmp_path):
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text("planted")
    (tmp_path / "config.json").symlink_to(tmp_path / ".docker" / "config.json")
    with pytest.raises(SpecError, match=r"lies in \.docker/"):
        Parcel(tmp_path).add(tmp_path / "config.json", "a file")
    inside = tmp_path / "venv" / "project"  # a working folder may itself lie in a folder of such a name
    inside.mkdir(parents=True)
    (inside / "a.json").write_text("{}")
    (inside / "b.json").symlink_to(inside / "a.json")
    parcel = Parcel(inside)
    parcel.add(inside / "b.json", "a file")
    assert places(parcel) == {"b.json"}


@pytest.mark.parametrize("name", ["$(touch broken)", "a'; touch broken; '", 'a"`touch broken`', "-a b\nc", "ü&|<>*?"])
def test_no_name_breaks_out_of_the_jobs_shell_line(tmp_path, name):
    words = run_words("python", f"{name}.yaml", f"/s/{name}", [f"name={name}"])
    submission = Submission("raystudy-x-00000000-a1", words, tmp_path / name, metadata={"raystudy_study": name})
    said = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {submission.entrypoint}"], cwd=tmp_path, capture_output=True, check=True
    )
    assert said.stdout.decode().split("\0")[:-1] == list(words)
    plain = submission.plain_line("http://h:1").replace("ray job submit", "printf '%s\\0'", 1)
    said = subprocess.run(["sh", "-c", plain], cwd=tmp_path, capture_output=True, check=True)
    assert said.stdout.decode().split("\0")[-len(words) - 1 : -1] == list(words)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SpecError, match="UTF-8"):
        run_words("python", os.fsdecode(b"\xff.yaml"), "/s", [])


def test_the_plain_line_says_what_is_submitted_but_no_forwarded_value(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pl anted$")
    submission = Submission("i", ("python",), tmp_path, Driver(1, "workers", "abc"), ("AWS_SECRET_ACCESS_KEY",))
    line = submission.plain_line("http://h:1")
    assert "planted" not in line.replace(" ", "")
    said = subprocess.run(["sh", "-c", line.replace("ray job", "printf '%s\\0'", 1)], capture_output=True, check=True)
    words = said.stdout.decode().split("\0")
    runtime_env = submission.options["runtime_env"]
    assert runtime_env["env_vars"]["AWS_SECRET_ACCESS_KEY"] == "pl anted$"
    assert json.loads(words[words.index("--runtime-env-json") + 1])["env_vars"] == runtime_env["env_vars"]
    assert json.loads(words[words.index("--entrypoint-label-selector") + 1]) == {"ray.io/node-id": "!abc"}
    assert words[words.index("--entrypoint-num-cpus") + 1] == "1"
    assert shlex.split(line)[:3] == ["ray", "job", "submit"]
    assert Driver().options == {}
    assert Driver(0, "any").options == {"entrypoint_num_cpus": 0.1}


def test_the_endpoint_of_the_storage_goes_along_in_the_job_and_the_plain_line(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000/s3")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    endpoint = endpoint_of("s3://bucket/x")
    assert (endpoint, endpoint_of("gs://bucket")) == ({"AWS_ENDPOINT_URL": "http://minio:9000/s3"}, {})
    for forwarded in ((), ("AWS_ENDPOINT_URL",)):
        submission = Submission("i", ("python",), tmp_path, forwarded=forwarded, endpoint=endpoint)
        sent = submission.options["runtime_env"]["env_vars"]
        line = submission.plain_line("http://h:1").replace("ray job", "printf '%s\\0'", 1)
        words = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout.decode().split("\0")
        assert sent["AWS_ENDPOINT_URL"] == "http://minio:9000/s3"
        assert json.loads(words[words.index("--runtime-env-json") + 1])["env_vars"] == sent


def test_submit_tells_the_endpoint_and_refuses_one_with_a_password(tmp_path, monkeypatch, capsys):
    server = types.SimpleNamespace(notes=(), url="http://h:1", jobs=list)
    monkeypatch.setattr("raystudy.cli.submit.open_job_server", lambda _: server)
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    words = [
        "submit",
        str(project(tmp_path / "p")),
        "--storage",
        "s3://bucket/x",
        "--dry-run",
        "--working-dir",
        str(tmp_path / "p"),
    ]
    ids = set()
    for url in ("http://127.0.0.1:9000", "http://minio:9000", ""):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert main(words) == 0
        said = capsys.readouterr().out
        assert (f"reached at {url}, which goes along as AWS_ENDPOINT_URL" in said) is bool(url)
        assert ("is this machine's own address" in said) is ("127" in url)
        assert (f'"AWS_ENDPOINT_URL": "{url}"' in said) is bool(url)
        ids.add(re.search(r"--submission-id (\S+)", said)[1])
    assert len(ids) == 3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:planted@minio:9000")
    assert main(words) == 3
    told = capsys.readouterr()
    assert "AWS_ENDPOINT_URL must be a URL without a user's name or password" in told.err
    assert "planted" not in told.out + told.err


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYSTUDY_CACHE", str(tmp_path / "file"))
    with pytest.raises(RaystudyError, match="set RAYSTUDY_CACHE to another folder"):
        stage({PurePosixPath("a"): tmp_path / "file"}, "x")
