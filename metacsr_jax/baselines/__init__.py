"""Models that count or solve in closed form, by the name that reports use, and all other models to compare with."""

from collections.abc import Callable

from metacsr_jax.baselines.ease import ease
from metacsr_jax.baselines.interface import Baseline
from metacsr_jax.baselines.itemknn import itemknn
from metacsr_jax.baselines.markov import markov
from metacsr_jax.baselines.popular import popular, popular_first
from metacsr_jax.baselines.random import random
from metacsr_jax.baselines.repeat import repeat
from metacsr_jax.config import Config

BASELINES: dict[str, Callable[[Config], Baseline]] = {
    "random": random,
    "popular": popular,
    "popular-first": popular_first,
    "repeat": repeat,
    "itemknn": itemknn,
    "ease": ease,
    "markov": markov,
}

__all__ = ["BASELINES", "Baseline"]
