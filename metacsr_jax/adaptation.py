"""Inner loop: gradient descent of a task from shared parameters (paper: eqs. 11, 12)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from metacsr_jax.models.metacsr import Params

W6 = ("readout", "W6", "kernel")
# Of W6's entries: up to so many of the two thin factors cost less than a matrix for each task (docs/performance.md).
LOW_RANK_SHARE = 0.5


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


def relative_shift(before: Params, after: Params, whole: Params | None = None) -> jax.Array:
    """||after - before|| / ||whole|| over a whole tree; factors of W6's change count as their product.

    Args:
        before: parameters.
        after: the same ones, adapted.
        whole: what `before` is a part of, up to a rotation; None: `before`.
    """
    start, end = (flatten_dict(jax.lax.stop_gradient(tree)) for tree in (before, after))
    square = sum(jnp.sum((end[path] - leaf) ** 2) for path, leaf in start.items())
    if (*W6[:2], "left") in end:
        left, right = (end[(*W6[:2], side)] for side in ("left", "right"))
        square = square + jnp.sum((left @ left.T) * (right @ right.T))
    norm = jnp.sqrt(
        sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(before if whole is None else whole))
    )
    return jnp.sqrt(square) / jax.lax.stop_gradient(norm)


def low_rank_pays(fast: Params, samples: int, steps: int) -> bool:
    """Whether the change of W6 after so many steps on so many samples is better kept as two thin factors.

    Args:
        fast: what adapts, a flat dict by path.
        samples: K of the support.
        steps: inner steps.
    """
    if W6 not in fast or not steps:
        return False
    rows, columns = fast[W6].shape
    return steps * samples * (rows + columns) <= LOW_RANK_SHARE * rows * columns


def adapt_low_rank(
    tapped_loss: Callable[..., tuple[jax.Array, jax.Array]],
    fast: Params,
    rate: float,
    steps: int,
    samples: int,
    *,
    first_order: bool = False,
) -> Params:
    """`adapt`, with W6' = W6 - alpha sum_t x_t^T delta_t kept as its factors: no matrix of W6's size for each task.

    Args:
        tapped_loss: (fast, tap_KO) -> the support loss and what W6 read, x [K, F]; the taps are added to what W6 gives, so that the
            derivative for them is delta.
        fast: where descent starts, a flat dict by path.
        rate: alpha.
        steps: how often, at least 1.
        samples: K.
        first_order: as in `adapt`.

    Returns:
        The adapted parameters, W6 as it was, and "left" [steps K, F] and "right" [steps K, O] beside it (`encoders.Projection`).
    """
    kernel = fast[W6]
    small = {path: leaf for path, leaf in fast.items() if path != W6}
    tap_KO = jnp.zeros((samples, kernel.shape[1]), kernel.dtype)
    left_SKF = jnp.zeros((steps, samples, kernel.shape[0]), kernel.dtype)
    right_SKO = jnp.zeros((steps, *tap_KO.shape), kernel.dtype)

    def whole(small, left_SKF, right_SKO):
        left, right = (part.reshape(steps * samples, -1) for part in (left_SKF, right_SKO))
        return {**small, W6: kernel, (*W6[:2], "left"): left, (*W6[:2], "right"): right}

    def step(carry, number):
        small, left_SKF, right_SKO = carry

        def loss(small, tap_KO):
            return tapped_loss(whole(small, left_SKF, right_SKO), tap_KO)

        (gradient, delta_KO), x_KF = jax.grad(loss, (0, 1), has_aux=True)(small, tap_KO)
        if first_order:
            gradient, delta_KO, x_KF = jax.lax.stop_gradient((gradient, delta_KO, x_KF))
        small = jax.tree.map(lambda p, g: p - rate * g, small, gradient)
        return (
            small,
            left_SKF.at[number].set(x_KF),
            right_SKO.at[number].set(-rate * delta_KO),
        ), None

    carry = (small, left_SKF, right_SKO)
    return whole(*jax.lax.scan(step, carry, jnp.arange(steps))[0])
