"""`python -m raystudy.reference`: one rank of a group. An entry point only: what it starts lies in execute/."""

import sys

from raystudy.execute.rank_process import main

if __name__ == "__main__":
    sys.exit(main())
