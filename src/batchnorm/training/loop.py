"""The training loop: reshuffle, step, evaluate, save. It reads from top to bottom."""

import copy
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.config import TrainingConfig
from batchnorm.data import Examples
from batchnorm.dynamics import Observer
from batchnorm.errors import DivergedError, InputError, TrainingInterrupted, in_words
from batchnorm.evaluation import evaluate
from batchnorm.training.engines import Engine, make_engine
from batchnorm.training.interruption import deferred_interrupts
from batchnorm.training.monitor import Monitor
from batchnorm.training.randomness import RandomStream
from batchnorm.training.runs import Checkpoint, RunFolder, report_command
from batchnorm.training.schedules import learning_rate
from batchnorm.training.unsaved import check_unsaved, unsaved_buffers


@dataclass
class Position:
    """How far a training is: all that a checkpoint holds besides tensors."""

    epoch: int = 0  # complete epochs
    step: int = 0  # complete steps of the epoch after them
    loss_sum: float = 0.0  # over these steps
    history: list[dict[str, Any]] = field(default_factory=list)
    best_accuracy: float = -1.0  # on the validation set, with early stopping; of values it is their loss, below 0
    evaluations_since_best: int = 0
    stopped_early: bool = False


def train(
    network: nn.Module,
    training: Examples,
    validation: Examples,
    config: TrainingConfig,
    *,
    beginning: Checkpoint | None,
    folder: RunFolder | None,
    monitor: Monitor,
    stream: RandomStream,
    n_classes: int,
    observer: Observer | None = None,
) -> Position:
    """Train a network in place, from a checkpoint on or from what it is, and leave it in inference mode.

    Parameters
    ----------
    network : torch.nn.Module
    training, validation : Examples
        On the network's device.
    config : TrainingConfig
    beginning : Checkpoint or None
        That of a run that was stopped. Without one the network begins as it is, with nothing loaded into it: what a
        module gives as its state need not be all of it.
    folder : RunFolder or None
        Where evaluations and a checkpoint per epoch are saved.
    monitor : Monitor
    stream : RandomStream
        `random_stream`'s.
    n_classes : int
        How many outputs the network must give.
    observer : Observer, optional
        What looks into the network: before the first step, and after the steps of epochs that are evaluated.

    Returns
    -------
    Position
        With the history of evaluations.

    Raises
    ------
    DivergedError, TrainingInterrupted
        See `batchnorm.fit`.
    """
    batches = batch_slices(len(training), config.batch_size)
    n_steps = config.epochs * len(batches)
    engine = make_engine(network, training.as_learnt(), config, warn=monitor.warn, n_classes=n_classes)

    def rate_of(step: int) -> float:
        return learning_rate(config.schedule, config.learning_rate, step, n_steps)

    def save() -> None:
        if folder:
            if observer:  # before the checkpoint: what that knows nothing of comes again
                folder.save_looks(observer.looks)
            folder.save_metrics(position.history)
            folder.save_checkpoint(_checkpoint(position, best, network, engine, stream))

    with deferred_interrupts(monitor.interrupted) as interrupts:
        position, best = _restore(beginning, network, engine, stream) if beginning else (Position(), {})
        if position.epoch > config.epochs or position.step > len(batches):
            raise InputError(
                f"the checkpoint does not fit the run: it is at epoch {position.epoch}, step {position.step} of "
                f"{config.epochs} epochs of {len(batches)} steps"
            )
        unsaved = unsaved_buffers(network) if folder or config.early_stopping_patience is not None else {}
        monitor.begin(config, len(batches), position.epoch, position.step)
        for record in position.history:
            monitor.evaluated(dict(record))
        if observer:
            observer.go_on((folder and folder.load_looks()) or [], position.epoch * len(batches) + position.step)

        while position.epoch < config.epochs and not position.stopped_early:
            order = _random(config.seed, 1, position.epoch).permutation(len(training))
            network.train()
            if observer and not (position.epoch or position.step):
                observer.look(-1, 0)
                if folder:  # now: the training may diverge before anything else is saved
                    folder.save_looks(observer.looks)
            while position.step < len(batches):
                rate = rate_of(position.epoch * len(batches) + position.step)
                if observer and position.step == len(batches) - 1:
                    observer.before_last_step(position.epoch)
                with stream.drawn():
                    loss = engine.step(order[batches[position.step]], rate)
                if unsaved:
                    check_unsaved(network, unsaved)
                    unsaved = {}  # what the first step leaves as it is stays so
                position.step += 1
                if not math.isfinite(loss):
                    raise _diverged(f"the loss became {loss}", position, rate, config, folder)
                position.loss_sum += loss
                monitor.step(position.epoch, position.step, loss)
                if interrupts:
                    break
            done = position.epoch * len(batches) + position.step
            if not is_finite(network):
                raise _diverged("a weight became NaN or infinite", position, rate_of(done - 1), config, folder)
            if observer and position.step == len(batches):  # before it is saved: it belongs to the last step
                observer.look(position.epoch, done)
            if interrupts:
                save()
                raise TrainingInterrupted(position.epoch, position.step, exit_code=128 + interrupts[0])
            network.eval()

            evaluating = position.epoch % config.evaluate_every == 0 or position.epoch == config.epochs - 1
            if evaluating:
                with stream.drawn():
                    on_training, on_validation = evaluate(network, training), evaluate(network, validation)
                loss = on_training.loss + on_validation.loss
                if not math.isfinite(loss):
                    raise _diverged(f"the evaluated loss became {loss}", position, rate_of(done - 1), config, folder)
                position.history.append(
                    {
                        "epoch": position.epoch,
                        "step": done,
                        "learning_rate": rate_of(done - 1),
                        "step_loss": position.loss_sum / len(batches),
                        **{f"train_{name}": figure for name, figure in on_training.figures.items()},
                        **{f"validation_{name}": figure for name, figure in on_validation.figures.items()},
                    }
                )
                if config.early_stopping_patience is not None:
                    best = _keep_best(position, best, network, config.early_stopping_patience)
            position.epoch, position.step, position.loss_sum = position.epoch + 1, 0, 0.0
            save()
            if evaluating:  # told once it is safe: whoever listens may fail
                monitor.evaluated(dict(position.history[-1]))  # its own: it may change it
            if observer:
                observer.tell()

        if interrupts:  # during the last evaluation: what is left to do is done by going on
            raise TrainingInterrupted(position.epoch, position.step, exit_code=128 + interrupts[0])

    if best:
        load_state(network, best)
    return position


def initial_checkpoint(network: nn.Module) -> Checkpoint:
    """Return the checkpoint that a training of this network begins from."""
    return Checkpoint({f"network.{name}": t for name, t in network.state_dict().items()}, asdict(Position()))


def random_stream(config: TrainingConfig, network: nn.Module, device: torch.device) -> RandomStream:
    """Return what a training of this network draws from, besides the order of its examples."""
    seed = int(_random(config.seed, 0).integers(2**63))
    return RandomStream(seed, network, device, noisy=config.input_noise > 0)


def batch_slices(n_examples: int, batch_size: int) -> list[slice]:
    """Cut an epoch into batches; a last one of a single example is merged into the one before.

    Batch norm has no variance to divide by in a batch of one, and a step of its own would weigh that example as much
    as a whole batch.

    Examples
    --------
    >>> batch_slices(5, 2)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    starts = list(range(0, n_examples, batch_size))
    if len(starts) > 1 and n_examples - starts[-1] < min(2, batch_size):
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], n_examples], strict=True)]


def _random(seed: int, *stream: int) -> np.random.Generator:
    """Return a generator for one purpose: what an epoch draws does not depend on how it was reached."""
    return np.random.default_rng([seed, *stream])


def _keep_best(position: Position, best: dict[str, Tensor], network: nn.Module, patience: int) -> dict[str, Tensor]:
    """Return the weights of the best evaluation so far, and say in `position` when it is time to stop."""
    last = position.history[-1]
    score = last["validation_accuracy"] if "validation_accuracy" in last else -last["validation_loss"]
    if len(position.history) == 1 or score > position.best_accuracy:
        position.best_accuracy, position.evaluations_since_best = score, 0
        return {name: copy.deepcopy(value) for name, value in network.state_dict().items()}
    position.evaluations_since_best += 1
    position.stopped_early = position.evaluations_since_best >= patience
    return best


def load_state(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a state dict, also of a network whose buffers have grown, or appeared, in training."""
    for prefix, module in network.named_modules(remove_duplicate=False):
        for name, buffer in module._buffers.items():
            kept = state.get(f"{prefix}.{name}" if prefix else name)
            if isinstance(kept, Tensor) and not is_lazy(buffer) and (buffer is None or buffer.shape != kept.shape):
                place = next((t.device for t in (buffer, *network.parameters()) if t is not None), kept.device)
                module._buffers[name] = kept.to(place, copy=True)
    network.load_state_dict(state)


def is_finite(network: nn.Module) -> bool:
    """Tell whether what is learnt is finite: masks, in buffers or frozen parameters, may hold infinity on purpose."""
    running = (t for name, t in network.named_buffers() if name.endswith(("running_mean", "running_var")))
    learnt = (parameter.detach() for parameter in network.parameters() if parameter.requires_grad)
    return all(bool(_values_of(tensor).isfinite().all()) for tensor in (*learnt, *running))


def _values_of(tensor: Tensor) -> Tensor:
    """Return the numbers that a tensor holds: a sparse one can be asked for nothing else."""
    if tensor.layout == torch.sparse_coo:
        return tensor.coalesce().values()
    return tensor if tensor.layout == torch.strided else tensor.values()


def _diverged(
    what: str, position: Position, rate: float, config: TrainingConfig, folder: RunFolder | None
) -> DivergedError:
    remedies = ["a smaller learning_rate"]
    if config.normalization == "none":
        remedies.append("normalization batch")
    message = (
        f"{what} in epoch {position.epoch}, step {position.step}, at learning rate {rate:.4g}: "
        f"try {' or '.join(remedies)}, or look for outliers in the data"
    )
    if folder is None:
        return DivergedError(message)
    message = f"{message}; the last good checkpoint, {folder.path / 'checkpoint.safetensors'}, is kept"
    return DivergedError(message, on_command_line=f"{message}: {report_command(folder.path)} shows it")


def _checkpoint(
    position: Position, best: dict[str, Tensor], network: nn.Module, engine: Engine, stream: RandomStream
) -> Checkpoint:
    parts = {
        "network": network.state_dict(),
        "optimizer": engine.state_dict(),
        "best": best,
        "rng": stream.state_dict(),
    }
    tensors = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    return Checkpoint(tensors, asdict(position))


def _restore(
    checkpoint: Checkpoint, network: nn.Module, engine: Engine, stream: RandomStream
) -> tuple[Position, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "best": {}, "rng": {}}
    try:
        for key, tensor in checkpoint.tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = tensor
        load_state(network, parts["network"])
        engine.load_state_dict(parts["optimizer"])
        stream.load_state_dict(parts["rng"])  # of a run that has not begun yet there is none
        position = Position(**checkpoint.state)
        if parts["best"] and parts["best"].keys() != parts["network"].keys():
            raise ValueError("its best weights are not those of the network")
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"the checkpoint does not fit the run: {in_words(error)}") from error
    return position, parts["best"]
