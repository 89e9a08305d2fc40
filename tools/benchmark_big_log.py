"""A log of 100 million events from parquet to training steps: time and peak memory of each stage.

    python -m tools.benchmark_big_log --file=big.parquet --markdown=big.md

The log is generated into --file unless it is there: users with geometric numbers of events, two at least, items by popularity. The stages
after that run one after another in one process, as `experiments.train` does them, evaluation left out.
"""

import json
import time
from pathlib import Path

from absl import flags

from experiments import launch
from metacsr_jax import presets, settings
from metacsr_jax.checks import check
from tools.benchmark.big_log import markdown, measure, write_log

_FILE = flags.DEFINE_string("file", None, "Parquet file of the log; written where it is missing.")
_EVENTS = flags.DEFINE_integer("events", 100_000_000, "Of a log that is written, about.")
_USERS = flags.DEFINE_integer("users", 5_000_000, "Of a log that is written.")
_ITEMS = flags.DEFINE_integer("items", 1_000_000, "Of a log that is written, at most.")
_PRESET = flags.DEFINE_string("preset", "custom/paper", "Of the training step.")
_SET = flags.DEFINE_multi_string(
    "set",
    ["model.fan_out=10", "optimizer.lazy=true", "loss.name=softmax", "loss.candidates=4096"],
    "section.name=value, any other setting; replaces these.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Dispatches that are timed.", lower_bound=1)
_MARKDOWN = flags.DEFINE_string("markdown", None, "Write the table there too.")
_JSON = flags.DEFINE_string("json", None, "Write the figures there.")


def main(_: list[str]) -> int:
    chunk = [f"train.{name}=2" for name in ("chunk", "validate_every", "save_every", "steps")]
    chosen = [*chunk, "train.pretrain_steps=0", *_SET.value]
    config = settings.override(presets.preset(_PRESET.value), chosen)
    check(config)
    path = Path(_FILE.value)
    if not path.exists():
        started = time.perf_counter()
        write_log(path, _EVENTS.value, _USERS.value, _ITEMS.value)
        print(f"{path}: written in {time.perf_counter() - started:.1f} s", flush=True)
    report = measure(path, config, _ROUNDS.value)
    text = markdown(report)
    print(text, end="")
    if _MARKDOWN.value:
        Path(_MARKDOWN.value).write_text(text)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(report, indent=1) + "\n")
    return 0


flags.mark_flag_as_required("file")

if __name__ == "__main__":
    launch.run(main)
