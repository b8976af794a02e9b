# SPDX-License-Identifier: Apache-2.0
"""The pictures show the numbers they are about, whatever the shape of kernels, maps and image."""

import numpy as np
import pytest
from matplotlib.collections import PatchCollection
from views import view

from mmcarafe.visualization import Point, choose_points, draw, to_rgb
from mmcarafe.visualization.drawing import PICTURES


def texts(figure) -> str:
    titles = [axis.get_title() + axis.get_ylabel() for axis in figure.axes]
    return " | ".join([figure.get_suptitle(), figure.get_supxlabel(), *titles])


def test_every_picture_is_titled_and_explained():
    seen = view()
    for name, figure in draw(seen, choose_points(seen)).items():
        assert "neck" in figure.get_suptitle(), name
        assert figure.get_supxlabel(), name
        assert any("[%]" in a.get_ylabel() or "entropy" in a.get_ylabel() or "channel" in a.get_ylabel()
                   for a in figure.axes), name  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        dict(levels=4, size=(2, 3)),
        dict(k=3, groups=2),
        pytest.param(dict(k=9), marks=pytest.mark.slow),
        dict(levels=1, k=1),
        dict(levels=1, spread=0.0),
        pytest.param(dict(levels=1, spread=1e-4), marks=pytest.mark.slow),
        dict(levels=1, spread=100.0),
        dict(levels=1, size=(14, 14), box=(20.5, 30.25, 41.0, 88.75)),
        dict(levels=1, size=(14, 14), box=(-9.0, 30.25, 200.0, 40.0)),
        dict(image=(40, 144), box=(0, 0, 144, 96)),
        dict(image=(144, 30), size=(9, 2)),
        dict(down=True, size=(24, 36)),
        dict(down=True, size=(25, 37), k=3, groups=2, box=(0, 0, 152, 104)),
    ],
    ids=str,
)
def test_pictures_of_all_kinds_of_maps(options):
    seen = view(**options)
    for name, figure in draw(seen, choose_points(seen, count=2)).items():
        picture = to_rgb(figure, dpi=60)
        assert picture.dtype == np.uint8, name
        assert picture.shape[2] == 3, name
        assert picture.std() > 20, name


def test_the_squares_of_a_trace_are_its_weights():
    seen = view(levels=2, spread=0.5)
    point = Point(70, 40)
    figure = PICTURES["trace"](seen, [point])
    drawn = [c for a in figure.axes for c in a.collections if isinstance(c, PatchCollection)]
    weights = seen.weights(point.x, point.y)
    assert len(drawn) == 2
    for collection, weight in zip(drawn, weights, strict=True):
        shown = weight[weight >= 0.01]
        np.testing.assert_allclose(collection.get_array(), 100 * shown, rtol=1e-6)
        rectangles = [path.get_extents() for path in collection.get_paths()]
        areas = np.array([r.width * r.height for r in rectangles])
        np.testing.assert_allclose(areas / areas.max(), shown / shown.max(), rtol=1e-5)
        # each square is in the cell whose weight it is
        level = len(seen.calls) - 1 if collection is drawn[1] else 0
        centres = [seen.pixel((r.x0 + r.x1) / 2, (r.y0 + r.y1) / 2, level) for r in rectangles]
        assert centres == [tuple(cell) for cell in np.argwhere(weight >= 0.01)]


def test_features_of_a_downsampler_are_compared_with_the_pixels_it_is_centred_on():
    seen = view(down=True, size=(25, 37), box=(0, 0, 152, 104))
    figure = PICTURES["features"](seen, choose_points(seen))
    assert "before and after downsampling" in figure.get_suptitle()
    images = {axis.get_title(): axis.images[0].get_array() for axis in figure.axes if axis.images}
    np.testing.assert_allclose(images["nearest"], images["before"][::2, ::2])
    assert images["bilinear"].shape == images["CARAFE"].shape == (13, 19)
    assert "37 x 25 → 19 x 13" in texts(figure)


def test_what_is_gathered_past_the_border_is_said():
    seen = view(levels=1, spread=0.0)
    figure = PICTURES["trace"](seen, [Point(1, 1)])
    notes = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert "64% from past the border" in notes  # 16 of the 25 neighbours of a corner


def test_the_numbers_of_a_kernel_are_its_weights():
    seen = view(levels=1, spread=0.0)
    axis = PICTURES["kernels"](seen, [Point(70, 40)]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["4.00"] * 25


def test_near_uniform_kernels_get_a_scale_of_their_own():
    near, far = view(spread=1e-4), view(spread=3.0)
    assert "near uniform everywhere" in texts(PICTURES["entropy"](near, choose_points(near)))
    wide = PICTURES["entropy"](far, choose_points(far))
    assert "near uniform everywhere" not in texts(wide)
    values = far.entropy(0)
    assert f"min {values.min():.2f}, mean {values.mean():.2f}, max {values.max():.2f}" in texts(wide)


def test_features_are_those_of_the_modules():
    seen = view(levels=1)
    figure = PICTURES["features"](seen, choose_points(seen))
    images = {axis.get_title(): axis.images[0].get_array() for axis in figure.axes if axis.images}
    channels = seen.calls[0].features[0]
    channel = int(channels.flatten(1).var(1).argmax())
    np.testing.assert_allclose(images["before"], channels[channel], rtol=1e-6)
    np.testing.assert_allclose(images["CARAFE"], seen.calls[0].output()[0, channel], rtol=1e-6)
    np.testing.assert_allclose(
        images["nearest"], channels[channel].repeat_interleave(2, 0).repeat_interleave(2, 1)
    )
    np.testing.assert_allclose(
        images["CARAFE - nearest"], images["CARAFE"] - images["nearest"], rtol=1e-5, atol=1e-6
    )
