"""`spec-opt` with a stopwatch: the time that each part of a process takes.

    python -m benchmarks.timed_run PARTS.json run STUDY --storage URL

Writes the seconds of each part to PARTS.json. It wraps functions from outside, so the package needs
no code for this. STARTED, in the environment, is the time at which the parent started this process.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED = float(os.environ.get("STARTED", time.time()))
seconds: dict[str, float] = defaultdict(float)
counts: dict[str, int] = defaultdict(int)


def timed(owner: Any, name: str, part: str) -> None:
    """Wrap `owner.name` in a stopwatch; a part inside another is counted once."""
    function: Callable[..., Any] = owner.__dict__[name]
    bound = function.__func__ if isinstance(function, classmethod) else function

    def wrapper(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        inside = sum(seconds.values())
        try:
            return bound(*arguments, **options)
        finally:
            nested = sum(seconds.values()) - inside
            seconds[part] += time.perf_counter() - began - nested
            counts[part] += 1

    setattr(owner, name, classmethod(wrapper) if isinstance(function, classmethod) else wrapper)


def main() -> int:
    parts_file, *arguments = sys.argv[1:]
    from spec_opt import cli
    from spec_opt.cli import service
    from spec_opt.measure import objective
    from spec_opt.measure.evaluator import Evaluator
    from spec_opt.models.frozen import FrozenTimerXL
    from spec_opt.results import render, table
    from spec_opt.study.store import Store

    seconds["start-up"] = time.time() - STARTED
    evaluated = {"target": 0, "draft": 0}
    predict = FrozenTimerXL.predict

    def counted(self: FrozenTimerXL, context: Any) -> Any:
        role = "draft" if self.config.stochastic else "target"
        evaluated[role] += len(context)
        return predict(self, context)

    FrozenTimerXL.predict = counted  # type: ignore[method-assign]
    timed(FrozenTimerXL, "predict", "model")
    timed(Evaluator, "measure", "acceptance")
    timed(Evaluator, "baseline", "acceptance")
    timed(objective.StudyObjective, "prepare", "data and checkpoints")
    timed(Store, "transaction", "store")
    timed(Store, "read", "store")
    timed(service, "open_store", "store")
    timed(table, "read_table", "front")
    timed(render, "study_text", "front")
    began = time.perf_counter()
    from spec_opt.results import report  # brings plotly

    seconds["report"] += time.perf_counter() - began
    timed(report, "write_report", "report")

    kept: list[Evaluator] = []
    make = Evaluator.__init__

    def remembered(self: Evaluator, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        kept.append(self)

    Evaluator.__init__ = remembered  # type: ignore[method-assign]
    code = cli.main(arguments)
    total = time.time() - STARTED
    import resource

    statistics = kept[0].cache_statistics
    seconds["rest"] = total - sum(seconds.values())
    document = {
        "total": total,
        "parts": dict(seconds),
        "target_evaluations": evaluated["target"],
        "draft_evaluations": evaluated["draft"],
        "hit_rate": statistics.hit_rate,
        "cache_mib": statistics.bytes / 2**20,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    Path(parts_file).write_text(json.dumps(document), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
