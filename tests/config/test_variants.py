"""Variants: the keys of `[search]` that change draft or rule, and which of them are the same."""

from pathlib import Path

import pytest

from spec_opt.config.study_file import StudyConfig
from spec_opt.config.values import ContinuousRange, IntRange
from spec_opt.config.variants import AS_WRITTEN, Variant
from spec_opt.errors import ConfigError
from tests.config.test_study_file import MINIMAL, read

NETWORK = '\n[draft]\nkind = "timer-xl"\ncontext = 96\n[draft.training]\nepochs = 4\nseed = 5\n'


def searching(folder: Path, keys: str, rest: str = NETWORK) -> StudyConfig:
    return read(folder, f"{MINIMAL}{rest}\n[search]\n{keys}\n")


def test_all_keys_can_be_listed(tmp_path: Path) -> None:
    keys = (
        'draft_kind = ["timer-xl", "linear"]\nteacher_noise = [0, 0.1]\n'
        "variance_regularizer = [0.05]\nteacher_dropout = [0.1]\ndraft_epochs = [10, 20]\n"
        'draft_scale = [0.25, 0.5]\nrule = ["stride", "point"]\ncombine = "one-at-a-time"'
    )
    search = searching(tmp_path, keys).search
    assert list(search.varied) == list(Variant.model_fields)
    assert search.teacher_noise == (0.0, 0.1)


def test_ranges_are_for_samplers(tmp_path: Path) -> None:
    keys = (
        'sampler = "tpe"\nn_trials = 3\nteacher_noise = {low = 0.0, high = 0.2}\n'
        "draft_epochs = {low = 2, high = 8}"
    )
    varied = searching(tmp_path, keys).search.varied
    assert isinstance(varied["teacher_noise"], ContinuousRange)
    assert isinstance(varied["draft_epochs"], IntRange)


def test_a_study_without_these_keys_searches_none(tmp_path: Path) -> None:
    assert read(tmp_path, MINIMAL).search.varied == {}


@pytest.mark.parametrize(
    ("keys", "rest", "words"),
    [
        ("teacher_noise = [-0.1]", NETWORK, "teacher_noise[0] = -0.1: must be at least 0"),
        ("teacher_dropout = [1.0]", NETWORK, "teacher_dropout[0] = 1.0: must be less than 1"),
        ("draft_scale = [0.5, 2.0]", NETWORK, "draft_scale[1] = 2.0: must be at most 1"),
        ("draft_epochs = [4, 4]", NETWORK, "none twice"),
        ("teacher_noise = []", NETWORK, "must list at least one value"),
        ("draft_kind = []", NETWORK, "must list values"),
        ('draft_kind = ["gru"]', NETWORK, "must be 'timer-xl', 'linear' or 'seasonal'"),
        ("teacher_noise = {low = 0.1, high = 0.2}", NETWORK, "the grid sampler cannot enumerate"),
        (
            'sampler = "tpe"\nn_trials = 3\nteacher_noise = {low = 0.0, high = 0.2, log = true}',
            NETWORK,
            "must begin above 0",
        ),
        (
            'sampler = "tpe"\nn_trials = 3\ndraft_epochs = [2]\ncombine = "one-at-a-time"',
            NETWORK,
            "is for the grid sampler",
        ),
        ('combine = "one-at-a-time"', NETWORK, "no key of [search] that it combines"),
        ("draft_epochs = [2, 4]", "", "no effect on a draft that is not a network"),
        ('draft_epochs = [2]\ndraft_kind = ["linear"]', NETWORK, "no effect on a draft"),
        (
            "teacher_noise = [0.1]",
            '[draft]\nfactory = "a:b"\n',
            "is for a draft that is made here: [draft] gives one",
        ),
        ('rule = ["point", "stride"]\nbias = [0.5]', NETWORK, "'stride' takes bias >= 1 only"),
    ],
)
def test_what_is_refused(tmp_path: Path, keys: str, rest: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        searching(tmp_path, keys, rest)
    assert words in str(error.value)


def test_a_variant_makes_a_study_file(tmp_path: Path) -> None:
    study = searching(tmp_path, "")
    variant = Variant(
        teacher_noise=0.1,
        variance_regularizer=0.05,
        teacher_dropout=0.2,
        draft_epochs=20,
        draft_scale=0.5,
        rule="point",
    )
    made = study.with_variant(variant)
    draft = made.draft
    assert (draft.distillation.teacher_noise, draft.distillation.teacher_dropout) == (0.1, 0.2)
    assert draft.distillation.variance_regularizer == 0.05
    assert draft.scale.d_model == draft.scale.layers == 0.5
    assert (draft.training.epochs, draft.training.seed, draft.context) == (20, 5, 96)
    assert made.decoding.rule == "point"
    assert made.written == Variant(draft_kind="timer-xl", **variant.given)
    assert study.with_variant(AS_WRITTEN) == study
    assert StudyConfig.model_validate_json(made.model_dump_json()) == made


def test_another_kind_keeps_only_the_keys_that_it_has(tmp_path: Path) -> None:
    draft = searching(tmp_path, "").with_variant(Variant(draft_kind="linear")).draft
    assert (draft.kind_made, draft.context) == ("linear", 96)
    assert draft.written == {"draft_kind": "linear"}


def test_variants_that_make_the_same_models_are_equal(tmp_path: Path) -> None:
    study = searching(tmp_path, "")
    same = Variant(teacher_noise=0.05, draft_epochs=4, draft_kind="timer-xl", rule="stride")
    assert study.changes(same) == AS_WRITTEN
    assert study.changes(Variant(teacher_noise=0.1, draft_epochs=4)) == Variant(teacher_noise=0.1)
    linear = Variant(draft_kind="linear")
    assert study.changes(Variant(draft_kind="linear", draft_epochs=20)) == linear


def test_fractions_that_differ_are_no_scale(tmp_path: Path) -> None:
    study = searching(tmp_path, "", f"{NETWORK}[draft.scale]\nlayers = 0.5\n")
    assert study.written.draft_scale is None
    assert study.changes(Variant(draft_scale=0.25)) == Variant(draft_scale=0.25)


def test_a_draft_that_is_given_has_the_rule_alone(tmp_path: Path) -> None:
    study = searching(tmp_path, 'rule = ["point"]', '[draft]\nfactory = "a:b"\n')
    assert study.written == Variant(rule="stride")
    assert study.with_variant(Variant(rule="point")).draft == study.draft
