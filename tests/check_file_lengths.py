"""Fails when a Python file has over 300 lines or a function of the package over 60. Run by `make check`."""

import ast
import subprocess
import sys
from pathlib import Path

MOST_FILE_LINES, MOST_FUNCTION_LINES = 300, 60


def too_long(root: Path) -> list[str]:
    """What is too long among the Python files that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    found = []
    for path in (root / name for name in names if (root / name).exists()):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MOST_FILE_LINES:
            found.append(f"{path}: {text.count(chr(10))} lines, at most {MOST_FILE_LINES}")
        for node in ast.walk(ast.parse(text)) if path.is_relative_to(root / "raystudy") else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    found.append(f"{path}:{node.lineno}: {node.name} has {lines} lines, at most {MOST_FUNCTION_LINES}")
    return found


if __name__ == "__main__":
    problems = too_long(Path(__file__).resolve().parent.parent)
    print("\n".join(problems) or "no file or function is too long")
    sys.exit(bool(problems))
