"""In a notebook everything public shows itself: short, whatever it holds, and nothing that others named is obeyed."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from torch import nn

import batchnorm as bn
from batchnorm import markup
from batchnorm.evaluation import Evaluation, LabelsEvaluation
from batchnorm.exporting import Exported
from batchnorm.toolkit import Diagnosis

HOSTILE = '</td></table><script>alert("1")</script><img src=x onerror=alert(1)>&\x1b[31m\ud800'
BATCHES = [torch.randn(16, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]


class Page(HTMLParser):
    """What a browser would make of a page, as far as it matters here."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.sources, self.text, self.rows = [], [], "", 0
        self.feed(html)
        html.encode()  # fails for what no message to a browser can hold

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        assert not [name for name in attributes if name.startswith("on")]
        self.tags.append(tag)
        self.rows += tag == "tr"
        if tag == "img":
            self.sources.append(attributes["src"])
            assert attributes["alt"]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def images():
    """Fifty images of ten classes, each class of one brightness."""
    labels = np.arange(50) % 10
    pixels = (labels[:, None, None] * np.ones((50, 100, 90)) * 20).astype(np.uint8)
    return bn.Dataset.from_arrays(pixels, labels, name="squares", validation=0.2, test=0.2)


def hostile_model():
    model = nn.Sequential()
    model.add_module(HOSTILE, nn.BatchNorm1d(3))
    return model.eval()


def hostile_dataset():
    names = [HOSTILE, f"{HOSTILE}2"]
    pixels = np.zeros((40, 5, 5), np.uint8)
    return bn.Dataset.from_arrays(pixels, np.arange(40) % 2, name=HOSTILE, class_names=names, source=HOSTILE)


def hostile_run(folder):
    dataset = hostile_dataset()
    run = bn.fit(bn.DenseNetwork(25, (2,), 2), dataset, bn.TrainingConfig(epochs=1), out=folder / "run")
    return replace(run, path=HOSTILE, results=run.results | {"note": HOSTILE})


def hostile_export():
    return Exported(HOSTILE, "onnx", 1, 0.0, 1, {HOSTILE: HOSTILE}, {}, notes=(HOSTILE,), usage=HOSTILE)


def every_pair(n_classes):
    labels = torch.arange(n_classes)
    return torch.cartesian_prod(labels, labels, torch.ones(1, dtype=torch.int64))


NAMED_BY_OTHERS = {
    "run": hostile_run,
    "export": lambda _: hostile_export(),
    "dataset": lambda _: hostile_dataset(),
    "diagnosis": lambda _: bn.diagnose(hostile_model(), BATCHES),
    "recalibration": lambda _: bn.recalibrate(hostile_model(), BATCHES),
    "sites": lambda _: bn.find_sites(hostile_model(), BATCHES),
    "folding": lambda _: bn.fold(hostile_model(), BATCHES[0]).folding,
    "freezing": lambda _: bn.freeze(hostile_model()),
    "synchronisation": lambda _: bn.synchronize(hostile_model()),
}


@pytest.mark.parametrize("what", NAMED_BY_OTHERS)
def test_what_others_named_is_shown_and_never_obeyed(what, tmp_path):
    page = Page(NAMED_BY_OTHERS[what](tmp_path)._repr_html_())
    assert "script" not in page.tags
    assert "<script>" in page.text
    assert "\\x1b" in page.text
    assert not {char for char in page.text if not char.isprintable()} - {"\n"}
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)


def many_layers(n):
    return nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(n))).eval()


def many_findings():
    report = bn.diagnose(many_layers(1), BATCHES)
    findings = [replace(report.findings[0], layer=f"layer {i}") for i in range(3_000)]
    layers = [replace(report.layers[0], name=f"layer {i}") for i in range(3_000)]
    return Diagnosis(tuple(findings), tuple(layers), report.gap, tuple(map(str, range(3_000))), ())


def long_run(blobs):
    run = bn.fit(bn.DenseNetwork(6, (4,), 3), blobs, bn.TrainingConfig(epochs=1))
    return replace(run, history=[run.history[0] | {"epoch": epoch} for epoch in range(3_000)])


def many_classes():
    pixels = np.zeros((3_000, 5, 5), np.uint8)
    return bn.Dataset.from_arrays(pixels, np.arange(3_000) % 200, name="many")


LARGE = {
    "run": long_run,
    "dataset": lambda _: many_classes(),
    "network": lambda _: bn.DenseNetwork(6, [5] * 200, 3),
    "diagnosis": lambda _: many_findings(),
    "recalibration": lambda _: bn.recalibrate(many_layers(100), BATCHES),
    "folding": lambda _: bn.fold(many_layers(100), BATCHES[0]).folding,
    "freezing": lambda _: bn.freeze(many_layers(300)),
    "evaluation": lambda _: Evaluation(0.5, 1.0, 200, 200 * 200, every_pair(200)),
    "labels": lambda _: LabelsEvaluation(0.5, [0.9] * 3_000, 1.0, 10),
}


@pytest.mark.parametrize("what", LARGE)
def test_what_is_long_is_cut(what, blobs):
    html = LARGE[what](blobs)._repr_html_()
    page = Page(html)
    assert page.rows <= 40
    assert len(html) < 30_000
    assert re.search(r"…| more ", page.text) or page.rows == 1 + 10


def test_a_long_diagnosis_shows_the_layers_with_something_found_and_its_file_all_of_them():
    report = many_findings()
    (one,) = report.findings[1234:1235]
    report = replace(report, findings=(one,), unreached=())
    page = Page(report._repr_html_())
    assert "layer 1234" in page.text
    assert "… 2,970 more layers" in page.text
    assert Page(report.to_html()).rows == 1 + 3_000


def test_the_rows_of_a_long_table_are_the_first_and_the_last():
    page = Page(markup.html(markup.table(("n",), [(str(n),) for n in range(50)])))
    numbers = "".join(map(str, range(20)))
    assert page.text == f"n{numbers}… 20 more …{''.join(map(str, range(40, 50)))}"


def test_a_data_set_shows_an_image_of_each_class(images):
    page = Page(images._repr_html_())
    assert page.text.startswith("squares: 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)from arrays")
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in page.sources]
    assert [picture.getpixel((3, 3)) for picture in pictures] == [20 * label for label in range(10)]
    assert {picture.size for picture in pictures} == {(58, 64)}
    coloured = bn.Dataset.from_arrays(np.full((20, 3, 4, 4), 200, np.uint8), np.arange(20) % 2)
    assert len(Page(coloured._repr_html_()).sources) == 2


def test_a_data_set_of_other_examples_has_no_pictures(blobs):
    page = Page(blobs._repr_html_())
    assert "float32" in page.text
    assert not page.sources


def test_of_images_of_values_the_first_are_shown():
    values = bn.Dataset.from_arrays(np.zeros((50, 4, 4), np.uint8), np.linspace(0, 1, 50))
    page = Page(values._repr_html_())
    assert "1 value (" in page.text
    assert len(page.sources) == 10


def test_examples_print_their_shapes_and_no_values(blobs):
    assert repr(blobs.test) == "Examples(inputs: float32 (30, 6), labels: int64 (30,), scale=1)"


def test_a_network_shows_its_layers_and_its_mode():
    network = bn.DenseNetwork(784, (300, 100), 10, activation="elu", dropout=0.1)
    page = Page(network._repr_html_())
    assert page.rows == 1 + 3
    assert "DenseNetwork 784 → 300 → 100 → 10, 267,010 parameters" in page.text
    assert "in inference mode: normalises with the running statistics" in page.text
    assert "0 – 3784 → 300momentum 0.1, ε 0.001, stores the unbiased varianceELU, Dropout235,800" in page.text
    assert "8100 → 10––1,010" in page.text
    assert "in training mode: normalises with the batch's own statistics" in Page(network.train()._repr_html_()).text
    network.append(nn.Sequential(nn.ReLU()))
    network.append(nn.BatchNorm1d(10, momentum=None))
    assert (
        "100 → 10all batches alike, ε 1e-05, stores the unbiased varianceSequential" in Page(network._repr_html_()).text
    )


def test_ipython_prints_a_result_as_print_does():
    result = bn.recalibrate(many_layers(2), BATCHES)
    bundle, _ = DisplayFormatter().format(result)
    assert bundle == {"text/plain": str(result), "text/html": result._repr_html_()}
