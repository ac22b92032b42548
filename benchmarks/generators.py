"""Tables drawn from a formula, for kinds that no package ships: frames whose column `target` is the target.

Seeds are fixed and each has noise, so that nobody scores 1.
"""

import numpy as np
import pandas as pd


def _frame(inputs: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(inputs).add_prefix("x").assign(target=target)


def _drawn(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    """Draw truth values, true with the probability that a logit says."""
    return rng.random(len(logits)) < 1 / (1 + np.exp(-logits))


def _flipped(rng: np.random.Generator, classes: np.ndarray) -> np.ndarray:
    """Return two classes, of which one in twenty is the wrong one."""
    return classes ^ (rng.random(len(classes)) < 0.05)


def _zipf(n: int) -> np.ndarray:
    """Return the shares of n things, of which the k-th is the k-th part as frequent as the first."""
    share = 1 / np.arange(1, n + 1)
    return share / share.sum()


# Heavy tails


def outliers() -> pd.DataFrame:
    """Return a smooth function of six inputs; in ten of two thousand rows the inputs are recorded in the wrong unit."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 6))
    target = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] / 2 + x[:, 3] + rng.normal(0, 0.3, 2000)
    x[rng.choice(2000, 10, replace=False)] *= 1e4
    return _frame(x, target)


def powers() -> pd.DataFrame:
    """Return a product of powers of lognormal inputs, times lognormal noise."""
    rng = np.random.default_rng(2)
    x = rng.lognormal(0, 1.5, (3000, 5))
    return _frame(x, x[:, 0] * np.sqrt(x[:, 1]) / (1 + x[:, 2]) * rng.lognormal(0, 0.3, 3000))


def fat_tails() -> pd.DataFrame:
    """Return three classes, linear in tanh of inputs that have no variance (Student's t, 1.5 degrees)."""
    rng = np.random.default_rng(3)
    x = rng.standard_t(1.5, (3000, 8))
    logits = 2 * np.tanh(x) @ rng.normal(size=(8, 3))
    return _frame(x, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1))


# Rare events


def rare_shift() -> pd.DataFrame:
    """Return an event of 1 %, whose rows are shifted by two standard deviations in two of five inputs."""
    rng = np.random.default_rng(4)
    event = rng.random(6000) < 0.01
    x = rng.normal(size=(6000, 5))
    x[:, :2] += 2 * event[:, None]
    return _frame(x, event)


def rare_corner() -> pd.DataFrame:
    """Return an event of half a per cent, likely in a corner of two of six inputs alone."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(12000, 6))
    return _frame(x, _drawn(rng, x[:, 2] - 8 + 6 * ((x[:, 0] > 1) & (x[:, 1] > 1))))


# Many categories


def shops() -> pd.DataFrame:
    """Return a class that depends on three numbers and on which of 300 shops, 1,000 products and 8 regions it is."""
    rng = np.random.default_rng(6)
    frame, logits = pd.DataFrame(rng.normal(size=(5000, 3))).add_prefix("x"), 0.0
    for column, levels in (("shop", 300), ("product", 1000), ("region", 8)):
        level = rng.choice(levels, 5000, p=_zipf(levels))
        frame[column] = [f"{column} {number}" for number in level]
        logits += rng.normal(0, 1.2, levels)[level]
    return frame.assign(target=_drawn(rng, logits + frame["x0"].to_numpy() - frame["x1"].to_numpy() / 2))


# High-frequency and axis-aligned


def waves() -> pd.DataFrame:
    """Return a sum of sines, with eight and fourteen periods over the inputs' range, and a line."""
    rng = np.random.default_rng(7)
    x = rng.uniform(-1, 1, (3000, 3))
    target = np.sin(8 * np.pi * x[:, 0]) + np.sin(14 * np.pi * x[:, 1]) / 2 + x[:, 2]
    return _frame(x, target + rng.normal(0, 0.2, 3000))


def boxes() -> pd.DataFrame:
    """Return a sum of twelve steps, each within a rectangle of two of six inputs."""
    rng = np.random.default_rng(8)
    x = rng.random((3000, 6))
    target = rng.normal(0, 0.3, 3000)
    for _ in range(12):
        first, second = x[:, rng.choice(6, 2, replace=False)].T
        low_first, low_second = rng.uniform(0, 0.6, 2)
        inside = (low_first < first) & (first < low_first + 0.4) & (low_second < second)
        target += rng.normal(0, 2) * inside
    return _frame(x, target)


def parity() -> pd.DataFrame:
    """Return whether an odd number of the first three of ten inputs is positive."""
    rng = np.random.default_rng(9)
    x = rng.uniform(-1, 1, (4000, 10))
    return _frame(x, _flipped(rng, (x[:, :3] > 0).sum(axis=1) % 2 == 1))


def checkerboard() -> pd.DataFrame:
    """Return the colour of a field, on a board of four by four in two of four inputs."""
    rng = np.random.default_rng(10)
    x = rng.random((4000, 4))
    return _frame(x, _flipped(rng, (4 * x[:, :2]).astype(int).sum(axis=1) % 2 == 1))


# Wide 0/1


def knockouts() -> pd.DataFrame:
    """Return a sum of the effects of 20 out of 300 rare switches, and of 10 pairs that work only together."""
    rng = np.random.default_rng(11)
    x = (rng.random((1500, 300)) < rng.uniform(0.02, 0.4, 300)).astype(int)
    target = x[:, :20] @ rng.normal(size=20) + 2 * (x[:, 20:30] & x[:, 30:40]) @ rng.normal(size=10)
    return _frame(x, target + rng.normal(size=1500))


# Text


def topics() -> pd.DataFrame:
    """Return texts of six topics; a topic speaks in a word of ten, the others are anybody's, out of 20,000."""
    rng = np.random.default_rng(12)
    target, share = np.repeat(np.arange(6), 200), _zipf(20000)
    own = [rng.choice(20000, (200, 8), p=rng.permutation(share)) for _ in range(6)]
    words = np.hstack([rng.choice(20000, (1200, 72), p=share), np.vstack(own)])
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    return pd.DataFrame({"text": texts, "target": target})
