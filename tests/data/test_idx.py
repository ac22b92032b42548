"""IDX files: a round trip, and everything that a file may lie about."""

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batchnorm import InputError
from batchnorm.data.idx import read_idx, write_idx

DTYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]


@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    ),
    suffix=st.sampled_from(["", ".gz"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read(array, suffix, tmp_path):
    path = tmp_path / f"array{suffix}"
    write_idx(path, array)
    back = read_idx(path)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


def test_the_layout_is_that_of_mnists_files(tmp_path):
    path = tmp_path / "file"
    write_idx(path, np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int16))
    assert path.read_bytes() == bytes.fromhex("00000b02 00000002 00000003 0001 0002 0003 0004 0005 0006")


def test_the_content_tells_compression_not_the_name(tmp_path):
    write_idx(tmp_path / "a.gz", np.arange(4, dtype=np.uint8))
    (tmp_path / "a.gz").rename(tmp_path / "plain-name")
    assert read_idx(tmp_path / "plain-name").tolist() == [0, 1, 2, 3]


def test_equal_arrays_make_equal_files(tmp_path):
    for name in ("a.gz", "b.gz"):
        write_idx(tmp_path / name, np.arange(1000, dtype=np.uint8))
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def header(*sizes, magic=b"\0\0\x08"):
    return magic + bytes([len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated: expected a 4-byte IDX header, found 0 bytes"),
        (b"\0\0", "truncated: expected a 4-byte IDX header, found 2 bytes"),
        (b"\x89PNG....", "not an IDX file: expected two zero bytes and a type from 0x08 to 0x0e, found 0x89504e47"),
        (header(2, magic=b"\0\0\x0a") + b"12", "not an IDX file: .* found 0x00000a01"),
        (b"\0\0\x08\x03\0\0\0\x02", "truncated: the header announces 3 dimensions, found the sizes of 1"),
        (header(2, 3) + b"12345", r"shape \(2, 3\) needs 6 bytes, found 5"),
        (header(2, 3) + b"1234567", r"damaged: it goes on after the 6 bytes that shape \(2, 3\) needs"),
        (header(2**32 - 1, 2**32 - 1) + b"12", "more than the file can hold"),
        (header(*[2**32 - 1] * 64), "more than the file can hold"),
        (header(0, 2**32 - 1, 2**32 - 1, 2**32 - 1), "no array can have the shape"),
        (header(2**32 - 1, 2**31, 0, magic=b"\0\0\x0e"), "no array can have the shape"),
        (header(*[1] * 65) + b"1", "65 dimensions, expected at most 64"),
        (header(*[0] * 255), "255 dimensions, expected at most 64"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_says_what_is_wrong_with_a_file(content, message, compressed, tmp_path):
    path = tmp_path / "bad-file"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_damaged_gzip_stream_is_found(tmp_path):
    path = tmp_path / "a.gz"
    write_idx(path, np.random.default_rng(0).integers(0, 255, 1000).astype(np.uint8))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged, found in ((whole[:-100], r"\d+"), (whole[:-2], "1,000")):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"needs 1,000 bytes, found {found} before this: it ends within a member"):
            read_idx(path)
    for damaged in (whole[:12], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="the gzip stream is truncated or damaged"):
            read_idx(path)


def test_as_many_dimensions_as_numpy_has(tmp_path):
    array = np.arange(2, dtype=np.uint8).reshape([1] * 63 + [2])
    write_idx(tmp_path / "a", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)


def test_gzip_members_follow_each_other_and_garbage_does_not(tmp_path):
    path = tmp_path / "a.gz"
    content = header(4) + b"1234"
    path.write_bytes(gzip.compress(content[:5]) + gzip.compress(b"") + gzip.compress(content[5:]) + b"\0\0")
    assert read_idx(path).tobytes() == b"1234"
    path.write_bytes(gzip.compress(content) + b"garbage")
    with pytest.raises(InputError, match="truncated or damaged"):
        read_idx(path)


_NAMED = b"\x1f\x8b\x08\x08" + bytes(6)  # a member's header, in front of a file's name that a zero ends


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_NAMED + b"a" * 2**20, b""),
        (b"", _NAMED + b"a" * 2**20),
        (gzip.compress(b"") * 10_000, b""),
        (b"", gzip.compress(b"") * 10_000),
        (b"", bytes(2**20)),
    ],
    ids=["name without an end", "another behind", "members of nothing", "more behind", "zeros behind"],
)
def test_a_gzip_file_is_no_longer_than_its_content_needs(before, after, tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(before + gzip.compress(header(4) + b"1234") + after)
    with pytest.raises(InputError, match=r"its first 73,728 bytes hold no more than (0|12) of content"):
        read_idx(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_memory_holds_one_copy(dtype, compressed, tmp_path):
    path = tmp_path / ("zeros.gz" if compressed else "zeros")
    array = np.zeros(2**22 // np.dtype(dtype).itemsize, dtype)
    write_idx(path, array)
    read, peak = peak_of(lambda: read_idx(path))
    np.testing.assert_array_equal(read, array)
    assert peak < 1.3 * array.nbytes


def test_what_a_header_claims_takes_no_memory(tmp_path):
    content = gzip.compress(header(2**26) + bytes(2**20)) + bytes(2**17)  # long enough to hold it, by its length
    (tmp_path / "a.gz").write_bytes(content)

    def refuse():
        with pytest.raises(InputError, match="needs 67,108,864 bytes, found 1,048,576"):
            read_idx(tmp_path / "a.gz")

    assert peak_of(refuse)[1] < 2**22


def test_what_memory_does_not_hold_is_told(tmp_path, monkeypatch):
    write_idx(tmp_path / "a", np.zeros(10, np.uint8))

    class Full(bytearray):
        def __iadd__(self, more):
            raise MemoryError

    monkeypatch.setattr("batchnorm.data.idx.bytearray", Full, raising=False)
    with pytest.raises(InputError, match=r"shape \(10,\) needs 10 bytes, more than there is memory"):
        read_idx(tmp_path / "a")


def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="expected a file"):
            read_idx(path)
    for name in ("absent", "a\0b"):
        with pytest.raises(InputError, match=r"is missing|null"):
            read_idx(tmp_path / name)


def test_masks_are_not_written(tmp_path):
    with pytest.raises(InputError, match="masked values"):
        write_idx(tmp_path / "a", np.ma.masked_array(np.arange(4, dtype="u1"), [0, 1, 0, 0]))


def test_a_size_that_idx_does_not_have_leaves_no_file(tmp_path):
    with pytest.raises(InputError, match="IDX cannot hold shape"):
        write_idx(tmp_path / "a", np.zeros((0, 2**32), np.uint8))
    assert list(tmp_path.iterdir()) == []


def peak_of(work):
    """Return what `work` returns, and the most memory that Python's objects took meanwhile."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_type_that_idx_does_not_have_leaves_no_file(tmp_path):
    with pytest.raises(InputError, match="IDX cannot hold int64, only uint8"):
        write_idx(tmp_path / "a", np.arange(3))
    assert list(tmp_path.iterdir()) == []
