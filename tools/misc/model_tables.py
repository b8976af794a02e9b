# SPDX-License-Identifier: Apache-2.0
"""The tables of components, types and configs, made from the classes and the config files."""

import argparse
import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import ModuleType

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from rich.progress import track
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mmcarafe.models
from mmcarafe.apis.libraries import build_model
from mmcarafe.layers import CARAFE, TYPES, CARAFEDownsample, build_upsample
from mmcarafe.layers.upsample_types import UpsampleType
from mmcarafe.utils.cli import run
from mmcarafe.utils.markdown import write_section

CONFIGS = Path(__file__).parents[2] / "configs/carafe"
IMAGE = (1, 3, 800, 1344)
ROIS = 100  # detections that get a mask
OTHERS = {
    "PointRend's heads": "what they enlarge are logits at sampled points; its `FPN` takes an upsampler",
    "`GridHead`": "its grouped deconvolutions make the prediction itself",
    "`SOLOHead`": "its maps are resized to a grid, mostly smaller than they are",
    "`FeatureRelayHead`": "its map is made from a vector: there is no content around a pixel to look at",
}


def components(package: ModuleType = mmcarafe.models) -> list[tuple[str, ...]]:
    """Group the classes registered under a host's names by what an upsampler replaces in them."""
    rows = {}
    for name in sorted(package.__all__, key=str.lower):
        kind = getattr(package, name)
        if hasattr(kind, "replaces"):
            rows.setdefault((kind.replaces, kind.guide or "none"), []).append(f"`{name}`")
    return [(", ".join(names), *row) for row, names in rows.items()]


def downsampling() -> list[tuple[str, str]]:
    """List the components that take a ``downsample_cfg``, and the modules in which it has an effect."""
    kinds = {name: getattr(mmcarafe.models, name) for name in sorted(mmcarafe.models.__all__)}
    return [
        (f"`{name}`", ", ".join(f"`{part}`" for part in kind.strided))
        for name, kind in kinds.items()
        if getattr(kind, "strided", ())
    ]


def types() -> list[tuple[str, ...]]:
    """List each type of upsampler; names of one module share a row."""
    rows = []
    for row, group in groupby(sorted(TYPES, key=lambda name: (name.lower(), name)), key=TYPES.get):
        names = list(group)
        rows.append(
            (
                ", ".join(f"`{name}`" for name in names),
                row.what,
                "yes" if row.guided else "",
                "; ".join(_counts(row, names[0])),
                f"[{row.source}](https://arxiv.org/abs/{row.source})" if row.source else "",
                row.onnx,
                _arguments(row),
            )
        )
    return rows


def _counts(row: UpsampleType, name: str) -> Iterator[str]:
    """Yield the parameters of each form for 256 channels and scale 2."""
    for options in row.variants:
        with torch.device("meta"):
            upsample = build_upsample(dict(type=name, **options), 256, 2, guide_channels=256)
        with_ = ", ".join(f"{key}={value!r}" for key, value in options.items())
        yield f"{parameters(upsample):,}" + (f" (`{with_}`)" if with_ else "")


def _arguments(row: UpsampleType) -> str:
    """Write what a config may say beside the type; the component fills in the rest."""
    if row.arguments:
        return row.takes
    filled = ("channels", "scale_factor", "guide_channels", "init_cfg")
    taken = inspect.signature(row.module()).parameters.values()
    return "`" + ", ".join(f"{p.name}={p.default!r}" for p in taken if p.name not in filled) + "`"


def base_of(path: Path) -> str | None:
    """Return the mmdet config that a config inherits; None if it puts several together."""
    bases = re.search(r"_base_ = (\[.*?\]|\".*?\")", path.read_text(encoding="utf-8"), re.DOTALL)
    names = re.findall(r'"(.+?)"', bases.group(1))
    theirs = [name for name in names if name.startswith("mmdet::")]
    if theirs:
        return theirs[0] if len(theirs) == 1 else None
    return next(filter(None, (base_of(path.parent / name) for name in names)), None)


def build(config: Config) -> nn.Module:
    """Build the detector, its parameters without memory."""
    with torch.device("meta"):
        return build_model(config)


def where(model: nn.Module) -> list[str]:
    """List the components that hold CARAFE modules, as a config names them."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, CARAFE | CARAFEDownsample):
            owner = re.split(r"\.(?:upsample|downsample|fpn_convs|extra_levels|convs_all_levels)", name)[0]
            found[re.sub(r"\.\d+", "", owner)] = None
    return list(found)


@torch.no_grad()
def flops(model: nn.Module, parts: list[str]) -> int:
    """Count the operations of these components for one image, without computing them where possible."""
    levels = model.backbone(torch.empty(IMAGE, device="meta"))
    maps = model.neck(levels) if model.with_neck else levels
    total = 0
    for name in parts:
        if name == "roi_head.mask_head":
            heads = model.roi_head.mask_head
            for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
                total += _count(head, torch.empty(ROIS, head.in_channels, 14, 14, device="meta"))
        elif name == "panoptic_head.pixel_decoder":
            # deformable attention reads the sizes of its levels from a tensor, which must exist
            decoder = model.get_submodule(name).to_empty(device="cpu")
            total += _count(decoder, [torch.zeros(level.shape) for level in levels])
        else:
            total += _count(model.get_submodule(name), levels if name == "neck" else maps)
    return total


def _count(module: nn.Module, inputs: Tensor | list[Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        module(inputs)
    return counter.get_total_flops()


def parameters(model: nn.Module) -> int:
    """Count the numbers that are learnt or frozen."""
    return sum(parameter.numel() for parameter in model.parameters())


def configs() -> list[tuple[str, ...]]:
    """List of each COCO config its base, where it has CARAFE, and what that adds."""
    rows = []
    for path in track(sorted(CONFIGS.glob("*_coco.py")), "configs"):
        base = base_of(path)
        ours, theirs = build(Config.fromfile(path)), build(get_config(base))
        parts = where(ours)
        count, before = parameters(ours), parameters(theirs)
        more = flops(ours, parts) - flops(theirs, parts)
        rows.append(
            (
                f"`{path.stem}`",
                ", ".join(f"`{part}`" for part in parts),
                f"{before / 1e6:.2f} M",
                f"{(count - before) / 1e6:+.2f} M",
                f"{more / 1e9:+.1f} G",
            )
        )
    return rows


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Write a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def component_section() -> str:
    """Return the tables of components."""
    return "\n\n".join(
        [
            table(("component", "what the upsampler replaces", "guide"), components()),
            table(("without", "why"), list(OTHERS.items())),
            table(
                ("component with `downsample_cfg`", "where convolutions hand over their stride"),
                downsampling(),
            ),
        ]
    )


def segmentation_section() -> str:
    """Return the table of mmsegmentation's components."""
    import mmcarafe.segmentation  # which needs mmsegmentation

    return table(("component", "what the upsampler replaces", "guide"), components(mmcarafe.segmentation))


def type_section() -> str:
    """Return the table of types."""
    return table(("`type`", "what", "guided", "parameters", "source", "ONNX", "its arguments"), types())


def choice_section() -> str:
    """Return the short table of types."""
    rows = [
        (name, f"{what}; guided by the finer map" if guided else what) for name, what, guided, *_ in types()
    ]
    own = ("any name in `MODELS`", "your own module that takes `channels` and `scale_factor`")
    return table(("`type`", "what"), [*rows, own])


def config_section() -> str:
    """Return the table of configs."""
    head = ("config", "CARAFE in", "parameters before", "added", "FLOPs added")
    return (
        f"{table(head, configs())}\n\n"
        f"FLOPs are those of one {IMAGE[2]} x {IMAGE[3]} image, {ROIS} RoIs in a mask head; "
        "a multiply-add counts as two. A deconvolution that CARAFE replaces is taken off."
    )


SECTIONS = {
    "components": ("components.md", component_section),
    "types": ("components.md", type_section),
    "segmentation": ("segmentation.md", segmentation_section),
    "choices": ("../README.md", choice_section),
    "configs": ("configs.md", config_section),
}


def main(argv: list[str] | None = None) -> None:
    """Print the tables, or write them into their pages."""
    parser = argparse.ArgumentParser(description="Make the tables of components, types and configs")
    parser.add_argument("--pages", help="folder of the pages that get them, with README.md above it: docs")
    args = parser.parse_args(argv)
    for name, (page, section) in SECTIONS.items():
        if args.pages:
            write_section(Path(args.pages) / page, name, section())
        else:
            print(f"{section()}\n")


if __name__ == "__main__":
    run(main)
