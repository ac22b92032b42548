"""Data sets: checked once, split by class, scaled as a batch is gathered."""

import numpy as np
import pytest
import torch

import batchnorm as bn
from batchnorm import Dataset, Examples, InputError


def examples(n=4, features=3, labels=None, **options):
    labels = torch.arange(n) % 2 if labels is None else torch.tensor(labels)
    return Examples(torch.zeros(n, features), labels, **options)


def test_images_stay_bytes_until_a_batch_is_gathered():
    images = torch.arange(24, dtype=torch.uint8).reshape(6, 2, 2)
    part = Examples(images, torch.arange(6), scale=1 / 255)
    assert part.inputs.dtype == torch.uint8
    inputs, labels = part.batch(torch.tensor([5, 0]))
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, images[[5, 0]].float() * (1 / 255))
    assert labels.tolist() == [5, 0]


def test_blocks_are_all_examples_in_order():
    part = Examples(torch.arange(7.0).reshape(7, 1), torch.arange(7))
    blocks = list(part.blocks(3))
    assert [len(labels) for _, labels in blocks] == [3, 3, 1]
    assert torch.cat([inputs for inputs, _ in blocks]).flatten().tolist() == list(range(7))


def test_a_split_is_stratified_disjoint_and_drawn_by_its_seed():
    labels = np.repeat([0, 1, 2], [100, 200, 300])
    inputs = np.arange(600).reshape(600, 1)
    a, b, c = (Dataset.from_arrays(inputs, labels, split_seed=seed) for seed in (0, 0, 1))
    for part, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        counts = a.parts[part].labels.bincount().tolist()
        assert counts == [round(share * n) for n in (100, 200, 300)]
    together = torch.cat([part.inputs.flatten() for part in a.parts.values()])
    assert sorted(together.tolist()) == list(range(600))
    assert a.fingerprint == b.fingerprint != c.fingerprint


def test_the_fingerprint_sees_every_value():
    parts = [examples(), examples(), examples()]
    before = Dataset("x", *parts, class_names="ab").fingerprint
    parts[2].inputs[3, 2] = 1e-30
    assert Dataset("x", *parts, class_names="ab").fingerprint != before


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: (examples(), examples(0), examples()), "the validation part of x is empty"),
        (lambda: (examples(labels=[0, 1, 2, 0]), examples(), examples()), "label 2 at example 2, expected 0 to 1"),
        (lambda: (examples(), examples(), examples(labels=[0, -1, 0, 1])), "test part of x has label -1 at example 1"),
        (lambda: (examples(), examples(features=4), examples()), r"inputs of shape \(4,\), expected \(3,\)"),
        (lambda: (examples(labels=[0.0, 1, 0, 1]), examples(), examples()), "labels of type torch.float32"),
        (lambda: (examples(n=4, labels=[0, 1]), examples(), examples()), "4 inputs and 2 labels"),
    ],
)
def test_says_what_is_wrong_with_a_part(parts, message):
    with pytest.raises(InputError, match=message):
        Dataset("x", *parts(), class_names="ab")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_says_where_a_feature_is_not_finite(bad):
    inputs = np.zeros((40, 2, 2))
    inputs[7:9, 1, 0] = bad
    with pytest.raises(
        InputError, match="arrays has 2 features that are NaN or infinite, the first at example 7, feature 2"
    ):
        Dataset.from_arrays(inputs, np.arange(40) % 2)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros(10), np.zeros(10, int), r"inputs have shape \(10,\)"),
        (np.array([["a"], ["b"]]), np.zeros(2, int), "inputs are of type <U1, expected numbers"),
        (np.zeros((10, 2)), np.zeros(10), "labels have shape .* type float64"),
        (np.zeros((10, 2)), np.zeros(9, int), "10 inputs came with 9 labels"),
        (np.zeros((10, 2)), np.array([0] * 9 + [-1]), "arrays has label -1 at example 9, expected 0 to 0"),
        (np.zeros((10, 2)), np.array([0] * 9 + [1]), "arrays cannot be split by class: .*least populated class"),
    ],
)
def test_says_what_is_wrong_with_arrays(inputs, labels, message):
    with pytest.raises(InputError, match=message):
        Dataset.from_arrays(inputs, labels)


def test_digits_and_mnist5k_come_from_installed_packages():
    digits = bn.load_dataset("digits")
    assert (digits.feature_shape, digits.n_classes) == ((8, 8), 10)
    assert [len(part) for part in digits.parts.values()] == [1437, 180, 180]
    assert digits.train.batch(slice(None))[0].max() == 1.0
    mnist5k = bn.load_dataset("mnist5k")
    assert (mnist5k.feature_shape, mnist5k.n_classes) == ((28, 28), 10)
    assert [len(part) for part in mnist5k.parts.values()] == [4000, 500, 500]
    assert mnist5k.train.inputs.dtype == torch.uint8
    assert mnist5k.train.batch(slice(None))[0].max() == 1.0
    assert (mnist5k.test.labels.bincount() == 50).all()


def test_mnist_is_split_as_the_tutorials_loader_does(mnist_dir):
    from batchnorm.data.idx import read_idx

    mnist = bn.load_dataset("mnist", data_dir=mnist_dir)
    assert [len(part) for part in mnist.parts.values()] == [55_000, 5_000, 10_000]
    images = read_idx(mnist_dir / "mnist" / "train-images-idx3-ubyte.gz")
    labels = read_idx(mnist_dir / "mnist" / "train-labels-idx1-ubyte.gz")
    np.testing.assert_array_equal(mnist.validation.inputs, images[:5000])  # the first 5,000 validate
    np.testing.assert_array_equal(mnist.train.inputs, images[5000:])
    np.testing.assert_array_equal(mnist.validation.labels, labels[:5000])
    np.testing.assert_array_equal(mnist.train.labels, labels[5000:])
