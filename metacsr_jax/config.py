"""Every setting of the library, once, with its unit, range and meaning.

Sections are frozen dataclasses; `Config` holds one of each. The defaults are those of the paper (section 4.1.2, equations as
read in `docs/reading.md`); `presets.py` names the departures from them.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which log to read, and how."""

    path: str = ""  # file, directory or archive; empty: the embedded synthetic log
    format: str = "auto"  # a name of metacsr_jax.data.readers.FORMATS, or recognised
    name: str = ""  # label in reports; empty: taken from the path
    user_column: str = ""  # tables only; empty: recognised from usual names
    item_column: str = ""
    time_column: str = ""  # "order": the rows are in order and carry no time
    rating_column: str = ""  # "none": ignore ratings even where a column is found
    skip_malformed: bool = False  # count malformed lines instead of stopping at the first
    window_days: float = 7.0  # Last.fm-1K: the latest this many days; 0: all
    item_features: str = ""  # csv, tsv or parquet: item id, then numeric columns
    user_features: str = ""  # the same, by user id


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """The embedded generator (`metacsr_jax.data.synthetic`)."""

    users: int = 1500
    items: int = 300
    series: int = 6  # parts of the catalogue, passed through in a circle that all users share
    groups: int = 4  # parts of a series; and as many cues, by which a user turns to one of them
    mean_events: float = 40.0  # events per user, geometric above min_events, at most items / 2
    min_events: int = 8
    predictability: float = 0.9  # share of planted events; the others follow popularity alone
    transitions: bool = True  # one series follows another, alike for all users
    taste: bool = True  # which group follows which cue: a hidden permutation of each user's own
    personal: float = 0.5  # share of cues at which it departs from the others'
    attributes: bool = True  # items come with series, group and cue as features
    popularity_skew: float = 0.6  # popularity is rank ** -popularity_skew
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class ProtocolConfig:
    """Who is new, what is held out, against what it is ranked (design: section 3)."""

    seed: int = 0  # of ties, user cut, validation users and negatives; not the training seed
    min_rating: float = 4.0  # events below are no positives (logs without ratings: all are)
    tie_policy: Literal["hash", "file"] = "hash"
    user_split: Literal["quantile", "range", "time"] = "quantile"
    regular_fraction: float = 0.8  # quantile: share of users, most active first
    new_min: int = 2  # range: new users have new_min..new_max events, regular ones more
    new_max: int = 5
    time_quantile: float = 0.8  # time: of the users' first events
    keep_new: int = 10  # earliest events kept of a new user
    validation_fraction: float = 0.1  # of the regular users, turned into pseudo-new ones
    catalogue: Literal["positive", "declared"] = "positive"
    num_negatives: int = 100  # per case, frozen
    mask_seen: Literal["auto", "yes", "no"] = (
        "auto"  # in the full ranking; auto: unless the log has repeats
    )
    max_support: int = 8  # support samples of a new user
    warm_support: int = 5  # support samples of a regular user (the paper's K1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Diffusion Representer and Sequential Recommender (paper: sections 3.1, 3.2)."""

    dim: int = 128  # d, of every embedding
    max_length: int = 10  # T, events of context
    # Diffusion Representer: eq. 1, algorithm 1
    diffusion: bool = True  # False: the inherent feature alone (ablation of table 5)
    hops: int = 1
    aggregator: Literal["mean", "max", "sum"] = "mean"
    node_relu: bool = True  # algorithm 1, line 3
    node_norm: bool = True  # algorithm 1, line 4
    node_residual: bool = False  # f = f_in + W2 [f_in, f_la] + b2
    init_scale: float = 1.0  # standard deviation of embeddings is init_scale / sqrt(dim)
    # Sequential Recommender: eqs. 2 to 8
    encoder: Literal["attention", "gru", "transformer", "mean"] = "attention"
    attention: Literal["element", "feature"] = "element"  # eq. 2: a score or a vector per pair
    attention_dim: int = 0  # width of W4, W5; 0: dim
    distance: Literal["exp", "linear", "learned"] = "exp"  # eqs. 3, 4
    normalise_over: Literal["m", "n"] = "m"  # eq. 5
    readout: Literal["flatten", "last", "mean"] = "flatten"  # eq. 8
    readout_items: bool = False  # readout sees the items besides E_fw, E_bw
    compress: int = 0  # width to which each position is projected before the readout; 0: not at all
    hidden: int = 0  # width of a hidden layer before s_u; 0: none
    output_relu: bool = True  # eq. 8
    layers: int = 2  # encoder=transformer
    heads: int = 2  # encoder=transformer
    dropout: float = 0.0  # on the hidden layer (and inside the transformer)
    input_dropout: float = 0.0  # on what the readout reads
    # prediction: eq. 9
    predictor: Literal["dot", "mlp"] = "dot"
    item_bias: bool = False  # starts at log popularity


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """How meta-training tasks are drawn (paper: 4.1.2)."""

    tasks: int = 16  # per outer step
    way: int = 15  # users per task
    support: int = 5  # K1, samples per user
    query: int = 15  # K2, samples per user
    min_length: int = 2  # shortest context where the history allows
    sampling: Literal["random", "newcomer"] = (
        "random"  # newcomer: support are the prefixes of a window, query what follows
    )
    # sampling=random: while pre-training only
    early: float = 0.0  # share of samples (newcomer: of tasks) from the first events of a history, where new users are
    user_weight: Literal["uniform", "events"] = "uniform"
    pretrain_batch: int = 4096  # samples per step while pre-training


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Eq. 10 as read, and its alternatives."""

    name: Literal["bpr", "sampled_softmax", "softmax", "bce"] = "bpr"
    negatives: int = 100  # per sample; softmax ranks the whole catalogue instead
    label_smoothing: float = 0.0  # softmax only


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """Meta Learner (paper: section 3.3, algorithm 2)."""

    method: Literal["maml", "fomaml", "anil", "reptile", "metasgd", "none"] = "maml"
    inner_steps: int = 1
    inner_rate: float = 1e-4  # alpha; metasgd: where the learned rates start
    inner_reduction: Literal["sum", "mean"] = "sum"  # of the loss over the support samples
    adapted: Literal["all", "readout", "head"] = "all"  # what of theta_2 adapts; anil: readout


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Outer Adam."""

    rate: float = 1e-2  # beta
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0  # outer steps
    weight_decay: float = 5e-4  # on matrices and tables, not on biases
    decay: Literal["coupled", "decoupled"] = "coupled"
    clip: float = 0.0  # global norm; 0: off
    # Of the logarithms of Meta-SGD's inner rates; they start with pre-training's Adam moments, of zeros, and so
    # move up to 6 times as fast in the first tens of steps after it.
    rates_rate: float = 1e-2
    pretrain_rate: float = 2e-3  # Adam's rate while pre-training (its own warm-up and cosine)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, chunks, checkpoints."""

    seed: int = 0
    pretrain_steps: int = 0  # steps without inner loop before meta-training
    steps: int = 300  # outer steps of meta-training
    chunk: int = 10  # steps per dispatch; fixes where runs can be cut
    validate_every: int = 50  # steps, a multiple of chunk
    save_every: int = 50  # steps, a multiple of chunk
    patience: int = 0  # validations without improvement before stopping; 0: never stop early
    keep: int = 2  # checkpoints kept besides the best


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is reported."""

    scenarios: tuple[str, ...] = ("cold", "warm")
    adapt_steps: tuple[int, ...] = (0, 1, 5)
    adapt_per: tuple[str, ...] = ("user",)  # "user", "group": one adapted model a user or a group
    group_size: int = 15  # users per group
    batch: int = 128  # users adapted at once: bounds memory
    bootstrap: int = 1000  # resamples behind the intervals


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one run."""

    preset: str = "synthetic/paper"
    data: DataConfig = DataConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    model: ModelConfig = ModelConfig()
    tasks: TaskConfig = TaskConfig()
    loss: LossConfig = LossConfig()
    meta: MetaConfig = MetaConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
