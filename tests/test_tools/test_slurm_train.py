# SPDX-License-Identifier: Apache-2.0
"""The command for Slurm asks for as many GPUs as the guide says, and hands the rest to train.py."""

import subprocess

import pytest
from commands import TOOLS

SRUN = """#!/bin/sh
echo "$MASTER_PORT" "$@"
"""


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, "29500 {} --gres=gpu:8 --ntasks=8 --ntasks-per-node=8 --cpus-per-task=5"),
        (dict(GPUS="16"), "29500 {} --gres=gpu:8 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=5"),
        (
            dict(GPUS="4", GPUS_PER_NODE="4", CPUS_PER_TASK="2", PORT="29501"),
            "29501 {} --gres=gpu:4 --ntasks=4 --ntasks-per-node=4 --cpus-per-task=2",
        ),
    ],
    ids=["default", "two machines", "four"],
)
def test_what_is_asked_of_srun(given, asked, tmp_path):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    script = TOOLS["slurm_train.sh"]
    command = ["bash", script, "part", "job", "config.py", "work", "--resume"]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SRUN_ARGS": "--time 1:00", **given}
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    assert out.strip() == (
        asked.format("--partition=part --job-name=job") + " --kill-on-bad-exit=1 --time 1:00 "
        f"python -u {script.parent}/train.py config.py --work-dir work --launcher slurm --resume"
    )
