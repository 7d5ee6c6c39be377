"""Training: it learns, it stops, it repeats, and it is done once."""

import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spec_opt.config.models import TargetConfig
from spec_opt.config.study_file import StudyConfig
from spec_opt.data.windows import Dataset, load_dataset
from spec_opt.errors import CheckpointError, DataError, InputError, TrainingError
from spec_opt.models import training
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.frozen import FrozenTimerXL
from spec_opt.models.preparation import prepare_models
from spec_opt.models.training import Fit, distil_draft, train_target
from tests.forked import Forked
from tests.other_user import give_away, run_unprivileged

CONTEXT = 32


def study(**tables: dict[str, Any]) -> StudyConfig:
    """A small study; keys given replace those of the same name in their table."""
    document: dict[str, dict[str, Any]] = {
        "data": {
            "source": "synthetic",
            "context": CONTEXT,
            "horizon": 16,
            "synthetic": {"rows": 800, "channels": 2},
        },
        "target": {
            "patch": 8,
            "d_model": 16,
            "heads": 2,
            "feedforward": 32,
            "layers": 1,
            "training": {
                "epochs": 3,
                "batch_size": 32,
                "learning_rate": 3e-3,
                "max_windows": 128,
            },
        },
        "draft": {
            "scale": {"d_model": 0.5, "heads": 0.5, "feedforward": 0.5, "layers": 0.5},
            "training": {
                "epochs": 3,
                "batch_size": 32,
                "learning_rate": 3e-3,
                "max_windows": 128,
            },
        },
    }
    for name, table in tables.items():
        document[name] = document[name] | table
    return StudyConfig.model_validate({"name": "small", **document})


def with_training(config: StudyConfig, **changes: Any) -> StudyConfig:
    """The same study with other training settings for both models."""

    def changed(part: Any) -> Any:
        return part.model_copy(update={"training": part.training.model_copy(update=changes)})

    return config.model_copy(
        update={"target": changed(config.target), "draft": changed(config.draft)}
    )


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset(study().data)


@pytest.fixture(scope="module")
def target(dataset: Dataset) -> Fit:
    return train_target(study().target, dataset, CONTEXT)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def validation_error(model: FrozenTimerXL, dataset: Dataset) -> float:
    windows = dataset.windows("validation", CONTEXT, 8, max_windows=training.VALIDATION_WINDOWS)
    return float((model.predict(windows.contexts()).mean - windows.futures()).square().mean())


def test_target_learns(dataset: Dataset, target: Fit) -> None:
    windows = dataset.windows("validation", CONTEXT, 8)
    repeated = float((windows.contexts()[:, -8:] - windows.futures()).square().mean())
    assert validation_error(target.model, dataset) < 0.8 * repeated
    assert len(target.validation_losses) == 3
    assert not target.model.network.training
    assert target.model.config.layers == 1


def test_the_best_epoch_is_kept(dataset: Dataset, target: Fit) -> None:
    best = min(target.validation_losses)
    assert target.validation_losses[target.best_epoch - 1] == best
    assert validation_error(target.model, dataset) == pytest.approx(best, rel=1e-5)


def test_draft_learns_its_target_and_how_sure_it_is(dataset: Dataset, target: Fit) -> None:
    config = with_training(study(), epochs=8).draft
    fit = distil_draft(config, target.model, dataset, CONTEXT)
    assert fit.model.config.stochastic
    assert fit.validation_losses[-1] < fit.validation_losses[0] - 0.3
    windows = dataset.windows("validation", CONTEXT, 8)
    draft, teacher = fit.model.predict(windows.contexts()), target.model.predict(windows.contexts())
    assert draft.variance is not None
    error = (draft.mean - teacher.mean).square()
    level = (windows.contexts().mean(dim=1, keepdim=True) - teacher.mean).square()
    assert error.mean() < 0.5 * level.mean()
    # Where it says that it is less sure, it is farther off.
    unsure = draft.variance > draft.variance.median()
    assert error[unsure].mean() > 1.2 * error[~unsure].mean()


def test_seed(dataset: Dataset, target: Fit) -> None:
    state = torch.random.get_rng_state()
    again = train_target(study().target, dataset, CONTEXT)
    assert again.model.fingerprint == target.model.fingerprint
    assert again.validation_losses == target.validation_losses
    other = train_target(with_training(study(), seed=1).target, dataset, CONTEXT)
    assert other.model.fingerprint != target.model.fingerprint
    drafts = [distil_draft(study().draft, target.model, dataset, CONTEXT) for _ in range(2)]
    assert drafts[0].model.fingerprint == drafts[1].model.fingerprint
    assert target.model.fingerprint == again.model.fingerprint
    # Nobody else's random numbers have changed.
    assert torch.equal(torch.random.get_rng_state(), state)


def test_schedule_spans_the_epochs_asked_for(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def recorded(self: torch.optim.Adam) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", recorded)
    config = with_training(study(), epochs=2, learning_rate=0.01).target
    train_target(config, dataset, CONTEXT)
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)])
    rates.clear()
    train_target(
        with_training(study(), epochs=2, learning_rate=0.01, schedule="constant").target,
        dataset,
        CONTEXT,
    )
    assert rates == [0.01] * 8


def test_early_stopping(dataset: Dataset, target: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.5, 0.4, 0.4, 0.41, 0.3])
    monkeypatch.setattr(training, "_validate", lambda *_: next(losses))
    fit = train_target(with_training(study(), epochs=5, patience=2).target, dataset, CONTEXT)
    assert fit.validation_losses == (0.5, 0.4, 0.4, 0.41)
    assert fit.best_epoch == 2


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_loss_that_is_not_finite(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    config = study().target
    if where == "training":
        config = with_training(study(), learning_rate=1e30).target
    else:
        monkeypatch.setattr(training, "_validate", lambda *_: math.nan)
    with pytest.raises(TrainingError) as caught:
        train_target(config, dataset, CONTEXT)
    message = str(caught.value)
    assert message.startswith("target: the loss of epoch 1 is not finite with learning_rate = ")
    assert message.endswith("lower it in [target.training]")


def test_no_window_fits(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="context"):
        train_target(study().target, dataset, 1600)


def test_progress_is_logged_where_there_is_no_terminal(
    dataset: Dataset, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        train_target(study().target, dataset, CONTEXT)
    epochs = [r.message for r in caplog.records if "target: epoch" in r.message]
    assert len(epochs) == 3
    assert epochs[0].startswith("target: epoch 1/3: training loss ")
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train_target(study().target, dataset, CONTEXT)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Training the target, epoch 3/3" in captured.err
    assert "100%" in captured.err


def test_models_are_made_once(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study()
    made = prepare_models(config, dataset)
    assert len(list(cache.glob("*.safetensors"))) == 2
    fit: Callable[..., Fit] = training._fit

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "_fit", refuse)
    found = prepare_models(config, dataset)
    assert found.target.fingerprint == made.target.fingerprint
    assert found.draft.fingerprint == made.draft.fingerprint
    assert isinstance(found.draft, FrozenTimerXL)
    assert not found.draft.network.training
    # What plays no part in training changes nothing.
    prepare_models(study(data={"horizon": 8, "split": "test"}), dataset)
    for other in (
        study(target={"layers": 2}),
        with_training(config, epochs=1),
        study(data={"context": 24}),
        study(draft={"distillation": {"teacher_noise": 0.1}}),
    ):
        with pytest.raises(AssertionError, match="trained again"):
            prepare_models(other, dataset)
    longer = load_dataset(study(data={"synthetic": {"rows": 900, "channels": 2}}).data)
    with pytest.raises(AssertionError, match="trained again"):
        prepare_models(config, longer)
    # Another draft for the same target: only the draft is made.
    monkeypatch.setattr(training, "_fit", fit)
    prepare_models(study(draft={"distillation": {"teacher_noise": 0.1}}), dataset)
    assert len(list(cache.glob("*.safetensors"))) == 3


def test_a_damaged_file_is_made_again(
    dataset: Dataset, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = study()
    made = prepare_models(config, dataset)
    for path in cache.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-100])
    again = prepare_models(config, dataset)
    assert caplog.text.count("it is made again") == 2
    assert again.target.fingerprint == made.target.fingerprint
    assert again.draft.fingerprint == made.draft.fingerprint


def fingerprints(config: StudyConfig) -> str:
    """What a process does that needs the models."""
    logging.basicConfig(level=logging.INFO)
    models = prepare_models(config, load_dataset(config.data))
    return f"{models.target.fingerprint} {models.draft.fingerprint}"


def as_another_user(cache: Path, config: StudyConfig) -> Forked:
    """Prepare models from a cache whose files are another user's."""
    cache.mkdir(parents=True, exist_ok=True)
    give_away(cache, *cache.iterdir())
    folder = cache.parent / f"process-{len([*cache.parent.iterdir()])}"
    return run_unprivileged(folder, fingerprints, config)


def test_models_of_another_user_are_read(dataset: Dataset, cache: Path) -> None:
    config = study()
    made = prepare_models(config, dataset)
    cache.chmod(0o755)
    finished = as_another_user(cache, config)
    assert finished.stdout.split() == [made.target.fingerprint, made.draft.fingerprint]
    for lock in cache.glob("*.lock"):
        lock.unlink()
    finished = as_another_user(cache, config)
    assert finished.stdout.split() == [made.target.fingerprint, made.draft.fingerprint]


def test_a_lock_of_another_user_is_enough(dataset: Dataset, cache: Path) -> None:
    config = study()
    made = prepare_models(config, dataset)
    for path in cache.iterdir():
        path.chmod(0o644)
        if path.suffix != ".lock":
            path.unlink()
    cache.chmod(0o777)
    finished = as_another_user(cache, config)
    assert finished.stdout.split() == [made.target.fingerprint, made.draft.fingerprint]


def test_missing_models_in_a_folder_of_another_user(cache: Path) -> None:
    finished = as_another_user(cache, study())
    last = finished.stderr.splitlines()[-1]
    assert "trained models cannot be kept here (Permission denied): set SPEC_OPT_CACHE" in last
    assert "training the target" not in finished.stderr


def test_interruption_leaves_nothing_behind(
    dataset: Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_models(study(), dataset)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    prepare_models(study(), dataset)


def test_of_two_processes_one_trains(cache: Path, tmp_path: Path) -> None:
    processes = [Forked(tmp_path / name, fingerprints, study()) for name in ("a", "b")]
    assert [process.wait(120.0) for process in processes] == [0, 0]
    one, other = processes
    assert one.stdout == other.stdout
    logs = one.stderr + other.stderr
    assert logs.count("target: epoch 1/3") == 1
    assert logs.count("draft: epoch 1/3") == 1


def test_a_cache_that_cannot_be_written(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPEC_OPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="set SPEC_OPT_CACHE to a folder"):
        prepare_models(study(), dataset)


def checkpoints(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        "target": {"checkpoint": folder / "tiny_target.pth"},
        "draft": {"checkpoint": folder / "tiny_draft.pth"},
    }


def only(table: dict[str, Any], *, context: int = 96, **others: dict[str, Any]) -> StudyConfig:
    data = study().data.model_dump() | {"context": context}
    return StudyConfig.model_validate({"name": "s", "data": data, "target": table, **others})


def test_checkpoints_are_loaded(dataset: Dataset, reference_dir: Path, cache: Path) -> None:
    tables = checkpoints(reference_dir)
    models = prepare_models(only(tables["target"], draft=tables["draft"]), dataset)
    expected = load_timer_xl(reference_dir / "tiny_target.pth")
    assert models.target.fingerprint == expected.fingerprint
    assert isinstance(models.draft, FrozenTimerXL)
    assert models.draft.config.stochastic
    assert not cache.exists()


def test_a_draft_is_distilled_from_a_checkpoint(
    dataset: Dataset, reference_dir: Path, cache: Path
) -> None:
    config = only(
        {"checkpoint": reference_dir / "tiny_target.pth", "activation": "gelu"},
        draft={"training": {"epochs": 1, "max_windows": 64}},
    )
    models = prepare_models(config, dataset)
    assert models.draft.patch == models.target.patch == 24
    assert isinstance(models.draft, FrozenTimerXL)
    assert models.draft.config.activation == "gelu"
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_context_must_be_whole_patches_of_a_checkpoint(
    dataset: Dataset, reference_dir: Path
) -> None:
    config = only(checkpoints(reference_dir)["target"], context=100)
    with pytest.raises(InputError, match=r"data.context = 100: .* a multiple of .* patch, 24"):
        prepare_models(config, dataset)


def test_a_draft_with_another_patch_than_its_target(
    dataset: Dataset, reference_dir: Path, tmp_path: Path
) -> None:
    state = torch.load(reference_dir / "tiny_draft.pth", weights_only=True)
    for name in ("embedding.weight", "head_mean.weight", "head_logvar.weight"):
        part = state[name][:, :12] if name.startswith("emb") else state[name][:12]
        state[name] = part.clone()
    for name in ("head_mean.bias", "head_logvar.bias"):
        state[name] = state[name][:12].clone()
    torch.save(state, tmp_path / "draft.pth")
    config = only(
        checkpoints(reference_dir)["target"], draft={"checkpoint": tmp_path / "draft.pth"}
    )
    context = dataset.windows("test", 96, 24).contexts(slice(3))
    draft = prepare_models(config, dataset).draft
    assert draft.predict(context).mean.shape == (3, 24, 2)


def test_target_config_is_followed(dataset: Dataset) -> None:
    config = TargetConfig(
        patch=16, d_model=16, heads=2, feedforward=24, layers=2, dropout=0.0, activation="gelu"
    )
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": 1, "max_windows": 32})}
    )
    model = train_target(config, dataset, CONTEXT).model
    assert (model.config.patch, model.config.layers, model.config.dropout) == (16, 2, 0.0)
    assert model.config.activation == "gelu"
