"""Arrays in files become data sets, and what is wrong with them is told."""

import io
import struct
import zipfile

import numpy as np
import pytest
import torch

import batchnorm as bn
from batchnorm import memory
from batchnorm.data import load_own, write_idx
from batchnorm.errors import BatchnormWarning, InputError

LABELS = np.arange(60) % 3
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 4)).astype(np.uint8)
FLOATS = np.random.default_rng(0).normal(size=(60, 5))


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def pair(folder, inputs, labels):
    np.save(folder / "X.npy", inputs)
    np.save(folder / "y.npy", labels)
    return [folder / "X.npy", folder / "y.npy"]


@pytest.mark.parametrize(("x", "y"), [("X", "y"), ("x", "Y"), ("inputs", "labels"), ("x_train", "y_train")])
def test_npz_is_the_data_set_of_its_arrays(tmp_path, x, y):
    loaded = load_own([npz(tmp_path / "mine.npz", **{x: IMAGES, y: LABELS})], split_seed=4)
    expected = bn.Dataset.from_arrays(IMAGES, LABELS, split_seed=4)
    assert loaded.fingerprint == expected.fingerprint
    assert (loaded.name, loaded.train.scale, loaded.split_seed) == ("mine", 1 / 255, 4)


def test_npz_with_a_test_part_keeps_it(tmp_path):
    """As Keras' mnist.npz has it."""
    path = tmp_path / "mnist.npz"
    np.savez_compressed(path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:9] + 1, y_test=LABELS[:9])
    loaded = load_own([path])
    assert [len(part) for part in loaded.parts.values()] == [54, 6, 9]
    np.testing.assert_array_equal(loaded.test.inputs, IMAGES[:9] + 1)
    assert loaded.split_seed == 0
    for name in ("val", "valid", "validation"):
        validation = {f"x_{name}": IMAGES, f"y_{name}": LABELS}
        path = npz(path, x_train=IMAGES, y_train=LABELS, X_Test=IMAGES, Y_test=LABELS, **validation)
        assert load_own([path]).split_seed is None


def test_pairs_of_npy_keep_floats_as_they_are(tmp_path):
    loaded = load_own(pair(tmp_path, FLOATS, LABELS))
    assert loaded.fingerprint == bn.Dataset.from_arrays(FLOATS, LABELS).fingerprint
    assert loaded.train.scale == 1
    assert loaded.train.inputs.dtype == torch.float32


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pairs_of_idx(tmp_path, suffix):
    paths = [tmp_path / f"images-idx3-ubyte{suffix}", tmp_path / f"labels-idx1-ubyte{suffix}"]
    write_idx(paths[0], IMAGES)
    write_idx(paths[1], LABELS.astype(np.uint8))
    assert load_own(paths).fingerprint == bn.Dataset.from_arrays(IMAGES, LABELS).fingerprint


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array(["cat", "ant", "Ölbaum"])[LABELS], ["ant", "cat", "Ölbaum"]),
        (np.array([b"cat", b"ant", b"z\xff"])[LABELS], ["ant", "cat", "z\\xff"]),
        (np.array([-7, 40, 10**12])[LABELS], ["-7", "40", "1000000000000"]),
        (LABELS[:, None].astype(">i2"), ["0", "1", "2"]),
        (LABELS > 0, ["False", "True"]),
    ],
    ids=["texts", "bytes", "gaps", "column", "truth"],
)
def test_labels_become_classes(tmp_path, labels, names):
    inputs = FLOATS.copy()
    inputs[:, 0] = np.unique(labels, return_inverse=True)[1].ravel()
    loaded = load_own(pair(tmp_path, inputs, labels))
    assert list(loaded.class_names) == names
    assert all(torch.equal(part.inputs[:, 0].long(), part.labels) for part in loaded.parts.values())


def test_order_of_bytes_and_of_axes_is_read(tmp_path):
    paths = pair(tmp_path, np.asfortranarray(FLOATS).astype(">f8"), LABELS)
    assert load_own(paths).fingerprint == bn.Dataset.from_arrays(FLOATS, LABELS).fingerprint


def test_arrays_beside_them_are_passed_over(tmp_path):
    path = npz(tmp_path / "a.npz", X=IMAGES, y=LABELS, names=np.array(["a"]))
    with pytest.warns(BatchnormWarning, match="neither inputs nor labels are passed over: names"):
        load_own([path])


with_nan = FLOATS.copy()
with_nan[7, 2] = np.nan
OBJECTS = np.array([None] * 60)
REFUSED_PAIRS = {
    "objects": (OBJECTS, LABELS, "X.npy holds Python objects, which are not read, as they can run code"),
    "object labels": (FLOATS, OBJECTS, "y.npy holds Python objects"),
    "lengths": (FLOATS[:50], LABELS, r"inputs have shape \(50, 5\) and labels \(60,\), expected as many"),
    "swapped": (LABELS, FLOATS, r"inputs have shape \(60,\), expected \(examples, features\)"),
    "float labels": (
        FLOATS,
        LABELS / 1,
        r"y.npy: labels have .* type float64, which may be classes or values: say which",
    ),
    "one-hot": (FLOATS, np.eye(3, dtype=int)[LABELS], r"use .argmax\(1\)|\.argmax\(1\) where they are one-hot"),
    "flat": (FLOATS[:, 0], LABELS, r"inputs have shape \(60,\), expected \(examples, features\)"),
    "texts": (np.array([["a"]] * 60), LABELS, "inputs are of type <U1, expected numbers"),
    "complex": (FLOATS * 1j, LABELS, "inputs are of type complex128, expected numbers"),
    "a number": (np.array(3.0), LABELS, r"inputs have shape \(\) and labels \(60,\)"),
    "nothing": (FLOATS[:0], LABELS[:0], "there are no examples"),
    "no features": (FLOATS[:, :0], LABELS, "which hold no feature"),
    "nan": (with_nan, LABELS, "features that are NaN or infinite, the first at example"),
    "one class": (FLOATS, LABELS * 0, "X has one class, '0': expected at least two"),
    "rare": (FLOATS, np.r_[LABELS[:59], 9], "X has 1 of class '9' to train on, expected at least 3"),
    "every label once": (FLOATS, np.arange(60), "X has 1 of class '0' to train on"),
    "few": (FLOATS[:18], LABELS[:18], "X has 18 examples of 3 classes, expected at least 30"),
}


@pytest.mark.parametrize("name", REFUSED_PAIRS)
def test_pairs_that_are_refused(tmp_path, name):
    inputs, labels, message = REFUSED_PAIRS[name]
    with pytest.raises(InputError, match=message):
        load_own(pair(tmp_path, inputs, labels))


REFUSED_NPZ = {
    "no names": ({"a": FLOATS, "b": LABELS}, "holds a, b, expected arrays named X and y"),
    "no labels": ({"x_train": FLOATS, "y": LABELS}, "holds x_train without y_train: it has x_train, y"),
    "twice": (
        {"x": FLOATS, "y": LABELS, "inputs": FLOATS, "labels": LABELS},
        "holds x and inputs, expected one of them",
    ),
    "only a test": ({"x_test": FLOATS, "y_test": LABELS}, "holds x_test, y_test, expected arrays named"),
    "strange label": (
        {"x_train": FLOATS, "y_train": LABELS, "x_test": FLOATS, "y_test": LABELS + 1},
        "the test part has the label 3, which the training part has not",
    ),
    "other labels": (
        {"x_train": FLOATS, "y_train": LABELS, "x_test": FLOATS, "y_test": LABELS.astype(str)},
        "labels of the test part are of type <U",
    ),
    "other shape": (
        {"x_train": FLOATS, "y_train": LABELS, "x_test": FLOATS[:, 1:], "y_test": LABELS},
        r"the test part of a has inputs of shape \(4,\), expected \(5,\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED_NPZ)
def test_npz_that_are_refused(tmp_path, name):
    arrays, message = REFUSED_NPZ[name]
    with pytest.raises(InputError, match=message):
        load_own([npz(tmp_path / "a.npz", **arrays)])


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_shape(array, shape):
    """Return a file whose header claims another shape."""
    file = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


REFUSED_BYTES = {
    "truncated": (npy_bytes(FLOATS)[:-8], r"X.npy is truncated or damaged: shape \(60, 5\) needs 2,528 bytes, found"),
    "claims": (with_shape(FLOATS, (10**15, 5)), r"truncated or damaged: shape \(1000000000000000, 5\) needs"),
    "overflow": (with_shape(FLOATS, (2**62, 2**62)), "truncated or damaged"),
    "negative": (with_shape(FLOATS, (-60, 5)), "truncated or damaged"),
    "header": (b"\x93NUMPY\x01\x00\x10\x00{'descr': evil()}", "X.npy cannot be read"),
    "version": (b"\x93NUMPY\x09\x00" + b" " * 100, r"version \(9, 0\)|cannot be read"),
    "long header": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 100, "X.npy cannot be read"),
    "empty": (b"", "X.npy: truncated: expected a 4-byte IDX header, found 0 bytes"),
    "text": (b"a,b\n1,2\n", "X.npy: not an IDX file"),
    "zip": (b"PK\x03\x04rest", "X.npy is a zip archive, as .npz is, which is given alone"),
}


@pytest.mark.parametrize("name", REFUSED_BYTES)
def test_files_that_are_refused(tmp_path, name):
    content, message = REFUSED_BYTES[name]
    paths = pair(tmp_path, FLOATS, LABELS)
    paths[0].write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_own(paths)


def test_damaged_archives(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, X=FLOATS, y=LABELS)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), 4):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            load_own([path])
        except InputError:
            refused += 1
    assert refused > 100
    path.write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"a.npz is no .npz file; arrays in .npy or IDX files are given in pairs"):
        load_own([path])


def test_an_archive_that_unpacks_to_more_than_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, X=np.zeros((60, 10_000)), y=LABELS)
    monkeypatch.setattr(memory, "available_memory", lambda: 10**6)
    with pytest.raises(InputError, match=r"X in .*a.npz take .* of memory"):
        load_own([path])


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("X.npy", b"no array")
        archive.writestr("y.npy", npy_bytes(LABELS))
    with pytest.raises(InputError, match=r"a.npz cannot be read: .*magic"):
        load_own([tmp_path / "a.npz"])


def test_paths_that_are_refused(tmp_path):
    paths = pair(tmp_path, FLOATS, LABELS)
    with pytest.raises(InputError, match=r"3 files were given, expected one .npz, or two"):
        load_own([*paths, paths[0]])
    with pytest.raises(InputError, match=r"X.npy is no .npz file; arrays in .npy or IDX files are given in pairs"):
        load_own(paths[:1])
    with pytest.raises(InputError, match=r"missing.npz is missing"):
        load_own([tmp_path / "missing.npz"])
    with pytest.raises(InputError, match="an image size is for a folder of images"):
        load_own(paths, image_size=3)
