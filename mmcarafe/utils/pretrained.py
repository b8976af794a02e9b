# SPDX-License-Identifier: Apache-2.0
"""Models as their configs have them, but for the weights that these load."""


def drop_pretrained(cfg: object) -> None:
    """Remove what loads weights from a model's config, at any depth."""
    if isinstance(cfg, dict):
        cfg.update({key: None for key in ("pretrained", "teacher_ckpt") if key in cfg})
        inits = cfg.get("init_cfg") or []
        inits = inits if isinstance(inits, list | tuple) else [inits]
        if any("checkpoint" in init for init in inits):
            cfg["init_cfg"] = [init for init in inits if "checkpoint" not in init] or None
        cfg = list(cfg.values())
    if isinstance(cfg, list | tuple):
        for part in cfg:
            drop_pretrained(part)
