"""What is packed is the network, and its images; what cannot be is refused."""

import dataclasses
import json
from html.parser import HTMLParser

import pytest
import torch

from batchnorm import InputError
from batchnorm.data import Examples, load_dataset
from batchnorm.playground import SCRIPTS, STYLE, pack, piece
from played import network_of, some_examples, some_network, some_signature, unpacked

SHAPE = (8, 6)


@pytest.mark.parametrize("options", [{"normalize_logits": True}, {"normalization": "none"}, {"dropout": 0.5}])
def test_a_document_is_the_network_with_rounded_weights(options):
    network = some_network(48, 9, 5, 3, activation="elu", **options)
    again = network_of(pack(network, some_signature(*SHAPE)))
    kept, rounded = dict(network.named_parameters()) | dict(network.named_buffers()), 0
    values = list(again.parameters()) + list(again.buffers())
    for (name, tensor), found in zip(kept.items(), values, strict=True):
        if tensor.dim() == 2:
            torch.testing.assert_close(found, tensor.double(), rtol=2**-11, atol=0, check_dtype=False)
            rounded += 1
        elif "num_batches" not in name:
            assert torch.equal(found, tensor.double())
    assert rounded == 3


def test_numbers_beyond_half_precision_keep_their_digits():
    network = some_network(48, 9, 3)
    with torch.no_grad():
        network[0].weight.mul_(1e9)
        network[3].weight.mul_(1e-9)
        network[1].running_var.fill_(1e-12)
    again = network_of(pack(network, some_signature(*SHAPE)))
    for place in (0, 3):
        torch.testing.assert_close(again[place].weight, network[place].weight.double(), rtol=2**-10, atol=0)
    assert torch.equal(again[1].running_var, network[1].running_var.double())


def test_weights_of_zero_are_packed():
    network = some_network(48, 3)
    torch.nn.init.zeros_(network[0].weight)
    assert not network_of(pack(network, some_signature(*SHAPE)))[0].weight.any()


class OtherNetwork(type(some_network(4, 2))):
    pass


def hooked():
    network = some_network(48, 3)
    network[0].register_forward_hook(lambda *_: None)
    return network


def with_value(place, name, value):
    network = some_network(48, 4, 3)
    with torch.no_grad():
        getattr(network[place], name)[0] = value
    return network


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (torch.nn.Linear(48, 3), "a DenseNetwork alone, and the network is a Linear"),
        (OtherNetwork(48, (), 3), "it is a OtherNetwork, not a DenseNetwork"),
        (hooked(), "it has hooks"),
        (some_network(49, 3), "takes 49 features, expected the images' 48"),
        (with_value(0, "weight", torch.nan), "with 0.weight: some of its values are not finite"),
        (with_value(1, "weight", torch.inf), "with 1.weight: some of its values are not finite"),
        (with_value(1, "running_var", -1.0), "with 1.running_var: some of its values are negative"),
        (some_network(48, 40_000, 3), "2,040,000 weights, more than the 2,000,000"),
    ],
)
def test_a_network_that_a_page_cannot_compute_is_refused(network, said):
    with pytest.raises(InputError, match=said):
        pack(network, some_signature(*SHAPE))


@pytest.mark.parametrize("shape", [(30,), (4, 9, 9), (3, 8, 4), (200, 8)])
def test_what_cannot_be_drawn_is_refused(shape):
    with pytest.raises(InputError, match="nothing to draw: inputs have shape"):
        pack(None, some_signature(*shape))


def test_examples_are_held_one_of_each_class_in_turn():
    examples = some_examples(*SHAPE, n=300)
    labels = torch.tensor([0] * 200 + [2] * 60 + [1] * 40)
    document = pack(None, some_signature(*SHAPE), examples=Examples(examples.inputs, labels, 1 / 255))
    held = document["examples"]
    assert held["classes"][:6] == [0, 1, 2, 0, 1, 2]
    assert [held["classes"].count(c) for c in range(3)] == [34, 33, 33]
    images = unpacked(held["images"]).reshape(held["count"], *SHAPE)
    assert torch.equal(images[:3], examples.inputs[[0, 260, 200]].double())
    assert torch.equal(images[3], examples.inputs[1].double())


def test_examples_that_are_large_are_few():
    document = pack(None, some_signature(3, 100, 100), examples=some_examples(3, 100, 100))
    assert document["examples"]["count"] == 13


def test_without_examples_none_is_in_the_document():
    examples = some_examples(*SHAPE)
    document = pack(None, some_signature(*SHAPE), examples=examples, hold_examples=False)
    assert document["examples"] is None
    assert "data" not in json.dumps(document)


def test_what_is_drawn_stands_as_the_examples_do():
    dataset = load_dataset("digits")
    inputs = pack(None, some_signature(*dataset.feature_shape), examples=dataset.train)["inputs"]
    assert (inputs["background"], inputs["ink"], inputs["extent"]) == (0, 16, 1.0)


def test_dark_on_light_is_recognised():
    examples = some_examples(*SHAPE)
    document = pack(None, some_signature(*SHAPE), examples=Examples(255 - examples.inputs, examples.labels, 1 / 255))
    assert (document["inputs"]["background"], document["inputs"]["ink"]) == (255, 255 - examples.inputs.max())


def test_values_of_floating_point_are_examples_too():
    examples = some_examples(*SHAPE)
    floats = Examples(examples.inputs.float() / 16 - 3, examples.labels)
    document = pack(None, dataclasses.replace(some_signature(*SHAPE), dtype="float32"), examples=floats)
    assert document["inputs"]["whole"] is False


class Scripts(HTMLParser):
    """The JSON and the attributes of a page's text."""

    def __init__(self, text):
        super().__init__()
        self.data, self.attributes, self.tags = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        if self.tags[-1] == "script":
            self.data.append(data)


def test_names_that_look_like_html_stay_names():
    names = ("</script><script>alert(1)</script>", "<!--<script>", "'\"&\u2028{{ 7 * 7 }}")
    document = pack(some_network(48, 3), some_signature(*SHAPE, names=names), examples=some_examples(*SHAPE))
    page = Scripts(piece(document).html)
    assert page.tags.count("script") == 1
    assert json.loads(page.data[0]) == document
    assert not [name for name in page.attributes if name.startswith("on") or name == "style"]


def test_its_own_files_can_stand_in_a_page():
    made = piece(pack(None, some_signature(*SHAPE)))
    assert "</" not in made.script
    assert "<" not in made.style
    assert made.style == STYLE.read_text()
    for path in SCRIPTS:
        text = path.read_text()
        assert text in made.script
        assert len(text.splitlines()) <= 320
        assert not [word for word in ("eval(", "innerHTML", "fetch(", "http:", "https:", "import") if word in text]


def test_the_piece_stays_small_with_the_network_of_the_tutorial():
    network = some_network(784, 300, 100, 10, activation="elu", normalize_logits=True)
    made = piece(pack(network, some_signature(28, 28, names="0123456789"), examples=some_examples(28, 28, n=200)))
    assert sum(map(len, made)) < 1_200_000
