"""What the package never does: unpickle, make objects of YAML, run text, ask a shell, listen beyond loopback."""

import ast

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "raystudy"
# (file below raystudy/, what) -> why it is right there. An entry that matches nothing fails.
ALLOWED: dict[tuple[str, str], str] = {
    ("distribute/rank_backend.py", "listens elsewhere than on loopback: create_server"): (
        "finds a free port of the node's own address for a group of several nodes, and closes it; torch listens there"
    ),
}
# Modules that run what they read.
UNPICKLERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "ray.cloudpickle",
}
RUNS_TEXT = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNPICKLES = {"pd.read_pickle", "pandas.read_pickle", "np.core.multiarray.fromstring"}
SERVERS = ("create_server", "HTTPServer", "ThreadingHTTPServer", "TCPServer", "start_server")
EVERYWHERE = {"0.0.0.0", "::"}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def written(node: ast.AST) -> str:
    """`a.b.c` as it is written; else nothing."""
    if isinstance(node, ast.Attribute):
        return f"{written(node.value)}.{node.attr}" if written(node.value) else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    """The constant that is given for a keyword; None where it is not given or no constant."""
    values = [item.value for item in call.keywords if item.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def dangers_of_call(call: ast.Call) -> list[str]:
    name = written(call.func)
    last = name.rpartition(".")[2]
    found = [f"runs text: {name}"] if name in RUNS_TEXT else []
    found += [f"unpickles: {name}"] if name in UNPICKLES else []
    if name == "torch.load" and keyword(call, "weights_only") is not True:
        found.append("unpickles: torch.load without weights_only=True")
    if last in ("load", "memmap", "load_module") and keyword(call, "allow_pickle") is True:
        found.append("unpickles: allow_pickle=True")
    if last == "save" and name.startswith(("np.", "numpy.")) and keyword(call, "allow_pickle") is not False:
        found.append("pickles: numpy.save without allow_pickle=False")
    if last == "YAML" and keyword(call, "typ") != "safe":
        found.append("reads objects: YAML without typ='safe'")
    if keyword(call, "shell") not in (None, False) or any(
        item.arg == "shell" and not isinstance(item.value, ast.Constant) for item in call.keywords
    ):
        found.append("asks a shell")
    if last in ("extractall", "mktemp"):
        found.append(f"writes where a name says: {last}")
    if (last == "bind" or last in SERVERS) and call.args and not _is_loopback(call.args[0]):
        found.append(f"listens elsewhere than on loopback: {last}")
    return found


def _is_loopback(address: ast.expr) -> bool:
    host = address.elts[0] if isinstance(address, ast.Tuple) and address.elts else address
    return isinstance(host, ast.Constant) and host.value in LOOPBACK


def dangers(text: str) -> list[str]:
    """All of a file, in the order of the tree."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [f"imports {alias.name}" for alias in node.names if alias.name in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom):
            names = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
            found += [f"imports {name}" for name in sorted(names & UNPICKLERS)]
            found += ["imports torch.load" for alias in node.names if node.module == "torch" and alias.name == "load"]
        elif isinstance(node, ast.Call):
            found += dangers_of_call(node)
        elif isinstance(node, ast.Constant) and node.value in EVERYWHERE:
            found.append(f"names every address: {node.value!r}")
    return found


def test_the_package_unpickles_nothing_runs_no_text_asks_no_shell_and_listens_on_loopback_only():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 150
    found = {(str(path.relative_to(PACKAGE)), what) for path in files for what in dangers(path.read_text())}
    assert sorted(found - set(ALLOWED)) == []
    assert sorted(set(ALLOWED) - found) == [], "these entries match nothing any more"
    assert all(len(reason) > 20 for reason in ALLOWED.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import pickle", "imports pickle"),
        ("from pickle import loads", "imports pickle"),
        ("from ray import cloudpickle", "imports ray.cloudpickle"),
        ("import yaml", "imports yaml"),
        ("import torch\ntorch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=trusted)", "torch.load without weights_only=True"),
        ("from torch import load", "imports torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("np.save(path, array)", "numpy.save without allow_pickle=False"),
        ("pd.read_pickle(path)", "unpickles: pd.read_pickle"),
        ("YAML()", "YAML without typ='safe'"),
        ("YAML(typ='unsafe')", "YAML without typ='safe'"),
        ("eval(text)", "runs text: eval"),
        ("os.system(text)", "runs text: os.system"),
        ("subprocess.run(text, shell=True)", "asks a shell"),
        ("subprocess.run(text, shell=wanted)", "asks a shell"),
        ("archive.extractall(path)", "extractall"),
        ("probe.bind(('', 80))", "listens elsewhere than on loopback: bind"),
        ("probe.bind((host, 80))", "listens elsewhere than on loopback: bind"),
        ("HTTPServer(('0.0.0.0', 80), Handler)", "HTTPServer"),
        ("host = '0.0.0.0'", "names every address"),
    ],
)
def test_each_of_them_is_found(text, expected):
    assert any(expected in what for what in dangers(text))


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "YAML(typ='safe', pure=True)",
        "probe.bind(('127.0.0.1', 0))",
        "json.load(file)",
        "model.eval()",
        "subprocess.run(words, shell=False)",
        "np.save(path, array, allow_pickle=False)",
    ],
)
def test_what_is_safe_is_left_alone(text):
    assert dangers(text) == []
