"""Files: what is written can be read by whoever knows the format, and writing needs little."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from batchnorm import InputError, files
from batchnorm.errors import BatchnormError
from batchnorm.files import (
    check_new_folder,
    check_writable,
    make_folder,
    remove_leftovers,
    to_json,
    to_safetensors,
    write_atomically,
)


def test_tensors_of_any_layout_are_written_in_full(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tied = nn.Parameter(torch.ones(2))
    tensors = {"turned": whole.t(), "part": whole[1:, ::2], "tied": tied, "again": tied}
    tensors |= {"number": torch.tensor(7), "none": torch.empty(0, 3), "half": whole.bfloat16()}
    (tmp_path / "file").write_bytes(to_safetensors(tensors, {"what": "a test"}))
    loaded = safetensors.torch.load_file(tmp_path / "file")
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor.detach())
    with safetensors.safe_open(tmp_path / "file", framework="pt") as file:
        assert file.metadata() == {"what": "a test"}


@pytest.mark.parametrize("metadata", [None, {"state": "{}"}])
def test_equal_tensors_are_equal_files(metadata):
    tensors = {"b": torch.ones(3), "a": torch.zeros(2)}
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    assert to_safetensors(tensors, metadata) == to_safetensors(copies, metadata)


def test_the_ground_needs_nothing_but_the_standard_library():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"  # what the interpreter itself loads at its start
        "import batchnorm.files\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - {'batchnorm', *sys.stdlib_module_names}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_path_of_any_bytes_is_json():
    assert json.loads(to_json({"data": "a\udcffé"})) == {"data": "a\udcffé"}


def fifo(path):
    os.mkfifo(path)


def socket_file(path):
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (fifo, "a pipe"),
        (socket_file, "a socket"),
        (Path.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/null"), "a device"),
        (lambda path: path.symlink_to(path.parent), "a folder"),
    ],
)
def test_what_is_no_regular_file_is_not_replaced(make, kind, tmp_path):
    path = tmp_path / "out"
    make(path)
    before = path.lstat()
    for write in (check_writable, lambda path: write_atomically(path, b"new")):
        with pytest.raises(InputError, match=f"out is {kind}, expected the name of a file to write"):
            write(path)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a folder"),
        (".", "is a folder"),
        ("/", "is a folder"),
        ("/dev/null", "/dev/null is a device"),
        ("missing/file", "there is no folder .*missing to write file into: make it first"),
        ("a\0b", "cannot be written: .*null"),
        ("n" * 300, "cannot be written: File name too long"),
        ("missing/..", r"missing/\.\. is a folder"),
        ("loop", "cannot be written: Too many levels of symbolic links"),
        ("file/below", "cannot be written: Not a directory"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused_before_the_work(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        check_writable(Path(name))


def test_a_folder_that_may_not_be_written_into_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BatchnormError, match="nothing may be written into"):
        check_writable(tmp_path / "file")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(there, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    if there:
        target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_the_longest_name_is_written(tmp_path):
    for name in ("n" * 255, "😀" * 63):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"


def test_modes_are_those_of_plain_writing(tmp_path):
    umask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    (tmp_path / "file").chmod(0o604)
    write_atomically(tmp_path / "file", b"newer")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o604


def test_a_link_planted_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "victim").write_bytes(b"precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 2 * n)
    for name in (".file.tmp", f".file.{'0' * 16}.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_have_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    dead, living, others = (
        tmp_path / f".{name}.{c * 16}.tmp" for name, c in (("file", "a"), ("file", "b"), ("no", "c"))
    )
    for path in (dead, living, others):
        path.write_bytes(b"part")
    with living.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_atomically(tmp_path / "file", b"new")
        assert {path.name for path in tmp_path.iterdir()} == {"file", living.name, others.name}
        remove_leftovers(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"file", living.name}


def test_what_killed_makers_of_folders_have_left_is_removed(tmp_path):
    dead, living = tmp_path / ".new-run-dead", tmp_path / ".new-run-living"
    for folder in (dead, living):
        (folder / "run").mkdir(parents=True)
        (folder / "run" / "config.json").touch()
    descriptor = os.open(living, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        make_folder(tmp_path / "run", {"file": b"new"})
    finally:
        os.close(descriptor)
    assert {path.name for path in tmp_path.iterdir()} == {"run", living.name}


def test_many_writers_of_one_file_each_succeed_and_readers_see_whole_contents(tmp_path):
    path, contents, failures = tmp_path / "file", [bytes([65 + i]) * 50_000 for i in range(4)], []
    write_atomically(path, contents[0])

    def write(content):
        try:
            for _ in range(20):
                write_atomically(path, content)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in contents
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == [path]


def test_without_locks_files_are_written_and_leftovers_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    left = tmp_path / f".file.{'a' * 16}.tmp"
    left.touch()
    write_atomically(tmp_path / "file", b"new")
    make_folder(tmp_path / "run", {"file": b"new"})
    assert {path.name for path in tmp_path.iterdir()} == {"file", "run", left.name}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a" * 300, "File name too long"),
        (f"new/{'a' * 300}/x", "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("loop/x", "Too many levels of symbolic links"),
        ("file/x/y", "/file is no folder"),
    ],
)
def test_what_cannot_be_a_folder_is_told_before_any_work(name, why, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{name}' cannot be the name of a folder: .*{why}$"):
        check_new_folder(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"loop", "file"}


@pytest.mark.parametrize("name", [".", ""])
def test_the_current_folder_is_not_made(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the folder that you are in: name one to make"):
        make_folder(Path(name), {"file": b"new"})


def test_a_folder_that_another_process_makes_meanwhile_is_not_touched(tmp_path, monkeypatch):
    write = files.write_atomically

    def write_meanwhile(path, content):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "theirs").touch()
        write(path, content)

    monkeypatch.setattr(files, "write_atomically", write_meanwhile)
    with pytest.raises(InputError, match="run exists already"):
        make_folder(tmp_path / "run", {"file": b"new"})
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "theirs"]


def test_a_folder_is_made_where_a_link_leads(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    make_folder(tmp_path / "link", {"file": b"new"})
    assert (tmp_path / "target" / "file").read_bytes() == b"new"
    with pytest.raises(InputError, match=r"cannot be the name of a folder: .*null"):
        make_folder(tmp_path / "a\0b", {})


def test_a_folder_whose_name_could_not_be_read_is_not_made(tmp_path):
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        make_folder(tmp_path / "a\udcff", {})
