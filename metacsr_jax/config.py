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
    """Who is new, what is held out, against what it is ranked (docs/protocol.md)."""

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
    training_share: float = (
        1.0  # of the regular users then left; the others are excluded (figure 5)
    )
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
    # Neighbours drawn of each node at each hop, in training; empty: all. Evaluation and recommendation read the whole graph.
    fan_out: tuple[int, ...] = ()
    aggregator: Literal["mean", "max", "sum"] = "mean"
    node_relu: bool = True  # algorithm 1, line 3
    node_norm: bool = True  # algorithm 1, line 4
    node_residual: bool = False  # f = f_in + W2 [f_in, f_la] + b2
    init_scale: float = 1.0  # standard deviation of embeddings is init_scale / sqrt(dim)
    tables: Literal["replicated", "rows"] = "replicated"  # of embeddings, over many devices
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
    candidates: int = 0  # softmax: items drawn for each step to stand for the catalogue; 0: all
    label_smoothing: float = 0.0  # softmax only


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """Meta Learner (paper: section 3.3, algorithm 2)."""

    method: Literal["maml", "fomaml", "anil", "reptile", "metasgd", "none"] = "maml"
    inner_steps: int = 1
    inner_rate: float = 1e-4  # alpha; metasgd: where the learned rates start
    inner_reduction: Literal["sum", "mean"] = "sum"  # of the loss over the support samples
    adapted: Literal["all", "readout", "head"] = "all"  # what of theta_2 adapts; anil: readout
    # Samples whose outer gradient is taken at a time, whole tasks: bounds memory. 0: by backend (`metacsr_jax.meta`).
    samples_at_once: int = 0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Outer Adam."""

    rate: float = 1e-2  # beta
    lazy: bool = (
        False  # update only those rows of the embedding tables that a step uses; metaCSR alone
    )
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
class BPRConfig:
    """Matrix factorisation (`metacsr_jax.baselines.bpr`)."""

    rate: float = 1e-3  # Adam's
    batch: int = 2048  # (user, item, negative) triples per update
    regularisation: float = 1e-5  # on the squared norms of the three vectors of a triple
    item_bias: bool = True
    init_scale: float = 0.01  # standard deviation of factors
    start: Literal["mean", "zero"] = "mean"  # of a new user's factors, among the regular ones'
    adapt_rate: float = 0.1  # of the gradient steps on a new user's factors
    adapt_negatives: int = 1  # per support event and step
    # Train on the histories of the users to be served too, targets left out: another, easier protocol than the others'.
    transductive: bool = False


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """What the two sequence models share: windows of a history in, the next item out."""

    rate: float = 1e-3  # Adam's
    batch: int = 512  # windows per update
    loss: Literal["bpr", "softmax"] = "bpr"
    negatives: int = 1  # per window; softmax ranks the whole catalogue instead
    min_length: int = 2  # shortest window where the history allows
    dropout: float = 0.2  # on item vectors and on the sequence vector
    weight_decay: float = 0.0  # decoupled
    clip: float = 5.0  # global norm
    adapt_rate: float = 0.01  # of the gradient steps on the prefixes of a support


@dataclasses.dataclass(frozen=True)
class LSTMConfig(SequenceConfig):
    """One LSTM layer (`metacsr_jax.baselines.lstm`)."""

    tied: bool = True  # the output's item vectors are the input's


@dataclasses.dataclass(frozen=True)
class CSANConfig(SequenceConfig):
    """Feature-wise self-attention (`metacsr_jax.baselines.csan`)."""

    activation: Literal["tanh", "sigmoid"] = "tanh"  # of a pair's hidden layer


@dataclasses.dataclass(frozen=True)
class CausalConfig:
    """What GRU4Rec and SASRec share: a window is read once, and every position of it predicts the next event."""

    rate: float = 1e-3  # Adam's
    schedule: Literal["constant", "cosine"] = "constant"
    batch: int = 128  # windows per update
    window: int = 50  # events read at once in training; at least model.max_length, which is served
    early: float = 0.0  # share of windows from a history's first event, where new users are
    loss: Literal["softmax", "gbce", "bpr"] = "softmax"
    negatives: int = 256  # per window; softmax ranks the whole catalogue instead
    calibration: float = 0.75  # t of gBCE; 0: plain binary cross-entropy
    dropout: float = 0.2
    weight_decay: float = 0.0  # decoupled
    clip: float = 5.0  # global norm
    adapt_rate: float = 0.01  # of the gradient steps on the prefixes of a support


@dataclasses.dataclass(frozen=True)
class GRU4RecConfig(CausalConfig):
    """One layer of gated recurrent units (`metacsr_jax.baselines.gru4rec`)."""


@dataclasses.dataclass(frozen=True)
class SASRecConfig(CausalConfig):
    """Causal self-attention (`metacsr_jax.baselines.sasrec`)."""

    layers: int = 2
    heads: int = 1


@dataclasses.dataclass(frozen=True)
class MarkovConfig:
    """Transition counts (`metacsr_jax.baselines.markov`)."""

    lags: int = 5  # events between which a transition counts
    shrink: float = 10.0  # added to the denominator: rare pairs are worth less
    decay: float = 0.8  # per event back in the history


@dataclasses.dataclass(frozen=True)
class ItemKNNConfig:
    """Cosine between items (`metacsr_jax.baselines.itemknn`)."""

    neighbours: int = 0  # kept per item, nearest first; 0: all
    shrink: float = 0.0  # added to the denominator


@dataclasses.dataclass(frozen=True)
class EASEConfig:
    """Linear item-to-item regression in closed form (`metacsr_jax.baselines.ease`)."""

    regularisation: float = 500.0  # lambda, on the squared norm of the weights
    items: int = (
        10_000  # most frequent ones that take part: bounds memory, 8 items^2 bytes and more
    )


@dataclasses.dataclass(frozen=True)
class FewShotConfig:
    """What the user-wise meta-learners share: a task is a user, positives against sampled negatives."""

    outer_rate: float = 1e-3  # Adam's
    inner_rate: float = 1e-2
    inner_steps: int = 1  # in training
    first_order: bool = False
    tasks: int = 32  # users per outer step
    support: int = 5  # positives; fewer where the history has not as many
    query: int = 15
    negatives: int = 1  # per positive
    loss: Literal["bce", "mse", "bpr"] = "bce"


@dataclasses.dataclass(frozen=True)
class MeLUConfig(FewShotConfig):
    """MeLU (`metacsr_jax.baselines.melu`): the decision layers adapt."""

    outer_rate: float = 5e-5
    inner_rate: float = 5e-6
    support: int = 9
    query: int = 10
    hidden: int = 64
    user_vector: Literal["shared", "zero", "support"] = "shared"  # of a new user
    id_dropout: float = 0.5  # share of tasks in which a regular user is played as a new one


@dataclasses.dataclass(frozen=True)
class MetaCSConfig(FewShotConfig):
    """MetaCS (`metacsr_jax.baselines.metacs`): the whole predictor adapts."""

    adapt_embeddings: bool = False


@dataclasses.dataclass(frozen=True)
class SMLConfig:
    """Sequential meta-learning (`metacsr_jax.baselines.sml`). `train.pretrain_steps` are epochs of matrix factorisation on the
    first half of the periods; `train.steps` counts rounds on the others, `repeats` per period."""

    periods: int = 10  # of equally many events, in order of time
    repeats: int = 10  # rounds per period
    channels: int = 10  # filters of the first convolution
    channels_out: int = 5  # of the second
    hidden: int = 512
    table_rate: float = 1e-2  # Adam's, of the tables
    table_batch: int = 1024
    table_decay: float = 1e-6  # times half the squared norm
    transfer_rate: float = 1e-3  # Adam's, of the transfer networks
    transfer_batch: int = 256
    transfer_decay: float = 1e-4
    start: Literal["mean", "random"] = "mean"  # of a new user's row


@dataclasses.dataclass(frozen=True)
class MetaCFConfig:
    """MetaCF on NGCF (`metacsr_jax.baselines.metacf`)."""

    width: int = 64  # of each layer; layer 0 is the embedding
    layers: int = 3
    adjacency: Literal["symmetric", "mean"] = "symmetric"
    dropout: float = 0.1  # of messages
    tasks: int = 32  # users per outer step
    support: int = 9  # K: a task has 1 to K support items
    query: int = 10
    negatives: int = 1  # per support and query item
    inner_steps: int = 5
    inner_rate: float = 1e-2  # where the learned rates start
    rates_rate: float = 0.1  # Adam's, of the logarithms of the learned rates
    adapt_embeddings: bool = True  # of the nodes of a task, besides the weights
    potential: int = -1  # potential interactions per task; -1: as many as support items; 0: none
    potential_weight: float = 0.2  # gamma
    outer_rate: float = 1e-3
    regularisation: float = 1e-5  # on squared norms of the embeddings of a task
    clip: float = 10.0  # of every entry of the outer gradient


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Which model; length, chunks, checkpoints. A step is an outer step; rivals of metaCSR count epochs."""

    model: Literal[
        "metacsr",
        "bpr",
        "lstm",
        "csan",
        "melu",
        "metacs-l",
        "metacs-dnn",
        "sml",
        "metacf-ngcf",
        "pretrain",
        "gru4rec",
        "sasrec",
        "sasrec-gbce",
        "random",
        "popular",
        "popular-first",
        "repeat",
        "itemknn",
        "ease",
        "markov",
    ] = "metacsr"
    seed: int = 0
    pretrain_steps: int = 0  # steps without inner loop before meta-training
    steps: int = 300  # outer steps of meta-training
    chunk: int = 10  # steps per dispatch; fixes where runs can be cut
    validate_every: int = 50  # steps, a multiple of chunk
    save_every: int = 50  # steps, a multiple of chunk
    patience: int = 0  # validations without improvement before stopping; 0: never stop early
    keep: int = 2  # checkpoints kept besides the best
    # Of matrix products where the device has several (GPU, TPU); parameters and everything else are float32. metaCSR alone.
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is reported."""

    scenarios: tuple[str, ...] = ("cold", "warm")
    adapt_steps: tuple[int, ...] = (0, 1, 5)
    adapt_per: tuple[str, ...] = ("user",)  # "user", "group": one adapted model a user or a group
    group_size: int = 15  # users per group
    batch: int = 128  # users scored at once at most: bounds memory
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
    bpr: BPRConfig = BPRConfig()
    lstm: LSTMConfig = LSTMConfig()
    csan: CSANConfig = CSANConfig()
    melu: MeLUConfig = MeLUConfig()
    metacs: MetaCSConfig = MetaCSConfig()
    sml: SMLConfig = SMLConfig()
    metacf: MetaCFConfig = MetaCFConfig()
    gru4rec: GRU4RecConfig = GRU4RecConfig()
    sasrec: SASRecConfig = SASRecConfig()
    markov: MarkovConfig = MarkovConfig()
    itemknn: ItemKNNConfig = ItemKNNConfig()
    ease: EASEConfig = EASEConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
