"""Checkpoints as people bring them: other programs' files, wrappings, halves of downloads."""

import argparse
import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from tests.bad_input.case import PAIR, Case, Content, study
from tests.bad_input.series import TEXT
from tests.models.published import timer_state

State = dict[str, Tensor]


def target() -> State:
    state: State = torch.load(PAIR / "tiny_target.pth", weights_only=True)
    return state


def below(prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in target().items()}


def saved(make: Callable[[], object]) -> Content:
    return lambda path: torch.save(make(), path)


def case(id: str, content: Content, *words: str, exit_code: int, role: str = "target") -> Case:
    text = study().replace(str(PAIR / f"tiny_{role}.pth"), "model.pth")
    files: dict[str, Content] = {"study.toml": text, "plant.csv": TEXT, "model.pth": content}
    return Case(f"checkpoint: {id}", files, words, exit_code)


def good(id: str, make: Callable[[], object]) -> Case:
    return case(id, saved(make), "target: Timer-XL 32/4/64/2, 19 k parameters", exit_code=0)


def bad(id: str, content: Content, *words: str, role: str = "target") -> Case:
    return case(id, content, "model.pth: ", *words, exit_code=2, role=role)


def bad_object(id: str, make: Callable[[], object], *words: str) -> Case:
    return bad(id, saved(make), *words)


def changed(**tensors: Tensor) -> State:
    names = {name.replace(".", "_"): name for name in target()}
    return target() | {names[name]: tensor for name, tensor in tensors.items()}


def half(path: Path) -> None:
    path.write_bytes((PAIR / "tiny_target.pth").read_bytes()[:5000])


def safe(metadata: dict[str, str]) -> Content:
    return lambda path: path.write_bytes(safetensors.torch.save(target(), metadata))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.write(PAIR / "tiny_target.pth", "model.pth")


def script(path: Path) -> None:
    """A zip as TorchScript has it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/constants.pkl", pickle.dumps(()))
        file.writestr("model/data.pkl", pickle.dumps({}))
        file.writestr("model/version", "3\n")


def arrays(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, target()["head.weight"].numpy())
    path.write_bytes(buffer.getvalue())


class Module(torch.nn.Module):
    """A model that is pickled whole."""


def bomb(path: Path) -> None:
    """An archive that says of itself that it unpacks to a terabyte."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(100))
        archive.infolist()[0].file_size = 1 << 40


def shared_state() -> dict[str, Any]:
    state = target()
    return {"model": state, "ema": {name: tensor.clone() for name, tensor in state.items()}}


CASES = [
    good("compiled, then parallel", lambda: below("module._orig_mod.")),
    good("parallel, then compiled", lambda: below("_orig_mod.module.")),
    good("parallel twice", lambda: below("module.module.")),
    good("averaged", lambda: below("module.") | {"n_averaged": torch.tensor(5)}),
    good("Lightning", lambda: {"epoch": 1, "state_dict": below("model."), "loops": {}}),
    good("a deep prefix", lambda: {"state_dict": below("net.backbone.model.")}),
    good("two levels deep", lambda: {"state": {"model": target()}}),
    good("four levels deep", lambda: {"a": {"b": {"c": {"d": target()}}}}),
    good("with an optimiser", lambda: {"model": target(), "optim": {"state": {0: torch.ones(3)}}}),
    good("an ordered dict", lambda: collections.OrderedDict(below("model.module."))),
    good("parameters", lambda: {k: torch.nn.Parameter(v) for k, v in target().items()}),
    bad(
        "a Git LFS pointer",
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "git lfs",
    ),
    bad("a web page", "<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
    bad("a web page after a line", "\n<html lang=en>", "a web page"),
    bad("an XML error of a bucket", '<?xml version="1.0"?><Error>NoSuchKey</Error>', "a web page"),
    bad("gzip", b"\x1f\x8b\x08\x00rest", "a compressed file: unpack it"),
    bad("HDF5", b"\x89HDF\r\n\x1a\n", "HDF5"),
    bad("a CSV", TEXT, "neither a torch nor a safetensors file"),
    bad("empty", b"", "the file is empty"),
    bad("half a download", half, "damaged"),
    bad("a zip of a checkpoint", archive, "damaged, or it holds more than tensors"),
    bad("arrays of numpy", arrays, "damaged, or it holds more than tensors"),
    bad("TorchScript", script, "TorchScript"),
    bad("NUL bytes", bytes(4096), "neither a torch nor a safetensors file"),
    bad("a bomb", bomb, "unpack to 1,099,511,627,776"),
    bad_object(
        "a view of one number as a billion",
        lambda: changed(embedding_weight=torch.zeros(1).expand(30_000, 30_000)),
        "unpack to 3,600,",
    ),
    bad("a pipe", os.mkfifo, "a pipe or a device, not a file"),
    bad_object(
        "a numpy scalar", lambda: {"model": target(), "loss": np.float64(1)}, "numpy", "trust"
    ),
    bad_object("a numpy array", lambda: {"model": target(), "mean": np.ones(3)}, "numpy", "trust"),
    bad_object("a whole module", Module, "Module", "save only the model's state_dict()"),
    bad_object("arguments", lambda: {"m": target(), "a": argparse.Namespace(lr=1)}, "Namespace"),
    bad_object("a path", lambda: {"model": target(), "path": Path("x")}, "pathlib"),
    bad_object("a model and its average", shared_state, "2 state dicts", "save the one to use"),
    bad_object(
        "a pair", lambda: below("student.") | below("teacher."), "'student.' and 'teacher.'"
    ),
    bad_object("another model", lambda: torch.nn.Linear(2, 2).state_dict(), "not a Timer-XL"),
    bad_object("an optimiser alone", lambda: {"state": {}, "param_groups": []}, "0 state dicts"),
    bad_object("a list", lambda: [target()], "list", "0 state dicts"),
    bad_object("no tensor", lambda: {"epoch": 3}, "0 state dicts"),
    bad_object(
        "NaN", lambda: changed(head_bias=torch.full((24,), torch.nan)), "head.bias", "finite"
    ),
    bad_object("integers", lambda: changed(head_bias=torch.zeros(24, dtype=torch.int8)), "int8"),
    bad_object("another patch", lambda: changed(head_weight=torch.zeros(12, 32)), "[24, 32]"),
    bad_object(
        "a tensor lost",
        lambda: {k: v for k, v in target().items() if k != "head.bias"},
        "head.bias",
    ),
    bad_object("a Timer without config.json", timer_state, "needs its config.json in the same fo"),
    bad("an empty folder", lambda path: path.mkdir(), "holds 0 files of weights"),
    bad("another version of ours", safe({"spec_opt_format": "99"}), "spec_opt_format", "'1'"),
    bad("ours without sizes", safe({"spec_opt_format": "1"}), "metadata is damaged"),
    Case(
        "checkpoint: missing",
        {"study.toml": study().replace("tiny_draft", "tiny_darft"), "plant.csv": TEXT},
        ("tiny_darft.pth", "No such file"),
    ),
]
