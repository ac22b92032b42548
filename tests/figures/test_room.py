"""Every text of a figure has its room: it lies inside of the figure, and beside no other label on top of it."""

import itertools

import numpy as np
import pytest

from batchnorm.figures import (
    Series,
    draw_bars,
    draw_boxes,
    draw_confusion,
    draw_layers,
    draw_lines,
    draw_points,
    draw_ridges,
    styled,
)

LONG, WIDE = "encoder.blocks.17.attention.projection", "畳み込み層の出力を正規化する層の名前がとても長い場合"
LAYERS = {
    "usual": ["hidden 1", "hidden 2", "hidden 3", "output"],
    "numbers": [*map(str, range(1, 11)), "out"],
    "many": [f"hidden {i}" for i in range(1, 31)],
    "long": [LONG, "b", "c", LONG],
    "wide": [WIDE, WIDE],
}
SIZES = (1e-9, 3e-4, 0.02, 1.8, 130.0, 2e5, 1e12)


def distribution(size, middle=0.0):
    low, high = middle - 3 * size, middle + 3 * size
    return {"low": low, "high": high, "counts": [1, 5, 5, 1], "quantiles": np.linspace(low, high, 7)[1:-1].tolist()}


def over(names, n):
    return [Series(name, range(n), [0.3 / (i + 1) + 0.1 * (i == place) for i in range(n)])
            for place, name in enumerate(names)]  # fmt: skip


def ridges(size, middle=0.0):
    columns = {"before batch norm": [distribution(size, middle)] * 3, "after": [distribution(0.9)] * 3}
    return draw_ridges(columns, ["start", "epoch 4", "epoch 119"], x_label="pre-activation")


def of_size(size):
    values = [-size, 0.3 * size, 1.007 * size]
    yield draw_points(values, values, x_label="true", y_label="predicted")
    yield draw_lines([Series("a", range(3), values)], x_label="epoch", y_label="root mean squared error")
    yield ridges(size)


def of_names(names):
    n = len(names)
    yield draw_layers(over(["start", "epoch 1"], n), names, y_label="gradient norm", log=True)
    yield draw_layers(over(["start", "epoch 1"], n), names, y_label="dead", percent=True)
    yield draw_boxes({"γ": [[0, 1, 2, 3, 4]] * n, "β": [[-1e-5, 0, 1, 2, 3]] * n}, names, y_label="γ and β")
    yield draw_lines(over(names[:6], 3), x_label="epoch", y_label="step / weights", log=True)
    yield draw_bars(names, [1e-5 * i for i in range(n)], [1e-6] * n, x_label="loss of accuracy")
    yield draw_confusion(np.eye(n, dtype=np.int64) * 12_345, names)


def assert_room(figure):
    with styled():
        drawn = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert min(drawn.x0, drawn.y0) > -0.01
        assert drawn.x1 < width + 0.01
        assert drawn.y1 < height + 0.01
        below = [box for axes in figure.axes for box in labels_of(axes.xaxis)]
        assert all(first.x1 < second.x0 for first, second in itertools.pairwise(below))
        for axes in figure.axes:
            beside = sorted(labels_of(axes.yaxis), key=lambda box: box.y0)
            assert all(first.y1 < second.y0 + 1 for first, second in itertools.pairwise(beside))


def labels_of(axis):
    """Return where the labels of an axis are drawn; those that are turned lie side by side."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if low <= tick.get_loc() <= high]
    labels = [tick.label1 for tick in ticks if tick.label1.get_text()]
    return [label.get_window_extent() for label in labels if not label.get_rotation()]


@pytest.mark.parametrize("size", SIZES)
def test_numbers_of_any_size_have_room(size):
    for figure in of_size(size):
        assert_room(figure)


@pytest.mark.parametrize("kind", LAYERS)
def test_names_of_any_length_have_room(kind):
    for figure in of_names(LAYERS[kind]):
        assert_room(figure)


def test_names_are_turned_only_where_they_would_run_into_each_other():
    for kind, turn in {"usual": 0, "numbers": 0, "many": 45, "long": 45, "wide": 45}.items():
        figure = next(of_names(LAYERS[kind]))
        assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {turn}


def test_numbers_far_from_zero_have_room_and_differ():
    figure = ridges(0.003, 1234.5)
    assert_room(figure)
    assert figure.axes[0].get_xticklabels()[0].get_text().startswith("1234.49")


def test_narrow_panels_have_two_to_four_numbers():
    for size in SIZES:
        for axes in ridges(size).axes:
            assert 2 <= len(axes.get_xticks()) <= 5
