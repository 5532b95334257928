"""`python -m raystudy.reference.about_deepspeed`: whether DeepSpeed can be imported, as one line of JSON.

For `raystudy doctor`, which starts it in a process of its own, since an import that goes wrong may end the process.
"""

import json
import sys


def main() -> int:
    """Print what is found; `missing` where DeepSpeed is not installed."""
    try:
        import deepspeed
    except ModuleNotFoundError as error:
        if error.name != "deepspeed":
            raise
        print(json.dumps({"missing": True}))
        return 0
    print(json.dumps({"version": deepspeed.__version__}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
