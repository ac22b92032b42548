"""The kernels by themselves: functions and draws are what they say, on every processor, with and without a cache."""

import hashlib
import math
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from batchnorm.kernels import cpu as kernels
from batchnorm.kernels import elementary
from batchnorm.kernels.draws import add_noise_, drawn_mask_like
from processes import run_afresh

TORCH = {
    "relu": F.relu, "elu": F.elu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "selu": F.selu, "leaky_relu": F.leaky_relu, "identity": lambda x: x,
}  # fmt: skip


def activate(name, x):
    """Return f(x) and f'(x) of the kernels, for a row."""
    z, a, slope = x[None].copy(), np.empty((1, len(x)), x.dtype), np.empty((1, len(x)), x.dtype)
    kernels.shift_activate(z, np.zeros(len(x), x.dtype), kernels.ACTIVATIONS.index(name), a, slope)
    return a[0], slope[0]


def jitted(function):
    """Return a function of arrays that applies an elementary function to each number."""
    return numba.njit(lambda x: [function(v) for v in x])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 4e-7), (np.float64, 2e-15)])
@pytest.mark.parametrize("name", kernels.ACTIVATIONS)
def test_activations_and_their_slopes_are_torchs(name, dtype, tolerance):
    x = np.concatenate([np.linspace(-12, 12, 4001), np.geomspace(1e-30, 100, 200), -np.geomspace(1e-30, 100, 200)])
    x = x.astype(dtype)
    a, slope = activate(name, x)
    exact = torch.from_numpy(x).double().requires_grad_()
    expected = TORCH[name](exact)
    expected.sum().backward()
    np.testing.assert_allclose(a, expected.detach(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slope, exact.grad, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("name", kernels.ACTIVATIONS)
def test_activations_let_what_is_not_a_number_be_seen(name):
    a, _ = activate(name, np.array([np.nan, 1, 2], np.float32))
    assert np.isnan(a[0])
    assert np.isfinite(a[1:]).all()


def test_elementary_functions_are_accurate_where_they_are_small_too():
    for function, exact, x in (
        (elementary.exp, np.exp, np.linspace(-87, 88, 20_001)),
        (elementary.expm1, np.expm1, np.concatenate([-np.geomspace(1e-30, 80, 2000), np.geomspace(1e-30, 80, 2000)])),
        (elementary.erf, np.vectorize(math.erf), np.linspace(-6, 6, 20_001)),
        (elementary.log, np.log, np.geomspace(1e-30, 1e30, 20_001)),
    ):
        x = x.astype(np.float32)
        np.testing.assert_allclose(jitted(function)(x), exact(x.astype(np.float64)), rtol=4e-7, atol=1e-45)
    half_turn = np.linspace(-np.pi / 2, np.pi / 2, 5001).astype(np.float32)
    cos, sin = np.array(jitted(elementary.cos_and_sin)(half_turn)).T
    np.testing.assert_allclose(cos, np.cos(half_turn.astype(np.float64)), atol=2e-7)
    np.testing.assert_allclose(sin, np.sin(half_turn.astype(np.float64)), atol=2e-7)


@pytest.mark.parametrize(
    ("place", "key", "words"),
    [
        (0, 0, (0xFF1DAE59, 0x6CD10DF2)),
        (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, (0x2C3F628B, 0xAB4FD7AD)),
        (0x243F6A88, 0x85A308D313198A2E, (0xDD7CE038, 0xF62A4C12)),
    ],
)
def test_philox_gives_its_authors_known_answers(place, key, words):
    call = numba.njit(lambda place, key: elementary.philox(place, key))
    assert call(place, np.uint64(key).view(np.int64)) == words


@pytest.mark.parametrize("size", [1, 2, 100_001])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_normal(size, dtype):
    noise = np.full(size, 3, dtype)
    kernels.add_noise(np.array([12345]), np.array([2.0]), noise)
    noise = (noise - 3) / 2
    if size < 10:
        assert np.all((noise != 0) & (np.abs(noise) < 6))
        return
    assert stats.kstest(noise, "norm").pvalue > 0.01
    half = size // 2
    assert abs(np.corrcoef(noise[:half], noise[half : 2 * half])[0, 1]) < 0.02  # both of a pair
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02
    assert 3.5 < np.abs(noise).max() < 6


@pytest.mark.parametrize("rate", [0.001, 0.3, 0.5, 0.999])
def test_masks_drop_their_share(rate):
    size = 200_001
    mask = np.full(size, -1, np.float32)
    kernels.draw_mask(np.array([99]), rate, mask)
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / (1 - rate))}
    sd = np.sqrt(rate * (1 - rate) / size)
    assert abs((mask == 0).mean() - rate) < 4 * sd
    other = np.empty_like(mask)
    kernels.draw_mask(np.array([100]), rate, other)
    assert not np.array_equal(mask, other)
    kernels.draw_mask(np.array([99]), rate, other)
    assert np.array_equal(mask, other)


def test_what_kernels_do_not_draw_torch_draws():
    """Other dtypes here, other devices elsewhere."""
    torch.manual_seed(0)
    mask = drawn_mask_like(torch.zeros(400, 50, dtype=torch.bfloat16), 0.25)
    assert abs((mask == 0).double().mean() - 0.25) < 0.01
    assert mask.unique().tolist() == [0, pytest.approx(4 / 3, rel=1e-2)]
    inputs = torch.ones(400, 50, dtype=torch.float16)
    add_noise_(inputs, 0.5)
    assert inputs.double().mean() == pytest.approx(1, abs=0.02)
    assert inputs.double().std() == pytest.approx(0.5, rel=0.02)


def test_a_large_mean_does_not_drown_the_variance():
    """E[x²] − E[x]² would have no digit left."""
    x = np.random.default_rng(0).normal(1e4, 1, (5000, 3)).astype(np.float32)
    z, one, zero = x.copy(), np.ones(3, np.float32), np.zeros(3, np.float32)
    mean, var, rstd = (np.zeros(3, np.float32) for _ in range(3))
    a, slope = np.empty_like(z), np.empty_like(z)
    kernels.normalize_activate(
        z, np.ones(5000, np.float32), one, zero, mean, var, np.zeros(1, np.int64), 1.0, 1.0, True, 1e-3, 8,
        np.empty((2, 3)), rstd, a, slope,
    )  # fmt: skip
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, x.astype(np.float64).var(0, ddof=1), rtol=1e-5)


STEP = """
import os
import numpy as np
import numba
os.environ.update(ENVIRONMENT)
numba.config.reload_config()
from batchnorm.kernels import cpu as kernels
z = np.linspace(-3, 3, 60, dtype=np.float32).reshape(20, 3)
one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
a, slope, scratch = np.empty_like(z), np.empty_like(z), np.empty((2, 3))
kernels.normalize_activate(z, np.ones(20, np.float32), one, zero, zero.copy(), one.copy(), np.zeros(1, np.int64), 1.0,
                           0.1, True, 1e-3, 2, scratch, zero.copy(), a, slope)
stats = kernels.normalize_activate.stats
print(a.sum(dtype=float), slope.sum(dtype=float), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def run_step(folder, **environment):
    """Run a kernel in a new process; return what it computed, and the cache's hits and misses."""
    printed, said = run_afresh(f"ENVIRONMENT = {environment}\n{STEP}", folder)
    assert said == ""
    a, slope, hits, misses = printed.split()
    return (float(a), float(slope)), (int(hits), int(misses))


def test_the_second_process_compiles_nothing_and_a_cpu_without_avx_computes_the_same(tmp_path):
    cached = {"folder": tmp_path, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, counts = run_step(**cached)
    assert counts == (0, 1)
    again, counts = run_step(**cached)
    assert (again, counts) == (first, (1, 0))
    plain, counts = run_step(**cached, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
    assert counts == (0, 1)  # another processor's code is not taken
    assert plain == pytest.approx(first, rel=1e-6)


def test_a_full_disk_does_not_stop_a_kernel_from_being_compiled(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    @kernels.kernel
    def add_one(x):
        x[0] += 1

    monkeypatch.setattr(add_one._cache._impl.locator, "ensure_cache_path", full)
    x = np.zeros(1)
    add_one(x)
    assert x[0] == 1


def test_the_cache_notices_a_change_of_what_kernels_are_made_of():
    """numba looks at cpu.py alone: so the text of elementary.py must show in it."""
    text = Path(elementary.__file__).read_bytes()
    assert hashlib.sha256(text).hexdigest().startswith(kernels.ELEMENTARY), "put the new digits into cpu.py"
    assert len(kernels.ELEMENTARY) == 16


def test_without_a_folder_for_the_cache_kernels_are_compiled_all_the_same(monkeypatch):
    njit = numba.njit

    def njit_that_cannot_cache(*args, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available for file")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", njit_that_cannot_cache)

    @kernels.kernel
    def add_one(x):
        x[0] += 1

    x = np.zeros(1)
    add_one(x)
    assert x[0] == 1
