# SPDX-License-Identifier: Apache-2.0
"""torchrun that says in one sentence which process failed: launch.py [torchrun options] SCRIPT [options]."""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main


def explain(rank: int, failure: ProcessFailure) -> str:
    """Say what happened to the process that failed first, and what to do."""
    process = f"process {rank} (local rank {failure.local_rank}, pid {failure.pid}) on this machine"
    if failure.exitcode < 0:
        return (
            f"{process} was killed by {failure.signal_name()}, and the others were ended; a training goes on "
            "from its newest checkpoint with --resume"
        )
    return (
        f"{process} ended with exit status {failure.exitcode} and the message above, and the others were "
        "ended; if it says that a connection was closed or timed out, a process on another machine ended "
        "first: a training goes on from its newest checkpoint with --resume, started on all machines"
    )


if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        sys.exit(f"launch.py: {explain(*error.get_first_failure())}")
    except SignalException as error:  # of a scheduler that takes the machine back
        sys.exit(
            f"launch.py: ended by {error.sigval.name}, as were its processes; a training goes on from its "
            "newest checkpoint with --resume"
        )
