"""Images and arrays are answered as `predict` writes them, and what is none is refused in one line."""

import io
import json
import sys

import numpy as np
import pytest
import requests
from PIL import Image

from batchnorm.errors import InputError, MissingPackageError
from batchnorm.serving import Limits, serve_run, server
from batchnorm.serving.openapi import document
from image_folders import damaged, digits, png_that_claims
from served_runs import SECONDS, Serving, fit_examples

IMAGES, DIGITS = digits()
COLOURS = np.random.default_rng(0).integers(0, 255, (120, 3, 4, 6)).astype(np.uint8)
SIGNALS = np.random.default_rng(0).normal(size=(120, 2, 3)).astype(np.float32)
TARGETS = {
    "classes": (np.arange(120) % 3, {"class_names": ("a", "b", "c")}),
    "labels": (np.stack([np.arange(120) % 2, np.arange(120) % 3 == 0], axis=1), {"class_names": ("even", "third")}),
    "value": (np.arange(120.0), {}),
    "values": (
        np.stack([np.arange(120.0), np.ones(120)], axis=1) * 1e3,
        {"class_names": ("u", "v"), "task": "regression"},
    ),
}


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return fit_examples(tmp_path_factory.mktemp("digits") / "run", IMAGES, DIGITS)


@pytest.fixture(scope="module")
def grey(digits_run):
    return serve_run(digits_run, Limits())


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays") / "run"
    return serve_run(fit_examples(path, SIGNALS, *(TARGETS["classes"][:1]), **TARGETS["classes"][1]), Limits(rows=4))


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """Arrays of whole numbers that are no images, as those of the data set digits."""
    path = tmp_path_factory.mktemp("pixels") / "run"
    return serve_run(fit_examples(path, IMAGES // 15, DIGITS, scale=1 / 16), Limits())


def file_of(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def body_of(inputs):
    return json.dumps({"inputs": inputs}).encode()


def written_by(command, folder, *files):
    """Return what `predict` writes for files, but for their names."""
    assert command("predict", "run", *files, "-o", "out.jsonl", "--quiet") == (0, "", "")
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "file"} for line in lines]


@pytest.mark.parametrize("task", TARGETS)
def test_images_are_answered_as_predict_writes_them(command, tmp_path, task):
    labels, options = TARGETS[task]
    model = serve_run(fit_examples(tmp_path / "run", COLOURS, labels, **options), Limits())
    picture = Image.fromarray(COLOURS[0].transpose(1, 2, 0)).resize((60, 40))
    for kind, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp"), ("GIF", "gif")):
        (tmp_path / f"x.{suffix}").write_bytes(body := file_of(picture, kind))
        answer = model.answer(body)
        assert answer["predictions"] == written_by(command, tmp_path, f"x.{suffix}")
        assert answer["notices"] == ["the image had another size, and was resized to 6 × 4"]


@pytest.mark.parametrize("task", TARGETS)
def test_arrays_are_answered_as_predict_writes_them(command, tmp_path, task):
    labels, options = TARGETS[task]
    model = serve_run(fit_examples(tmp_path / "run", SIGNALS, labels, **options), Limits())
    np.save(tmp_path / "x.npy", SIGNALS[:7])
    answer = model.answer(body_of(SIGNALS[:7].tolist()))
    assert answer == {"predictions": written_by(command, tmp_path, "x.npy")}


def test_what_runs_are_called(grey, arrays, tmp_path):
    assert grey.title == "images (10 classes)"
    assert arrays.title == "arrays (3 classes)"
    model = serve_run(fit_examples(tmp_path / "run", SIGNALS, *TARGETS["value"][:1]), Limits())
    assert model.title == "arrays (1 value)"


def test_what_was_done_to_an_image_is_said(grey):
    plain = file_of(Image.fromarray(IMAGES[0]))
    assert grey.answer(plain)["notices"] == []
    assert grey.answer(file_of(Image.new("RGBA", (9, 9), (255, 0, 0, 99))))["notices"] == [
        "the image had another size, and was resized to 8 × 8",
        "the image is transparent in parts: white was laid under",
        "the image is in colour, and was made grey as those of the training",
    ]


BROKEN = [
    "empty.png", "text.png", "header.png", "tiff.png", "checksum.png", "truncated.png", "truncated.jpg",
    "truncated.webp", "truncated.gif",
]  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_or_a_damaged_one_is_refused_in_one_line(grey, name):
    with pytest.raises(InputError, match=r"^the image: ") as caught:
        grey.answer(damaged(name))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("size", [(8_192, 4_097), (9_000, 9_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_that_claims_too_many_pixels_is_refused_before_it_is_decoded(grey, size):
    with pytest.raises(InputError, match=r"^the image claims .*expected at most 33,554,432"):
        grey.answer(png_that_claims(*size))


def test_how_many_pixels_an_image_may_have(digits_run):
    model = serve_run(digits_run, Limits(pixels=100))
    assert model.answer(file_of(Image.new("L", (10, 10))))["predictions"]
    with pytest.raises(InputError, match=r"^the image claims 110 pixels \(11 × 10\), expected at most 100"):
        model.answer(file_of(Image.new("L", (11, 10))))


ARRAY = SIGNALS[0].tolist()
BODIES = {
    "no JSON": (b"[[1", "cannot be read as JSON"),
    "NaN": (b'{"inputs": [[[NaN, 1, 1], [1, 1, 1]]]}', "NaN is not JSON"),
    "too large a number": (b'{"inputs": [[[1e999, 1, 1], [1, 1, 1]]]}', "1e999 is beyond the numbers"),
    "too large an integer": (b'{"inputs": [[[1' + b"0" * 400 + b", 1, 1], [1, 1, 1]]]}", "beyond those of 64 bits"),
    "too large for the training": (body_of([[[1e39, 1, 1], [1, 1, 1]]]), "inputs hold 1e\\+39, expected finite"),
    "a list": (body_of([ARRAY])[11:-1], "the body is a list, expected .*lists of shape 2 × 3"),
    "rows": (b'{"rows": []}', "the body has the keys 'rows', expected {\"inputs\""),
    "empty": (body_of([]), "inputs is empty"),
    "too many": (body_of([ARRAY] * 5), "there are 5 inputs, expected 4 at most"),
    "one without its list": (body_of(ARRAY), r"inputs\[0\] has a length of 3, expected 2"),
    "flat": (body_of([1]), r"inputs\[0\] is 1, expected a list of 2"),
    "ragged": (body_of([ARRAY, [[1, 2, 3], [4, 5]]]), r"inputs\[1\]\[1\] has a length of 2, expected 3"),
    "too deep": (body_of([ARRAY, [[1, 2, [3]], [4, 5, 6]]]), r"inputs\[1\]\[0\]\[2\] is a list, expected a number"),
    "texts": (body_of([[[1, 2, 3], ["a" * 10**5, 5, 6]]]), r"inputs\[0\]\[1\]\[0\] is 'aaa.*…, expected a number"),
    "nothing": (body_of([[[1, 2, None], [1, 2, 3]]]), r"\[2\] is null, expected a number"),
    "truth": (body_of([[[1, True, 3], [1, 2, 3]]]), r"\[1\] is true, expected a number"),
    "objects": (body_of([{"0": 1}]), r"inputs\[0\] is an object, expected a list of 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_holds_no_such_arrays_is_refused_in_one_line(arrays, case):
    body, said = BODIES[case]
    with pytest.raises(InputError, match=said) as caught:
        arrays.answer(body)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


def test_a_long_text_among_numbers_is_not_copied_for_each(pixels):
    """An array of numpy has room for the longest text in every place: here 6 GiB."""
    inputs = (IMAGES[:100] // 15).tolist()
    inputs[7][0][1] = "x" * 1_000_000
    with pytest.raises(InputError, match=r"inputs\[7\]\[0\]\[1\] is 'xxx"):
        pixels.answer(body_of(inputs))


@pytest.mark.parametrize("wrong", [0.5, -1, 256])
def test_whole_numbers_are_asked_for_where_such_were_trained_on(pixels, wrong):
    inputs = (IMAGES[:2] // 15).tolist()
    assert len(pixels.answer(body_of(inputs))["predictions"]) == 2
    inputs[1][0][0] = wrong
    with pytest.raises(InputError, match=f"inputs hold {float(wrong)}, expected whole numbers from 0 to 255"):
        pixels.answer(body_of(inputs))


def post(serving, body, kind):
    return requests.post(f"{serving.url}/predict", body, headers={"Content-Type": kind}, timeout=SECONDS)


def test_an_image_over_http(grey, monkeypatch):
    monkeypatch.setattr(server, "_REST", 0.0)
    body = file_of(Image.fromarray(IMAGES[3]), "WEBP", lossless=True)
    with Serving(grey, Limits(bytes=2_000)) as serving:
        for kind in ("image/webp", "image/png", "IMAGE/JPEG; charset=binary"):  # the content says what it is
            response = post(serving, body, kind)
            assert (response.status_code, response.json()) == (200, grey.answer(body))
        for kind in (None, "text/plain", "multipart/form-data; boundary=x", "application/octet-stream", "images/png"):
            response = post(serving, body, kind)
            assert response.status_code == 415
            assert response.json()["error"].endswith("expected Content-Type: image/*")
        for broken, status in (
            (damaged("truncated.png"), 422),
            (png_that_claims(9_000, 9_000), 422),
            (b"0" * 2_001, 413),
        ):
            assert post(serving, broken, "image/png").status_code == status
        assert post(serving, body, "image/webp").status_code == 200
        assert "--data-binary @image.png" in serving.get("/docs").text
        assert "resized to 8 × 8 and made grey" in serving.get("/docs").text


def test_arrays_over_http(arrays, monkeypatch):
    monkeypatch.setattr(server, "_REST", 0.0)
    with Serving(arrays) as serving:
        response = post(serving, body_of([ARRAY]), "application/json")
        assert (response.status_code, response.json()) == (200, arrays.answer(body_of([ARRAY])))
        assert post(serving, body_of([ARRAY]), "image/png").status_code == 415
        assert arrays.shown_example.replace('"', "&#34;") in serving.get("/docs").text


def test_their_openapi_documents(grey, arrays, pixels):
    of_images, of_arrays, of_pixels = (
        document(model, Limits())["paths"]["/predict"]["post"] for model in (grey, arrays, pixels)
    )
    assert of_images["requestBody"]["content"] == {"image/*": {}}
    answer = of_images["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["required"] == ["predictions", "notices"]
    assert answer["properties"]["predictions"]["description"].startswith("A row each, with prediction, probability_0, ")
    inputs = of_arrays["requestBody"]["content"]["application/json"]["schema"]["properties"]["inputs"]
    assert (inputs["minItems"], inputs["maxItems"]) == (1, 4)
    assert inputs["items"] == {
        "type": "array", "minItems": 2, "maxItems": 2,
        "items": {"type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "number"}},
    }  # fmt: skip
    inputs = of_pixels["requestBody"]["content"]["application/json"]["schema"]["properties"]["inputs"]
    assert inputs["items"]["items"]["items"] == {"type": "integer", "minimum": 0, "maximum": 255}


def test_a_long_example_is_shown_shortened(tmp_path):
    signals = np.random.default_rng(0).normal(size=(60, 3_000))
    model = serve_run(fit_examples(tmp_path / "run", signals, np.arange(60) % 2), Limits())
    assert len(json.loads(model.example())["inputs"][0]) == 3_000
    assert len(model.shown_example) < 2_100


def test_without_pillow_images_are_not_served(digits_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackageError, match=r"^images need Pillow: pip install 'batchnorm\[images\]'$"):
        serve_run(digits_run, Limits())


def test_weights_that_no_page_can_use_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"nothing to draw: inputs have shape \(3, 4, 6\), .*: serve it without weights"
    ):
        serve_run(fit_examples(tmp_path / "colours", COLOURS, TARGETS["classes"][0]), Limits(), weights=True)
    with pytest.raises(InputError, match="the run is not on images of 8 bits: serve it without weights"):
        serve_run(fit_examples(tmp_path / "signals", SIGNALS, TARGETS["classes"][0]), Limits(), weights=True)


def test_several_runs_in_a_folder_are_refused(command, small_mnist):
    short = ("--epochs", 1, "--hidden-layer-sizes", "4", "--seeds", 2, "--quiet")
    assert command("train", "mnist", "--data-dir", small_mnist, *short, "--out", "runs")[0] == 0
    code, out, err = command("serve", "runs", "--port", 0)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "runs holds 2 runs: name one of them" in err
