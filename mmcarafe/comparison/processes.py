# SPDX-License-Identifier: Apache-2.0
"""Runs side by side, each a process of its own with one thread; none outlives this one."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from mmcarafe.comparison.runs import Run
from mmcarafe.errors import InputError

POLL = 0.2
"""Seconds between two looks at the processes."""

SAY = 60
"""Seconds between two lines of progress while no run ends."""


def devices(jobs: int) -> list[str | None]:
    """Return for each job what CUDA_VISIBLE_DEVICES shall be: one GPU each, or None where there is none.

    Raises:
        InputError: there are fewer GPUs than jobs.
    """
    count = torch.cuda.device_count()
    if not count:
        return [None] * jobs
    if jobs > count:
        raise InputError(f"--jobs {jobs}: each job takes a GPU, and torch sees {count}")
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = seen.split(",") if seen else [str(number) for number in range(count)]
    return names[:jobs]


class Progress:
    """Tell how much is done, and how long the rest may take at the pace since the start."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs, self.over = runs, set()
        self.began, self.start = time.monotonic(), {run: fraction(run) for run in runs}

    def __str__(self) -> str:
        now = {run: 1.0 if run in self.over else fraction(run) for run in self.runs}
        gained = sum(now[run] - self.start[run] for run in self.runs)
        left = sum(1 - part for part in now.values())
        seconds = (time.monotonic() - self.began) * left / gained if gained > 0 else None
        about = f"about {seconds / 60:.0f} min left" if seconds is not None else "time left not known yet"
        return f"{len(self.over)} of {len(self.runs)} runs done, {about}"


def fraction(run: Run) -> float:
    """Return how much of a run is trained, from 0 to 1, as its process notes it."""
    try:
        return float((run.folder / "progress").read_text())
    except (FileNotFoundError, ValueError):  # not begun, or just being written
        return 0.0


def run_all(
    runs: list[Run],
    command: Callable[[Run], list[str]],
    ended: Callable[[Run, int], None],
    jobs: int,
    say: Callable[[str], None] = print,
) -> None:
    """Start each run's command as soon as one of ``jobs`` places is free; when it ends call ``ended``.

    Args:
        runs (list[Run]): in the order in which they are started.
        command (callable): makes a run ready, and returns its command line.
        ended (callable): gets the run and its exit status; called in this process.
        jobs (int): how many run side by side; on GPUs each has one.
        say (callable): gets lines of progress.
    """
    waiting, places, running = deque(runs), deque(devices(jobs)), {}
    progress, said = Progress(runs), time.monotonic()
    with _terminated_as_interrupted(), ExitStack() as stack:
        stack.callback(lambda: [_kill(process) for process, _ in running.values()])
        while waiting or running:
            while waiting and places:
                run, place = waiting.popleft(), places.popleft()
                running[run] = _start(command(run), run.folder / "log.txt", place), place
            time.sleep(POLL)
            for run, (process, place) in list(running.items()):
                if process.poll() is not None:
                    _kill(process)  # what it started itself
                    del running[run]
                    places.append(place)
                    progress.over.add(run)
                    ended(run, process.returncode)
                    said = -SAY
            if time.monotonic() - said > SAY:
                say(str(progress))
                said = time.monotonic()


def end_with_the_command() -> None:
    """Let a run, in its own process, be killed with its children when the command ends, however it does."""

    def wait() -> None:
        os.read(0, 1)  # nothing is ever written: it returns when the other end of the pipe is closed
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def _start(command: list[str], log: Path, device: str | None) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if device is not None:
        env["CUDA_VISIBLE_DEVICES"] = device
    with open(log, "a", encoding="utf-8") as file:
        # a session of its own: Ctrl-C in the terminal reaches this process alone, which ends the others
        return subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
        )


def _kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdin.close()
    process.wait()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, by an exception."""

    def interrupt(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
