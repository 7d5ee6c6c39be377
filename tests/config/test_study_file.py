"""Study files: what a good one becomes, and what is said of a bad one."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from spec_opt.config import study_file
from spec_opt.config.study_file import Setting, StudyConfig, read_study, shipped_studies, study_path
from spec_opt.config.values import FloatRange, IntRange
from spec_opt.errors import ConfigError

MINIMAL = """
name = "a-study"

[data]
source = "synthetic"
context = 192
horizon = 100
"""


def read(folder: Path, text: str) -> StudyConfig:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return read_study(str(path))


class TestGoodFiles:
    def test_little_must_be_given(self, tmp_path: Path) -> None:
        study = read(tmp_path, MINIMAL)

        assert study.name == "a-study"
        assert (study.data.source, study.data.context, study.data.horizon) == (
            "synthetic",
            192,
            100,
        )

    def test_defaults_are_the_grid_of_80(self, tmp_path: Path) -> None:
        study = read(tmp_path, MINIMAL)

        assert study.search.sampler == "grid"
        assert study.search.sigma == (0.1, 0.25, 0.5, 1.0)
        assert study.search.bias == (1.0, 2.0, 5.0, 10.0)
        assert study.search.k == (1, 2, 3, 4, 5)
        assert study.search.n_trials is None

    def test_other_defaults(self, tmp_path: Path) -> None:
        study = read(tmp_path, MINIMAL)

        assert study.data.split == "validation"
        assert (study.data.window_stride, study.data.max_windows) == (1, None)
        assert study.target.checkpoint is None
        assert study.draft.checkpoint is None
        assert study.target.patch == 96
        decoding = study.decoding
        assert (decoding.rule, decoding.device, decoding.precision) == ("stride", "auto", "float32")
        assert study.recommend.speed.min_k == 4
        assert study.recommend.quality.max_mse_ratio == 1.05
        assert study.recommend.balanced.min_acceptance == 0.75

    def test_limits_of_the_search_are_those_of_the_recommendation(self, tmp_path: Path) -> None:
        limits = "constraints = {max_mse_ratio = 1.02, min_acceptance = 0.9}"
        own = "[recommend]\nbalanced = {max_mse_ratio = 1.01}\nspeed = {min_k = 2}\n"
        study = read(tmp_path, f"{MINIMAL}{own}[search]\n{limits}\n")

        found = study.recommend
        assert (found.quality.max_mse_ratio, found.quality.min_acceptance) == (1.02, 0.9)
        # What [recommend] gives itself goes first.
        assert (found.balanced.max_mse_ratio, found.balanced.min_acceptance) == (1.01, 0.9)
        assert (found.speed.max_mse_ratio, found.speed.min_acceptance) == (1.02, 0.9)
        assert found.speed.min_k == 2
        assert StudyConfig(
            name=study.name, search=study.search, data=study.data
        ).recommend.quality == (found.quality)
        assert StudyConfig.model_validate_json(study.model_dump_json()) == study

    def test_everything_can_be_given(self, tmp_path: Path) -> None:
        study = read(
            tmp_path,
            """
            name = "All.of_it-1"
            [search]
            sampler = "tpe"
            sigma = {low = 0.05, high = 1, log = true}
            bias = {low = 0.5, high = 10.0}
            k = {low = 1, high = 5}
            n_trials = 40
            seed = 3
            max_attempts = 1
            [data]
            source = "series.csv"
            split = "test"
            context = 64
            horizon = 10
            window_stride = 2
            max_windows = 5
            [target]
            patch = 16
            d_model = 64
            heads = 4
            feedforward = 128
            layers = 3
            dropout = 0.0
            activation = "gelu"
            training = {epochs = 2, learning_rate = 1e-3}
            [draft.scale]
            layers = 0.5
            [draft.distillation]
            teacher_noise = 0.0
            [decoding]
            rule = "exact"
            device = "cuda:1"
            precision = "bfloat16"
            batch_size = 8
            seed = 9223372036854775807
            [recommend.quality]
            max_mse = 0.5
            min_acceptance = 1.0
            """,
        )

        assert study.search.sigma == FloatRange(low=0.05, high=1.0, log=True)
        assert study.search.k == IntRange(low=1, high=5)
        assert study.target.training.learning_rate == 1e-3
        assert study.draft.scale.layers == 0.5
        assert study.decoding.seed == 2**63 - 1

    def test_lists_keep_their_order(self, tmp_path: Path) -> None:
        study = read(tmp_path, MINIMAL + "[search]\nsigma = [2, 0.5, 1.0]\nk = [3]\n")

        assert study.search.sigma == (2.0, 0.5, 1.0)
        assert study.search.k == (3,)

    @pytest.mark.parametrize("rule", ["exact", "point"])
    def test_a_small_bias_is_for_the_rules_that_take_it(self, tmp_path: Path, rule: str) -> None:
        text = f'{MINIMAL}[search]\nbias = [0.5, 1.0]\n[decoding]\nrule = "{rule}"\n'

        assert read(tmp_path, text).search.bias == (0.5, 1.0)

    def test_settings_are_frozen(self, tmp_path: Path) -> None:
        study = read(tmp_path, MINIMAL)

        with pytest.raises(ValidationError, match="frozen"):
            study.name = "other"  # type: ignore[misc]

    def test_a_study_survives_its_own_json(self, tmp_path: Path) -> None:
        """As the store keeps it, and reads it back."""
        text = (
            MINIMAL + '[search]\nsampler = "tpe"\nn_trials = 3\nsigma = {low = 0.1, high = 1.0}\n'
        )
        checkpoints = '[target]\ncheckpoint = "t.pth"\n[draft]\ncheckpoint = "d.pth"\n'
        for more in ("", checkpoints):
            study = read(tmp_path, text + more)
            document = study.model_dump_json()
            assert StudyConfig.model_validate_json(document) == study
            # What a checkpoint decides is not told of the defaults.
            assert ("d_model" in document) == (more == "")

    def test_a_threshold_leaves_the_others_at_their_defaults(self, tmp_path: Path) -> None:
        text = "[recommend.quality]\nmax_mse = 0.5\n[recommend.balanced]\nmin_acceptance = 0.7\n"
        found = read(tmp_path, MINIMAL + text).recommend
        assert (found.quality.max_mse, found.quality.min_acceptance) == (0.5, 0.60)
        assert (found.balanced.max_mse_ratio, found.balanced.min_acceptance) == (1.10, 0.7)

    def test_a_setting_prints_short(self) -> None:
        assert str(Setting(sigma=0.25, bias=10.0, k=3)) == "sigma=0.25 bias=10 k=3"


class TestDrafts:
    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("", "linear"),
            ("[draft]\ncontext = 96\n", "linear"),
            ("[draft.scale]\nlayers = 0.5\n", "timer-xl"),
            ("[draft.training]\nepochs = 2\n", "timer-xl"),
            ('[draft]\nkind = "seasonal"\nperiod = 24\n', "seasonal"),
        ],
    )
    def test_kind(self, tmp_path: Path, text: str, kind: str) -> None:
        study = read(tmp_path, MINIMAL + text)
        assert study.draft.kind_made == kind
        again = StudyConfig.model_validate_json(study.model_dump_json())
        assert again.draft.kind_made == kind
        assert ("scale" in study.draft.model_dump()) == (kind == "timer-xl")

    def test_a_study_of_an_older_version_keeps_its_network(self) -> None:
        """The store holds all keys of a draft that was trained."""
        document = read_study("quickstart").model_dump(mode="json")
        del document["draft"]["kind"], document["draft"]["context"]
        assert StudyConfig.model_validate_json(json.dumps(document)).draft.is_network

    def test_what_ships_is_distilled(self) -> None:
        for name in shipped_studies():
            assert read_study(name).draft.kind == "timer-xl"


class TestCheckpoints:
    TEXT = MINIMAL + '[target]\ncheckpoint = "models/target.pth"\n'

    @pytest.fixture
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The working folder, apart from that of the study file."""
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        monkeypatch.chdir(folder)
        return folder

    def make(self, folder: Path) -> Path:
        path = folder / "models" / "target.pth"
        path.parent.mkdir()
        path.touch()
        return path

    def test_beside_the_study_file(self, tmp_path: Path, elsewhere: Path) -> None:
        path = self.make(tmp_path)

        assert read(tmp_path, self.TEXT).target.checkpoint == path.resolve()

    def test_in_the_working_folder_first(self, tmp_path: Path, elsewhere: Path) -> None:
        self.make(tmp_path)
        path = self.make(elsewhere)

        assert read(tmp_path, self.TEXT).target.checkpoint == path.resolve()

    def test_absent_is_of_the_working_folder(self, tmp_path: Path, elsewhere: Path) -> None:
        expected = (elsewhere / "models" / "target.pth").resolve()

        assert read(tmp_path, self.TEXT).target.checkpoint == expected

    def test_absolute_and_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        text = (
            f'{MINIMAL}[target]\ncheckpoint = "{tmp_path}/t.pth"\n'
            '[draft]\ncheckpoint = "~/d.safetensors"\n'
        )

        study = read(tmp_path, text)

        assert study.target.checkpoint == (tmp_path / "t.pth").resolve()
        assert study.draft.checkpoint == (tmp_path / "home" / "d.safetensors").resolve()

    def test_any_context_beside_a_checkpoint(self, tmp_path: Path) -> None:
        """Its patch is not known before the file is read."""
        assert read(tmp_path, self.TEXT.replace("192", "100")).data.context == 100


class TestShipped:
    def test_all_that_ship_are_good(self) -> None:
        studies = shipped_studies()

        shipped = {"quickstart", "etth1_grid", "etth1_tpe", "etth1_paper", "etth1_training"}
        assert shipped <= studies.keys()
        for name, path in studies.items():
            assert study_path(name) == path
            assert read_study(name).name

    def test_their_names_differ(self) -> None:
        """One store holds them all, by name."""
        names = [read_study(name).name for name in shipped_studies()]

        assert len(set(names)) == len(names)

    def test_a_file_wins_over_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "quickstart").write_text(MINIMAL, encoding="utf-8")

        assert read_study("quickstart").name == "a-study"

    @pytest.mark.parametrize("reference", ["absent", "absent.toml", ".", "", "a\0b"])
    def test_neither_file_nor_name(self, reference: str) -> None:
        with pytest.raises(ConfigError, match=r"no such study file; .* quickstart"):
            read_study(reference)

    def test_none_may_be_at_hand(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(study_file, "__file__", str(tmp_path / "package/config/study_file.py"))

        assert shipped_studies() == {}


SEARCH = MINIMAL + "[search]\n"
DECODING = MINIMAL + "[decoding]\n"
TARGET = MINIMAL + "[target]\n"
LIST_OR_RANGE = "must be a list, [...], or a range, {low = ..., high = ...}"

BAD = {
    # what is in the file, and all that is said after its name
    "empty file": ("", "name: missing (and 1 more)"),
    "no data": ('name = "a"', "data: missing"),
    "no name": (MINIMAL.replace('name = "a-study"', ""), "name: missing"),
    "no horizon": (MINIMAL.replace("horizon = 100", ""), "data.horizon: missing"),
    "name not a text": (
        MINIMAL.replace('"a-study"', "3"),
        "name = 3: must be a text in quotes",
    ),
    "name with a space": (
        MINIMAL.replace("a-study", "a study"),
        "name = 'a study': must be 1 to 100 letters, digits, '.', '_' or '-', "
        "of which the first is a letter or digit",
    ),
    "name with a line end": (
        MINIMAL.replace("a-study", "a\\n"),
        r"name = 'a\n': must be 1 to 100 letters, digits, '.', '_' or '-', "
        "of which the first is a letter or digit",
    ),
    "unknown table": (
        MINIMAL + "[serch]\nk = [1]",
        "serch: unknown key; did you mean 'search'?",
    ),
    "unknown key": (SEARCH + "sigmas = [1.0]", "search.sigmas: unknown key; did you mean 'sigma'?"),
    "misspelt key that must be given": (
        MINIMAL.replace("context", "contxt"),
        "data.contxt: unknown key; did you mean 'context'? (and 1 more)",
    ),
    "unknown key, like no other": (
        DECODING + "foo = 1",
        "decoding.foo: unknown key; known here: rule, context, device, precision, batch_size, "
        "seed, seeds",
    ),
    "unknown key, named like a kind of value": (
        SEARCH + "range = 1",
        "search.range: unknown key; known here: draft_kind, teacher_noise, variance_regularizer, "
        "teacher_dropout, draft_epochs, draft_scale, rule, combine, sampler, options, objectives, "
        "sigma, bias, k, constraints, stop, from_study, n_trials, seed, max_attempts, "
        "max_settings",
    ),
    "unknown key of a range": (
        SEARCH + "sigma = {low = 0.1, hihg = 0.2, high = 0.3}",
        "search.sigma.hihg: unknown key; did you mean 'high'?",
    ),
    "a key in the wrong table": (
        MINIMAL + "target = 3",
        "data.target: unknown key; known here: "
        "source, time, channels, gaps, splits, split, context, horizon, window_stride, "
        "max_windows, synthetic",
    ),
    "a number for a table": (TARGET + "training = 3", "target.training = 3: must be a table"),
    "a list for a table": (
        "search = [1, 2]" + MINIMAL,
        "search = [1, 2]: must be a table",
    ),
    # search
    "empty list": (SEARCH + "sigma = []", "search.sigma = []: must list at least one value"),
    "empty list of k": (SEARCH + "k = []", "search.k = []: must list at least one value"),
    "negative sigma": (
        SEARCH + "sigma = [0.5, -0.1]",
        "search.sigma[1] = -0.1: must be greater than 0",
    ),
    "sigma of 0": (SEARCH + "sigma = [0]", "search.sigma[0] = 0: must be greater than 0"),
    "tiny sigma": (
        SEARCH + "sigma = [1e-200]",
        "search.sigma[0] = 1e-200: must lie between 1e-06 and 1e+06",
    ),
    "huge sigma": (
        SEARCH + "sigma = [1e300]",
        "search.sigma[0] = 1e+300: must lie between 1e-06 and 1e+06",
    ),
    "sigma not a number": (
        SEARCH + 'sigma = ["a"]',
        "search.sigma[0] = 'a': must be a number",
    ),
    "sigma not finite": (
        SEARCH + "sigma = [nan]",
        "search.sigma[0] = nan: must be a finite number",
    ),
    "two bad values": (
        SEARCH + "sigma = [-1.0, inf]",
        "search.sigma[0] = -1.0: must be greater than 0 (and 1 more)",
    ),
    "sigma a single number": (SEARCH + "sigma = 0.5", f"search.sigma = 0.5: {LIST_OR_RANGE}"),
    "sigma a text": (SEARCH + 'sigma = "0.5"', f"search.sigma = '0.5': {LIST_OR_RANGE}"),
    "sigma a switch": (SEARCH + "sigma = true", f"search.sigma = true: {LIST_OR_RANGE}"),
    "a list of lists": (
        SEARCH + "sigma = [[0.1]]",
        "search.sigma[0] = [0.1]: must be a number",
    ),
    "sigma twice": (SEARCH + "sigma = [1, 1.0]", "search: sigma lists a value twice: [1.0, 1.0]"),
    "k of 0": (SEARCH + "k = [0]", "search.k[0] = 0: must be at least 1"),
    "k of 1.5": (SEARCH + "k = [1.5]", "search.k[0] = 1.5: must be a whole number"),
    "k a switch": (SEARCH + "k = [true]", "search.k[0] = true: must be a whole number"),
    "k beyond reason": (
        SEARCH + "k = [100000000000000000000]",
        "search.k[0] = 100000000000000000000: must be at most 1000",
    ),
    "k a single number": (SEARCH + "k = 3", f"search.k = 3: {LIST_OR_RANGE}"),
    "bias of 0": (SEARCH + "bias = [0.0]", "search.bias[0] = 0.0: must be greater than 0"),
    "bias below 1 with stride": (
        SEARCH + "bias = [2.0, 0.5]",
        "search.bias = 0.5: rule 'stride' takes bias >= 1 only; "
        "rules 'exact' and 'point' take smaller ones",
    ),
    "range of bias below 1 with stride": (
        SEARCH + 'sampler = "tpe"\nn_trials = 2\nbias = {low = 0.5, high = 2.0}',
        "search.bias = 0.5: rule 'stride' takes bias >= 1 only; "
        "rules 'exact' and 'point' take smaller ones",
    ),
    "range upside down": (
        SEARCH + "sigma = {low = 1.0, high = 0.1}",
        "search.sigma: low = 1 must be less than high = 0.1",
    ),
    "range of k upside down": (
        SEARCH + "k = {low = 2, high = 2}",
        "search.k: low = 2 must be less than high = 2",
    ),
    "half a range": (SEARCH + "sigma = {low = 1.0}", "search.sigma.high: missing"),
    "fractions of k": (
        SEARCH + "k = {low = 1.5, high = 3}",
        "search.k.low = 1.5: must be a whole number",
    ),
    "range in a grid": (
        SEARCH + "sigma = {low = 0.1, high = 1.0}",
        "search: sigma is a range, which the grid sampler cannot enumerate: "
        "give a list, or another sampler (tpe, gp, nsga2, random)",
    ),
    "unknown sampler": (
        SEARCH + 'sampler = "cma"',
        "search.sampler = 'cma': must be 'grid', 'tpe', 'gp', 'nsga2', 'random', or a class, "
        "'optuna.samplers:NAME' or 'package.module:Class'",
    ),
    "acceptance above 1": (
        SEARCH + "constraints = {min_acceptance = 60}",
        "search.constraints.min_acceptance = 60: must be at most 1",
    ),
    "unknown constraint": (
        SEARCH + "constraints = {max_mse = 0.4}",
        "search.constraints.max_mse: unknown key; did you mean 'max_mse_ratio'?",
    ),
    "constraints not a table": (
        SEARCH + "constraints = 3",
        "search.constraints = 3: must be a table",
    ),
    "looser than the constraints": (
        f"{SEARCH}constraints = {{max_mse_ratio = 1.02}}\n[recommend.speed]\nmax_mse_ratio = 1.2",
        "recommend.speed.max_mse_ratio = 1.2 allows what search.constraints.max_mse_ratio = 1.02 "
        "does not: change one of them",
    ),
    "less acceptance than the constraints": (
        f"{SEARCH}constraints = {{min_acceptance = 0.8}}\n[recommend.quality]\nmin_acceptance = 0",
        "recommend.quality.min_acceptance = 0 allows what search.constraints.min_acceptance = 0.8 "
        "does not: change one of them",
    ),
    "stop of a grid": (
        SEARCH + "stop = {patience = 5}",
        "search: stop is for samplers that draw: a grid runs every setting; leave it out, "
        "or give another sampler (tpe, gp, nsga2, random)",
    ),
    "stop without patience": (
        SEARCH + 'sampler = "tpe"\nn_trials = 9\nstop = {patience = 0}',
        "search.stop.patience = 0: must be at least 1",
    ),
    "options of a grid": (
        SEARCH + "options = {multivariate = true}",
        "search: options is for samplers that draw: a grid runs every setting; leave it out, "
        "or give another sampler (tpe, gp, nsga2, random)",
    ),
    "a seed among the options": (
        SEARCH + 'sampler = "tpe"\nn_trials = 5\noptions = {seed = 3}',
        "search: options.seed: the sampler's seed follows from search.seed: give that",
    ),
    "tpe without n_trials": (
        SEARCH + 'sampler = "tpe"',
        "search: n_trials is needed with sampler = 'tpe'",
    ),
    "grid with n_trials": (
        SEARCH + "n_trials = 5",
        "search: n_trials is for samplers that draw: a grid runs every setting; leave it out, "
        "or give another sampler (tpe, gp, nsga2, random)",
    ),
    "negative seed": (SEARCH + "seed = -1", "search.seed = -1: must be at least 0"),
    "seed beyond 32 bits": (
        SEARCH + "seed = 4294967296",
        "search.seed = 4294967296: must be at most 4294967295",
    ),
    # data
    "negative context": (
        MINIMAL.replace("192", "-3"),
        "data.context = -3: must be at least 1",
    ),
    "context a text": (
        MINIMAL.replace("192", '"192"'),
        "data.context = '192': must be a whole number",
    ),
    "context not whole patches": (
        MINIMAL.replace("192", "100"),
        "data.context = 100 must be a multiple of target.patch = 96",
    ),
    "horizon of 0": (
        MINIMAL.replace("horizon = 100", "horizon = 0"),
        "data.horizon = 0: must be at least 1",
    ),
    "no source": (MINIMAL.replace('"synthetic"', '""'), "data.source = '': must not be empty"),
    "unknown split": (
        MINIMAL + 'split = "dev"',
        "data.split = 'dev': must be 'train', 'validation' or 'test'",
    ),
    "stride of 0": (
        MINIMAL + "window_stride = 0",
        "data.window_stride = 0: must be at least 1",
    ),
    "few synthetic rows": (
        MINIMAL + "[data.synthetic]\nrows = 3",
        "data.synthetic.rows = 3: must be at least 100",
    ),
    # models
    "width and heads": (
        TARGET + "d_model = 100",
        "target: d_model = 100 must be a multiple of 4 * heads = 32",
    ),
    "dropout of 1": (TARGET + "dropout = 1.0", "target.dropout = 1.0: must be less than 1"),
    "unknown activation": (
        TARGET + 'activation = "tanh"',
        "target.activation = 'tanh': must be 'relu' or 'gelu'",
    ),
    "checkpoint a number": (
        TARGET + "checkpoint = 3",
        "target.checkpoint = 3: must be a text in quotes",
    ),
    "checkpoint empty": (
        TARGET + 'checkpoint = ""',
        "target.checkpoint: not a path: it is empty, or a folder",
    ),
    "checkpoint and sizes": (
        TARGET + 'checkpoint = "a"\npatch = 3\nd_model = 8\nlayers = 1',
        "target: d_model, layers and patch cannot stand beside checkpoint: give one or the other",
    ),
    "draft's checkpoint and scale": (
        TARGET + 'checkpoint = "a"\n[draft]\ncheckpoint = "b"\nscale = {layers = 0.5}',
        "draft: scale cannot stand beside checkpoint: give one or the other",
    ),
    "linear draft with a scale": (
        MINIMAL + '[draft]\nkind = "linear"\nscale = {layers = 0.5}',
        "draft: scale cannot stand beside kind = 'linear': give one or the other",
    ),
    "unknown kind of draft": (
        MINIMAL + '[draft]\nkind = "rnn"',
        "draft.kind = 'rnn': must be 'timer-xl', 'linear' or 'seasonal'",
    ),
    "draft that sees more than its target": (
        MINIMAL + "[draft]\ncontext = 5000",
        "draft.context = 5000 must be at most data.context = 192",
    ),
    "factory without a function": (
        TARGET + 'factory = "my_model"',
        "target.factory = 'my_model': must be 'package.module:function'",
    ),
    "factory and sizes": (
        TARGET + 'factory = "a:b"\npatch = 3',
        "target: patch cannot stand beside factory: give one or the other",
    ),
    "options without a factory": (
        TARGET + "options = {a = 1}",
        "target: options are a factory's: give the factory too",
    ),
    "draft's checkpoint alone": (
        MINIMAL + '[draft]\ncheckpoint = "a"',
        "draft.checkpoint is given without target.checkpoint: "
        "a draft belongs to the target that it was distilled from",
    ),
    "no epochs": (
        MINIMAL + "[target.training]\nepochs = 0",
        "target.training.epochs = 0: must be at least 1",
    ),
    "draft larger than its target": (
        MINIMAL + "[draft.scale]\nd_model = 2.0",
        "draft.scale.d_model = 2.0: must be at most 1",
    ),
    "negative noise": (
        MINIMAL + "[draft.distillation]\nteacher_noise = -1.0",
        "draft.distillation.teacher_noise = -1.0: must be at least 0",
    ),
    # decoding
    "unknown device": (
        DECODING + 'device = "gpu"',
        "decoding.device = 'gpu': must be 'auto', 'cpu', 'cuda', or 'cuda:' and a number",
    ),
    "a device that torch would take for another": (
        DECODING + 'device = "cuda:300"',
        "decoding.device = 'cuda:300': must be 'auto', 'cpu', 'cuda', or 'cuda:' and a number",
    ),
    "unknown precision": (
        DECODING + 'precision = "float16"',
        "decoding.precision = 'float16': must be 'float32', 'tf32' or 'bfloat16'",
    ),
    "unknown rule": (
        DECODING + 'rule = "leviathan"',
        "decoding.rule = 'leviathan': must be 'stride', 'exact' or 'point'",
    ),
    "batches that are no number": (
        DECODING + "batch_size = 1.0",
        "decoding.batch_size = 1.0: must be a whole number",
    ),
    "seed beyond 64 bits": (
        DECODING + "seed = 9223372036854775808",
        "decoding.seed = 9223372036854775808: must be less than 9223372036854775808",
    ),
    "a width beyond any": (
        MINIMAL + "[target]\nfeedforward = 2147483647",
        "target.feedforward = 2147483647: must be at most 65536",
    ),
    "a series beyond memory": (
        MINIMAL + "[data.synthetic]\nrows = 1000000\nchannels = 1000",
        "data.synthetic: rows = 1000000 of channels = 1000: must be at most 1e8 values",
    ),
    "objectives that are no list": (
        MINIMAL + "[search]\nobjectives = 3",
        "search.objectives = 3: must be a list, [...]",
    ),
    # recommend
    "percent": (
        MINIMAL + "[recommend.balanced]\nmin_acceptance = 75\nmax_mse = 1.0",
        "recommend.balanced.min_acceptance = 75: must be at most 1",
    ),
    "min_k of 0": (
        MINIMAL + "[recommend.speed]\nmin_k = 0",
        "recommend.speed.min_k = 0: must be at least 1",
    ),
    # TOML
    "table twice": (
        MINIMAL + "[data]",
        "not a readable TOML file: Cannot declare ('data',) twice (at line 8, column 6)",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_files(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    message = str(caught.value)
    assert message == f"{tmp_path / 'study.toml'}: {expected}"
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "content",
    [b'name = "a', b"\xff\xfe\x00", b"x = " + b"[" * 5_000, b"\x00"],
    ids=["unterminated", "not UTF-8", "too deep", "null"],
)
def test_what_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=re.escape(f"{path}: not a readable TOML file: ")) as it:
        read_study(str(path))

    assert "\n" not in str(it.value)


@pytest.mark.parametrize("checkpoint", ["~nobody-of-that-name/a.pth", "a\\u0000b"])
def test_a_checkpoint_that_is_no_path(tmp_path: Path, checkpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"study\.toml: target\.checkpoint: not a path: "):
        read(tmp_path, f'{TARGET}checkpoint = "{checkpoint}"')


def test_long_values_are_cut_short(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, SEARCH + f'sigma = "{"x" * 10_000}"')

    assert len(str(caught.value)) < len(str(tmp_path)) + 200


@pytest.mark.parametrize(
    ("sigma", "bias", "k"),
    [(0.0, 1.0, 1), (-1.0, 1.0, 1), (1.0, 0.0, 1), (1.0, 1.0, 0), (float("nan"), 1.0, 1)],
)
def test_a_setting_checks_itself(sigma: float, bias: float, k: int) -> None:
    with pytest.raises(ValidationError):
        Setting(sigma=sigma, bias=bias, k=k)
