"""The words of a report, in a line each; `docs/glossary.md` has these and more."""

from spec_opt.results.document import Section, Table

WORDS = {
    "acceptance rate": "share of judged proposals that were accepted, over all windows",
    "bias": "factor on the acceptance probability; 1 changes nothing, larger accepts more",
    "clear, tie": "a result on the front is clear if no other trial could be at least as good in "
    "both objectives, by the 95 % interval of the difference; a tie if another could",
    "draft": "the small model that proposes",
    "front": "the Pareto trials: no other is better in one objective without being worse in "
    "another",
    "k": "proposals in a round, at most",
    "MSE": "mean squared error of the forecast against what really happened, in standardised units",
    "MSE / target's": "MSE divided by that of the target alone on the same windows; below 1 is "
    "better than the target",
    "patch": "points that a model forecasts at a time, P",
    "patches per round": "patches that a round adds to the forecast, on average; more means fewer "
    "calls of the target",
    "proposal": "a patch that the draft made and the target has not judged yet",
    "round": "the draft proposes up to k patches, the target verifies them, one patch of the "
    "target ends it",
    "rule": "how proposals are made and judged: `stride` (as in the sweep guide), `exact` "
    "(lossless speculative sampling) or `point` (for point forecasts, adds no noise)",
    "setting": "one choice of `sigma`, `bias` and `k`",
    "sigma": "standard deviation given to the target's forecast; under rule `point`, the tolerated "
    "gap; larger accepts more",
    "speedup": "time of target-only decoding divided by that of speculative decoding, both "
    "measured in turns; above 1 it pays",
    "target": "the large model whose forecasts are wanted",
    "trial": "one evaluation of one setting",
    "window": "a context and the horizon after it: one forecast",
}


def words() -> Section:
    """For the end of a page, where it is folded away."""
    return Section([Table(("word", "means"), [*WORDS.items()])], summary="Words on this page")
