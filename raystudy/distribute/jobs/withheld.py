"""What never leaves this machine with a job: keys, tokens, credentials, version control, caches.

By name and place, and by how a private key begins. It cannot know a secret inside an ordinary file.
"""

import re
from pathlib import Path, PurePath

# Ray's own upload drops the first four wherever they stand, so that nothing in them could travel anyway.
CLOSED_FOLDERS = frozenset(
    {
        ".git",
        ".venv",
        "venv",
        "__pycache__",
        ".hg",
        ".svn",
        ".aws",
        ".azure",
        ".docker",
        ".gcloud",
        ".gnupg",
        ".kube",
        ".ray",
        ".ssh",
        ".config",
        "node_modules",
        ".ipynb_checkpoints",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        ".tox",
        ".eggs",
        "raystudy-storage",
    }
)
_SECRET = re.compile(
    r"\.env(\..*)?|.*\.env|[._]netrc|\.npmrc|\.pypirc|\.git-credentials|\.htpasswd|\.boto|\.s3cfg|\.pgpass"
    r"|id_(rsa|dsa|ecdsa|ed25519)(\..*)?|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|gpg)"
    r"|\.?credentials(\..*)?|.*credentials.*\.json|.*service[-_]?account.*\.json|.*client[-_]secret.*\.json"
    r"|\.?secrets?(\..*)?|auth_token|.*[._-]token|token",
    re.IGNORECASE,
)
# Names that a program's own files may have too; of those that nobody has named they stay here all the same.
_HINTS = re.compile(
    r"(^|[._-])(secrets?|passwords?|passwd|credentials?|api[._-]?keys?)([._-]|$)"
    r"|(^|[._-])(tokens?|kubeconfig|kaggle|id_(rsa|dsa|ecdsa|ed25519)|rclone)([._-](?!(.*\.)?pyi?$)|$)",
    re.IGNORECASE,
)
_HARMLESS = frozenset({"special_tokens_map.json", "added_tokens.json"})  # of a tokenizer, by the names others gave them
_IGNORE_FILES = frozenset({".gitignore", ".rayignore"})  # they would make Ray's upload drop what is needed
_KEY_BEGINS = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY" + rb"-----")
_LOOKED_AT_BYTES = 65536


def why_withheld(place: PurePath, file: Path, root: Path, *, is_named: bool) -> str:
    """Why `file`, at `place` below the working folder `root`, must not travel; empty where it may.

    A link does not make a key something else, so that the place it leads to counts too. Without `is_named` nobody has
    named the file, and what is called like a secret stays here.
    """
    target, base = file.resolve(), root.resolve()
    for path in dict.fromkeys((place, target.relative_to(base) if target.is_relative_to(base) else target)):
        closed = next((part for part in path.parts[:-1] if part in CLOSED_FOLDERS), None)
        if closed is not None:
            return f"lies in {closed}/"
        if _SECRET.fullmatch(path.name):
            return "may hold a secret, by its name"
        if not is_named and _HINTS.search(path.name) and path.name not in _HARMLESS:
            return "may hold a secret, by its name; --include sends it"
        if path.name in _IGNORE_FILES:
            return "is not for the cluster"
    try:
        with file.open("rb") as opened:
            is_key = _KEY_BEGINS.search(opened.read(_LOOKED_AT_BYTES)) is not None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "holds a private key" if is_key else ""
