"""Which trainings the tables and figures need; what several of them need is trained once."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metacsr_jax import settings
from metacsr_jax.compare import Run, configuration
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError
from metacsr_jax.pace import shortened
from metacsr_jax.registry import MODELS
from metacsr_jax.report.paper import RIVALS

EXHIBITS = {
    "table2": "Statistics of the log",
    "table3": "All models, cold start",
    "fig3": "Hit@N and NDCG@N, cold start",
    "table4": "All models, warm start",
    "fig4": "Hit@N and NDCG@N, warm start",
    "table5": "Each component removed",
    "fig5": "Amount of training data",
    "fig6": "AUC and loss against meta-test iterations",
    "fig7": "New users' preferences and items",
    "fig8": "Regular users' preferences and items",
    "fig9": "Similarity of positive and negative pairs",
    "fig10": "New and regular users' preferences, not fine-tuned",
    "fig11": "New and regular users' preferences, fine-tuned",
    "fig12": "Length of the input sequence",
    "steps": "Adaptation steps and meta-learning algorithms",
    "length": "How cold is cold: length of the history",
    "ranking": "Ranking among negatives and in the full catalogue",
    "order": "How much of the order is real",
    "time": "Users who come after a point in time",
    "shift": "Change of the parameters under adaptation",
}
WITHOUT_DIFFUSION = "metacsr-without-diffusion"
WITH_MEAN = "metacsr-with-mean-pooling"
WITHOUT_META = "pretrain"
METHODS = ("maml", "fomaml", "anil", "reptile", "metasgd", "none")
ORDER_MODELS = ("metacsr", "sasrec", "lstm", "markov", "itemknn")
TIME_MODELS = ("metacsr", "sasrec", "markov", "popular")
TIES_MODELS = ("metacsr", "markov")


class Options(NamedTuple):
    """What a reproduction is made with.

    Attributes:
        preset: `<log>/<variant>`.
        models: of tables 3 and 4; metaCSR is always among them.
        seeds: of training.
        shares: of the regular users, figure 5; all of them are the models of table 3.
        lengths: T of figure 12; the preset's own is among them or added.
        methods: meta-learning algorithms.
        order_models: those whose histories are cut and shuffled; fine-tuning a deep model anew for each version takes long.
        budget: share of every training's length.
        assignments: `section.name=value` for every run.
        tuned: settings of single models, as `metacsr_jax.tune` writes them.
        searched: what the searches cost that found them, for the page.
    """

    preset: str
    models: tuple[str, ...] = tuple(MODELS)
    seeds: tuple[int, ...] = (0,)
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    lengths: tuple[int, ...] = (5, 10, 15, 20, 25)
    methods: tuple[str, ...] = METHODS
    order_models: tuple[str, ...] = ORDER_MODELS
    budget: float = 1.0
    assignments: tuple[str, ...] = ()
    tuned: Mapping[str, Mapping[str, Any]] = {}
    searched: str = ""


class Spec(NamedTuple):
    """A training, whatever its seed.

    Attributes:
        name: of its directory, and in reports.
        model: of the registry.
        changes: of the preset, by dotted name.
        scenarios: that are ranked.
    """

    name: str
    model: str
    changes: Mapping[str, Any] = {}
    scenarios: tuple[str, ...] = ("cold",)


def check_exhibits(wanted: Sequence[str]) -> list[str]:
    """Names of exhibits in the paper's order, "all" for every one.

    Raises:
        ConfigError: there is no such exhibit.
    """
    if list(wanted) == ["all"]:
        return list(EXHIBITS)
    for name in wanted:
        if name not in EXHIBITS:
            raise ConfigError(
                f"unknown table or figure {name!r}; expected all or some of {', '.join(EXHIBITS)}"
            )
    return [name for name in EXHIBITS if name in wanted]


def base_config(options: Options, model: str = "metacsr") -> Config:
    """The settings of a model before any variant's."""
    own = options.tuned.get(model, {})
    return configuration(options.preset, model, options.assignments, own)


def share_name(share: float) -> str:
    """The run of figure 5 with a share of the regular users."""
    return "metacsr" if share == 1 else f"metacsr-share-{share:g}"


def length_name(options: Options, length: int) -> str:
    """The run of figure 12 with a context of so many events."""
    own = base_config(options).model.max_length
    return "metacsr" if length == own else f"metacsr-length-{length}"


def method_name(options: Options, method: str) -> str:
    """The run of a meta-learning algorithm.

    Raises:
        ConfigError: there is no such algorithm.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; expected some of {', '.join(METHODS)}")
    if method == "none":
        return WITHOUT_META
    own = base_config(options).meta.method
    return "metacsr" if method == own else f"metacsr-meta-{method}"


def specs(options: Options, exhibit: str) -> list[Spec]:
    """The trainings that one table or figure reads."""
    both = ("cold", "warm")
    main = Spec("metacsr", "metacsr", {}, both)
    without_meta = Spec(WITHOUT_META, "pretrain", {}, both)
    if exhibit == "table2":
        return [Spec("popular", "popular", {}, both)]
    if exhibit in ("table3", "table4", "fig3", "fig4", "ranking"):
        names = dict.fromkeys(("metacsr", *options.models))
        return [Spec(name, name, {}, both) for name in names]
    if exhibit == "table5":
        without_diffusion = Spec(WITHOUT_DIFFUSION, "metacsr", {"model.diffusion": False})
        with_mean = Spec(WITH_MEAN, "metacsr", {"model.encoder": "mean"})
        return [main, without_meta, without_diffusion, with_mean]
    if exhibit == "fig5":
        rivals = [Spec(name, name, {}, both) for name in options.models if name in RIVALS]
        parts = [
            Spec(share_name(share), "metacsr", {"protocol.training_share": share})
            for share in options.shares
        ]
        return [main, *rivals, *parts]
    if exhibit == "fig12":
        others = [
            Spec(name, "metacsr", {"model.max_length": length}, both)
            for length in options.lengths
            if (name := length_name(options, length)) != "metacsr"
        ]
        return [main, *others]
    if exhibit == "steps":
        others = [
            Spec(name, "metacsr", {"meta.method": method})
            for method in options.methods
            if (name := method_name(options, method)) not in ("metacsr", WITHOUT_META)
        ]
        return [main, without_meta, *others]
    if exhibit in ("length", "order"):
        ordered = [
            Spec(name, name, {}, both)
            for name in options.order_models
            if name in ("metacsr", *options.models)
        ]
        if exhibit == "length":
            return ordered
        return ordered + _group(options, TIES_MODELS, "ties-file", {"protocol.tie_policy": "file"})
    if exhibit == "time":
        return _group(options, TIME_MODELS, "time", {"protocol.user_split": "time"})
    return [main, without_meta]


def _group(options: Options, models: Sequence[str], suffix: str, changes: Mapping[str, Any]):
    """The same models on another protocol."""
    return [
        Spec(f"{model}-{suffix}", model, changes)
        for model in models
        if model in ("metacsr", *options.models)
    ]


def make_runs(options: Options, exhibits: Sequence[str], workdir: str | os.PathLike) -> list[Run]:
    """The runs of some exhibits, each once, seed by seed, those that most exhibits read first.

    Args:
        options: what they are made with.
        exhibits: of `check_exhibits`.
        workdir: runs lie in `runs/<name>/seed-<seed>`.

    Raises:
        ConfigError: a setting is refused, or the budget is not in (0, 1].
    """
    if any(text.startswith("evaluation.scenarios=") for text in options.assignments):
        raise ConfigError("evaluation.scenarios: each table and figure has its own, leave it out")
    if not 0 < options.budget <= 1:
        raise ConfigError(f"budget {options.budget:g}: expected a share of the length, in (0, 1]")
    wanted: dict[str, Spec] = {}
    for exhibit in exhibits:
        for spec in specs(options, exhibit):
            before = wanted.get(spec.name, spec)
            wanted[spec.name] = max(before, spec, key=lambda one: len(one.scenarios))
    runs = []
    for seed in dict.fromkeys(options.seeds):
        for spec in wanted.values():
            config = base_config(options, spec.model)
            config = settings.replace(config, spec.changes)
            config = settings.replace(
                config, {"train.seed": seed, "evaluation.scenarios": spec.scenarios}
            )
            if options.budget < 1:
                config = settings.replace(config, shortened(config, options.budget))
            path = Path(workdir) / "runs" / spec.name / f"seed-{seed}"
            runs.append(Run(spec.model, seed, config, path, spec.name))
    return runs
