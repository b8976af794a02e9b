# SPDX-License-Identifier: Apache-2.0
"""Train a config with several upsamplers and seeds, and report what the differences are worth.

Examples::

    python tools/analysis_tools/compare_upsamplers.py configs/comparison/mask-rcnn_r18_fpn_nuclei.py \
        --upsamplers CARAFE --where neck mask_head both --seeds 0 1 2 3 4 --jobs 2 --out work_dirs/nuclei
    python tools/analysis_tools/compare_upsamplers.py --report --pictures --out work_dirs/nuclei
"""

import argparse
import sys
from pathlib import Path

from filelock import FileLock, Timeout  # which torch needs
from mmengine.config import Config

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.state_dict import read_state_dict
from mmcarafe.comparison.arms import BOTH, PLACES, UNCHANGED, arm_config, arms_of
from mmcarafe.comparison.pictures import write_pictures
from mmcarafe.comparison.processes import run_all
from mmcarafe.comparison.report import PER_CENT, write_report
from mmcarafe.comparison.runs import RESULTS, Run, add_result, plan, read_results, result_line, run_config
from mmcarafe.datasets.configured import check_data
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import add_cfg_options, run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare upsamplers in one config, with several seeds")
    parser.add_argument("config", nargs="?", help="config file, whose own upsamplers are the baseline")
    parser.add_argument(
        "--upsamplers",
        nargs="+",
        default=["CARAFE"],
        metavar="TYPE[,KEY=VALUE,...]",
        help="types of upsample_cfg with their arguments; mask_head.KEY=VALUE is for the mask head alone",
    )
    parser.add_argument(
        "--where",
        nargs="+",
        default=["neck"],
        metavar="PLACE[+PLACE]",
        help=f"where they go: {', '.join(PLACES)}, or {BOTH}, which is neck+mask_head",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, one thread or one GPU each")
    parser.add_argument("--out", type=Path, required=True, help=f"folder of the runs and of {RESULTS}")
    parser.add_argument(
        "--baseline", default=UNCHANGED, help="arm to compare with; default: the config as is"
    )
    parser.add_argument(
        "--report", action="store_true", help="train nothing; write report.md, .json and .png"
    )
    parser.add_argument(
        "--pictures", action="store_true", help="train nothing; draw what arms find with the first of --seeds"
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if not (args.config or args.report or args.pictures):
        parser.error("a config is needed, or --report or --pictures")
    if args.jobs < 1:
        parser.error(f"--jobs: expected 1 or more, got {args.jobs}")
    return args


def train_all(cfg: Config, name: str, runs: list[Run], out: Path, jobs: int) -> int:
    """Train what has no result yet; return how many runs failed."""
    results = out / RESULTS
    done = {(line["recipe"], line["settings"], line["seed"]) for line in read_results(results)}
    left = [run for run in runs if run.key not in done]
    starts = dict.fromkeys(run_config(cfg, one).get("load_from") for one in left)
    for start in filter(None, starts):  # a missing one is said now, not by each run
        read_state_dict(start)
    print(f"{len(runs)} runs, {len(runs) - len(left)} of them done before; results are added to {results}")
    failed = []

    def command(run: Run) -> list[str]:
        run.folder.mkdir(parents=True, exist_ok=True)
        config = run.folder / "config.py"
        run_config(cfg, run).dump(config)
        worker = [sys.executable, "-m", "mmcarafe.comparison.worker"]
        return [*worker, str(config), str(run.folder / "result.json")]

    def ended(run: Run, status: int) -> None:
        if status == 0:
            line = result_line(name, run)
            add_result(results, line)
            values = line["metrics"].items()
            said = (f"{key} {value:.3f}" for key, value in values if key.endswith("_mAP") or key in PER_CENT)
            print(f"{run}: {', '.join(said)}", flush=True)
        else:
            failed.append(run)
            log = run.folder / "log.txt"
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            print(f"{run} failed ({''.join(last) or f'status {status}'}), see {log}", flush=True)

    run_all(left, command, ended, jobs, lambda line: print(line, flush=True))
    return len(failed)


def main(argv: list[str] | None = None) -> int:
    """Train and collect, or report and draw; return the exit status."""
    args = parse_args(argv)
    if args.report or args.pictures:
        written = write_report(args.out, args.baseline) if args.report else []
        if args.pictures:
            written += write_pictures(args.out, args.baseline, args.seeds[0], args.cfg_options)
        print(*written, sep="\n")
        return 0
    cfg = read_config(args.config, args.cfg_options)
    arms = arms_of(args.upsamplers, args.where, args.baseline)
    runs = plan(cfg, arms, args.seeds, args.out.resolve())
    check_data(cfg, "train", "val")
    for arm in arms:  # what is wrong with one is said now, not after the runs before it
        build_model(arm_config(cfg, arm))
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(args.out / ".lock", timeout=0):
            failed = train_all(cfg, Path(args.config).stem, runs, args.out.resolve(), args.jobs)
    except Timeout as error:
        raise InputError(f"--out {args.out}: another comparison is running there") from error
    except KeyboardInterrupt as stop:
        raise InputError("stopped, and no run is left behind; the same command goes on from here") from stop
    return int(failed > 0)


if __name__ == "__main__":
    run(main)
