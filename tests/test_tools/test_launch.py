# SPDX-License-Identifier: Apache-2.0
"""A launcher that a scheduler ends says so in one sentence, and ends its processes."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from commands import TOOLS, free_port
from launch import first_failure

SLEEPER = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"


def failures(*those: tuple[int, int]) -> dict[int, SimpleNamespace]:
    return {rank: SimpleNamespace(exitcode=code, timestamp=at) for rank, (code, at) in enumerate(those)}


@pytest.mark.parametrize(
    ("those", "rank"),
    [
        ([(1, 7), (-9, 7)], 1),  # 0 lost the connection to 1
        ([(1, 7), (-9, 8)], 1),  # in the next second
        ([(1, 7), (-9, 40)], 0),  # 1 did not heed SIGTERM
        ([(1, 7), (-15, 7)], 0),  # which torchrun sent
        ([(1, 9), (1, 7)], 1),
    ],
    ids=str,
)
def test_the_process_that_failed_first(those, rank):
    assert first_failure(failures(*those))[0] == rank


@pytest.mark.slow
def test_a_terminated_launcher_says_how_to_go_on(tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    command = [sys.executable, TOOLS["launch.py"], f"--master_port={free_port()}", "sleeper.py"]
    launcher = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    launcher.terminate()
    _, said = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert said.strip().splitlines()[-1].startswith("launch.py: ended by SIGTERM, as were its processes; a")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)
