"""Models of the user's own: how they are found, and how their faults are named."""

from pathlib import Path
from typing import Any

import pytest
import torch

from spec_opt.config.study_file import Setting, StudyConfig
from spec_opt.data.windows import load_dataset
from spec_opt.errors import InputError, WorkError
from spec_opt.measure.objective import StudyObjective
from spec_opt.models.preparation import Models, prepare_models
from tests.conftest import DATA

from . import factories
from .factories import Own

OWN = "tests.models.factories:make"


def study(target: dict[str, Any], draft: dict[str, Any] | None = None) -> StudyConfig:
    return StudyConfig.model_validate({
        "name": "own",
        "data": {
            "source": "synthetic", "context": 96, "horizon": 48, "max_windows": 6,
            "synthetic": {"rows": 1000, "channels": 2},
        },
        "target": target,
        "draft": draft or {"factory": OWN, "options": {"damping": 0.6}},
        "decoding": {"device": "cpu", "rule": "point"},
    })  # fmt: skip


def prepared(target: dict[str, Any], draft: dict[str, Any] | None = None) -> Models:
    config = study(target, draft)
    return prepare_models(config, load_dataset(config.data))


def line_of(text: str) -> str:
    """File and line of a statement of `factories`."""
    path = Path(factories.__file__)
    lines = path.read_text(encoding="utf-8").splitlines()
    return f"{path}:{next(n for n, line in enumerate(lines, 1) if text in line)}"


def test_options_are_keywords() -> None:
    models = prepared({"factory": OWN, "options": {"damping": 0.9}})
    assert models.target == Own(damping=0.9)
    assert models.draft == Own(damping=0.6)
    assert models.target_path == OWN


def test_a_draft_of_ones_own_for_a_checkpoint() -> None:
    models = prepared({"checkpoint": DATA / "tiny_target.pth"}, {"factory": OWN})
    assert models.draft == Own()


def test_what_no_worker_can_import_is_refused() -> None:
    with pytest.raises(InputError, match=r"target\.factory = '__main__:make': workers cannot"):
        prepared({"factory": "__main__:make"})


def test_a_module_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_forecaster.py").write_text(
        "from tests.models.factories import Own\ndef build(): return Own(damping=0.1)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert prepared({"factory": "my_forecaster:build"}).target == Own(damping=0.1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"factory": "no.such:make"}, "target.factory = 'no.such:make': there is no module no,"),
        ({"factory": "tests.models.no:make"}, "there is no module tests.models.no,"),
        ({"factory": "tests.models.factories:no"}, "module tests.models.factories has no 'no'"),
        (
            {"factory": "tests.models.factories:nothing"},
            "it returned a NoneType, which has no patch",
        ),
        ({"factory": OWN, "options": {"patch": 0}}, "patch = 0: must be a whole number from 1 on"),
        ({"factory": OWN, "options": {"nonsense": 1}}, f"{line_of('return Own(')}: TypeError: "),
        (
            {"factory": OWN, "options": {"fault": "raises"}},
            f"{line_of('raise ValueError')}: ValueError: the weights are gone",
        ),
        ({"factory": OWN, "options": {"fault": "in torch"}}, f"{line_of('torch.ones(2)')}: "),
        ({"factory": OWN, "options": {"fault": "shape"}}, "[1, 3, 2], expected [1, 24, 2]"),
    ],
)
def test_faults_at_loading(target: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        prepared(target)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_module_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("x = 1\nimport no_such_library\n")
    (tmp_path / "no_python.py").write_text("x = 1\n\ndef make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"broken_module.py:2: ModuleNotFoundError: .*no_such"):
        prepared({"factory": "broken_module:make"})
    with pytest.raises(InputError, match=r"no_python.py:3: SyntaxError"):
        prepared({"factory": "no_python:make"})


def test_a_fault_in_a_trial_names_the_line() -> None:
    objective = StudyObjective.prepare(study({"factory": OWN, "options": {"fault": "late"}}))
    with pytest.raises(WorkError) as caught:
        objective(Setting(sigma=0.5, bias=1.0, k=2))
    assert str(caught.value).endswith(f"{line_of('raise KeyError')}: KeyError: 'late'")


def test_a_study_of_ones_own_models() -> None:
    objective = StudyObjective.prepare(study({"factory": OWN}))
    measured = objective(Setting(sigma=0.5, bias=1.0, k=2))
    assert 0.0 < measured.acceptance_rate <= 1.0
    plain = objective.evaluator.measure_plainly(Setting(sigma=0.5, bias=1.0, k=2))
    assert plain.mse == pytest.approx(measured.mse, rel=1e-5)
    assert objective.baseline.linear_mse is not None
    assert "Own" in objective.inputs.target.description
    assert torch.is_inference_mode_enabled() is False
