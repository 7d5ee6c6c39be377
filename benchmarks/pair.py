"""The trained ETTh1 pair on 255 test windows, for benchmarks.

SPEC_OPT_SHARED names the folder that holds data/ETTh1.csv and checkpoints/.
"""

import os
from pathlib import Path

from spec_opt.config.study_file import DataConfig, DecodingConfig
from spec_opt.config.values import ContextMode, Rule
from spec_opt.data.windows import Windows, load_dataset
from spec_opt.measure.evaluator import Evaluator
from spec_opt.models.checkpoint import load_timer_xl
from spec_opt.models.frozen import FrozenTimerXL

CONTEXT = 672


def shared() -> Path:
    return Path(os.environ["SPEC_OPT_SHARED"]).resolve()


def windows(horizon: int) -> Windows:
    """Every 10th test window."""
    os.environ.setdefault("SPEC_OPT_DATA", str(shared() / "data"))
    config = DataConfig(source="ETTh1", split="test", context=CONTEXT, horizon=horizon)
    return load_dataset(config).windows("test", CONTEXT, horizon, 10)


def model(role: str) -> FrozenTimerXL:
    return load_timer_xl(shared() / "checkpoints" / f"etth1_{role}_checkpoint.pth")


def evaluator(rule: Rule, context: ContextMode, horizon: int = 336) -> Evaluator:
    config = DecodingConfig(rule=rule, context=context, device="cpu")
    return Evaluator(model("target"), model("draft"), windows(horizon), config)
