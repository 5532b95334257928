"""`python -m raystudy.train.about_torch`: what torch finds on this machine, as one line of JSON.

For `raystudy doctor`, which starts it in a process of its own, since an import that goes wrong may end the process.
"""

import json
import sys


def main() -> int:
    """Print what is found; `missing` where torch is not installed."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(json.dumps({"missing": True}))
        return 0
    distributed = torch.distributed.is_available()
    about = {
        "version": torch.__version__,
        "built_for_cuda": torch.version.cuda or "",
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "gloo": distributed and torch.distributed.is_gloo_available(),
        "nccl": distributed and torch.distributed.is_nccl_available(),
    }
    print(json.dumps(about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
