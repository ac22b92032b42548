"""The table of optimisers: what each entry says of torch's optimiser and of the kernels is so."""

import dataclasses
import inspect
from typing import get_args

import numpy as np
import pytest
import torch

import batchnorm as bn
from batchnorm import config
from batchnorm.kernels import cpu, tensors
from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.optimizers import OPTIMIZERS, update_rule

RULES = {
    "sgd": bn.TrainingConfig(optimizer="sgd", momentum=0.0, nesterov=False),
    "momentum": bn.TrainingConfig(optimizer="sgd", momentum=0.9),
    "adamw": bn.TrainingConfig(optimizer="adamw"),
}


def test_the_configuration_and_the_table_have_the_same_optimisers():
    assert get_args(config.Optimizer) == tuple(OPTIMIZERS)
    assert {values.optimizer for values in RULES.values()} == set(OPTIMIZERS)


@pytest.mark.parametrize("kind", RULES)
def test_kinds_have_the_names_that_files_of_estimators_hold(kind):
    assert update_rule(RULES[kind]).kind == kind


@pytest.mark.parametrize("kind", RULES)
def test_a_kernel_takes_what_its_entry_gives_it(kind):
    rule = update_rule(RULES[kind])
    n_given = len(["parameter", "gradient", *rule.states, "now", "decay", *rule.arguments])
    assert len(inspect.signature(getattr(cpu, rule.kernel).py_func).parameters) == n_given
    assert len(inspect.signature(getattr(tensors, rule.kernel)).parameters) == n_given


@pytest.mark.parametrize("kind", RULES)
def test_the_states_are_torchs(kind):
    """Both engines read one file: what torch keeps of a parameter is what the entry says."""
    settings = dataclasses.replace(RULES[kind], hidden_layer_sizes=(3,))
    examples = bn.Examples(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
    engine = AutogradEngine(bn.DenseNetwork.from_config(settings, 5, 2), examples, settings)
    engine.step(np.arange(8), 0.1)
    rule = update_rule(settings)
    expected = {*rule.states, *(["step"] if rule.counts_steps else [])}
    assert {name.partition(".")[2] for name in engine.state_dict()} == expected
