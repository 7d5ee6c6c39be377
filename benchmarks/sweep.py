"""The guide's 80 settings on the trained ETTh1 pair and 255 windows, as one whole process.

    SPEC_OPT_SHARED=folder python -m benchmarks.sweep [--repeats 5] [--rule stride] [--no-plain]

The folder has data/ETTh1.csv, checkpoints/ and reference/stride_sweep_etth1_255_windows.csv, the
times of 80 processes of the research code for the same grid on a 2-core machine. For comparison the
same run also decodes all settings with our plain decoder, without the cache.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.environment import describe
from spec_opt.config.study_file import Setting, StudyConfig, read_study
from spec_opt.data.windows import load_dataset
from spec_opt.decoding.prefix_cache import PrefixCache
from spec_opt.decoding.rules import RULES
from spec_opt.decoding.speculative import Counters, Workload
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.study.space import grid_points

WINDOWS = 255
STUDY = """
name = "sweep"
[data]
source = "ETTh1"
split = "test"
context = 672
horizon = 336
window_stride = 10
[target]
checkpoint = "{shared}/checkpoints/etth1_target_checkpoint.pth"
[draft]
checkpoint = "{shared}/checkpoints/etth1_draft_checkpoint.pth"
[decoding]
rule = "{rule}"
[bench]
seconds = 0
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rule", default="stride", choices=["stride", "exact", "point"])
    parser.add_argument("--no-plain", action="store_true", help="leave the slow comparison out")
    options = parser.parse_args()
    shared = Path(os.environ["SPEC_OPT_SHARED"]).resolve()

    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "sweep.toml"
        study.write_text(STUDY.format(shared=shared, rule=options.rule), encoding="utf-8")
        runs = [whole_process(study, Path(folder), i, shared) for i in range(options.repeats)]
        config = read_study(str(study))
    print(f"{describe()}\n80 settings, rule {options.rule}, {WINDOWS} windows\n")
    report(runs)
    old = sum(float(row["wall_s"]) for row in reference(shared))
    median = statistics.median(run["total"] for run in runs)
    print(f"\n80 processes of the research code: {old:.0f} s, {old / median:.0f} times as long")
    if not options.no_plain:
        os.environ["SPEC_OPT_DATA"] = str(shared / "data")
        plain = without_cache(config)
        print(
            f"Our plain decoder, no cache, decoding alone: {plain.seconds:.0f} s, "
            f"{plain.seconds / median:.1f} times as long as the whole process.\n"
            f"Cache against plain decoder: counters equal for {plain.equal} of {plain.settings} "
            f"settings, forecasts within {plain.gap:.1e}."
        )


def whole_process(study: Path, folder: Path, repeat: int, shared: Path) -> dict[str, float]:
    """`spec-opt run` on an empty store, from start to the printed front."""
    parts = folder / f"parts{repeat}.json"
    script = Path(__file__).with_name("timed_run.py")
    command = [sys.executable, str(script), str(parts), "run", str(study)]
    command += ["--storage", f"sqlite:///{folder}/store{repeat}.db"]
    environment = os.environ | {
        "STARTED": str(time.time()),
        "SPEC_OPT_DATA": str(shared / "data"),
        "SPEC_OPT_CACHE": str(folder / "cache"),
    }
    began = time.time()
    subprocess.run(command, env=environment, check=True, cwd=folder, capture_output=True, text=True)
    result: dict[str, float] = json.loads(parts.read_text(encoding="utf-8"))
    result["total"] = time.time() - began
    return result


def report(runs: list[dict[str, float]]) -> None:
    def median(values: list[float]) -> float:
        return statistics.median(values)

    totals = [run["total"] for run in runs]
    print(f"Whole process: median {median(totals):.1f} s of {len(runs)} runs ", end="")
    print(f"({min(totals):.1f} to {max(totals):.1f})\n")
    print("| part | median, s |\n|---|---|")
    for part in runs[0]["parts"]:  # type: ignore[attr-defined]
        print(f"| {part} | {median([run['parts'][part] for run in runs]):.2f} |")  # type: ignore[index]
    run = runs[0]
    print(
        f"\nPer window: {run['target_evaluations'] / WINDOWS:.2f} target and "
        f"{run['draft_evaluations'] / WINDOWS:.2f} draft evaluations, baselines included. "
        f"Hit rate {100 * run['hit_rate']:.1f} %. "
        f"Prefixes {run['cache_mib']:.0f} MiB, peak memory {run['peak_mib']:.0f} MiB."
    )


def reference(shared: Path) -> list[dict[str, str]]:
    table = shared / "reference" / "stride_sweep_etth1_255_windows.csv"
    with table.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@dataclass(frozen=True)
class Plain:
    """The plain decoder over all settings, compared with the cache."""

    seconds: float
    settings: int
    equal: int
    """Settings with the same counters in both."""
    gap: float
    """Largest difference between forecast values, over those settings."""


def without_cache(config: StudyConfig) -> Plain:
    """Decode all settings with the plain decoder; loading is not timed."""
    data = config.data
    windows = load_dataset(data).windows(
        data.split, data.context, data.horizon, data.window_stride, data.max_windows
    )
    assert config.target.checkpoint is not None
    assert config.draft.checkpoint is not None
    target, draft = load_timer_xl(config.target.checkpoint), load_timer_xl(config.draft.checkpoint)
    rule, size = RULES[config.decoding.rule], config.decoding.batch_size
    workload = Workload(target, draft, rule, windows, config.decoding.seed)
    cache = PrefixCache(workload, batch_size=size)

    def plainly(setting: Setting) -> tuple[Tensor, Counters]:
        batches = torch.split(torch.arange(len(windows)), size)
        parts = [workload.speculatively(index, setting) for index in batches]
        forecasts = torch.cat([part.forecast for part in parts])
        return forecasts, Counters.concatenate([part.counters for part in parts])

    settings = grid_points(config.search)
    plainly(settings[0])  # warm-up
    seconds, equal, gap = 0.0, 0, 0.0
    for setting in settings:
        began = time.perf_counter()
        forecast, counters = plainly(setting)
        seconds += time.perf_counter() - began
        walk = cache.walk(setting, forecast=True)
        assert walk.forecast is not None
        both = zip(astuple(counters), astuple(walk.counters), strict=True)
        if all(torch.equal(a, b) for a, b in both):
            equal += 1
            gap = max(gap, float((forecast - walk.forecast).abs().max()))
    return Plain(seconds, len(settings), equal, gap)


if __name__ == "__main__":
    main()
