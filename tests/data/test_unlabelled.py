"""Images and arrays to predict become what was trained on, and what is wrong with them is told."""

import io
import os
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

import batchnorm as bn
from batchnorm.data import Signature, load_own, open_unlabelled, read_image, write_idx
from batchnorm.data.own import pictures, unlabelled
from batchnorm.errors import InputError
from image_folders import DAMAGED, coloured, damaged, digits, png_that_claims, write_folder

COLOUR = Signature((3, 4, 6), "uint8", 1 / 255, ("blue", "red"))
GREY = Signature((4, 6), "uint8", 1 / 255, ("blue", "red"))
DIGITS = Signature.of(bn.load_dataset("digits"))


def content_of(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height=4, width=6):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def the_training_reads(folder, image, kind, **options):
    """Return an image as the training reads it, that of a class of its own, and a file of it."""
    for part in ("train", "val", "test"):
        for name in ("a", "b", "z"):
            (folder / part / name).mkdir(parents=True)
            for number in range(3):
                Image.fromarray(noise()).save(folder / part / name / f"{number}.png")
    path = folder / "train" / "z" / f"9.{kind.lower()}"
    image.save(path, kind, **options)
    data = load_own([folder])
    return data, data.train.inputs[-1].numpy(), path


LARGE = Image.fromarray(noise(900, 1100))
TURNED = Image.Exif()
TURNED[0x0112] = 6
SORTS = {
    "rgb": (Image.fromarray(noise()), "PNG", {}),
    "large JPEG": (LARGE, "JPEG", {}),
    "EXIF": (LARGE, "JPEG", {"exif": TURNED}),
    "WebP": (Image.fromarray(noise(9, 9)), "WEBP", {}),
    "CMYK": (Image.fromarray(noise()).convert("CMYK"), "JPEG", {}),
    "palette": (Image.fromarray(noise(7, 7)).quantize(8), "PNG", {}),
    "transparent": (Image.fromarray(noise(8, 8)).convert("RGBA").rotate(30), "PNG", {}),
    "16 bits": (Image.fromarray(noise()[..., 0].astype(np.uint16) * 257), "PNG", {}),
    "one bit": (Image.fromarray(noise()[..., 0] > 99), "PNG", {}),
    "animated": (LARGE.resize((9, 9)), "GIF", {"save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
    "wide": (Image.fromarray(noise(1, 10_000)), "PNG", {}),
}


@pytest.mark.filterwarnings("ignore::batchnorm.errors.BatchnormWarning")
@pytest.mark.parametrize("sort", SORTS)
def test_an_image_is_what_the_training_made_of_it(tmp_path, sort):
    image, kind, options = SORTS[sort]
    data, expected, path = the_training_reads(tmp_path, image, kind, **options)
    signature = Signature.of(data)
    for source in (path, path.read_bytes()):
        np.testing.assert_array_equal(read_image(source, signature).pixels, expected)
    assert read_image(path, signature).was_transparent == (sort == "transparent")
    assert not read_image(path, signature).was_coloured


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_of_a_grey_folder_too(tmp_path, suffix):
    images, labels = digits()
    data = load_own([write_folder(tmp_path / "digits", images[:200], labels[:200], suffix)])
    found = open_unlabelled([tmp_path / "digits" / "3"], Signature.of(data))
    ((names, pixels),) = found
    assert names == sorted(map(str, (tmp_path / "digits" / "3").iterdir()))
    parts = [part.inputs[part.labels == 3].numpy() for part in data.parts.values()]
    assert sorted(map(bytes, np.concatenate(parts))) == sorted(map(bytes, pixels))
    assert found.notices.coloured == 0


def test_colours_go_where_there_were_none_and_are_counted():
    picture = read_image(content_of(Image.new("RGB", (6, 4), "red")), GREY)
    assert (picture.was_coloured, set(picture.pixels.flat)) == (True, {76})  # 0.299 of 255
    assert read_image(content_of(Image.new("L", (6, 4), 9)), COLOUR).pixels.shape == (3, 4, 6)


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_image_is_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(damaged(name))
    with pytest.raises(InputError, match=rf"{name}: \S"):
        read_image(tmp_path / name, COLOUR)
    with pytest.raises(InputError, match=r"^upload 3: \S"):
        read_image(damaged(name), COLOUR, "upload 3")


def test_bombs_and_long_files_are_errors(monkeypatch):
    with pytest.raises(InputError, match=r"the image claims 10,000,000,000 pixels|the image claims far more pixels"):
        read_image(png_that_claims(100_000, 100_000), COLOUR)
    monkeypatch.setattr(pictures, "_MOST_BYTES", 10)
    with pytest.raises(InputError, match="the image has 11 bytes, expected an image of at most 10"):
        read_image(b"x" * 11, COLOUR)


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    stamps = iter([(1, 1, 1), (1, 2, 1)])
    monkeypatch.setattr(pictures, "_stamp", lambda file: next(stamps))
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a.png has changed while it was read"):
        read_image(tmp_path / "a.png", COLOUR)


def test_images_are_read_in_several_threads(recwarn):
    contents = [content_of(LARGE.resize((40 + i, 40)), "JPEG") for i in range(4)]
    found = {}

    def read(i):
        for _ in range(10):
            found[i] = read_image(contents[i], COLOUR).pixels

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, content in enumerate(contents):
        np.testing.assert_array_equal(found[i], read_image(content, COLOUR).pixels)


@pytest.mark.parametrize("signature", [DIGITS, Signature((5,), "float32", 1.0, ("a", "b"))])
def test_images_are_for_runs_on_images(tmp_path, signature):
    with pytest.raises(InputError, match=r"not on images of 8 bits: give arrays of such"):
        read_image(png_that_claims(1, 1), signature)
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a.png is no NPZ, NPY or IDX file, expected arrays of shape \(examples, "):
        open_unlabelled([tmp_path / "a.png"], signature)


def test_files_are_named_and_those_that_are_no_images_counted(tmp_path):
    folder = coloured(tmp_path / "colours", n=3)
    (folder / "a.png").write_text("no image")
    (folder / "red" / "b.png").write_bytes(png_that_claims(9_000, 9_000))
    (folder / "line\nbreak.png").write_bytes((folder / "red" / "000.png").read_bytes())
    odd = folder / os.fsdecode(b"r\xfed\xc3\xa9.png")
    odd.write_bytes((folder / "red" / "000.png").read_bytes())
    (folder / ".hidden").mkdir()
    found = open_unlabelled([folder, folder / "red" / "001.png"], COLOUR)
    ((names, pixels),) = found
    inside = [f"{colour}/{number:03}.png" for colour in ("blue", "red") for number in range(3)]
    assert [name.removeprefix(f"{folder}/") for name in names] == [
        *inside[:3], "line\nbreak.png", *inside[3:], "r\\xfedé.png", inside[4]
    ]  # fmt: skip
    assert pixels.shape == (9, 3, 4, 6)
    unreadable = found.notices.unreadable
    assert len(unreadable) == 2
    assert unreadable[0] == f"{folder}/a.png: it is no PNG, JPEG, WebP, BMP or GIF"
    assert unreadable[1].startswith(f"{folder}/red/b.png claims 81,000,000 pixels")


def test_blocks_are_bounded(tmp_path, monkeypatch):
    folder = coloured(tmp_path / "colours", n=3)
    (folder / "blue" / "000.png").write_text("")
    (folder / "blue" / "001.png").write_text("")
    monkeypatch.setattr(unlabelled, "_BLOCK_BYTES", 2 * 3 * 4 * 6)
    assert [len(names) for names, _ in open_unlabelled([folder], COLOUR)] == [2, 2]  # a block of none is none
    monkeypatch.setattr(unlabelled, "_MOST_IMAGES", 1)
    assert [len(names) for names, _ in open_unlabelled([folder], COLOUR)] == [1] * 4
    np.save(tmp_path / "x.npy", np.zeros((7, 3, 4, 6), np.uint8))
    (file,) = open_unlabelled([tmp_path / "x.npy"], COLOUR)
    assert [(names, len(inputs)) for names, inputs in file] == [(None, 2), (None, 2), (None, 2), (None, 1)]


def test_nothing_but_what_is_no_image_is_an_error(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=r"none of 2 files is an image that can be read; .*a.png: it is no PNG"):
        list(open_unlabelled([tmp_path], COLOUR))


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no files: expected images"):
        open_unlabelled([tmp_path], COLOUR)
    folder = coloured(tmp_path / "colours", n=1)
    Image.new("RGB", (6, 4)).save(tmp_path / "outside.png")
    (folder / "red" / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(InputError, match=r"red/link.png is a link out of"):
        open_unlabelled([folder], COLOUR)
    ((names, _),) = open_unlabelled([folder / "red" / "link.png"], COLOUR)  # named, it is meant
    assert names == [str(folder / "red" / "link.png")]
    with pytest.raises(InputError, match=r"missing.png is missing"):
        open_unlabelled([folder / "missing.png"], COLOUR)


def arrays_of(folder, x):
    np.save(folder / "x.npy", x)
    np.save(folder / "f.npy", np.asfortranarray(x))
    np.savez(folder / "x.npz", X=x, y=np.zeros(len(x)))
    np.savez_compressed(folder / "one.npz", images=x)
    write_idx(folder / "x-idx", x)
    write_idx(folder / "x-idx.gz", x)
    return ["x.npy", "f.npy", "x.npz", "one.npz", "x-idx", "x-idx.gz"]


def test_arrays_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "_MOST_ROWS", 7)
    x = bn.load_dataset("digits").test.inputs[:20].numpy()
    names = arrays_of(tmp_path, x)
    for file in open_unlabelled([tmp_path / name for name in names], DIGITS):
        np.testing.assert_array_equal(np.concatenate([inputs for _, inputs in file]), x)


def cut(path):
    np.save(path, np.zeros((3, 8, 8)))
    path.write_bytes(path.read_bytes()[:-9])


REFUSED = {
    "shape.npy": (lambda path: np.save(path, np.zeros((3, 9, 8))), r"inputs have shape \(3, 9, 8\), expected \(exam"),
    "one.npy": (lambda path: np.save(path, np.zeros((8, 8))), r"inputs have shape \(8, 8\), .*use x\[None\]"),
    "text.npy": (lambda path: np.save(path, np.full((3, 8, 8), "a")), "inputs are of type <U1, expected numbers"),
    "objects.npy": (lambda path: np.save(path, np.full((3, 8, 8), None)), "holds Python objects, which are not read"),
    "cut.npy": (cut, "is truncated or damaged: shape"),
    "two.npz": (lambda path: np.savez(path, a=np.zeros(3), b=np.zeros(3)), "holds a, b, expected one array named X"),
    "none.npz": (lambda path: zipfile.ZipFile(path, "w").close(), "holds nothing, expected one array"),
    "zip.npz": (lambda path: path.write_bytes(b"PK\3\4 and no more"), "cannot be read: BadZipFile"),
    "idx": (lambda path: path.write_bytes(b"\0\0\x08\3 and no more"), "truncated"),
    "idx.gz": (lambda path: path.write_bytes(b"\x1f\x8b and no more"), "the gzip stream is truncated or damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_are_refused(tmp_path, name):
    write, message = REFUSED[name]
    write(tmp_path / name)
    (file,) = open_unlabelled([tmp_path / name], DIGITS)
    with pytest.raises(InputError, match=rf"{name}:? {message}"):
        list(file)


def test_damage_within_an_archive_is_found(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", x=np.arange(640, dtype=np.uint8).reshape(10, 8, 8))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[400] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    (file,) = open_unlabelled([tmp_path / "x.npz"], DIGITS)
    with pytest.raises(InputError, match=r"x.npz cannot be read: BadZipFile: Bad CRC-32"):
        list(file)


@pytest.mark.parametrize("change", ["touch", "cut"])
def test_an_array_that_changes_while_it_is_read(tmp_path, monkeypatch, change):
    monkeypatch.setattr(unlabelled, "_MOST_ROWS", 200)
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1000, 8, 8), np.uint8))
    (file,) = open_unlabelled([path], DIGITS)
    blocks = iter(file)
    next(blocks)
    if change == "cut":
        os.truncate(path, 30_000)
    else:
        os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=r"x.npy has changed while it was read"):
        list(blocks)


def test_images_and_arrays_are_not_mixed(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 6), np.uint8))
    folder = coloured(tmp_path / "colours", n=1)
    with pytest.raises(InputError, match=r"x.npy holds arrays and .*colours does not: name the one kind or the other"):
        open_unlabelled([folder, tmp_path / "x.npy"], COLOUR)
