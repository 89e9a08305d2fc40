"""Gets a data set and prints its statistics next to the paper's table 2.

    python -m tools.prepare_data --dataset=movielens-1m --root=data
    python -m tools.prepare_data --path=data/ml-1m.zip

`--dataset` downloads unless a good copy is under `--root`; `--path` takes a local copy of anything
that `metacsr_jax.data.read` reads. Use the printed path as `--data` of the launchers.
"""

from absl import app, flags

from metacsr_jax.config import DataConfig
from metacsr_jax.data.datasets import DATASETS, comparison
from metacsr_jax.data.download import fetch
from metacsr_jax.data.readers import FORMATS, read
from metacsr_jax.errors import DataError

_DATASET = flags.DEFINE_enum("dataset", None, sorted(DATASETS), "What to download.")
_PATH = flags.DEFINE_string("path", "", "A local copy: file, directory, zip, gz or tar.gz.")
_ROOT = flags.DEFINE_string("root", "data", "Directory for downloads.")
_FORMAT = flags.DEFINE_enum("format", "auto", ["auto", *FORMATS], "Form of the log.")
_MIN_RATING = flags.DEFINE_float("min_rating", 4.0, "Lowest rating that counts, in rated logs.")
_WINDOW = flags.DEFINE_float("window_days", 7.0, "Last.fm-1K: the latest this many days; 0: all.")
_SKIP = flags.DEFINE_bool("skip_malformed", False, "Count malformed lines instead of stopping.")


def main(argv: list[str]) -> None:
    if len(argv) > 1 or bool(_DATASET.value) == bool(_PATH.value):
        raise app.UsageError("expected either --dataset or --path")
    config = DataConfig(format=_FORMAT.value, skip_malformed=_SKIP.value, window_days=_WINDOW.value)
    try:
        path = _PATH.value or fetch(DATASETS[_DATASET.value], _ROOT.value)
        log = read(path, config)
    except DataError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{path}: " + ", ".join(f"{count:,} {what}" for what, count in log.counts.items()))
    names = [_DATASET.value] if _DATASET.value else DATASETS
    print(comparison(log, _MIN_RATING.value, names))


if __name__ == "__main__":
    app.run(main)
