"""A served user's support in the span of his own history (eqs. 2 to 8): a task as large as his events are many, not as the model is wide.

All that adaptation reads are combinations of the H items of one history. With an orthonormal basis of their span, i = B^T c, every
layer that reads items sees W^T i = (B W)^T c, and a gradient step on W adds i delta^T = B^T (c delta^T), which leaves all of W but
B W alone. So descent on B W with the items' coordinates c is descent on W with the items, number for number, in matrices of H rows
instead of D. Besides, windows of one history share the correlations of its pairs.

Dimension key: H events of the history, N the same with padding ahead, C = min(H, D) coordinates, K windows, L positions of one, P tokens
and Q pairs of all windows (`metacsr_jax.runs`), O width of the output.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from metacsr_jax.config import ModelConfig
from metacsr_jax.models.attention import allowed_pairs, attend, correlations
from metacsr_jax.models.encoders import AttentionEncoder
from metacsr_jax.runs import evenly


def span_of(item_HD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An orthonormal basis and coordinates in it: item = coordinates @ basis.

    Args:
        item_HD: item vectors, zeros at padding; they may depend on one another.

    Returns:
        basis [C, D] and coordinates [H, C].
    """
    basis_DC, upper_CH = jnp.linalg.qr(item_HD.T)
    return basis_DC.T, upper_CH.T


def item_kernels(config: ModelConfig) -> tuple[tuple[str, ...], ...]:
    """Paths of the kernels that read items or combinations of items, where nothing else does; else none."""
    if config.encoder != "attention" or config.attention != "element":
        return ()  # a weight for each feature of an item is no combination of items
    first = "W0" if config.compress else "W6"
    return (
        ("attention", "W4", "kernel"),
        ("attention", "W5", "kernel"),
        ("readout", first, "kernel"),
    )


def in_basis(config: ModelConfig, theta_2: Any, basis_CD: jax.Array) -> Any:
    """The encoder for items that are given by coordinates: every kernel W that reads items becomes B W, block by block of D rows.

    Args:
        config: of the encoder.
        theta_2: its parameters.
        basis_CD: B, orthonormal rows.
    """
    flat = flatten_dict(theta_2)
    for path in item_kernels(config):
        block_BDO = flat[path].reshape(-1, basis_CD.shape[1], flat[path].shape[1])
        # With the blocks as a batch no kernel is transposed, however many users share it.
        basis_BCD = jnp.broadcast_to(basis_CD, (block_BDO.shape[0], *basis_CD.shape))
        within_BCO = jnp.einsum("bcd,bdo->bco", basis_BCD, block_BDO)
        flat[path] = within_BCO.reshape(-1, within_BCO.shape[-1])
    return unflatten_dict(flat)


def encode_windows(
    encoder: AttentionEncoder,
    theta_2: Any,
    item_HC: jax.Array,
    valid_H: jax.Array,
    end_K: Sequence[int],
) -> jax.Array:
    """Preferences after each of the windows of a history. Without dropout.

    Args:
        encoder: the module.
        theta_2: its parameters, in the basis of the coordinates.
        item_HC: coordinates of a left-padded history's items, zeros at padding.
        valid_H: bool, False at padding.
        end_K: where the windows end, 1 to H: the first event after each. All have the encoder's L positions.

    Returns:
        s [K, O].
    """
    attention, length = theta_2["attention"], encoder.config.max_length
    history = item_HC.shape[0]
    correlation_HH = correlations(attention, item_HC, evenly(1, history)).reshape(history, -1)
    ahead = (length, 0)  # whatever a window reads before the history begins is padding
    item_NC = jnp.pad(item_HC, [ahead, (0, 0)])
    valid_N = jnp.pad(valid_H, [ahead])
    correlation_NN = jnp.pad(correlation_HH, [ahead, ahead])

    rows = [slice(end, end + length) for end in end_K]
    runs = evenly(len(rows), length)
    item_PC, valid_P = (jnp.concatenate([x[row] for row in rows]) for x in (item_NC, valid_N))
    correlation_Q = jnp.stack([correlation_NN[row, row] for row in rows]).reshape(-1)
    events_K = jnp.sum(valid_P.reshape(-1, length), axis=1, dtype=jnp.int32)
    allowed_Q = allowed_pairs(events_K, runs)
    attended_PE = attend(encoder.config, attention, item_PC, allowed_Q, correlation_Q, runs)
    return encoder.apply({"params": theta_2}, item_PC, valid_P, True, attended_PE, runs)
