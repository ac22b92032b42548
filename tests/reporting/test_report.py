"""The page of a run: what must be on it, and what must not, whatever was trained."""

import errno
import gc
import json
import re
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from markupsafe import Markup
from torch import nn

import batchnorm as bn
from batchnorm import figures
from batchnorm.errors import InputError
from batchnorm.reporting import report
from batchnorm.reporting.inside import Inside
from batchnorm.reporting.mistakes import section_on_mistakes
from batchnorm.reporting.predictions import Classified
from batchnorm.reporting.words import sentences_on_layers
from batchnorm.training.runs import RunFolder
from conftest import SAMPLES
from looks import look
from pages import Page

HACK = "<img src=x onerror=\"document.title='hacked'\">"
CONFIG = bn.TrainingConfig(hidden_layer_sizes=(8, 8), activation="elu", epochs=2, batch_size=50, learning_rate=0.1)
SMALL = bn.TrainingConfig(hidden_layer_sizes=(8,), epochs=1)


def fit(dataset, out, config=CONFIG, **options):
    torch.manual_seed(0)
    return bn.fit(
        bn.DenseNetwork.from_config(config, dataset.n_features, dataset.n_classes), dataset, config, out=out, **options
    )


def images(n=200, n_classes=3, names=None):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    pixels = rng.integers(0, 120, (n, 8, 8))
    pixels[np.arange(n), labels % 8, 3] += 100
    return bn.Dataset.from_arrays(pixels.astype(np.uint8), labels, name="pictures", class_names=names)


def write(run, dataset=None, **options):
    report = bn.write_report(run, dataset, **options)
    return Page(report.path), report


@pytest.fixture
def _unwritten(monkeypatch):
    """Draw the figures, and write no SVG of them: that is most of the time of a page."""

    def sketched(figure, title, description):
        return Markup("<svg><title>{}</title><desc>{}</desc></svg>").format(title, description)

    monkeypatch.setattr(figures, "inline_svg", sketched)


@pytest.fixture
def _undrawn(monkeypatch, _unwritten):
    """Do not even draw them."""
    for name in figures.__all__:
        if name.startswith("draw_"):
            monkeypatch.setattr(figures, name, lambda *arguments, **options: None)


unwritten, undrawn = (pytest.mark.usefixtures(name) for name in ("_unwritten", "_undrawn"))


@pytest.fixture(scope="module")
def digits():
    return bn.load_dataset("digits")


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    return fit(digits, tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def page(run):
    return write(run.path)[0]


def test_the_page_of_a_run_has_all_its_parts(page, run, digits):
    assert page.sections == [
        "summary",
        "mistakes",
        "playground",
        "learning",
        "activations",
        "statistics",
        "gradients",
        "making",
    ]
    linked = [a["href"][1:] for a in page.all("a") if a["href"] != "#main"]
    assert sorted(linked) == sorted(page.sections)
    accuracy = run.test_accuracy
    assert f"{100 * accuracy:.2f} % are classified correctly with running averages" in page.text("summary")
    figures = page.figures()
    assert {
        "Confusion matrix",
        "Accuracy over the epochs",
        "Pre-activations of hidden 1",
        "Pre-activations of output",
    } <= set(figures)
    right = round(accuracy * len(digits.test))
    assert figures["Confusion matrix"].startswith(f"{right} of {len(digits.test)} examples are on the diagonal")
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert svg["aria-labelledby"]


def test_nothing_on_the_page_is_loaded_from_anywhere(page):
    for attributes in [a for _, _, a in page.elements]:
        for name in ("src", "href", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert len(page.source) < 2_000_000


def test_the_worst_mistakes_are_pictures_with_what_they_are_and_were_taken_for(page, run, digits):
    outputs = run.network(digits.test.batch(slice(None))[0]).softmax(1)
    wrong = (outputs.argmax(1) != digits.test.labels).nonzero()[:, 0]
    of_true = outputs[wrong, digits.test.labels[wrong]]
    worst = wrong[of_true.argmin()]
    alternatives = [a["alt"] for a in page.all("img", "mistakes")]
    assert len(alternatives) == min(24, len(wrong))
    true, guess = int(digits.test.labels[worst]), int(outputs[worst].argmax())
    assert alternatives[0] == f"A {true}, taken for {guess}"
    assert f"{true} → {guess}" in page.text("mistakes")
    assert f"{100 * outputs[worst].max():.1f} %" in page.text("mistakes")
    assert "These examples are a part of your data" in page.text("mistakes")


def test_the_page_says_how_to_repeat_the_run_and_holds_no_path(page, run):
    begun = RunFolder.open(run.path).load_sessions()[0]
    command = next(text for of, tag, text in page.texts if of == "making" and tag == "code")
    for option in (
        "batchnorm train digits",
        "--hidden-layer-sizes 8,8",
        "--no-normalize-logits",
        f"--threads {begun['threads']}",
    ):
        assert option in command
    assert str(run.path.parent) not in page.source
    assert "torch" in page.text("making")


def test_the_command_repeats_the_run_to_the_bit(page, run, command, tmp_path, monkeypatch):
    words = next(text for of, tag, text in page.texts if of == "making" and tag == "code").split()
    monkeypatch.chdir(tmp_path)
    assert command(*words[1:], "--out", "again")[0] == 0
    assert (tmp_path / "again" / "config.json").read_bytes() == (run.path / "config.json").read_bytes()


@undrawn
def test_examples_and_weights_are_left_out_where_that_is_asked_for(run, digits, tmp_path):
    page, _ = write(run, digits, output=tmp_path / "a.html", examples=False, weights=False)
    assert not page.all("img")
    assert "playground" not in page.sections
    assert "Examples were left out" in page.text("mistakes")
    assert "Confusion matrix" in page.figures()
    with_weights, _ = write(run, digits, output=tmp_path / "b.html", examples=False)
    assert "playground" in with_weights.sections
    held = next(
        json.loads(script)
        for script in re.findall(r"<script[^>]*json[^>]*>(.*?)</script>", with_weights.source, re.DOTALL)
    )
    assert held["examples"] is None
    assert held["network"]["layers"]


def test_figures_are_files_too(run, digits, tmp_path):
    _, report = write(run, digits, output=tmp_path / "a.html", weights=False, figures=tmp_path / "new" / "figures")
    assert {path.name for path in report.figures} >= {
        "confusion.svg",
        "accuracy.svg",
        "loss.svg",
        "gamma-beta.svg",
        "gradient-norms.svg",
    }
    assert all(path.is_file() for path in report.figures)
    assert report.to_dict()["figures"] == [str(path) for path in report.figures]


@undrawn
def test_a_page_is_written_anew_and_no_other_file_is_replaced(run, digits, tmp_path):
    other = tmp_path / "notes.html"
    other.write_text("<!doctype html><p>mine")
    with pytest.raises(InputError, match=r"notes\.html is no page that batchnorm has written"):
        bn.write_report(run, digits, output=other)
    assert other.read_text() == "<!doctype html><p>mine"
    assert bn.write_report(run, digits).path == run.path / "report.html"
    assert bn.write_report(run, digits).path == run.path / "report.html"
    assert RunFolder.open(run.path).verify() is None


@undrawn
def test_names_of_classes_are_text(tmp_path):
    names = [HACK, "</script><script>alert(1)</script>", "{{ 7 * 7 }} & $x$"]
    run = fit(images(names=names), tmp_path / "run")
    page, _ = write(run, images(names=names))
    assert not [a for a in page.all("img") if a["src"] == "x"]
    assert HACK in page.text("mistakes")
    assert "{{ 7 * 7 }} & $x$" in page.text("mistakes")
    assert len(re.findall(r"<script>", page.source)) == 1  # of the playground


@undrawn
def test_a_run_of_one_epoch(digits, tmp_path):
    page, _ = write(fit(digits, tmp_path / "run", SMALL), digits)
    assert "There is but one evaluation" in page.text("learning")
    assert "with one hidden layer of 8 units (ReLU), batch norm before each activation, with 10" in page.text("summary")
    assert "for 1 epoch on" in page.text("summary")


@undrawn
def test_a_network_without_hidden_layers(digits, tmp_path):
    for logits, said in ((False, "without batch norm"), (True, "batch norm on its outputs")):
        config = bn.TrainingConfig(hidden_layer_sizes=(), normalize_logits=logits, epochs=1)
        page, _ = write(fit(digits, None, config), digits, output=tmp_path / "a.html")
        assert f"A dense network without hidden layers, {said}, with 10 classes" in page.text("summary")


@unwritten
def test_a_run_that_diverged_is_shown_as_it_was_saved_last_without_a_look_at_the_test(digits, tmp_path):
    wild = bn.TrainingConfig(
        hidden_layer_sizes=(8,), activation="identity", normalization="none", learning_rate=30.0, momentum=0.0,
        nesterov=False, schedule="constant", epochs=3,
    )  # fmt: skip
    with pytest.raises(bn.BatchnormError, match="became"):
        fit(digits, tmp_path / "run", wild)
    page, report = write(tmp_path / "run", digits)
    assert "This training is not finished" in page.text("summary")
    assert "It ended with: " in page.text("summary")
    assert "learning rate 30" in page.text("summary")
    assert "the last good checkpoint, checkpoint.safetensors, is kept" in page.text("summary")
    assert str(tmp_path) not in page.source
    assert "test examples" not in page.text("summary")
    assert len(report.notices) == 1


def stopped(digits, folder, after):
    class Stop(bn.Monitor):
        def step(self, epoch, step, loss):
            if (epoch, step) == after:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(digits, folder, monitor=Stop())


@undrawn
def test_a_run_that_stopped_before_its_first_evaluation(digits, tmp_path):
    stopped(digits, tmp_path / "run", (0, 2))
    page, _ = write(tmp_path / "run")
    assert "after 0 complete epochs of 2" in page.text("summary")
    assert "ended before its first evaluation" in page.text("learning")
    assert not page.all("img")
    assert "playground" not in page.sections


@undrawn
def test_a_run_that_stopped_later_is_judged_by_its_validation_part(digits, tmp_path):
    stopped(digits, tmp_path / "run", (1, 2))
    page, _ = write(tmp_path / "run")
    assert "on the validation part was" in page.text("summary")
    assert f"of {len(digits.validation)} in the validation part" in page.text("mistakes")


@undrawn
def test_values_have_scatter_plots_and_their_largest_errors(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    for n in (1, 2):
        y = x[:, :n] * 3 + 100 + rng.normal(size=(400, n)) * 0.1
        names = [HACK, "second"][:n]
        data = bn.Dataset.from_arrays(x, y, name="values", class_names=names)
        page, _ = write(fit(data, tmp_path / f"run{n}"), data)
        assert "R² is" in page.text("summary")
        assert len([title for title in page.figures() if title.endswith("predicted against true")]) == n
        assert f"{HACK}, true" in page.text("mistakes")
        assert "R² over the epochs" in page.figures()
        assert "accuracy" not in page.text("learning")
        page, _ = write(tmp_path / f"run{n}", data, examples=False)
        assert not page.all("svg", "mistakes")  # a point of a scatter is an example
        assert "Errors, in the unit of the values" in page.text("mistakes")
        assert "Each point" not in page.text("mistakes")
    data = bn.Dataset.from_arrays(x, 1e6 + 1e5 * x[:, 0])  # without a name
    page, _ = write(fit(data, tmp_path / "run"), data)
    assert "value: predicted against true" in page.figures()
    assert re.search(r"1,[0-9]{3},[0-9]{3}", page.text("mistakes"))
    assert "e+0" not in page.text("mistakes")


@undrawn
def test_several_labels(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    data = bn.Dataset.from_arrays(
        x, (x[:, :3] > 0).astype(int), task="labels", name="labels", class_names=["a", HACK, "c"]
    )
    page, _ = write(fit(data, tmp_path / "run"), data)
    assert "have all their labels right" in page.text("summary")
    assert f"{HACK}" in page.text("mistakes")
    assert "The worst mistakes" in page.text("mistakes")


@undrawn
def test_a_network_without_batch_norm(digits, tmp_path):
    page, _ = write(
        fit(digits, tmp_path / "run", bn.TrainingConfig(hidden_layer_sizes=(8,), normalization="none", epochs=1)),
        digits,
    )
    assert "without batch norm" in page.text("summary")
    assert "This network has no batch norm" in page.text("statistics")
    assert "Pre-activations of hidden 1" in page.figures()


def test_two_hundred_classes(tmp_path):
    names = [f"class {i}" for i in range(200)]
    data = images(2000, 200, names)
    page, _ = write(fit(data, tmp_path / "run", bn.TrainingConfig(hidden_layer_sizes=(16,), epochs=1)), data)
    assert "The classes that are recognised least" in page.text("mistakes")
    assert len(page.source) < 1_000_000


def test_thirty_layers(digits, tmp_path):
    config = bn.TrainingConfig(hidden_layer_sizes=(8,) * 29, epochs=1, batch_size=200)
    page, _ = write(fit(digits, tmp_path / "run", config), digits)
    assert "with 29 hidden layers of 8 units each" in page.text("summary")
    assert "4 of 30 layers are drawn" in page.text("activations")
    assert [a for a in page.all("svg") if a.get("class") == "wide"]
    assert len(page.source) < 1_000_000


@undrawn
def test_a_run_of_an_earlier_version_says_what_it_lacks(run, digits, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run.path, old)
    (old / "layers.jsonl").unlink()
    page, _ = write(old, digits)
    assert "activations" not in page.sections
    assert "no records of its layers" in page.text("statistics")
    assert "How far the running means" in page.text("statistics")


@undrawn
def test_data_that_are_gone_are_said_to_be(tmp_path, monkeypatch):
    data = images()
    fit(data, tmp_path / "run")

    def load_plan(path):
        raise InputError(f"the run was begun with {tmp_path / 'some images'}, which is not there now")

    monkeypatch.setattr("batchnorm.reporting.subject.load_plan", load_plan)
    page, report = write(tmp_path / "run")
    assert "begun with some images, which" in page.text("summary")
    assert str(tmp_path) not in page.source
    assert "The data are not at hand" in report.notices[0]
    assert "Nothing can be shown of single examples" in page.text("mistakes")
    assert {"Accuracy over the epochs", "Pre-activations of hidden 1"} <= set(page.figures())
    with pytest.raises(InputError, match="was begun with other data"):
        bn.write_report(tmp_path / "run", bn.load_dataset("digits"))


@undrawn
def test_a_network_of_someone_elses(digits, tmp_path):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    bn.fit(make(), digits, bn.TrainingConfig(epochs=1), out=tmp_path / "run", observe=True)
    with pytest.raises(InputError, match=r"write_report\(path, network=…\)"):
        bn.write_report(tmp_path / "run")
    page, _ = write(tmp_path / "run", digits, network=make())
    assert "A network of class Sequential" in page.text("summary")
    assert "was begun by a program" in page.text("making")
    assert "There is none on this page: a page computes a DenseNetwork alone" in page.text("playground")


@undrawn
def test_a_run_without_a_folder(digits, tmp_path):
    run = fit(digits, None)
    with pytest.raises(InputError, match="give output="):
        bn.write_report(run, digits)
    with pytest.raises(InputError, match="give dataset="):
        bn.write_report(run, output=tmp_path / "a.html")
    page, _ = write(run, digits, output=tmp_path / "a.html")
    assert "statistics" in page.sections


@unwritten
def test_remarkable_things_are_said(run, digits, tmp_path):
    strange = fit(digits, None)
    strange.layers[:] = [look(e, ["0", "3", "6"]) for e in (-1, 0)]
    strange.layers[-1]["layers"][0] |= {"dead": 0.25, "gradient_norm": 1e-6}
    strange.layers[-1]["layers"][2] |= {"saturated": 0.9, "before": look(0, ["x"])["layers"][0]["before"]}
    strange.history[:] = [dict(strange.history[0], epoch=e, validation_loss=loss) for e, loss in ((0, 0.5), (1, 0.9))]
    strange.history[-1] |= {"train_accuracy": 1.0, "validation_accuracy": 0.6}
    page, _ = write(strange, digits, output=tmp_path / "a.html")
    said = page.text("summary")
    assert "25 % of the units are dead" in said
    assert "90 % of the outputs are on the flat part" in said
    assert "times smaller than that of the last" in said
    assert "lowest in epoch 0 (0.5) and has risen since, to 0.9" in said
    assert "40.0 points do not carry over" in said


def test_a_layer_of_relus_of_which_half_are_flat_is_not_remarkable():
    for activation, n in (("ReLU", 0), ("Tanh", 1)):
        records = [look(0, ["0", "3"], activation=activation, saturated=0.51)]
        assert len(list(sentences_on_layers(Inside({}, records)))) == n


@undrawn
def test_running_averages_that_lag_behind_are_told_of(digits, tmp_path):
    few_steps = bn.TrainingConfig(hidden_layer_sizes=(8,), epochs=1, batch_size=500, bn_momentum=0.01)
    page, _ = write(fit(digits, None, few_steps), digits, output=tmp_path / "a.html")
    assert "The running averages are not yet at the statistics of the training part: in hidden 1" in page.text(
        "summary"
    )
    assert "times too large" in page.text("summary")


@undrawn
def test_nothing_of_the_kind_is_said_of_a_run_that_has_none_of_it(tmp_path):
    rng = np.random.default_rng(0)
    data = bn.Dataset.from_arrays(rng.normal(size=(300, 4)), np.arange(300) % 3, name="noise")
    page, _ = write(fit(data, tmp_path / "run", bn.TrainingConfig(hidden_layer_sizes=(4,), epochs=1)), data)
    assert "no better, within chance, than always to answer the most frequent class" in page.text("summary")
    assert "dead" not in page.text("summary")


def test_warnings_of_libraries_do_not_reach_the_reader(run, digits, tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bn.write_report(run, digits, output=tmp_path / "a.html")
    assert capfd.readouterr() == ("", "")


@undrawn
def test_a_page_that_cannot_be_written_leaves_what_was_there(run, digits, tmp_path, monkeypatch):
    page = bn.write_report(run, digits, output=tmp_path / "a.html").path
    before = page.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        bn.write_report(run, digits, output=page)
    assert page.read_bytes() == before
    with pytest.raises(InputError, match="not written to standard output"):
        bn.write_report(run, digits, output="-")


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_afterwards_as_before(run, digits, tmp_path, monkeypatch, collects):
    seen = []

    def fail(*arguments):
        seen.append(gc.isenabled())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figures, "inline_svg", fail)
    (gc.enable if collects else gc.disable)()
    try:
        with pytest.raises(OSError, match="No space"):
            bn.write_report(run, digits, output=tmp_path / "a.html")
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert seen == [False]


@undrawn
def test_a_run_that_another_process_works_on_is_shown_as_it_was_saved(digits, tmp_path):
    stopped(digits, tmp_path / "run", (1, 2))
    with RunFolder.open(tmp_path / "run").locked():
        page, _ = write(tmp_path / "run", digits, output=tmp_path / "a.html")
    assert "after 1 complete epoch of 2" in page.text("summary")


def test_of_the_folder_of_several_seeds_one_is_to_be_named():
    with pytest.raises(InputError, match=r"holds 2 runs: name one of them, such as .*seed-0"):
        bn.write_report(SAMPLES / "seeds-format-2")


@undrawn
def test_thousands_of_classes_have_no_matrix():
    n = 30_000
    labels = np.arange(n)
    found = Classified(labels, labels // 2, np.full(n, 0.5), np.full(n, 0.1))
    data = images()
    subject = SimpleNamespace(names=[f"class {i}" for i in range(n)], part="test", examples=data.test, signature=None)
    section = section_on_mistakes(subject, found, with_examples=False)
    assert not section.drawings
    assert section.tables[-1].caption == "The classes that are recognised least"
    assert section.tables[-1].rows[0] == ["class 1", "1", "0.0 %"]
