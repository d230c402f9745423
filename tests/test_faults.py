"""Real faults: no finished work is lost, no incomplete file is read, no hostile code is run.

Where a fault needs a process of its own (a kill, a quota) it is forked; it does no more than read and write there.
"""

import inspect
import os
import pickle
import resource
import signal
import struct
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
import torch
from conftest import moment_of
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from edittools import edits
from edittools.classifiers import fingerprint
from edittools.edits import Change, Edit, _file_digest, applied_edits
from edittools.image_files import load_image, save_mask
from edittools.rewriting import rewrite


def in_child(work, prepare=lambda: None):
    """Run `work` in a forked process after `prepare`; give its result or error as text, and how the process ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            torch.set_num_threads(1)
            prepare()
            outcome = str(work())
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        os.write(writing, outcome.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        outcome = pipe.read()
    return outcome, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def quota(size):
    """Let no file grow beyond `size` bytes from here on: writing fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- writing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def edit(tiny, exemplar):
    return rewrite(tiny, "conv1", exemplar, moment_of(tiny, "conv1", torch.eye(8).double()))


def test_save_after_kill(edit, tmp_path):
    path = tmp_path / "edit.safetensors"
    edit.save(path)
    before = path.read_bytes()

    def half(tensors, temporary, header):
        save_file(tensors, temporary, header)
        os.truncate(temporary, os.path.getsize(temporary) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    _, code = in_child(lambda: (0.5 * edit).save(path), lambda: setattr(edits, "save_file", half))
    assert code == -signal.SIGKILL and len(files(tmp_path)) == 2  # with the half of a temporary file
    assert path.read_bytes() == before
    (0.5 * edit).save(path)
    assert Edit.load(path).digest == (0.5 * edit).digest


def test_save_on_full_disk(edit, tmp_path):
    edit.save(tmp_path / "edit.safetensors")
    save_mask(tmp_path / "mask.png", torch.ones(64, 64))
    before = files(tmp_path)
    noise = (torch.rand(99, 99) > 0.5).float()
    for write in (
        lambda: (0.5 * edit).save(tmp_path / "edit.safetensors"),
        lambda: save_mask(tmp_path / "mask.png", noise),
    ):
        outcome, code = in_child(write, lambda: quota(500))
        assert code == 0 and "File too large" in outcome
        assert files(tmp_path) == before


def test_written_files_have_the_permissions_of_the_user(edit, tiny, tmp_path):
    edit.save(tmp_path / "edit.safetensors")
    edit.export(tiny, tmp_path / "weights.safetensors")
    (tmp_path / "usual").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes == {(tmp_path / "usual").stat().st_mode}


@pytest.mark.parametrize("place", ["file/edit.safetensors", "folder"])
def test_save_where_no_file_can_be_written_names_the_path(edit, tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=f"{place}'"):
        edit.save(tmp_path / place)
    assert {path.name for path in tmp_path.rglob("*")} == {"file", "folder"}


def test_edit_of_infinite_weights_is_refused(edit, tmp_path):
    with pytest.raises(ValueError, match=r"1e\+39"):
        1e39 * edit
    name = next(iter(edit.changes))
    infinite = Edit({name: edit.changes[name] * 1e39}, edit.fingerprint)
    with pytest.raises(ValueError, match=name):
        infinite.save(tmp_path / "edit.safetensors")
    assert not list(tmp_path.iterdir())


# --- Ctrl-C ------------------------------------------------------------------------------------------------------


def is_interrupted(block, number):
    """Run a block, and raise `KeyboardInterrupt` at the given one of the moments at which Python looks for signals.

    These are the beginning of each Python function, and the end of each built-in one, that edittools or contextlib
    calls; a generator is resumed within its own `try`. The answer is False if the block has fewer such moments.
    """
    moments = 0

    def interrupt(frame, event, argument):
        nonlocal moments
        is_ours = Path(frame.f_code.co_filename).name in ("edits.py", "_ledger.py", "_inference.py", "contextlib.py")
        is_generator = frame.f_code.co_flags & inspect.CO_GENERATOR
        if is_ours and (event == "c_return" or (event == "call" and not is_generator)):
            moments += 1
            if moments == number:
                raise KeyboardInterrupt

    try:
        block(lambda: sys.setprofile(interrupt))
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return moments >= number


@pytest.mark.parametrize("is_second", [False, True], ids=["one", "another in the block"])
def test_applied_after_an_interrupt_at_any_moment(is_second):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    mark = fingerprint(model)
    changes = {name: Change(torch.ones_like(parameter)) for name, parameter in model.named_parameters()}
    edit = Edit(changes, mark)
    outer = Edit({"1.bias": Change(torch.ones(3))}, mark)

    def block(begin):
        with outer.applied(model):
            if not is_second:
                begin()
            with edit.applied(model):
                if is_second:
                    begin()
                    raise KeyboardInterrupt

    number = 1
    while is_interrupted(block, number):
        assert fingerprint(model) == mark and applied_edits(model) == (), number
        number += 1
    assert number > 100 and fingerprint(model) == mark


def test_apply_and_undo_after_an_interrupt_at_any_moment():
    """Whatever an interrupt leaves, the weights are whole, and the ledger knows which edits they show."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    changes = {name: Change(torch.ones_like(parameter)) for name, parameter in model.named_parameters()}
    edit = Edit(changes, fingerprint(model))

    def block(begin):
        begin()
        edit.apply_(model)
        edit.undo_(model)

    with edit.applied(model):
        marks = {(): edit.fingerprint, (edit,): fingerprint(model)}
    number = 1
    while is_interrupted(block, number):
        assert fingerprint(model) == marks[applied_edits(model)], number
        if applied_edits(model):
            edit.undo_(model)
        number += 1
    assert number > 100


# --- hostile files and names -------------------------------------------------------------------------------------


class Bomb:
    """What a hostile pickle does when it is read."""

    def __reduce__(self):
        return os.mkdir, (str(Path(tempfile.gettempdir()) / f"edittools_was_hit_{os.getpid()}"),)


HIT = Path(tempfile.gettempdir()) / f"edittools_was_hit_{os.getpid()}"


def test_load_of_pickle(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("EDITTOOLS_CACHE", str(tmp_path))
    (tmp_path / "edit.safetensors").write_bytes(pickle.dumps(Bomb()))
    torch.save({"state_dict": Bomb()}, tmp_path / "weights.tar")
    with pytest.raises(ValueError, match="edit.safetensors"):
        Edit.load(tmp_path / "edit.safetensors", tiny)
    from edittools.models.load import load_classifier

    with pytest.raises(ValueError, match=r"weights.tar"):
        load_classifier("resnet18_places365", weights=tmp_path / "weights.tar")
    assert not HIT.exists()


FALSE_HEADERS = {
    "longer than the file": lambda raw: struct.pack("<Q", 2**40) + raw[8:],
    "cut off": lambda raw: raw[:-20],
}


@pytest.mark.parametrize("damage", FALSE_HEADERS)
def test_load_with_false_header(edit, tmp_path, damage):
    edit.save(tmp_path / "edit.safetensors")
    raw = (tmp_path / "edit.safetensors").read_bytes()
    (tmp_path / "edit.safetensors").write_bytes(FALSE_HEADERS[damage](raw))
    with pytest.raises(ValueError, match="edit.safetensors"):
        Edit.load(tmp_path / "edit.safetensors")


DAMAGES = {
    "NaN": (lambda tensors, header: tensors["conv1.weight/left"].fill_(float("nan")), "NaN"),
    "ranks that differ": (
        lambda tensors, header: tensors.update({"conv1.weight/right": torch.ones(3, 8)}),
        r"\(3, 8\)",
    ),
    "another shape": (
        lambda tensors, header: tensors.update({"conv1.weight/right": torch.ones(1, 9)}),
        r"\(12, 9, 3, 3\).*\(12, 8, 3, 3\)",
    ),
    "whole numbers": (
        lambda tensors, header: tensors.update({"conv1.weight/left": torch.ones(12, 1, 3, 3).long()}),
        "int64",
    ),
    "no list of changes": (lambda tensors, header: header.update(changes="null"), "None"),
    "a parameter that is none": (lambda tensors, header: header.update(changes='["../etc/passwd"]'), "etc/passwd"),
    "another format": (lambda tensors, header: header.update(format="x"), "'x'"),
    "a record of another kind": (lambda tensors, header: header.update(record='{"a": 1}'), "'objective'"),
    "no fingerprint": (lambda tensors, header: header.pop("fingerprint"), "'fingerprint'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_of_damaged_edit(tiny, edit, tmp_path, damage):
    edit.save(tmp_path / "good.safetensors")
    with safe_open(tmp_path / "good.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        header = dict(file.metadata())
    apply_damage, pattern = DAMAGES[damage]
    apply_damage(tensors, header)
    header["digest"] = _file_digest(tensors, header)  # a file that was written like this, and not damaged later
    save_file(tensors, tmp_path / "bad.safetensors", header)
    mark = fingerprint(tiny)
    with pytest.raises(ValueError, match=pattern):
        Edit.load(tmp_path / "bad.safetensors", tiny)
    assert fingerprint(tiny) == mark


def _png_that_claims(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_load_image_of_decompression_bomb(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(_png_that_claims(side, side))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="bomb.png"):
        load_image(tmp_path / "bomb.png", size=32)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_apply_to_buffer(tiny):
    hostile = Edit({"norm.running_mean": Change(torch.ones(8))}, fingerprint(tiny.model))
    with pytest.raises(ValueError, match="'norm.running_mean'"):
        hostile.apply_(tiny)
