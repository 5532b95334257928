"""The command line's verbs, in this process."""

from tests.cli.conftest import verb

__all__ = ["verb"]
