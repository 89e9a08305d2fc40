"""Models to compare with, by the name that reports use."""

from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.baselines.markov import markov
from metacsr_jax.baselines.popular import popular
from metacsr_jax.baselines.random import random

BASELINES: dict[str, Baseline] = {
    "random": random,
    "popular": popular,
    "markov": markov,
}

__all__ = ["BASELINES", "Baseline"]
