"""Everything in little: what `experiments.reproduce --small` changes. Minutes on two cores, most of them compiling."""

from metacsr_jax.reproduce.plan import Options

SMALL = Options(
    "synthetic/tuned",
    models=("metacsr", "bpr", "lstm", "pretrain", "itemknn", "markov", "popular"),
    shares=(0.5,),
    lengths=(5, 10),
    methods=("maml", "metasgd", "none"),
    budget=0.03,
    assignments=(
        "synthetic.users=300",
        "synthetic.items=120",
        "synthetic.series=4",
        "synthetic.groups=2",
        "synthetic.mean_events=20",
        "protocol.num_negatives=50",
        "model.dim=16",
        "evaluation.adapt_steps=0,1",
        "train.pretrain_steps=0",  # one program less to compile for each run
        "evaluation.bootstrap=200",
    ),
)
