"""The loop of an estimator: epochs of steps, until the schedule ends or nothing improves."""

import math
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.config import TrainingConfig
from batchnorm.data import ExamplesLike
from batchnorm.dynamics import Observer, sample_of
from batchnorm.errors import TrainingInterrupted
from batchnorm.estimator.checkpoints import Checkpoints, Course, Progress, restore_, tensors_of
from batchnorm.estimator.examples import Rows, is_sparse, multiply_adds
from batchnorm.estimator.parameters import schedule_of, wanted_epochs
from batchnorm.estimator.weights import Epoch
from batchnorm.evaluation import BLOCK_SIZE
from batchnorm.inputs import MEMORY
from batchnorm.kernels.draws import drawing_from, global_generators_kept
from batchnorm.losses import Loss
from batchnorm.network import DenseNetwork
from batchnorm.toolkit.statistics import recalibrate
from batchnorm.training import Monitor, batch_slices, deferred_interrupts, learning_rate, threads_for
from batchnorm.training.engines import make_engine, update_rule

MEMORY_STEPS = 100  # of a stream's moments: what was seen before was computed with other weights
_LOOKS = 1  # a stream of the seed's
_SHRINKING, _SMALLEST_RATE = 5, 1e-6  # of the adaptive schedule


@dataclass
class State:
    """What the next epoch depends on besides data and weights: a training goes on from it as if it had never paused.

    Parameters
    ----------
    seed : int
    epochs, examples : int
        How many were trained so far.
    optimizer : dict of str to Tensor
        The engine's state.
    optimizer_kind : str
        What kind of optimiser it is of: another one starts afresh.
    generator : Tensor, optional
        State of what dropout and noise are drawn from.
    """

    seed: int
    epochs: int = 0
    examples: int = 0
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    optimizer_kind: str = ""
    generator: Tensor | None = None

    def copy(self) -> "State":
        """Return a copy that a training may change."""
        return replace(self, optimizer={name: tensor.clone() for name, tensor in self.optimizer.items()})


def train(
    network: DenseNetwork,
    examples: ExamplesLike,
    rows: Epoch,
    config: TrainingConfig,
    parameters: dict[str, Any],
    state: State,
    *,
    loss: Loss,
    score: Callable[[], float] | None,
    monitor: Monitor,
    streams: bool,
    checkpoints: Checkpoints | None = None,
) -> Progress:
    """Train a network in place for as many epochs as the configuration says, or until nothing improves.

    Parameters
    ----------
    network : DenseNetwork
    examples : ExamplesLike
        On the network's device.
    rows : Epoch
        Which of the examples are trained on, and how often.
    config : TrainingConfig
    parameters : dict
        Of the estimator: schedule, shuffling and what stops a training.
    state : State
        What to go on from, and afterwards what to go on from next.
    loss : Loss
    score : callable or None
        Returns the network's validation score. With it, the weights of the best epoch are kept.
    monitor : Monitor
    streams : bool
        Whether batches are no random part of the data: batch norm then takes the moments of the last `MEMORY`
        rows, or `MEMORY_STEPS` batches.
    checkpoints : Checkpoints, optional
        What a new training begins from, if there is anything, and where it is saved; then a signal ends it with the
        step.

    Returns
    -------
    Progress

    Raises
    ------
    ValueError
        If the loss or a weight becomes NaN or infinite.
    InputError
        If a checkpoint is not of this training.
    TrainingInterrupted
        After a signal, if there are `checkpoints`.

    Warns
    -----
    UserWarning
        After Ctrl-C, if there are none: it ends the training with the step.
    """
    warn = partial(warnings.warn, stacklevel=7)
    engine = make_engine(network, examples, config, warn, loss=loss)
    kind = update_rule(config).kind
    if state.optimizer_kind == kind:
        engine.load_state_dict(state.optimizer)
    generator = torch.Generator().manual_seed(state.seed)
    if state.generator is not None:
        generator.set_state(state.generator)
    batches = batch_slices(len(rows), config.batch_size)
    n_steps = config.epochs * len(batches)
    course = Course(np.zeros(len(batches)))
    progress = course.progress
    wanted = wanted_epochs(parameters, len(batches))
    is_open = math.isinf(wanted)
    patience, tol = parameters["n_iter_no_change"], parameters["tol"]
    observer: Observer | None = None
    told = monitor if checkpoints is None else checkpoints

    def rate_of(step: int) -> float:
        if schedule_of(parameters) == "invscaling":
            return float(config.learning_rate / (state.examples + 1) ** parameters["power_t"])
        return learning_rate(config.schedule, config.learning_rate, step, n_steps) / course.shrunk

    def share_of(batch: slice) -> float | None:
        n = batch.stop - batch.start
        return n / (n + min(state.examples + batch.start, MEMORY, MEMORY_STEPS * n)) if streams else None

    def noise_at(rate: float) -> float:  # as the steps become small, so that what was learnt is sharpened at last
        return config.input_noise * rate / config.learning_rate

    def check_network(rate: float) -> None:
        for tensor in network.state_dict().values():
            _check_finite(tensor, state, rate, parameters["standardize"])

    def save(rate: float) -> None:
        assert checkpoints is not None
        if observer:
            checkpoints.save_looks(observer.looks)
        tensors = tensors_of(course, network, engine, generator)
        check_network(rate)
        checkpoints.save(tensors, course.to_json())

    def end_if_asked(rate: float) -> None:
        if interrupts and checkpoints is not None:
            save(rate)
            raise TrainingInterrupted(course.epoch, course.step, exit_code=128 + interrupts[0])

    try:
        with (
            threads_for(multiply_adds(network, config.batch_size, is_sparse(examples))),
            deferred_interrupts(told.interrupted) as interrupts,
            drawing_from(generator),
        ):
            rate = config.learning_rate
            if checkpoints is not None:
                if (beginning := checkpoints.load(network.state_dict())) is None:
                    save(rate)
                else:
                    restore_(beginning, course, network, engine, generator, config.epochs, bool(score))
                    state.epochs, state.examples = course.epoch, course.epoch * len(rows)
                observer = _observer(network, examples, rows, config, loss, checkpoints)
                if observer:
                    observer.go_on(checkpoints.load_looks() or (), course.epoch * len(batches) + course.step)
            monitor.begin(config, len(batches), course.epoch, course.step)
            for epoch in range(course.epoch):
                monitor.evaluated(progress.record(epoch))

            while course.epoch < config.epochs and not course.is_over:
                order = rows.order(_random(state), parameters["shuffle"])
                network.train()
                if observer and not (course.epoch or course.step):
                    observer.look(-1, 0)
                while course.step < len(batches):
                    batch = batches[course.step]
                    rate = rate_of(course.epoch * len(batches) + course.step)
                    if observer and course.step == len(batches) - 1:
                        engine.write_back()
                        observer.before_last_step(course.epoch)
                    mean = engine.step(order[batch], rate, share_of(batch), noise_at(rate))
                    course.step_losses[course.step] = mean
                    course.step += 1
                    monitor.step(course.epoch, course.step, mean)
                    if observer and course.step == len(batches):  # before it is saved: it belongs to this step
                        engine.write_back()
                        observer.look(course.epoch, (course.epoch + 1) * len(batches))
                    if interrupts or not math.isfinite(mean):
                        break
                    if checkpoints is not None and checkpoints.is_due:
                        save(rate)
                network.eval()
                rate = rate_of(course.epoch * len(batches) + course.step - 1)
                losses, done = course.step_losses[: course.step], batches[: course.step]  # all, unless interrupted
                _check_finite(torch.from_numpy(losses), state, rate, parameters["standardize"])
                end_if_asked(rate)
                progress.losses.append(np.average(losses, weights=_weights(examples, order, done)).item())
                state.epochs, state.examples = state.epochs + 1, state.examples + done[-1].stop
                if score:
                    engine.write_back()
                    progress.scores.append(score())
                    if progress.is_best():
                        course.best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                if course.stalls(patience, tol) and (score or is_open):
                    course.is_over = schedule_of(parameters) != "adaptive" or rate <= _SMALLEST_RATE
                    if not course.is_over:
                        course.shrunk, course.stalled = course.shrunk * _SHRINKING, 0
                course.epoch, course.step = course.epoch + 1, 0
                monitor.evaluated(progress.record(course.epoch - 1))
                end_if_asked(rate)
                if interrupts:
                    break
            else:
                progress.improving = not course.is_over and config.epochs < wanted
            engine.write_back()
            check_network(rate)
            if checkpoints is not None and observer:
                checkpoints.save_looks(observer.looks)
    finally:
        monitor.end()
    if interrupts:
        _answer(interrupts[0])
    state.optimizer, state.optimizer_kind, state.generator = engine.state_dict(), kind, generator.get_state()
    if course.best:
        network.load_state_dict(course.best)
        state.optimizer, state.optimizer_kind = {}, ""  # it is of the last epoch, not of the best
    return progress


def recalibrate_(network: DenseNetwork, training: Rows, *, must_end: bool) -> None:
    """Give a network the exact statistics of what it was trained on; unless it `must_end`, Ctrl-C ends that."""
    weighted = training.examples.weights is not None
    try:
        weights = (lambda block: block[2]) if weighted else None
        work = multiply_adds(network, BLOCK_SIZE, is_sparse(training.examples))
        # It gives random states back: not those of a training beside this one.
        with global_generators_kept(), threads_for(work):
            training, behind = training.split(network)
            recalibrate(behind, training, distributed=False, weights=weights, progress=False)
    except KeyboardInterrupt:
        if must_end:  # by going on
            raise
        warnings.warn("interrupted after the training: the network keeps its running averages", stacklevel=5)


def _observer(
    network: DenseNetwork,
    examples: ExamplesLike,
    rows: Epoch,
    config: TrainingConfig,
    loss: Loss,
    checkpoints: Checkpoints,
) -> Observer | None:
    """Return what looks into a network, of rows that it is trained on, if that is kept.

    As nobody knows how long a training is, there are four looks whenever the epochs have doubled.
    """
    if checkpoints.load_looks() is None:
        return None
    sample = sample_of(len(rows), examples.n_features, np.random.default_rng([config.seed, 0, _LOOKS]))
    octaves = [range(2**k, 2 ** (k + 1), 2 ** (k - 2)) for k in range(3, config.epochs.bit_length())]
    epochs = [epoch for epoch in chain(range(8), *octaves) if epoch < config.epochs - 1] + [config.epochs - 1]
    return Observer(network, examples, rows.at(sample), loss, epochs, warnings.warn)


def _random(state: State) -> np.random.Generator:
    """Return a generator for the order of an epoch: it does not depend on how the epoch was reached."""
    return np.random.default_rng([state.seed, state.epochs])


def _weights(examples: ExamplesLike, order: NDArray[np.int64], batches: list[slice]) -> NDArray[np.float64]:
    """Return how much each batch of an epoch weighs: the sum over its examples."""
    counts = np.ones(len(order)) if examples.weights is None else examples.weights.cpu().numpy()[order]
    return np.array([counts[batch].sum() for batch in batches])


def _check_finite(tensor: Tensor, state: State, rate: float, standardize: bool) -> None:
    if not tensor.isfinite().all():
        raise ValueError(
            f"the training diverged in epoch {state.epochs} at learning rate {rate:.4g}, its loss or a weight became "
            f"NaN or infinite: try a smaller learning_rate_init{'' if standardize else ' or standardize=True'}"
        )


def _answer(number: int) -> None:
    """Keep what is trained after Ctrl-C, as scikit-learn's networks do; any other signal ends the process."""
    if number != signal.SIGINT:
        signal.raise_signal(number)
    warnings.warn("training was interrupted: the network is what it was then", stacklevel=6)
