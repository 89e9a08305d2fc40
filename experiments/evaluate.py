r"""Evaluates a work directory's checkpoint; nothing but the work directory is needed.

    python -m experiments.evaluate --workdir=runs/ml-1m --checkpoint=best --scenarios=cold,warm --adapt_steps=0,1,5

Writes evaluation/rows.json, rows.csv and the rank of every case, and prints a table.
"""

from importlib.util import find_spec

from absl import flags

from experiments import launch
from metacsr_jax.errors import ConfigError
from metacsr_jax.evaluate import check_baselines, evaluate, evaluate_baselines, evaluate_differences
from metacsr_jax.report.table import difference_table, metric_table, subset_table
from metacsr_jax.report.workdir import draw_workdir
from metacsr_jax.workdir import read_manifest

_WORKDIR = flags.DEFINE_string("workdir", None, "Written by experiments.train.", required=True)
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last or a saved step.")
_SCENARIOS = flags.DEFINE_list("scenarios", None, "Of cold, warm; default: as configured.")
_ADAPT_STEPS = flags.DEFINE_list(
    "adapt_steps", None, "Inner steps; default: as configured, and the chosen number."
)
_ADAPT_PER = flags.DEFINE_list("adapt_per", None, "user, group or both; default: as configured.")
_BATCH = flags.DEFINE_integer(
    "batch", None, "Users adapted at once (bounds memory); default: as configured.", lower_bound=1
)
_BASELINES = flags.DEFINE_list(
    "baselines", [], "Counting baselines to rank beside: random, popular, markov."
)


def main(_: list[str]) -> None:
    for scenario in _SCENARIOS.value or ():
        if scenario not in ("cold", "warm"):
            raise ConfigError(f"--scenarios={scenario}: expected cold, warm or both")
    for per in _ADAPT_PER.value or ():
        if per not in ("user", "group"):
            raise ConfigError(f"--adapt_per={per}: expected user, group or both")
    check_baselines(_BASELINES.value)
    steps = _ADAPT_STEPS.value
    if steps is not None and not all(text.strip().isdigit() for text in steps):
        raise ConfigError(f"--adapt_steps={','.join(steps)}: expected whole numbers, 0 or more")
    rows = evaluate(
        _WORKDIR.value,
        checkpoint=_CHECKPOINT.value,
        scenarios=_SCENARIOS.value,
        adapt_steps=None if steps is None else [int(text) for text in steps],
        adapt_per=_ADAPT_PER.value,
        batch=_BATCH.value,
    )
    if _BASELINES.value:
        rows += evaluate_baselines(_WORKDIR.value, _BASELINES.value, _SCENARIOS.value)
    print(metric_table(rows))
    apart = subset_table(rows)
    if apart:
        print(f"\nby target: seen in training or not, new to the history or repeated\n{apart}")
    chosen = read_manifest(_WORKDIR.value).get("chosen_adapt_steps")
    evaluated = {row["adapt_steps"] for row in rows}
    if chosen is not None and chosen not in evaluated:
        print(f"\nchosen on validation users: {chosen} adaptation steps, not among these")
    elif chosen is not None and 0 in evaluated:
        compared = evaluate_differences(
            _WORKDIR.value, baselines=_BASELINES.value, scenarios=_SCENARIOS.value
        )
        if compared:
            print(f"\npaired differences\n{difference_table(compared)}")
    if find_spec("matplotlib"):  # the `plots` extra
        print("\npictures:", *draw_workdir(_WORKDIR.value), sep="\n  ")


if __name__ == "__main__":
    launch.run(main)
