"""What can be varied, as it is typed and as it is given, and what is refused."""

import dataclasses
import re

import pytest

import batchnorm as bn
from batchnorm.comparing.variations import NAMES, arms_of, parse_variations, said

PLAIN = bn.TrainingConfig(hidden_layer_sizes=(8, 4))


def test_every_field_but_the_seed_can_be_varied():
    assert set(NAMES) == {field.name for field in dataclasses.fields(bn.TrainingConfig)} - {"seed"} | {
        "depth",
        "initial_scale",
    }


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("learning_rate=0.01, 1e2", "learning_rate", (0.01, 100.0)),
        ("learning-rate=1", "learning_rate", (1.0,)),
        ("normalization=batch,none", "normalization", ("batch", "none")),
        ("hidden_layer_sizes=300-100,64,none", "hidden_layer_sizes", ((300, 100), (64,), ())),
        ("normalize_logits=yes,no", "normalize_logits", (True, False)),
        ("early_stopping_patience=none,3", "early_stopping_patience", (None, 3)),
        ("depth=2,10", "depth", (2, 10)),
        ("initial_scale=0.1,10", "initial_scale", (0.1, 10.0)),
        ("epochs=3", "epochs", (3,)),
    ],
)
def test_values_are_read_as_they_are_typed(text, name, values):
    assert parse_variations([text]) == {name: values}
    typed = ",".join(said(value) for value in values)
    assert parse_variations([f"{name}={typed}"]) == {name: values}  # said as they can be typed
    (_, *_), arms = values, arms_of(PLAIN, {name: values})
    assert [arm.values[name] for arm in arms] == list(values)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["learning_rate"], "'learning_rate' is no variation: expected a name and values, as in learning_rate=0.1,1"),
        (["colour=red"], "there is no 'colour' to vary: known are hidden_layer_sizes, activation, normalization,"),
        (["learnin-rate=1"], "there is no 'learnin_rate' to vary, did you mean learning_rate? known are"),
        (["seed=1,2"], "seeds are what each arm is trained from, and not varied: give their number by seeds="),
        (["epochs=1", "epochs=2"], "epochs is varied twice: give all of its values at once, as in epochs=…,…"),
        (["learning_rate=fast"], "learning_rate is 'fast', expected a number"),
        (["learning_rate=-1"], "learning_rate is -1.0, expected a number above 0"),
        (["learning_rate=1,,2"], "learning_rate is '', expected a number"),
        (["epochs=1.5"], "epochs is '1.5', expected a whole number"),
        (["normalization=layer"], "normalization is 'layer', expected one of batch, none"),
        (["nesterov=perhaps"], "nesterov is 'perhaps', expected yes or no"),
        (["hidden_layer_sizes=300x100"], "hidden_layer_sizes is '300x100', expected numbers of units joined by -"),
        (["hidden_layer_sizes=-3"], "hidden_layer_sizes is '-3', expected numbers of units joined by -"),
        (["learning_rate=1,1.0"], "learning_rate has the value 1 twice: leave one out"),
        (["depth=0"], "depth is 0, expected a whole number from 1 to 1000"),
        (["depth=1"], "depth=1: depth is 1, and there are 2 hidden layers, 8-4, of which it repeats the last"),
        (["hidden_layer_sizes=none", "depth=3"], "depth repeats the last hidden layer, and there is none"),
        (["batch_size=1", "normalization=none,batch"], "batch_size=1, normalization=batch: batch_size is 1, expected"),
        (
            [f"batch_size={','.join(map(str, range(2, 52)))}", f"epochs={','.join(map(str, range(1, 51)))}"],
            "2,500 arms",
        ),
        ([], "nothing is varied: name something, as in normalization=batch,none"),
    ],
)
def test_what_is_wrong_is_refused_in_words(texts, message):
    with pytest.raises(bn.InputError, match=re.escape(message)):
        arms_of(PLAIN, parse_variations(texts))


@pytest.mark.parametrize("values", ["batch", [], 3, b"ab"])
def test_values_that_are_no_list_are_refused(values):
    with pytest.raises(bn.InputError, match=r"normalization is to be varied over .*, expected a list of values"):
        arms_of(PLAIN, {"normalization": values})


def test_depth_repeats_the_last_hidden_layer():
    arms = arms_of(PLAIN, {"depth": [2, 4], "normalization": ["batch", "none"]})
    assert [arm.name for arm in arms] == [
        "depth=2, normalization=batch",
        "depth=2, normalization=none",
        "depth=4, normalization=batch",
        "depth=4, normalization=none",
    ]
    assert [arm.config.hidden_layer_sizes for arm in arms] == [(8, 4)] * 2 + [(8, 4, 4, 4)] * 2


def test_folders_have_names_that_any_file_system_takes():
    (arm,) = arms_of(PLAIN, {"normalization": ["none"], "learning_rate": [0.1]})
    assert arm.folder_name == "learning_rate=0.1,normalization=none"  # whichever was named first
    defaults = dataclasses.asdict(PLAIN)
    (arm,) = arms_of(PLAIN, {name: [defaults[name]] for name in NAMES if name in defaults})
    assert re.fullmatch(r"arm-[0-9a-f]{16}", arm.folder_name)
