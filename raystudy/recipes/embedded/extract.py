"""From one file of a package to the text of one domain: docstrings, code without docstrings, or all of it.

Gives the same text under every Python version that can parse the file. Knows no manifest and no package.
"""

import ast
import warnings
from functools import lru_cache

MIN_CHARACTERS = 200  # shorter embedded documents are dropped: they carry a name and little else


def domain_text(domain: str, source: str) -> str:
    """The part of a file's text that belongs to `domain`.

    `prose` takes the docstrings of a Python file in their order, `code` the lines that are left;
    every other domain takes the file as it is.
    """
    if domain == "prose":
        return "\n\n".join(_clean(docstring) for _, docstring in _docstrings(source))
    if domain == "code":
        lines = source.split("\n")
        for node, _ in _docstrings(source):
            _blank_out(lines, node)
        return "\n".join(line for line in lines if line is not _REMOVED)
    return source


_REMOVED = "\x00removed"  # one object, compared by identity


@lru_cache(maxsize=512)  # both domains of one file need it
def _docstrings(source: str) -> list[tuple[ast.Constant, str]]:
    """String constants that document a module, class or function, in order of appearance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(source)
    found: list[tuple[ast.Constant, str]] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            constant = first.value
            if isinstance(constant.value, str):
                found.append((constant, constant.value))
    return sorted(found, key=lambda item: item[0].lineno)


def _clean(docstring: str) -> str:
    """Without its common indentation (own code: `inspect.cleandoc` changed between Python versions)."""
    first, *rest = docstring.expandtabs().split("\n")
    margins = [len(line) - len(line.lstrip(" ")) for line in rest if line.strip(" ")]
    margin = min(margins, default=0)
    lines = [first.lstrip(" "), *(line[margin:] for line in rest)]
    return "\n".join(line.rstrip(" ") for line in lines).strip("\n")


def _blank_out(lines: list[str], node: ast.Constant) -> None:
    """Mark the docstring's lines as removed where it has its lines to itself."""
    start, end = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    # Offsets of ast are bytes of UTF-8; before a docstring stands only indentation.
    before = lines[start].encode()[: node.col_offset]
    after = lines[end].encode()[node.end_col_offset :]
    if not before.strip() and not after.strip():
        lines[start : end + 1] = [_REMOVED] * (end + 1 - start)
