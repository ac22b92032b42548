"""Data sets: checked once, split by class, scaled as a batch is gathered."""

import numpy as np
import pytest
import scipy.sparse
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
        (
            lambda: (examples(), examples(labels=[[True], [False]] * 2), examples()),
            r"labels of shape \(4, 1\), expected",
        ),
        (lambda: (examples(features=0),) * 3, r"the train part of x has inputs of shape \(0,\), which hold no feature"),
        (lambda: (examples().to(torch.device("meta")),) * 3, "the train part of x is on the device meta"),
        (
            lambda: (Examples(torch.zeros(4, 3), torch.zeros(4, device="meta").long()),) * 3,
            "the train part of x has inputs on cpu and labels on meta, expected one device",
        ),
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
        (np.zeros((10, 2), complex), np.zeros(10, int), "inputs are of type complex128, expected numbers"),
        (np.zeros((10, 2), object), np.zeros(10, int), "inputs are of type object, expected numbers"),
        (np.zeros(10, "f4,f4"), np.zeros(10, int), r"inputs have shape \(10,\)"),
        (np.array(3.0), np.zeros(10, int), r"inputs have shape \(\)"),
        ([[1, 2], [3]], [0, 1], "inputs are no array: .*inhomogeneous"),
        (np.zeros((10, 0)), np.arange(10) % 2, r"inputs of shape \(0,\), which hold no feature"),
        (np.zeros((0, 2)), np.zeros(0, int), "arrays is empty"),
        (np.ma.masked_equal(np.eye(10), 1), np.zeros(10, int), r"inputs have 10 masked values: fill them by .filled"),
        (np.zeros((10, 2)), np.ma.masked_equal(np.arange(10), 1), "labels have 1 masked values"),
        (scipy.sparse.csr_array(np.eye(10)), np.zeros(10, int), r"inputs are sparse, .* use .toarray\(\)"),
        (torch.eye(10).to_sparse(), np.zeros(10, int), r"inputs are sparse .* use .to_dense\(\)"),
        (torch.eye(10, dtype=torch.complex64), np.zeros(10, int), "inputs are of type torch.complex64"),
        (torch.eye(10, device="meta"), np.zeros(10, int), "inputs are no array"),
        (np.zeros((10, 2)), np.eye(10, dtype=int), r"labels have shape \(10, 10\) .* use .*.argmax\(1\) where"),
        (np.zeros((10, 2)), np.zeros((10, 1), int), r"labels have shape \(10, 1\) .*.ravel\(\) where"),
        (np.zeros((10, 2)), np.zeros(10, complex), "labels have shape .* type complex128"),
        (np.zeros((10, 2)), np.zeros(10, object), "labels have shape .* type object"),
        (np.zeros((10, 2)), np.full(10, 2**63, np.uint64), "labels go up to 9223372036854775808, expected classes"),
        (np.zeros((10, 2)), np.full(10, 10**12), "labels go up to 1000000000000, expected classes"),
        (np.zeros((10, 2)), np.zeros(9, int), "10 inputs came with 9 labels"),
        (np.zeros((10, 2)), np.array([0] * 9 + [-1]), "arrays has label -1 at example 9, expected 0 to 0"),
        (np.zeros((10, 2)), np.array([0] * 9 + [1]), "arrays cannot be split by class: .*least populated class"),
    ],
)
def test_says_what_is_wrong_with_arrays(inputs, labels, message):
    with pytest.raises(InputError, match=message):
        Dataset.from_arrays(inputs, labels)


@pytest.mark.parametrize(
    "kind", ["bool", "int8", "uint8", ">i4", "uint16", "uint32", "uint64", "tensor", "int8 tensor", "list", "masked"]
)
def test_labels_of_any_whole_type_are_classes(kind):
    labels = np.arange(40) % 2
    given = {
        "tensor": lambda: torch.from_numpy(labels),
        "int8 tensor": lambda: torch.from_numpy(labels).to(torch.int8),
        "list": labels.tolist,
        "masked": lambda: np.ma.masked_equal(labels, 7),  # nothing is
    }.get(kind, lambda: labels.astype(kind))()
    dataset = Dataset.from_arrays(np.eye(40), given)
    expected = Dataset.from_arrays(np.eye(40), labels)
    assert dataset.train.labels.dtype == torch.int64
    assert dataset.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(">f8"),
        np.asfortranarray,
        lambda x: np.flip(np.flip(x).copy()),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.broadcast_to(x, x.shape),  # read-only
        lambda x: torch.from_numpy(x).float().requires_grad_(),
        lambda x: torch.from_numpy(x).bfloat16(),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.longdouble),
        lambda x: np.ma.masked_equal(x, 7),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_inputs_are_what_they_hold_however_they_lie_in_memory(dtype, change):
    x = np.eye(40).astype(dtype)
    found = Dataset.from_arrays(change(x), np.arange(40) % 2, scale=1.0)
    expected = Dataset.from_arrays(x, np.arange(40) % 2, scale=1.0)
    assert torch.equal(found.train.batch(slice(None))[0], expected.train.batch(slice(None))[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0.0}, "validation is 0.0 and test is 0.1, expected shares"),
        ({"test": float("nan")}, "test is nan"),
        ({"validation": 0.5, "test": 0.5}, "expected shares above 0 and below 1 together"),
        ({"split_seed": 2**32}, "split_seed is 4294967296, expected 0 to 4294967295"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"scale": float("nan")}, "scale is nan, expected a finite number"),
        ({"scale": "1"}, "scale is '1', expected a finite number"),
    ],
)
def test_says_which_option_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        Dataset.from_arrays(np.eye(40), np.arange(40) % 2, **options)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int8, torch.int32, torch.uint16])
def test_examples_take_labels_of_any_whole_type(dtype):
    part = Examples(torch.zeros(4, 3), torch.tensor([0, 1, 1, 0]).to(dtype))
    assert part.labels.dtype == torch.int64
    assert part.labels.tolist() == [0, 1, 1, 0]


def test_examples_leave_autograd_behind():
    part = Examples(torch.zeros(4, 3, requires_grad=True), torch.zeros(4, 2, requires_grad=True))
    assert not part.inputs.requires_grad
    assert not part.labels.requires_grad


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((4, 3)), torch.zeros(4).long(), r"inputs are a ndarray, expected a Tensor: use torch.as_tensor"),
        (torch.zeros(4, 3), [0, 1, 0, 1], "labels are a list, expected a Tensor"),
        (torch.zeros(4, 3, dtype=torch.complex64), torch.zeros(4).long(), "inputs are of type torch.complex64"),
        (torch.zeros(4, 3).to_sparse(), torch.zeros(4).long(), "inputs are sparse or quantized"),
        (torch.tensor(1.0), torch.zeros(4).long(), "inputs are a single number"),
        (torch.zeros(4, 3), torch.tensor(1), "labels are a single number"),
        (torch.zeros(4, 3), torch.zeros(4), r"labels of type torch.float32 and shape \(4,\), expected whole numbers"),
        (torch.zeros(4, 3), torch.eye(4).long(), r"torch.int64 and shape \(4, 4\), .*.argmax\(1\) where they are one"),
        (torch.zeros(4, 3), torch.zeros(4, 1, 1), r"torch.float32 and shape \(4, 1, 1\), expected"),
    ],
)
def test_says_what_examples_cannot_be(inputs, labels, message):
    with pytest.raises(InputError, match=message):
        Examples(inputs, labels)


def test_weights_are_one_per_example():
    with pytest.raises(InputError, match=r"weights have shape \(3,\), expected \(4,\)"):
        examples(weights=torch.ones(3))


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


def test_a_tensor_that_is_negated_when_it_is_read_is_taken():
    inputs, labels = torch.randn(60, 6, dtype=torch.complex64).conj().imag, torch.arange(60) % 3
    assert inputs.is_neg()
    taken, plain = (Dataset.from_arrays(x, labels) for x in (inputs, inputs.resolve_neg()))
    assert taken.fingerprint == plain.fingerprint
    examples = Examples(inputs, labels)
    assert Dataset("a", examples, examples, examples, "abc").fingerprint
    assert not examples.inputs.is_neg()
