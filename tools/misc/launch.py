# SPDX-License-Identifier: Apache-2.0
"""torchrun that says in one sentence which process failed: launch.py [torchrun options] SCRIPT [options]."""

import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main


def first_failure(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Return rank and failure of the process that failed first, by times in whole seconds.

    Within a second one that was killed, as the others then end because they lost it; not by SIGTERM, which
    torchrun sends to the others.
    """
    first = min(failure.timestamp for failure in failures.values())
    at_once = {rank: failure for rank, failure in failures.items() if failure.timestamp <= first + 1}
    killed = {r: f for r, f in at_once.items() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM}
    return min((killed or at_once).items(), key=lambda item: item[1].timestamp)


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
        sys.exit(f"launch.py: {explain(*first_failure(error.failures))}")
    except SignalException as error:  # of a scheduler that takes the machine back
        sys.exit(
            f"launch.py: ended by {error.sigval.name}, as were its processes; a training goes on from its "
            "newest checkpoint with --resume"
        )
