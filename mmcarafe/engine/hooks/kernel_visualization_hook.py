# SPDX-License-Identifier: Apache-2.0
"""Pictures of the kernels during training, written to the run's visualizer."""

from collections.abc import Sequence

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmcarafe.checkpoint.state_dict import unwrap
from mmcarafe.layers.upsampler import Reassembler
from mmcarafe.visualization import (
    Point,
    View,
    choose_points,
    draw,
    image_pipeline,
    image_points,
    load_image,
    look,
    select,
    to_rgb,
)
from mmcarafe.visualization.view import check_whole, undisturbed

CHOSEN = "carafe_points"
"""The name of the points that were chosen, by part and image, in mmengine's message hub (in checkpoints)."""


@HOOKS.register_module()
class CARAFEVisualizationHook(Hook):
    """Write what CARAFE does with one image to the run's visualizer, TensorBoard for instance.

    For each chain of CARAFE modules it writes the pictures of ``tools/analysis_tools/visualize_kernels.py``
    under the names ``carafe_<part of the model>_<picture>``, after every validation; without validation it
    counts epochs or iterations. The image passes through the test pipeline. Weights, buffers and random
    numbers are left as they are, so training goes on as without the hook. The main process alone draws.

    Args:
        interval (int): validations from one time to the next; without validation, epochs or iterations.
            Default: 1.
        image (int or str): number of an image in the validation set, or the training set without validation,
            or a path. Default: 0.
        points (sequence of (x, y), optional): pixels of the original image to look at. Default: None, chosen
            by the kernels the first time and kept, also in checkpoints, so that pictures can be compared.
        module (str, optional): part of the model, ``neck`` for instance. Default: None, all.
        by_epoch (bool): without validation, whether to count epochs. Default: True.

    Raises:
        ValueError: before training, the model or ``module`` has no CARAFE module, or the config no test
            pipeline; later, a point is outside the image.

    Example: ``custom_hooks = [dict(type="CARAFEVisualizationHook")]``
    """

    # before the weights of an exponential moving average, which were evaluated, are swapped back
    priority = "ABOVE_NORMAL"

    def __init__(
        self,
        interval: int = 1,
        image: int | str = 0,
        points: Sequence[tuple[float, float]] | None = None,
        module: str | None = None,
        by_epoch: bool = True,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval: expected 1 or more, got {interval}")
        self.interval = interval
        self.image = image
        self.given = points
        self.module = module
        self.by_epoch = by_epoch

    def before_train(self, runner: Runner) -> None:
        """See that there is something to look at."""
        model = unwrap(runner.model)
        names = [name for name, module in model.named_modules() if isinstance(module, Reassembler)]
        if not names:
            raise ValueError("CARAFEVisualizationHook: the model has no CARAFE module; leave the hook out")
        if self.module is not None and not any(f"{name}.".startswith(f"{self.module}.") for name in names):
            raise ValueError(
                f"CARAFEVisualizationHook: module: expected the beginning of one of {', '.join(names)}, "
                f"got {self.module!r}"
            )
        check_whole(model, "leave CARAFEVisualizationHook out, or evaluate with model.test_cfg.mode='whole'")
        image_pipeline(runner.cfg)
        if isinstance(self.image, str):  # now, not after hours
            load_image(runner.cfg, self.image)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Draw after each ``interval`` validations, those before a training was resumed included."""
        loop = runner.train_loop
        done = runner.epoch if isinstance(loop, EpochBasedTrainLoop) else runner.iter
        if -(-done // loop.val_interval) % self.interval == 0:
            self._write(runner, runner.val_loop.dataloader.dataset, runner.iter)

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw after each ``interval`` epochs where there is no validation."""
        if runner.val_loop is None and self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._write(runner, runner.train_dataloader.dataset, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Draw after each ``interval`` iterations where there is no validation."""
        if runner.val_loop is None and not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._write(runner, runner.train_dataloader.dataset, runner.iter + 1)

    def _write(self, runner: Runner, dataset, step: int) -> None:
        if not is_main_process():
            return
        model = unwrap(runner.model)
        with undisturbed(model):
            seen = look(model, *load_image(runner.cfg, self._path(dataset)))
            for view in select(seen, self.module):
                if view.flaw:
                    runner.logger.warning(f"{view.name}: no pictures, {view.flaw}")
                elif points := self._points(runner, view):
                    for name, figure in draw(view, points).items():
                        runner.visualizer.add_image(f"carafe_{view.name}_{name}", to_rgb(figure), step)

    def _path(self, dataset) -> str:
        if isinstance(self.image, str):
            return self.image
        while not hasattr(dataset, "get_data_info"):  # mmdet's MultiImageMixDataset
            dataset = dataset.dataset
        return dataset.get_data_info(self.image)["img_path"]

    def _points(self, runner: Runner, view: View) -> list[Point]:
        """Return those given, or those chosen the first time; a RoI is never the same twice."""
        if self.given is not None:
            return image_points(view, self.given)
        if view.is_roi:
            return choose_points(view)
        chosen = runner.message_hub.get_info(CHOSEN) or {}
        key = f"{view.name} of {self.image}"
        if key not in chosen:
            chosen[key] = [(float(x), float(y), what) for x, y, what in choose_points(view)]
            runner.message_hub.update_info(CHOSEN, chosen)
        return [Point(*point) for point in chosen[key]]
