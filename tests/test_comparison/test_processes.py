# SPDX-License-Identifier: Apache-2.0
"""Runs side by side: as many as asked for, one that fails stops no other, and none outlives the command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmcarafe.comparison.arms import Arm
from mmcarafe.comparison.processes import Progress, devices, run_all
from mmcarafe.comparison.runs import Run
from mmcarafe.errors import InputError

# waits in a child of its own, as data workers are
SLEEPER = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
# a command with a run that tells its process id, and that of its child
COMMAND = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in the background of a shell
from mmcarafe.comparison.arms import Arm
from mmcarafe.comparison.processes import run_all
from mmcarafe.comparison.runs import Run
run = Run(Arm(), 0, "", "", Path(sys.argv[1]))
worker = '''
import os, pathlib, subprocess, sys
from mmcarafe.comparison.processes import end_with_the_command
end_with_the_command()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1], "partial").write_text(f"{os.getpid()} {child.pid}")
pathlib.Path(sys.argv[1], "partial").rename(pathlib.Path(sys.argv[1], "pids"))
child.wait()
'''
run_all([run], lambda run: [sys.executable, "-c", worker, str(run.folder)], print, 1)
"""


@pytest.fixture
def runs(tmp_path, monkeypatch) -> list[Run]:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    runs = [Run(Arm(), seed, "", "", tmp_path / str(seed)) for seed in range(4)]
    for run in runs:
        run.folder.mkdir()
    return runs


def test_runs_start_in_order_no_more_at_a_time_than_asked_for(runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    # each notes when it begins and ends, waits for the one beside it, and the last one fails
    code = (
        "import os, pathlib, sys, time; begin = time.time(); print('said'); run = pathlib.Path(sys.argv[1]); "
        "(run / 'begun').touch(); beside = run.parent / str(int(run.name) ^ 1) / 'begun'\n"
        "while not beside.exists() and time.time() < begin + 30: time.sleep(0.01)\n"
        "time.sleep(0.1); (run / 'times').write_text(f'{begin} {time.time()}'); "
        "given = [os.environ[name] for name in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS')]; "
        "(run / 'given').write_text(' '.join(given)); sys.exit(run.name == '3')"
    )
    ended, said = {}, []
    run_all(
        runs,
        lambda run: [sys.executable, "-c", code, str(run.folder)],
        lambda run, status: ended.update({run.seed: status}),
        2,
        said.append,
    )
    assert ended == {0: 0, 1: 0, 2: 0, 3: 1}
    begins, ends = zip(*(map(float, (run.folder / "times").read_text().split()) for run in runs), strict=True)
    assert max(begins[:2]) < min(ends[:2]), "two at a time"
    given = [(run.folder / "given").read_text() for run in runs]
    assert set(given[:2]) == set(given) == {"5 1", "7 1"}, "a GPU each, and one thread"
    for begin in begins:
        assert sum(b <= begin < e for b, e in zip(begins, ends, strict=True)) <= 2
    assert [(run.folder / "log.txt").read_text() for run in runs] == ["said\n"] * 4
    assert said[-1].startswith("4 of 4 runs done")


def test_an_exception_leaves_no_process_behind(runs):
    def stop(run: Run, status: int) -> None:
        raise KeyboardInterrupt

    codes = {0: "pass"}
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all(runs, lambda run: [sys.executable, "-c", codes.get(run.seed, SLEEPER)], stop, 3)
    assert time.monotonic() - began < 30, "the sleepers were waited for"


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # a zombie, which waits for its parent to look
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    "number",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL],
)
def test_no_run_outlives_the_command(tmp_path, number):
    command = subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pids").exists():
            assert command.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        command.send_signal(number)
        command.wait(timeout=30)
        while not all(map(gone, pids)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        command.kill()


def test_progress_is_by_the_pace_since_the_start(runs, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("mmcarafe.comparison.processes.time.monotonic", lambda: now)
    (runs[0].folder / "progress").write_text("0.5")  # of a run that is resumed
    progress = Progress(runs)
    assert str(progress) == "0 of 4 runs done, time left not known yet"
    now += 600
    progress.over.add(runs[0])
    (runs[1].folder / "progress").write_text("0.5")
    # 10 minutes for half a run and half a run; two and a half are left
    assert str(progress) == "1 of 4 runs done, about 25 min left"


def test_each_job_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices(3) == [None] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(2) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert devices(1) == ["5"]
    with pytest.raises(InputError, match="--jobs 3: each job takes a GPU, and torch sees 2"):
        devices(3)
