"""An objective without models, and a worker process on it: everything else is the real thing."""

import gc
import json
import os
import signal
import threading
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spec_opt.config.study_file import DataConfig, SearchConfig, Setting, StudyConfig
from spec_opt.config.variants import Variant
from spec_opt.measure.measurement import Baseline, Blocks, Fingerprints, Measurement
from spec_opt.study.claims import Heartbeat
from spec_opt.study.store import Store, open_store
from spec_opt.study.study import Study, open_study
from spec_opt.study.worker import run_worker

FINGERPRINTS = Fingerprints(target="t0", draft="d0", data="x0", decoding="r0")
BASELINE = Baseline(
    target_mse=0.44,
    target_mae=0.45,
    target_mse_se=0.01,
    draft_mse=0.47,
    draft_mae=0.48,
    draft_mse_se=0.01,
    draft_minus_target_mse_se=0.005,
    draft_minus_target_mse_ci95=0.0125,
)
BLOCKS = Blocks(
    rows=tuple(range(0, 200, 10)),
    windows=(1,) * 20,
    width=0,
    context=20,
    horizon=10,
    mse=(0.45,) * 20,
    accepted=(1,) * 20,
    tested=(2,) * 20,
)
QUICK = Heartbeat(interval=0.3, grace=1.5)


def measurement(setting: Setting, **changes: Any) -> Measurement:
    """Made-up numbers that depend on the setting alone."""
    rate = min(1.0, setting.sigma * setting.bias / (2.0 + setting.k))
    numbers = {
        "acceptance_rate": rate,
        "mse": 0.44 + 0.1 * setting.sigma * rate,
        "mae": 0.45,
        "acceptance_se": 0.01,
        "acceptance_ci95": 0.025,
        "mse_se": None,
        "mse_ci95": None,
        "windows": 16,
        "accepted": 10,
        "tested": 20,
        "proposed": 30,
        "rounds": 8,
        "bonus": 2,
        "patches": 64,
        "patches_per_round": 2.0,
        "accepted_by_position": (1,) * setting.k,
        "tested_by_position": (2,) * setting.k,
        "target_evaluations": 40,
        "draft_evaluations": 50,
        "thinning_exhausted": 0,
        "evaluation_seconds": 0.1,
        "blocks": BLOCKS,
    }
    return Measurement(**(numbers | changes))


@dataclass
class StandIn:
    """Takes `seconds`, and notes each evaluation as a line of the file `log`."""

    seconds: float = 0.0
    log: Path | None = None
    fingerprints: Fingerprints = FINGERPRINTS
    baseline: Baseline = BASELINE
    device: str = "cpu"
    draft_path: str = "draft.safetensors"

    def of(self, variant: Variant) -> "StandIn":
        del variant
        return self

    def __call__(self, setting: Setting) -> Measurement:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()} {setting}\n")
        time.sleep(self.seconds)
        return measurement(setting)


def study_config(name: str = "stand-in", **search: Any) -> StudyConfig:
    """A study of 80 settings, or what `search` says."""
    return StudyConfig(
        name=name,
        search=SearchConfig(**search),
        data=DataConfig(source="synthetic", context=672, horizon=96),
    )


def stand_in_study(store: Store, name: str = "stand-in", **search: Any) -> Study:
    return open_study(store, study_config(name, **search), FINGERPRINTS, BASELINE, {"torch": "0"})


def work(
    url: str,
    search: dict[str, Any],
    seconds: float,
    log: Path | None = None,
    heartbeat: Heartbeat = QUICK,
) -> str:
    """What a worker process does; SIGTERM lets it leave after its running trial.

    Returns its summary as JSON. A warning is an error.
    """
    warnings.simplefilter("error")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with open_store(url) as store:
        study = stand_in_study(store, **search)
        summary = run_worker(study, StandIn(seconds, log), stop, heartbeat=heartbeat)
    gc.collect()  # what was left open warns
    return json.dumps(asdict(summary))
