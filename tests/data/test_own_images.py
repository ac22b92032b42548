"""Folders of images become data sets, and what is wrong with them is told."""

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import batchnorm as bn
from batchnorm import memory
from batchnorm.data import load_own
from batchnorm.data.own import pictures
from batchnorm.errors import BatchnormWarning, InputError
from batchnorm.progress import Bar
from image_folders import DAMAGED, coloured, damaged, digits, mnist, png_that_claims, write_folder
from processes import run_afresh

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def load(folder, **options):
    return load_own([folder], **options)


def one_more(folder, image, name="red/more.png", **options):
    image.save(folder / name, **options)
    return folder / name


def the_one(dataset, label, among=20):
    """Return the pixels of the image that stands out: the last of its class in the training part."""
    rows = (dataset.train.labels == label).nonzero().flatten()
    assert len(rows) <= among + 1
    return dataset.train.inputs[rows[-1]]


def with_parts(folder):
    """Make a folder whose training part has everything that a test adds: no part is drawn."""
    for part in ("train", "val", "test"):
        coloured(folder / part, n=3)
    return folder


def test_png_of_a_data_set_is_that_data_set(tmp_path):
    images, labels = digits()
    loaded = load(write_folder(tmp_path / "digits", images, labels), split_seed=3)
    order = np.argsort(labels, kind="stable")  # class by class, by name
    expected = bn.Dataset.from_arrays(images[order], labels[order], split_seed=3)
    assert loaded.fingerprint == expected.fingerprint
    assert (loaded.name, list(loaded.class_names), loaded.split_seed) == ("digits", [str(i) for i in range(10)], 3)
    assert loaded.source == str(tmp_path / "digits")


@pytest.mark.parametrize(("suffix", "options"), [(".jpg", {"quality": 95}), (".webp", {}), (".bmp", {}), (".gif", {})])
def test_other_formats_are_close_to_the_pixels(tmp_path, suffix, options):
    images, labels = mnist(200)
    loaded = load(write_folder(tmp_path / "mnist", images, labels, suffix, **options))
    assert loaded.feature_shape == (28, 28)  # WebP has no grey of its own
    order = np.argsort(labels, kind="stable")
    expected = bn.Dataset.from_arrays(images[order], labels[order])
    difference = (loaded.train.inputs.float() - expected.train.inputs.float()).abs()
    assert difference.mean() < 4
    assert torch.equal(loaded.train.labels, expected.train.labels)


def test_colour_is_three_channels(tmp_path):
    loaded = load(coloured(tmp_path / "colours"))
    assert loaded.feature_shape == (3, 4, 6)
    assert loaded.train.inputs.dtype == torch.uint8
    assert list(loaded.class_names) == ["blue", "red"]
    means = loaded.train.inputs.float().mean((2, 3))
    assert torch.equal(means.argmax(1), 2 - 2 * loaded.train.labels)


def test_a_grey_image_among_coloured_ones_has_equal_channels(tmp_path):
    folder = with_parts(tmp_path)
    one_more(folder / "train", Image.fromarray(GREY))
    red, green, blue = the_one(load(folder), 1).numpy()
    np.testing.assert_array_equal(red, GREY)
    assert (red == green).all()
    assert (red == blue).all()


def test_the_usual_size_is_taken_and_the_others_are_counted(tmp_path):
    folder = coloured(tmp_path / "colours")
    one_more(folder, Image.new("RGB", (50, 60)))
    one_more(folder, Image.new("RGB", (3, 3)), "blue/more.png")
    with pytest.warns(BatchnormWarning, match=r"2 of 42 images had another size, and were resized to 6 × 4$"):
        assert load(folder).feature_shape == (3, 4, 6)
    with pytest.warns(BatchnormWarning, match="42 of 42 images had another size, and were resized to 5 × 5"):
        assert load(folder, image_size=5).feature_shape == (3, 5, 5)


def test_a_large_jpeg_is_shrunk_to_its_mean(tmp_path):
    folder = with_parts(tmp_path)
    pixels = np.zeros((800, 1200, 3), np.uint8)
    pixels[:, :600] = (200, 40, 40)
    one_more(folder / "train", Image.fromarray(pixels), "red/more.jpg", quality=95)
    with pytest.warns(BatchnormWarning, match="1 of 19 images had another size"):
        found = the_one(load(folder), 1).float()
    assert torch.allclose(found[:, :, :2], torch.tensor([200.0, 40, 40])[:, None, None], atol=3)
    assert torch.allclose(found[:, :, 4:], torch.zeros(3, 4, 2), atol=3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exif_turns_images_upright(tmp_path, suffix):
    folder = with_parts(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right
    lying = np.zeros((6, 4, 3), np.uint8)
    lying[:3] = 255
    options = {"quality": 100} | ({"lossless": True} if suffix == "webp" else {})
    one_more(folder / "train", Image.fromarray(lying), f"red/more.{suffix}", exif=exif, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as it is told upright, it needs no other size
        found = the_one(load(folder), 1).float()
    assert found[:, :, 3:].min() > 250
    assert found[:, :, :3].max() < 5


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_white_is_laid_under_what_is_transparent(tmp_path, mode):
    folder = with_parts(tmp_path)
    layers = np.zeros((4, 6, 4), np.uint8)
    layers[:, :3, 3] = 255
    image = Image.fromarray(layers)
    if mode == "P":
        image = image.convert("RGB").quantize(2)
        image.info["transparency"] = 0
        one_more(folder / "train", image, transparency=0)
        expected = torch.full((3, 4, 6), 255)
    else:
        one_more(folder / "train", image.convert(mode))
        expected = torch.cat([torch.zeros(3, 4, 3), torch.full((3, 4, 3), 255)], 2)
    with pytest.warns(BatchnormWarning, match="1 of 19 images are transparent in parts: white was laid under"):
        assert torch.equal(the_one(load(folder), 1).float(), expected.float())


def test_opaque_images_with_alpha_are_not_worth_a_word(tmp_path):
    folder = with_parts(tmp_path)
    one_more(folder / "train", Image.new("RGBA", (6, 4), (9, 8, 7, 255)))
    assert the_one(load(folder), 1)[:, 0, 0].tolist() == [9, 8, 7]


def test_16_bits_become_8(tmp_path):
    folder = with_parts(tmp_path)
    one_more(folder / "train", Image.fromarray(GREY.astype(np.uint16) * 257))
    np.testing.assert_array_equal(the_one(load(folder), 1)[0], GREY)


def test_cmyk_and_one_bit(tmp_path):
    folder = with_parts(tmp_path)
    one_more(folder / "train", Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "red/x.jpg", quality=100)
    one_more(folder / "train", Image.new("1", (6, 4), 1), "red/y.png")
    rows = load(folder).train.inputs[-2:].float()
    assert torch.allclose(rows[0, :, 0, 0], torch.tensor([255.0, 0, 0]), atol=3)
    assert (rows[1] == 255).all()


def test_parts_that_came_are_taken(tmp_path):
    folder = with_parts(tmp_path / "whole")
    loaded = load(folder)
    assert [len(part) for part in loaded.parts.values()] == [6, 6, 6]
    assert loaded.split_seed is None


@pytest.mark.parametrize("names", [("Train", "TEST", "Val"), ("training", "testing", "valid")])
def test_parts_have_the_names_that_people_give_them(names, tmp_path):
    """They were three classes, of which each image told which part it was in."""
    for n, name in zip((6, 2, 4), names, strict=True):
        coloured(tmp_path / name, n=n)
    loaded = load(tmp_path)
    assert list(loaded.class_names) == ["blue", "red"]
    assert [len(part) for part in loaded.parts.values()] == [12, 8, 4]


def test_a_part_that_did_not_come_is_drawn_from_the_training(tmp_path):
    coloured(tmp_path / "train")
    coloured(tmp_path / "test", n=3)
    loaded = load(tmp_path, split_seed=5)
    assert [len(part) for part in loaded.parts.values()] == [36, 4, 6]
    assert loaded.split_seed == 5
    assert loaded.validation.labels.tolist() == [0, 0, 1, 1]


def test_folders_in_a_class_belong_to_it_and_hidden_files_to_nobody(tmp_path):
    folder = coloured(tmp_path / "colours")
    (folder / "red" / "deeper").mkdir()
    one_more(folder, Image.new("RGB", (6, 4)), "red/deeper/more.png")
    (folder / ".cache").mkdir()
    (folder / "red" / ".DS_Store").write_bytes(b"no image")
    assert sum(map(len, load(folder).parts.values())) == 41
    (folder / "README").write_text("about")
    with pytest.warns(
        BatchnormWarning, match=r"1 file beside the folders of the classes passed over, such as .*README"
    ):
        load(folder)


def test_links_within_the_folder_are_followed(tmp_path):
    folder = coloured(tmp_path / "colours")
    (folder / "red" / "again.png").symlink_to("000.png")
    assert sum(map(len, load(folder).parts.values())) == 41


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_image_is_named_and_left_out(tmp_path, name):
    folder = coloured(tmp_path / "colours")
    (folder / "red" / name).write_bytes(damaged(name))
    with pytest.warns(BatchnormWarning, match=rf"1 file cannot be read as images, and left out; .*red/{name}: \S"):
        assert sum(map(len, load(folder).parts.values())) == 40


def test_unreadable_files_are_counted(tmp_path):
    folder = coloured(tmp_path / "colours")
    for name in DAMAGED:
        (folder / "blue" / name).write_bytes(damaged(name))
    os.mkfifo(folder / "blue" / "pipe.png")
    with pytest.warns(BatchnormWarning, match="10 files cannot be read as images, and left out;"):
        assert sum(map(len, load(folder).parts.values())) == 40


@pytest.mark.parametrize("side", [8193, 9500, 100_000])  # by our limit, by Pillow's warning, by its error
def test_decompression_bombs_are_refused(tmp_path, side):
    folder = coloured(tmp_path / "colours")
    (folder / "red" / "bomb.png").write_bytes(png_that_claims(side, side))
    with pytest.raises(InputError, match=r"red/bomb.png claims .* pixels.*, expected at most 67,108,864"):
        load(folder)


def test_a_bomb_is_refused_where_pillow_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(png_that_claims(100_000, 100_000))
    with pytest.raises(InputError, match=r"bomb.png claims 10,000,000,000 pixels \(100000 × 100000\)"):
        pictures.read_header(tmp_path / "bomb.png")


def test_a_file_of_more_bytes_than_any_image_is_refused(tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(InputError, match=r"large.png has 268,435,457 bytes, expected an image of at most 268,435,456"):
        pictures.read_header(tmp_path / "large.png")


def test_a_file_that_changes_while_it_is_read(tmp_path):
    Image.new("RGB", (3, 3)).save(path := tmp_path / "a.png")
    header = pictures.read_header(path)
    Image.new("RGB", (300, 300), "red").save(path)
    with pytest.raises(InputError, match=r"a.png has changed while it was read"):
        pictures.read_picture(path, header, (3, 3), grey=False)


@pytest.mark.parametrize("is_grey", [False, True])
def test_more_than_fits_into_memory_goes_to_scratch_files(is_grey, tmp_path, monkeypatch):
    folder = coloured(tmp_path / "colours")
    if is_grey:  # in files of three channels
        for path in folder.rglob("*.png"):
            Image.open(path).convert("L").convert("RGB").save(path)
    expected = load(folder)
    scratch_folder = tmp_path / "scratch"
    scratch_folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch_folder))
    monkeypatch.setattr(memory, "available_memory", lambda: 10)
    with pytest.warns(BatchnormWarning, match=r"colours: 40 images of 6 × 4 pixels take 0.0 GiB, .* scratch files in"):
        dataset = load(folder)
    assert dataset.fingerprint == expected.fingerprint
    assert dataset.feature_shape == ((4, 6) if is_grey else (3, 4, 6))
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(scratch_folder) in line]
    assert len(mapped) == 3  # one for each part
    assert not list(scratch_folder.iterdir())
    monkeypatch.undo()
    config = bn.TrainingConfig(hidden_layer_sizes=(8,), epochs=1, batch_size=8)
    losses = [
        bn.fit(bn.DenseNetwork.from_config(config, each.n_features, each.n_classes), each, config).results["test"]
        for each in (dataset, expected)
    ]
    assert losses[0] == losses[1]


def link_out(folder):
    (folder.parent / "outside.png").write_bytes((folder / "red" / "000.png").read_bytes())
    (folder / "red" / "link.png").symlink_to(folder.parent / "outside.png")


def link_to_folder_outside(folder):
    (folder.parent / "elsewhere").mkdir()
    (folder / "green").symlink_to(folder.parent / "elsewhere")


def link_to_itself(folder):
    (folder / "red" / "again").symlink_to(folder)


def only_one_class(folder):
    for path in (folder / "blue").iterdir():
        path.unlink()
    (folder / "blue").rmdir()


def empty_class(folder):
    (folder / "green").mkdir()


def one_image(folder):
    (folder / "green").mkdir()
    Image.new("RGB", (6, 4)).save(folder / "green" / "only.png")


def nothing_readable(folder):
    (folder / "green").mkdir()
    (folder / "green" / "text.png").write_text("no image")
    (folder / "green" / "more.png").write_text("no image")


def many_classes(folder):
    for name in "abcdef":
        (folder / name).mkdir()
        for number in range(3):
            Image.new("RGB", (6, 4)).save(folder / name / f"{number}.png")


def part_without_classes(folder):
    folder.rename(folder.parent / "train")
    folder.mkdir()
    (folder.parent / "train").rename(folder / "train")
    (folder / "test").mkdir()
    Image.new("RGB", (6, 4)).save(folder / "test" / "a.png")


def strange_class(folder):
    folder.rename(folder.parent / "train")
    folder.mkdir()
    (folder.parent / "train").rename(folder / "train")
    coloured(folder / "test", n=2, classes=("blue", "green"))


def neither_class_nor_part(folder):
    strange_class(folder)
    (folder / "notes").mkdir()


def two_validations(folder):
    strange_class(folder)
    for name in ("val", "valid"):
        coloured(folder / name, n=2)


def everything_broken(folder):
    for path in folder.glob("*/*"):
        path.write_text("no image")


REFUSED = {
    link_out: r"red/link.png is a link out of .*colours",
    link_to_folder_outside: r"green is a link out of",
    link_to_itself: r"red/again is a link to another folder",
    only_one_class: r"colours has one class, 'red': expected at least two",
    empty_class: r"colours/green holds no image: fill it or remove it",
    one_image: r"colours has 1 of class 'green' to train on, expected at least 3",
    nothing_readable: r"colours/green holds no image that can be read; .*green/more.png: it is no PNG",
    many_classes: r"colours has 58 examples of 8 classes, expected at least 80",
    part_without_classes: r"colours/test has no sub-folder per class, as train has",
    strange_class: r"test/green is a class that the training part has not: it has blue, red",
    neither_class_nor_part: r"colours/notes lies beside train",
    two_validations: r"colours has val and valid, expected one validation part",
    everything_broken: r"colours holds no image that can be read; .*blue/000.png: it is no PNG",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_folders_that_are_refused(tmp_path, spoil):
    folder = coloured(tmp_path / "colours")
    spoil(folder)
    with pytest.raises(InputError, match=REFUSED[spoil]):
        load(folder)


def test_an_empty_folder_and_one_without_classes(tmp_path):
    with pytest.raises(InputError, match="is empty: expected folders named as the classes"):
        load(tmp_path)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"holds files, but no sub-folder per class: .*of tables name .* by --target"):
        load(tmp_path)
    with pytest.raises(InputError, match="there are no paths"):
        load_own([])


def test_the_bar_counts_images(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(Bar, "advance", lambda bar: said.append((bar.description, bar._unit, bar._total)))
    load(coloured(tmp_path / "colours"), show_progress=True)
    assert said == [("reading images", "images", 80)] * 80  # once for each header, once for its pixels


def test_without_pillow_it_says_what_is_missing(tmp_path):
    coloured(tmp_path / "colours")
    code = (
        "from pathlib import Path\n"
        "from batchnorm.data import load_own\n"
        f"try: load_own([Path({str(tmp_path / 'colours')!r})])\n"
        "except ImportError as error: print(error)\n"
    )
    assert run_afresh(code, tmp_path, missing=["PIL"])[0] == "images need Pillow: pip install 'batchnorm[images]'\n"
