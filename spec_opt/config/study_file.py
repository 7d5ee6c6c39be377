"""A study file (TOML) becomes frozen, validated settings; nothing is looked up by string later.

`read_study` is the one entry. Each class below is a table of the file, each field a key of it.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from spec_opt.config.files import read_document
from spec_opt.config.limits import Constraints, StopConfig
from spec_opt.config.messages import brief, first_problem
from spec_opt.config.models import DraftConfig, TargetConfig
from spec_opt.config.paths import readable
from spec_opt.config.values import (
    ColumnName,
    ContextMode,
    Factor,
    FloatSpace,
    GapFilling,
    IntSpace,
    ObjectiveName,
    PositiveInt,
    Precision,
    Proposals,
    Rule,
    Sampler,
    Seed,
    Split,
    Splits,
    Table,
    TimeColumn,
    distinct,
    matching,
)
from spec_opt.config.variants import NETWORK_KEYS, Variant, VariantSpaces
from spec_opt.errors import ConfigError

SYNTHETIC = "synthetic"
"""The source that is generated instead of read."""
QUICKSTART = "quickstart"
"""The study that `spec-opt run` takes when none is named."""
OBJECTIVES: Final[tuple[tuple[ObjectiveName, ...], ...]] = (
    ("acceptance_rate", "mse"),
    ("acceptance_rate", "mse", "speedup"),
)
"""The objectives that a study can have."""


class Setting(Table):
    """What a trial evaluates."""

    sigma: Factor
    """Standard deviation given to the target's Gaussian."""
    bias: Factor
    """Factor on the acceptance probability."""
    k: Proposals
    """Proposals per round."""

    def __str__(self) -> str:
        return f"sigma={self.sigma:g} bias={self.bias:g} k={self.k}"


def check_setting(setting: Setting, rule: Rule) -> None:
    """Raise unless `rule` accepts `setting`.

    Raises:
        ConfigError: the bias is too small for the rule.
    """
    if problem := _bias_problem(setting.bias, rule):
        raise ConfigError(f"bias = {setting.bias:g}: {problem}")


def _bias_problem(lowest: float, rule: Rule) -> str | None:
    if rule == "stride" and lowest < 1:
        return "rule 'stride' takes bias >= 1 only; rules 'exact' and 'point' take smaller ones"
    return None


def given_setting(sigma: float | None, bias: float | None, k: int | None) -> Setting | None:
    """The setting that a command line's options give, or None if it has none of them.

    Raises:
        ConfigError: an option is missing, or its value is not allowed.
    """
    if sigma is None and bias is None and k is None:
        return None
    if sigma is None or bias is None or k is None:
        raise ConfigError("--sigma, --bias and --k go together: give all three or none")
    try:
        return Setting(sigma=sigma, bias=bias, k=k)
    except ValidationError as error:
        raise ConfigError(f"setting: {first_problem(error, Setting)}") from error


class SearchConfig(VariantSpaces):
    """`[search]`: which settings are tried, and in what order."""

    sampler: Sampler = "grid"
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the sampler."""
    objectives: tuple[ObjectiveName, ...] = OBJECTIVES[0]
    """acceptance_rate and mse, and if asked for "speedup", predicted at the study's batch size."""
    sigma: FloatSpace = (0.1, 0.25, 0.5, 1.0)
    bias: FloatSpace = (1.0, 2.0, 5.0, 10.0)
    k: IntSpace = (1, 2, 3, 4, 5)
    constraints: Constraints = Constraints()
    """Samplers avoid settings that break them, and the front leaves them out."""
    stop: StopConfig | None = None
    """The study ends sooner than after `n_trials` when nothing more comes."""
    from_study: Annotated[str, Field(min_length=1)] | None = None
    """A study, or NAME@URL in another store, with whose best settings a new study begins."""
    n_trials: PositiveInt | None = None
    """Total number of trials, for the samplers that never end by themselves (all but grid)."""
    seed: Seed = 0
    max_attempts: PositiveInt = 3
    """Attempts at a setting before it counts as failed."""
    max_settings: PositiveInt = 100_000
    """A larger grid, or `n_trials`, is refused: it is most likely a mistake."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.objectives not in OBJECTIVES:
            raise ValueError(
                f"objectives = {list(self.objectives)}: must be ['acceptance_rate', 'mse'], "
                "with 'speedup' as the third or without"
            )
        for name, space in (("sigma", self.sigma), ("bias", self.bias), ("k", self.k)):
            if isinstance(space, tuple) and len(set(space)) < len(space):
                raise ValueError(f"{name} lists a value twice: {list(space)}")
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """What does not go with the sampler."""
        if (self.n_trials or 0) > self.max_settings:
            yield (
                f"n_trials = {self.n_trials:,} is more than max_settings = {self.max_settings:,}: "
                "give fewer, or a larger max_settings"
            )
        if self.sampler != "grid":
            if self.n_trials is None:
                yield f"n_trials is needed with sampler = '{self.sampler}'"
            if self.combine != "all":
                yield f"combine = '{self.combine}' is for the grid sampler"
            if "seed" in self.options:
                yield "options.seed: the sampler's seed follows from search.seed: give that"
            return
        knobs = {"sigma": self.sigma, "bias": self.bias, "k": self.k}
        for name, space in (knobs | self.varied).items():
            if not isinstance(space, tuple):
                yield (
                    f"{name} is a range, which the grid sampler cannot enumerate: "
                    "give a list, or another sampler (tpe, gp, nsga2, random)"
                )
        lists = {n: s for n, s in (knobs | self.varied).items() if isinstance(s, tuple)}
        sizes = {name: len(space) for name, space in lists.items()}
        if self.combine != "all":  # at most: each value of a key of variants with all settings
            alone = {name: sizes.pop(name) for name in self.varied}
            sizes["variants"] = 1 + sum(alone.values())
        if (count := math.prod(sizes.values())) > self.max_settings:
            product = " x ".join(f"{size:,} {name}" for name, size in sizes.items())
            yield (
                f"{product} = {count:,} settings, more than max_settings = "
                f"{self.max_settings:,}: give shorter lists, or a larger max_settings"
            )
        for name in ("n_trials", "options", "stop"):
            if getattr(self, name):
                yield (
                    f"{name} is for samplers that draw: a grid runs every setting; leave it out, "
                    "or give another sampler (tpe, gp, nsga2, random)"
                )
        if self.from_study is not None and self.varied:
            names = ", ".join(self.varied)
            yield f"from_study is not for a grid that also searches {names}: leave it out"


class SyntheticConfig(Table):
    """`[data.synthetic]`: the generated series behind `source = "synthetic"`."""

    rows: int = Field(default=8000, ge=100, le=1_000_000)
    channels: int = Field(default=3, ge=1, le=1000)
    seed: Seed = 0

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.rows * self.channels > 10**8:
            raise ValueError(
                f"rows = {self.rows} of channels = {self.channels}: must be at most 1e8 values"
            )
        return self


class DataConfig(Table):
    """`[data]`: the series, and the windows of it on which settings are measured."""

    source: Annotated[str, PlainSerializer(readable, str, when_used="json")] = Field(min_length=1)
    """A file's path, a known name (ETTh1, ETTh2, ETTm1, ETTm2), or "synthetic"."""
    time: TimeColumn | None = None
    """The column that says when rows were taken; found if absent. False: rows are evenly spaced."""
    channels: Annotated[tuple[ColumnName, ...], AfterValidator(distinct)] | None = None
    """The columns to forecast; all that can be channels if absent."""
    gaps: GapFilling | None = None
    """How missing rows and empty cells are filled; refused if absent."""
    splits: Splits | None = None
    """Shares, or dates; the standard ones of a known series or 0.7, 0.1 and 0.2 if absent."""
    split: Split = "validation"
    context: PositiveInt
    """Points of the past that a model sees."""
    horizon: PositiveInt
    """Points to forecast."""
    window_stride: PositiveInt = 1
    """Every n-th window, from the first."""
    max_windows: PositiveInt | None = None
    """Evenly spaced among those; all of them if absent."""
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _of_a_file(self) -> Self:
        for key in ("time", "channels", "gaps"):
            if self.source == SYNTHETIC and getattr(self, key) is not None:
                raise ValueError(f"{key} is for files: source = '{SYNTHETIC}' has nothing to read")
        return self


class DecodingConfig(Table):
    """`[decoding]`: rule, hardware, and random numbers: `seed`, `seed` + 1, …, so many `seeds`."""

    rule: Rule = "stride"
    context: ContextMode = "rolling"
    """Rolling: the context slides and is encoded anew for each patch. Growing: it is extended."""
    device: Annotated[
        str,
        matching(
            r"auto|cpu|cuda(:(0|[1-9]\d?))?", "'auto', 'cpu', 'cuda', or 'cuda:' and a number"
        ),
    ] = "auto"
    precision: Precision = "float32"
    batch_size: PositiveInt = 64
    seed: int = Field(default=0, ge=0, lt=2**63)
    seeds: int = Field(default=1, ge=1, le=1000)


class BenchConfig(Table):
    """`[bench]`: what `run` measures at its end."""

    seconds: float = Field(default=10.0, ge=0.0, le=86_400.0)
    """Time for it, roughly; 0: nothing is measured."""


class SpeedScenario(Table):
    """`[recommend.speed]`: the highest speedup within a bound on the error."""

    max_mse_ratio: PositiveFloat = 1.10
    """MSE at most this times the target's own."""
    min_acceptance: float = Field(default=0.0, ge=0.0, le=1.0)
    min_k: PositiveInt = 4
    """Where no speedup is known: the highest acceptance at this k or more."""


class BoundedScenario(Table):
    """Bounds on error and acceptance."""

    max_mse_ratio: PositiveFloat
    """MSE at most this times the target's own; ignored where max_mse is given."""
    max_mse: PositiveFloat | None = None
    min_acceptance: float = Field(ge=0.0, le=1.0)


class QualityScenario(BoundedScenario):
    """`[recommend.quality]`: lowest error, at an acceptance that can pay."""

    max_mse_ratio: PositiveFloat = 1.05
    min_acceptance: float = Field(default=0.60, ge=0.0, le=1.0)


class BalancedScenario(BoundedScenario):
    """`[recommend.balanced]`: neither error nor acceptance far from the best."""

    max_mse_ratio: PositiveFloat = 1.10
    min_acceptance: float = Field(default=0.75, ge=0.0, le=1.0)


class RecommendConfig(Table):
    """`[recommend]`: thresholds of the three scenarios, and of "as accurate as the target"."""

    equivalence_margin: float = Field(default=0.02, gt=0.0, le=1.0)
    """Share of the target's MSE: one that is higher by less counts as accurate as the target."""
    speed: SpeedScenario = SpeedScenario()
    quality: QualityScenario = QualityScenario()
    balanced: BalancedScenario = BalancedScenario()

    def completed(self, limits: Constraints) -> Self:
        """With the limits of the search wherever a scenario gives none of its own.

        Raises:
            ValueError: a scenario allows what the search does not.
        """
        given = limits.model_dump(exclude_none=True)
        scenarios = {"speed": self.speed, "quality": self.quality, "balanced": self.balanced}
        for name, scenario in scenarios.items():
            own = {key: getattr(scenario, key) for key in given.keys() & scenario.model_fields_set}
            for key, value in own.items():
                looser = value < given[key] if key == "min_acceptance" else value > given[key]
                if looser:
                    raise ValueError(
                        f"recommend.{name}.{key} = {value:g} allows what search.constraints.{key} "
                        f"= {given[key]:g} does not: change one of them"
                    )
            scenarios[name] = scenario.model_copy(update=given | own)
        return self.model_copy(update=scenarios)


class StudyConfig(Table):
    """A whole study file."""

    name: Annotated[
        str,
        matching(
            r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
            "1 to 100 letters, digits, '.', '_' or '-', of which the first is a letter or digit",
        ),
    ]
    search: SearchConfig = SearchConfig()
    data: DataConfig
    target: TargetConfig = TargetConfig()
    draft: DraftConfig = DraftConfig()
    decoding: DecodingConfig = DecodingConfig()
    recommend: RecommendConfig = RecommendConfig()
    bench: BenchConfig = BenchConfig()

    @model_validator(mode="after")
    def _limits_of_the_search(self) -> Self:
        # The one way to complete a frozen model that works for every way of making it.
        object.__setattr__(self, "recommend", self.recommend.completed(self.search.constraints))
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if problem := self._search_problem():
            raise ValueError(problem)
        target = self.target
        if target.is_made and self.data.context % target.patch:
            raise ValueError(
                f"data.context = {self.data.context} must be a multiple of "
                f"target.patch = {target.patch}"
            )
        if self.draft.checkpoint is not None and target.is_made:
            raise ValueError(
                "draft.checkpoint is given without target.checkpoint: "
                "a draft belongs to the target that it was distilled from"
            )
        if (self.draft.context or 0) > self.data.context:
            raise ValueError(
                f"draft.context = {self.draft.context} must be at most "
                f"data.context = {self.data.context}"
            )
        return self

    def _search_problem(self) -> str | None:
        """What in `[search]` does not fit the other tables."""
        search, draft = self.search, self.draft
        alone = search.combine == "one-at-a-time"
        bias = search.bias
        lowest = min(bias) if isinstance(bias, tuple) else bias.low
        written = {self.decoding.rule} if alone or search.rule is None else set()
        for rule in written | {*(search.rule or ())}:
            if problem := _bias_problem(lowest, rule):
                return f"search.bias = {lowest:g}: {problem}"
        of_draft = [name for name in search.varied if name != "rule"]
        if of_draft and not draft.is_made:
            return f"search.{of_draft[0]} is for a draft that is made here: [draft] gives one"
        if alone and not search.varied:
            return "search.combine is given, but no key of [search] that it combines"
        of_networks = [name for name in of_draft if name in NETWORK_KEYS]
        kinds = {draft.kind_made} if alone or search.draft_kind is None else set()
        if of_networks and "timer-xl" not in kinds | {*(search.draft_kind or ())}:
            return (
                f"search.{of_networks[0]} has no effect on a draft that is not a network: give "
                "draft.kind = 'timer-xl', or 'timer-xl' in search.draft_kind"
            )
        return None

    @property
    def written(self) -> Variant:
        """Its values of a variant's keys; those that have no effect are None."""
        return Variant(rule=self.decoding.rule, **self.draft.written)

    def with_variant(self, variant: Variant) -> Self:
        """The study file that a variant makes of this one."""
        rule = variant.rule or self.decoding.rule
        decoding = self.decoding.model_copy(update={"rule": rule})
        draft = self.draft.with_variant(variant) if variant.changes_draft else self.draft
        return self.model_copy(update={"draft": draft, "decoding": decoding})

    def changes(self, asked: Variant) -> Variant:
        """A variant without the keys that change nothing here: equal ones make equal models.

        A key changes nothing if the study file has that value, or if the kind of draft does not
        have the key.
        """
        own, made = self.written, self.with_variant(asked).written
        different = {n: v for n, v in made.given.items() if v != getattr(own, n)}
        return Variant(**different)


def shipped_studies() -> dict[str, Path]:
    """The shipped study files by name, from the wheel or beside the package."""
    package = Path(__file__).parent.parent
    folder = next(
        (f for f in (package / "studies", package.parent / "studies") if f.is_dir()), None
    )
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.toml"))}


def study_path(reference: str) -> Path | None:
    """The study file that a path names, with or without `.toml`, or the shipped one of that name.

    None if there is none: then it may be the name of a study in the store.
    """
    for path in (Path(reference), Path(f"{reference}.toml")):
        if path.is_file():
            return path
    return shipped_studies().get(reference)


def no_such_study(reference: str, elsewhere: str = "") -> ConfigError:
    """The error that no file has that name; `elsewhere` says what else could be meant."""
    text = f"{reference}: no such study file; a path, or one of those that ship: "
    return ConfigError(f"{text}{', '.join(shipped_studies())}{elsewhere}")


def read_study(reference: str) -> StudyConfig:
    """Read and check a study file, and make its checkpoint paths absolute.

    Raises:
        ConfigError: one line with file, key, value and what is allowed.
    """
    if (path := study_path(reference)) is None:
        raise no_such_study(reference)
    try:
        # From JSON, where strict mode reads an array as a tuple and a string as a path.
        config = StudyConfig.model_validate_json(read_document(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error, StudyConfig)}") from error
    try:
        return _with_paths(config, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _with_paths(config: StudyConfig, folder: Path) -> StudyConfig:
    """Find what relative paths name, from the working folder or else the study file's.

    A checkpoint's path becomes absolute. A source may also be a name, or a file elsewhere: it is
    changed only if a file beside the study file is meant.
    """
    data, target, draft = config.data, config.target, config.draft
    if data.source != SYNTHETIC:
        beside, is_beside = _beside("data.source", data.source, folder)
        if is_beside and beside.is_file():
            data = data.model_copy(update={"source": str(beside)})
    if target.checkpoint is not None:
        found, _ = _beside("target.checkpoint", target.checkpoint, folder)
        target = target.model_copy(update={"checkpoint": found})
    if draft.checkpoint is not None:
        found, _ = _beside("draft.checkpoint", draft.checkpoint, folder)
        draft = draft.model_copy(update={"checkpoint": found})
    return config.model_copy(update={"data": data, "target": target, "draft": draft})


def _beside(key: str, path: str | Path, folder: Path) -> tuple[Path, bool]:
    """The absolute path of a file, and whether only the one beside the study file exists."""
    try:
        given = Path(path).expanduser()
        if not given.name:
            raise ValueError("it is empty, or a folder")
        beside = folder / given
        is_beside = beside.exists() and not given.exists()
        return (beside if is_beside else given).resolve(), is_beside
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{key}: not a path: {brief(str(error))}") from error
