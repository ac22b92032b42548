"""Tracing replaces `isinstance` for the whole process while it lasts: threads must not get in each other's way."""

import builtins
import os
import threading

import pytest
import torch
from torch import nn

import batchnorm as bn
from helpers import exit_code, forked

ORIGINAL = builtins.isinstance


class Asks(nn.Module):
    """Asks what it was given, and waits on the way for what another thread does meanwhile."""

    def __init__(self, meanwhile=lambda: None):
        super().__init__()
        self.linear, self.norm, self.meanwhile = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), meanwhile

    def forward(self, x):
        x = self.linear(x)
        self.meanwhile()
        return self.norm(x) if isinstance(x, torch.Tensor) else x


def in_thread(function):
    """Start a function in a thread; return what waits for its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def result(timeout=60):
        thread.join(timeout)
        assert not thread.is_alive(), "it waits for ever"
        return results[0]

    return result


def test_two_threads_that_trace_at_once_leave_isinstance_as_it_was():
    inside, done, others = threading.Event(), threading.Event(), []

    def until_the_first_is_done():
        inside.set()
        assert done.wait(60)

    def start_another():
        if not others:  # it begins before the first one ends, and ends after it
            others.append(in_thread(lambda: bn.find_sites(Asks(until_the_first_is_done).eval())))
            inside.wait(0.3)  # in vain, as one traces at a time

    sites = bn.find_sites(Asks(start_another).eval())
    done.set()
    assert sites[0].fed_by == others[0]()[0].fed_by == ("linear",)
    assert builtins.isinstance is ORIGINAL


def test_many_threads_that_trace_leave_isinstance_as_it_was():
    barrier = threading.Barrier(4)

    def work():
        barrier.wait(60)
        return [bn.fold(Asks().eval()).folding.folded for _ in range(3)]

    for result in [in_thread(work) for _ in range(4)]:
        assert result() == [{"norm": "linear"}] * 3
    assert builtins.isinstance is ORIGINAL


def test_a_thread_that_only_runs_its_model_is_not_traced():
    other, x = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval(), torch.ones(1, 3)
    expected, outputs = other(x), []

    def run_another():
        outputs.append(in_thread(lambda: other(x))())

    sites = bn.find_sites(Asks(run_another).eval())
    assert sites[0].fed_by == ("linear",)
    assert outputs
    for output in outputs:
        assert torch.equal(output, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_is_forked_while_a_thread_traces_traces_and_has_isinstance_as_it_was():
    inside = threading.Event()

    def trace_slowly():
        inside.set()
        threading.Event().wait(0.2)

    def work():
        assert builtins.isinstance is ORIGINAL
        assert bn.find_sites(Asks().eval())[0].fed_by == ("linear",)

    sites = in_thread(lambda: bn.find_sites(Asks(trace_slowly).eval()))
    assert inside.wait(60)
    with forked(work) as child:
        assert exit_code(child) == 0
    assert sites()[0].fed_by == ("linear",)
