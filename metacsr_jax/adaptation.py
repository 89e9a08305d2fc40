"""Inner loop: gradient descent of a task from shared parameters (paper: eqs. 11, 12)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from metacsr_jax.models.metacsr import Params


def adapt(
    inner_loss: Callable[..., jax.Array],
    fast: Params,
    rate: float | Params,
    steps: int,
    *,
    first_order: bool = False,
    per_step: Any = None,
) -> Params:
    """Gradient descent on a task: theta_2' = theta_2 - alpha grad L(theta_2), `steps` times (eqs. 11, 12).

    Args:
        inner_loss: the support loss as a function of the adapted parameters.
        fast: where descent starts.
        rate: alpha, one number or a tree like `fast`.
        steps: how often, >= 0; 0 returns `fast`.
        first_order: treat the inner gradient as a constant when the result is differentiated.
        per_step: a tree whose leaves lead with [steps]: what the loss gets as a second argument in each step, fresh negatives for
            instance; None: the loss takes no second argument.

    Returns:
        The adapted parameters, a differentiable function of `fast` and `rate`.
    """
    rates = jax.tree.map(lambda _: rate, fast) if isinstance(rate, float) else rate

    def step(fast, given):
        gradient = jax.grad(inner_loss)(fast, *(() if per_step is None else (given,)))
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        return jax.tree.map(lambda p, r, g: p - r * g, fast, rates, gradient), None

    if steps == 1:
        return step(fast, jax.tree.map(lambda leaf: leaf[0], per_step))[0]
    return jax.lax.scan(step, fast, per_step, length=steps)[0]


def split_adapted(theta_2: Params, adapted: str) -> tuple[Params, Params]:
    """Parts theta_2 into what a task adapts and what it shares, as flat dicts by path.

    Args:
        theta_2: the encoder's parameters.
        adapted: "all"; "readout": W6, b3 and what follows it; "head": the same without W6.
    """

    def chosen(path: tuple[str, ...]) -> bool:
        if adapted == "all":
            return True
        late = path[0] in ("readout", "predictor") and path[:2] != ("readout", "W0")
        return late and not (adapted == "head" and path == ("readout", "W6", "kernel"))

    flat = flatten_dict(theta_2)
    fast = {path: leaf for path, leaf in flat.items() if chosen(path)}
    return fast, {path: leaf for path, leaf in flat.items() if path not in fast}


def relative_shift(before: Params, after: Params) -> jax.Array:
    """||after - before|| / ||before|| over a whole tree."""

    def norm(tree):
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))

    difference = jax.tree.map(lambda a, b: jax.lax.stop_gradient(a - b), after, before)
    return norm(difference) / norm(jax.lax.stop_gradient(before))
