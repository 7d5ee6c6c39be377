"""Model files: what is read, what is refused, and in which words."""

import argparse
import contextlib
import io
import json
import logging
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from spec_opt.errors import CheckpointError
from spec_opt.models.checkpoint import Origin, Provenance, load_timer_xl, save_model
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.timer_xl import TimerXL, TimerXLConfig

PROVENANCE = Provenance(
    Origin("target", context=96, data="d" * 32, teacher=None, settings={"epochs": 3}),
    spec_opt_version="0.0.0",
    best_epoch=2,
    validation_losses=(0.5, 0.4, 0.45),
)
BIAS_TABLE = "blocks.attn_layers.0.attention.inner_attention.attn_bias.emb.weight"

State = dict[str, Tensor]


@pytest.fixture
def state(reference_dir: Path) -> State:
    """A foreign target's state dict."""
    loaded: State = torch.load(reference_dir / "tiny_target.pth", weights_only=True)
    return loaded


@pytest.fixture
def draft_state(reference_dir: Path) -> State:
    loaded: State = torch.load(reference_dir / "tiny_draft.pth", weights_only=True)
    return loaded


def written(state: object, folder: Path, name: str = "model.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_timer_xl(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_sizes_follow_from_shapes(reference_dir: Path) -> None:
    target = load_timer_xl(reference_dir / "tiny_target.pth")
    assert target.config == TimerXLConfig(24, 32, 4, 64, 2)
    draft = load_timer_xl(reference_dir / "tiny_draft.pth", activation="gelu")
    assert draft.config == TimerXLConfig(24, 16, 2, 64, 1, activation="gelu", stochastic=True)
    assert not target.network.training
    assert {p.dtype for p in target.network.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in target.network.parameters())


def test_both_kinds_of_file_give_the_same_model(reference_dir: Path) -> None:
    for role in ("target", "draft"):
        torch_file = load_timer_xl(reference_dir / f"tiny_{role}.pth")
        other = load_timer_xl(str(reference_dir / f"tiny_{role}.safetensors"))
        assert torch_file.fingerprint == other.fingerprint
    gelu = load_timer_xl(reference_dir / "tiny_draft.pth", activation="gelu")
    assert gelu.fingerprint != torch_file.fingerprint


def test_the_name_of_the_file_does_not_matter(reference_dir: Path, tmp_path: Path) -> None:
    for source, name in (("tiny_draft.pth", "a.safetensors"), ("tiny_draft.safetensors", "b")):
        (tmp_path / name).write_bytes((reference_dir / source).read_bytes())
        assert load_timer_xl(tmp_path / name).config.stochastic


def test_old_torch_files(state: State, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert load_timer_xl(path).config.layers == 2


def test_deterministic_draft(draft_state: State, tmp_path: Path) -> None:
    draft_state = {
        name.replace("head_mean", "head"): tensor
        for name, tensor in draft_state.items()
        if "logvar" not in name
    }
    model = load_timer_xl(written(draft_state, tmp_path))
    assert not model.config.stochastic
    assert model.predict(torch.randn(1, 48, 2)).variance is None


def below(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS: dict[str, Callable[[State], object]] = {
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best": None},
    "parallel": lambda state: below("module.", state),
    "both": lambda state: {"model": below("module.", state)},
    "compiled": lambda state: below("_orig_mod.", state),
    "parallel, then compiled": lambda state: below("_orig_mod.module.", state),
    "compiled, then parallel": lambda state: below("module._orig_mod.", state),
    "parallel twice": lambda state: below("module.module.", state),
    "averaged": lambda state: below("module.", state) | {"n_averaged": torch.tensor(5)},
    "Lightning": lambda state: {"epoch": 1, "state_dict": below("model.", state)},
    "Lightning with a metric": lambda state: {
        "state_dict": below("net.model.", state) | {"loss.weight": torch.ones(7)}
    },
    "deep": lambda state: {"state": {"best": {"model": state}}, "args": {"lr": 0.1}},
    "with an optimiser": lambda state: {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        "best": {"loss": torch.tensor(0.4)},
    },
    "among other values": lambda state: state | {"epoch": 3, "config": {"d_model": 32}},
    "blocks compiled": lambda state: {
        name.replace("blocks.", "blocks._orig_mod."): tensor for name, tensor in state.items()
    },
    "sharded layers": lambda state: {
        name.replace("_layers.1.", "_layers.1._fsdp_wrapped_module."): tensor
        for name, tensor in state.items()
    },
}


def test_any_length_of_header(state: State, tmp_path: Path) -> None:
    """The first bytes of a safetensors file may look like those of a torch file."""
    starts = set()
    for length in range(0, 260, 8):
        metadata = {"format": "pt", "note": "x" * length}
        safetensors.torch.save_file(state, tmp_path / "model", metadata)
        starts.add((tmp_path / "model").read_bytes()[:1])
        assert load_timer_xl(tmp_path / "model").config.layers == 2
    assert b"\x80" in starts


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_state_dicts(wrapper: str, state: State, tmp_path: Path) -> None:
    path = written(WRAPPERS[wrapper](state), tmp_path)
    assert load_timer_xl(path).fingerprint == load_timer_xl(written(state, tmp_path)).fingerprint


def test_two_state_dicts_are_ambiguous(state: State, tmp_path: Path) -> None:
    message = refusal(written({"model": state, "average": dict(state)}, tmp_path))
    assert "holds a dict with 2 state dicts, not one: save the one to use alone" in message
    message = refusal(written(below("student.", state) | below("teacher.", state), tmp_path))
    assert message.startswith("it holds 2 models, below 'student.' and 'teacher.'")


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
@pytest.mark.parametrize("role", ["target", "draft"])
def test_state_dicts_by_our_names(
    role: str, prefix: str, reference_dir: Path, tmp_path: Path
) -> None:
    model = load_timer_xl(reference_dir / f"tiny_{role}.pth")
    path = written({"state_dict": below(prefix, model.network.state_dict())}, tmp_path)
    assert load_timer_xl(path).fingerprint == model.fingerprint


def test_a_dict_that_contains_itself(state: State, tmp_path: Path) -> None:
    loop: dict[str, object] = {"model": state}
    loop["self"] = loop
    assert load_timer_xl(written(loop, tmp_path)).config.layers == 2


def test_half_precision_is_widened(state: State, tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in state.items()}
    model = load_timer_xl(written(half, tmp_path))
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}


def test_unused_adapter_is_left_out_with_a_note(
    draft_state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = load_timer_xl(written(draft_state, tmp_path)).fingerprint
    draft_state["adapter_to_target.weight"] = torch.zeros(32, 16)
    draft_state["adapter_to_target.bias"] = torch.zeros(32)
    with caplog.at_level(logging.INFO):
        assert load_timer_xl(written(draft_state, tmp_path)).fingerprint == plain
    assert "adapter_to_target.bias, adapter_to_target.weight" in caplog.text


def test_tied_memory_is_not_shared(state: State, tmp_path: Path) -> None:
    state["blocks.norm.weight"] = state["blocks.attn_layers.0.norm1.weight"]
    model = load_timer_xl(written(state, tmp_path))
    with torch.no_grad():
        model.network.norm.weight.zero_()
    assert model.network.layers[0].get_parameter("attention_norm.weight").abs().sum() > 0


def test_every_tensor_is_needed(state: State, draft_state: State, tmp_path: Path) -> None:
    for full in (state, draft_state):
        for name in full:
            rest = {other: tensor for other, tensor in full.items() if other != name}
            message = refusal(written(rest, tmp_path))
            # Without head_logvar.weight a draft counts as deterministic: then it lacks `head`.
            known = "head.weight" if name == "head_logvar.weight" else name
            assert message.startswith(f"tensor {known} is missing, expected ["), (name, message)


def test_every_shape_is_checked(state: State, tmp_path: Path) -> None:
    for name, tensor in state.items():
        for wrong in (torch.cat([tensor, tensor]), tensor.unsqueeze(-1), tensor[:0]):
            message = refusal(written(state | {name: wrong}, tmp_path))
            # Sizes come from some of the tensors: where these lie, others contradict them.
            assert message.startswith(("tensor ", "d_model = ", "patch = ", "feedforward = "))
            assert "expected" in message or "must be" in message


def test_misshapen_tensor_is_named_with_both_shapes(state: State, tmp_path: Path) -> None:
    state["head.weight"] = state["head.weight"][:23]
    message = refusal(written(state, tmp_path))
    assert message == "tensor head.weight has shape [23, 32], expected [24, 32]"
    state["head.weight"] = torch.zeros(24, 32)
    state["blocks.attn_layers.1.conv1.weight"] = torch.zeros(64, 32, 3)
    message = refusal(written(state, tmp_path))
    assert (
        "blocks.attn_layers.1.conv1.weight has shape [64, 32, 3], expected [64, 32, 1]" in message
    )
    state[BIAS_TABLE] = torch.zeros(2, 5)
    assert "d_model = 32: must be a multiple of 4 * heads = 20" in refusal(written(state, tmp_path))
    state[BIAS_TABLE] = torch.zeros(8)
    assert f"{BIAS_TABLE} has shape [8], expected [2, H]" in refusal(written(state, tmp_path))


def test_surplus_tensors_are_named(state: State, tmp_path: Path) -> None:
    state["blocks.attn_layers.0.gate"] = torch.zeros(3, 4)
    message = refusal(written(state, tmp_path))
    assert message == "tensor blocks.attn_layers.0.gate [3, 4] is surplus"
    state["also\nother"] = torch.zeros(1)
    assert refusal(written(state, tmp_path)).endswith("is surplus (and 1 more)")


def test_layers_must_be_numbered_without_gaps(state: State, tmp_path: Path) -> None:
    gap = {name.replace("layers.1.", "layers.2."): tensor for name, tensor in state.items()}
    assert "tensor blocks.attn_layers.1." in refusal(written(gap, tmp_path))
    far = state | {"blocks.attn_layers.99999999999.norm1.weight": torch.zeros(32)}
    assert "is surplus" in refusal(written(far, tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(state: State, tmp_path: Path, value: float) -> None:
    state["blocks.norm.bias"][3] = value
    message = refusal(written(state, tmp_path))
    assert message == "tensor blocks.norm.bias holds a value that is not finite"


def test_weights_must_be_floating_point(state: State, tmp_path: Path) -> None:
    state["head.bias"] = torch.zeros(24, dtype=torch.int64)
    message = refusal(written(state, tmp_path))
    assert message == "tensor head.bias is of type torch.int64, expected float32"
    state["head.bias"] = torch.zeros(24).to(torch.float8_e4m3fn)
    assert load_timer_xl(written(state, tmp_path)).config.layers == 2
    state["head.bias"] = torch.zeros(24).to_sparse()
    assert "tensor head.bias is of type" in refusal(written(state, tmp_path))


class Attack:
    """An object whose unpickling would run a command."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.proof}",)


def test_nothing_in_a_file_is_executed(state: State, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    attack = Attack(proof)
    files = [
        written(attack, tmp_path, "attack.pth"),
        written(state | {"x": attack}, tmp_path, "hidden.pth"),
        tmp_path / "bare.pkl",
    ]
    files[2].write_bytes(pickle.dumps(attack))
    for path in files[:2]:
        assert refusal(path).startswith(f"it holds a pickled {os.system.__module__}.system, and")
    assert "damaged, or it holds more than tensors" in refusal(files[2])
    assert not proof.exists()


class Whole(torch.nn.Module):
    """A model that is pickled whole."""


OTHER_CONTENT = {
    "numpy.*scalar": {"loss": np.float64(0.4)},
    "argparse.Namespace": {"args": argparse.Namespace(lr=0.1)},
    f"{__name__}.Whole": Whole(),
    "pathlib": {"path": Path("runs")},
}


@pytest.mark.parametrize("name", OTHER_CONTENT)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_pickle_holds_beside_tensors(
    name: str, zipped: bool, state: State, tmp_path: Path
) -> None:
    content = {"model": state, "other": OTHER_CONTENT[name]}
    torch.save(content, tmp_path / "model", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "model")
    assert re.match(f"it holds a pickled {name}", message)
    assert message.endswith("weights_only=False) and save only the model's state_dict()")


def test_files_that_are_no_checkpoints(reference_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    assert "cannot be read: No such file" in refusal(path)
    assert "the folder holds 0 files of weights, not one" in refusal(tmp_path)
    for content, expected in (
        (b"", "the file is empty"),
        (b"hello, world: this is no model at all", "neither a torch nor a safetensors file"),
        (b"{", "neither a torch nor a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "`git lfs pull`"),
        (b"<!DOCTYPE html>\n<html>", "a web page, not the weights"),
        (b"\n<HTML><head>", "a web page, not the weights"),
        (b"\x1f\x8b\x08rest", "a compressed file: unpack it"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"12345678{", "not a readable safetensors file"),
        (b"PK", "not a readable torch file"),
        (b"\x80\x04garbage", "not a readable torch file"),
        (pickle.dumps({"a": 1}), "not a readable torch file"),
    ):
        path.write_bytes(content)
        assert expected in refusal(path), content
    for source in ("tiny_draft.pth", "tiny_draft.safetensors"):
        whole = (reference_dir / source).read_bytes()
        for length in (1, 10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            assert refusal(path).startswith(("not a readable", "neither a torch"))


def test_torch_files_of_other_things(tmp_path: Path) -> None:
    for thing in (
        3,
        "text",
        [torch.zeros(2)],
        {},
        {"epoch": 3},
        torch.zeros(3),
        {1: torch.ones(1)},
    ):
        assert "with 0 state dicts, not one" in refusal(written(thing, tmp_path))
    message = refusal(written(torch.nn.Linear(2, 3).state_dict(), tmp_path))
    assert (
        message == "not a Timer-XL or Timer or TimesFM 2.5 checkpoint: it holds bias (and 1 more)"
    )
    script = tmp_path / "model.pth"
    script.write_bytes(b"PK\x03\x04" + bytes(100))
    assert "not a readable torch file" in refusal(script)


@pytest.mark.parametrize("kind", ["pth", "safetensors", "own"])
def test_damaged_files_are_refused_in_one_line(
    kind: str, reference_dir: Path, tmp_path: Path
) -> None:
    """Whatever is flipped, cut or repeated, there is a model or a CheckpointError."""
    path = tmp_path / "model"
    if kind == "own":
        save_model(load_timer_xl(reference_dir / "tiny_draft.pth"), path, PROVENANCE)
        whole = path.read_bytes()
    else:
        whole = (reference_dir / f"tiny_draft.{kind}").read_bytes()
    chance = random.Random(0)
    # Structure stands at both ends of these files, weights between them.
    places = [*range(3000), *range(len(whole) - 3000, len(whole))]
    for _ in range(150):
        content = bytearray(whole)
        for place in chance.sample(places, chance.choice([1, 2, 20])):
            content[place] = chance.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            load_timer_xl(path)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    config = TimerXLConfig(8, 16, 2, 64, 2, dropout=0.2, activation="gelu", stochastic=True)
    torch.manual_seed(0)
    path = tmp_path / "own" / "model.safetensors"
    save_model(FrozenTimerXL(TimerXL(config)), path, PROVENANCE)
    return path


def rewritten(path: Path, **changes: str) -> Path:
    """The same file with other metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | changes
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)
    return path


def test_our_own_files(own: Path) -> None:
    torch.manual_seed(0)
    config = TimerXLConfig(8, 16, 2, 64, 2, dropout=0.2, activation="gelu", stochastic=True)
    original, loaded = FrozenTimerXL(TimerXL(config)), load_timer_xl(own)
    assert loaded.config == config
    assert loaded.fingerprint == original.fingerprint
    assert not loaded.network.training
    context = torch.randn(2, 16, 3)
    assert torch.equal(loaded.predict(context).mean, original.predict(context).mean)
    with safe_open(own, framework="pt") as file:
        kept = json.loads(file.metadata()["provenance"])
    assert kept["origin"]["settings"] == {"epochs": 3}
    assert kept["best_epoch"] == 2
    assert kept["validation_losses"] == [0.5, 0.4, 0.45]
    assert os.listdir(own.parent) == [own.name]
    with pytest.raises(CheckpointError, match="activation = 'relu': its file says 'gelu': leave"):
        load_timer_xl(own, activation="relu")


def test_import_and_save(reference_dir: Path, tmp_path: Path) -> None:
    imported = load_timer_xl(reference_dir / "tiny_target.pth", activation="gelu")
    save_model(imported, tmp_path / "own", PROVENANCE)
    again = load_timer_xl(tmp_path / "own")
    assert again.fingerprint == imported.fingerprint
    assert again.config == imported.config


def test_altered_weights_are_noticed(own: Path) -> None:
    content = bytearray(own.read_bytes())
    content[-1] ^= 1
    own.write_bytes(content)
    assert refusal(own) == "the weights do not match their content hash: the file was altered"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec_opt_format": "99"}, "spec_opt_format = '99': this version reads '1'"),
        ({"config": "{"}, "its metadata is damaged"),
        ({"config": '{"patch": "eight"}'}, "its metadata is damaged"),
        ({"fingerprint": ""}, "do not match their content hash"),
    ],
)
def test_altered_metadata(own: Path, changes: dict[str, str], message: str) -> None:
    assert message in refusal(rewritten(own, **changes))


@pytest.mark.parametrize(
    ("size", "value", "message"),
    [
        ("d_model", 32, "tensor embedding.weight has shape [16, 8], expected [32, 8]"),
        ("d_model", 16.5, "its metadata is damaged"),
        ("heads", 3, "d_model = 16: must be a multiple of 4 * heads = 12"),
        ("layers", 10**9, "42 tensors cannot make 1000000000 layers"),
        ("layers", 3, "tensor layers.2.attention_bias is missing, expected [2, 2]"),
        ("stochastic", False, "tensor log_variance_head.bias [8] is surplus (and 1 more)"),
        ("activation", "silu", "its metadata is damaged"),
    ],
)
def test_configuration_that_contradicts_the_tensors(
    own: Path, size: str, value: object, message: str
) -> None:
    with safe_open(own, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    assert message in refusal(rewritten(own, config=json.dumps(config | {size: value})))


def test_writing_is_all_or_nothing(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(FrozenTimerXL(TimerXL(TimerXLConfig(8, 16, 2, 64, 1))), own, PROVENANCE)
    assert own.read_bytes() == before
    assert os.listdir(own.parent) == [own.name]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = FrozenTimerXL(TimerXL(TimerXLConfig(8, 16, 2, 64, 1)))
    with pytest.raises(CheckpointError, match="cannot write the model"):
        save_model(model, tmp_path / "file" / "model", PROVENANCE)


def test_a_tensor_file_in_memory_order(state: State, tmp_path: Path) -> None:
    """Weights that are transposed views of others are read like any."""
    name = "blocks.attn_layers.0.conv1.weight"
    state[name] = state[name].squeeze(-1).T.contiguous().T.unsqueeze(-1)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (tmp_path / "model").write_bytes(buffer.getvalue())
    model = load_timer_xl(tmp_path / "model")
    assert torch.equal(
        model.network.layers[0].get_parameter("expand.weight"), state[name].squeeze(-1)
    )
    assert len(model.fingerprint) == 64
