"""`python -m raystudy` is `raystudy`."""

import sys

from raystudy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
