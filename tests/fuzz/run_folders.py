"""Damaged run folders give the same results, or one line that says what is wrong: ``python run_folders.py 100000``.

Each mutation damages a finished or a stopped run, then loads it, goes on with it, and lists it. Those that leave the
checksums as they were must not change a result; those that come with right ones may, but end in nothing but results or
a `BatchnormError` of one line, in bounded time and memory.
"""

import argparse
import collections
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import batchnorm as bn
from batchnorm.errors import TrainingInterrupted
from batchnorm.training import Run
from batchnorm.training.runs import RunFolder, list_runs, load_plan
from helpers import PLAIN, InterruptAt, seal_as_it_is, train

SETTINGS = [
    replace(PLAIN, momentum=0.9, dropout=0.2),
    replace(PLAIN, optimizer="adamw", learning_rate=0.01, early_stopping_patience=2, engine="autograd"),
]
ODD = [
    None, True, False, -1, 0, 1, 3, 2**31, 10**5, 10**19, 10**400, 0.5, -0.0, 1e308, 5e-324, "", "x", "\x1b[31m",
    "\ud800", "DenseNetwork", [], [[]], [0], [10**5, 10**5], {}, {"a": 1}, "cuda", "cpu", "a\nb",
]  # fmt: skip
MEMORY = 3 * 2**30  # bytes beyond what the process has at its start


class TooLongError(Exception):
    """A training that an edit has made long; nothing is wrong with that."""


class Impatient(bn.Monitor):
    def __init__(self):
        self.n_steps = 0

    def step(self, epoch, step, loss):
        self.n_steps += 1
        if self.n_steps > 100:
            raise TooLongError

    def warn(self, message):
        pass


class Target:
    """Runs to damage, kept in memory, and what they hold and end with."""

    def __init__(self, folder):
        self.path = folder / "run"
        labels = np.arange(120) % 3
        inputs = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32) + labels[:, None]
        blobs = bn.Dataset.from_arrays(inputs, labels, name="blobs")
        several = bn.Dataset.from_arrays(inputs, np.stack([labels > 0, labels < 2], axis=1), name="several")
        values = bn.Dataset.from_arrays(inputs, inputs[:, :2] * 100, name="values")
        self.whole = []
        for dataset, config in [
            *((blobs, config) for config in SETTINGS),
            *zip((several, values), SETTINGS, strict=True),
        ]:
            run = train(dataset, config, out=self.path)
            self._keep(run, dataset, finished=True)
            with suppress(TrainingInterrupted):
                train(dataset, config, out=self.path, monitor=InterruptAt(1, 2))
            self._keep(run, dataset, finished=False)

    def _keep(self, run, dataset, finished):
        files = {path.name: path.read_bytes() for path in self.path.iterdir()}
        self.whole.append((files, result(run), finished, dataset))
        shutil.rmtree(self.path)

    def restore(self, files):
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        for name, content in files.items():
            (self.path / name).write_bytes(content)

    def strike(self, rng):
        """Damage a run; return how, and what came of it: a problem, "same", "changed" or "refused"."""
        files, expected, finished, dataset = rng.choice(self.whole)
        self.restore(files)
        mutation = rng.choice(MUTATIONS)
        mutation(self.path, rng, rng.choice(self.whole)[0])
        outcomes = [self._outcome(use, expected, mutation in SEALED) for use in self._uses(finished, dataset)]
        return mutation.__name__, finished, outcomes

    def _uses(self, finished, dataset):
        yield lambda: load_plan(self.path)
        yield lambda: list_runs(self.path)
        if finished:
            yield lambda: bn.load_run(self.path)
        yield lambda: bn.resume(self.path, dataset, monitor=Impatient())

    def _outcome(self, use, expected, may_change):
        state = torch.get_rng_state()
        try:
            run = use()
        except bn.BatchnormError as error:
            return "refused" if "\n" not in str(error) else f"several lines: {error}"
        except TooLongError:
            return "changed" if may_change else "a longer training"
        except Exception:
            return traceback.format_exc()
        finally:
            torch.set_rng_state(state)
        if not isinstance(run, Run) or result(run) == expected:
            return "same"
        return "changed" if may_change else "other results, silently"


def result(run):
    tensors = [t.numpy().tobytes() for part in (run.network.state_dict(), run.population) for t in part.values()]
    return run.results, run.history, run.config, tensors


def any_file(run, rng):
    return rng.choice(sorted(path for path in run.iterdir() if path.is_file()))


def flip_bits(run, rng, _):
    path = any_file(run, rng)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(run, rng, _):
    path = any_file(run, rng)
    os.truncate(path, rng.randrange(path.stat().st_size))


def splice(run, rng, _):
    path = any_file(run, rng)
    content = path.read_bytes()
    a, b, to = sorted(rng.randrange(len(content)) for _ in range(3))
    piece = rng.choice([b"", b"\0" * 8, content[a:b], rng.randbytes(8), b"[" * 20_000, b"9" * 5000, b"NaN"])
    path.write_bytes(content[:a] + piece + content[rng.choice([a, b, to]) :])


def swap(run, rng, _):
    a, b = any_file(run, rng), any_file(run, rng)
    left, right = a.read_bytes(), b.read_bytes()
    a.write_bytes(right)
    b.write_bytes(left)


def delete(run, rng, _):
    any_file(run, rng).unlink()


def take_anothers(run, rng, others):
    name = rng.choice(sorted(others))
    (run / name).write_bytes(others[name])


def put_something_else(run, rng, _):
    path = any_file(run, rng)
    path.unlink()
    rng.choice([Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/dev/zero"), lambda p: p.symlink_to(p), huge])(path)


def huge(path):
    path.touch()
    os.truncate(path, 2**40)


def add_files(run, rng, _):
    (run / rng.choice([".config.json.tmp", "seed-0", "x", "summary.json"])).write_bytes(rng.randbytes(9))


def edit_json(run, rng, _):
    path = rng.choice(sorted(run.glob("*.json")))
    values = json.loads(path.read_text())
    edit_values(values, rng)
    path.write_text(json.dumps(values, ensure_ascii=True))


def edit_line_and_seal(run, rng, _):
    path = rng.choice(sorted(run.glob("*.jsonl")))
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    values = json.loads(lines[number])
    edit_values(values, rng)
    lines[number] = json.dumps(values, ensure_ascii=True)
    path.write_text("\n".join(lines) + "\n")
    with suppress(Exception):  # what cannot be sealed stays as it is
        seal_as_it_is(run)


def edit_values(values, rng):
    holder, key = rng.choice(list(places(values)))
    what = rng.randrange(3)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[rng.choice(["more", key.upper(), ""])] = rng.choice(ODD)
    else:
        holder[key] = rng.choice(ODD)


def places(values):
    """Yield every container below a value with each of its keys."""
    for key, part in values.items() if isinstance(values, dict) else enumerate(values):
        yield values, key
        if isinstance(part, dict | list):
            yield from places(part)


def edit_and_seal(run, rng, others):
    edit_json(run, rng, others)
    with suppress(Exception):  # what cannot be sealed stays as it is
        seal_as_it_is(run)


def edit_checkpoint_and_seal(run, rng, _):
    folder = RunFolder.open(run)
    checkpoint = folder.load_checkpoint()
    tensors, state = checkpoint.tensors, json.loads(json.dumps(checkpoint.state))
    if rng.random() < 0.5:
        edit_tensors(tensors, rng)
    else:
        holder, key = rng.choice(list(places(state)))
        holder[key] = rng.choice(ODD)
    with suppress(Exception):
        folder.save_checkpoint(type(checkpoint)(tensors, state))


def edit_results_and_seal(run, rng, others):
    folder = RunFolder.open(run)
    if not folder.is_finished:
        return edit_checkpoint_and_seal(run, rng, others)
    weights, population, results = folder.load_results()
    edit_tensors(rng.choice([weights, population]), rng)
    return folder.save_results(weights, population, results)


def edit_tensors(tensors, rng):
    if not tensors:
        return
    name = rng.choice(sorted(tensors))
    old = tensors[name]
    new = rng.choice(
        [
            torch.zeros(3), old.to(torch.float64), old.to(torch.uint8), old.float() * float("nan"), old.flatten(),
            old.unsqueeze(0), torch.empty(0), old.float() - 9, None, torch.zeros(old.shape, dtype=torch.complex64),
        ]
    )  # fmt: skip
    if new is None:
        del tensors[name]
    else:
        tensors[rng.choice([name, name, f"{name}.more", "x", "rng.cpu", "optimizer.x.y", "optimizer.7.step"])] = new


SEALED = [edit_and_seal, edit_line_and_seal, edit_checkpoint_and_seal, edit_results_and_seal]
MUTATIONS = [
    flip_bits, flip_bits, truncate, splice, swap, delete, take_anothers, put_something_else, add_files, edit_json,
    *SEALED,
]  # fmt: skip


def fuzz(folder, count, seed):
    """Return how often each came of it, and the problems."""
    warnings.simplefilter("ignore")
    target, outcomes, problems = Target(folder), collections.Counter(), []
    for number in range(count):
        mutation, finished, found = target.strike(random.Random(f"{seed}-{number}"))
        for outcome in found:
            known = outcome in ("same", "changed", "refused")
            outcomes[outcome if known else "problem"] += 1
            if not known:
                problems.append(
                    f"{seed}-{number} {mutation} of a {'finished' if finished else 'stopped'} run: {outcome}"
                )
    return outcomes, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        outcomes, problems = fuzz(Path(folder), options.count, options.seed)
    print("\n".join(problems[:20]))
    print(f"{options.count} mutations: {dict(outcomes)}; {len(problems)} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
