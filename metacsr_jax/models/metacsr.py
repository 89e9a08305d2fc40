"""metaCSR's network f_{theta_1, theta_2}: representer, encoder and predictor as pure functions.

Dimension key: B samples, L positions, D = dim, I catalogue items, N candidates.
Parameters are one dict of two sub-trees: "representer" (theta_1: shared, never adapted) and "encoder" (theta_2: adapted per task).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from metacsr_jax.config import ModelConfig
from metacsr_jax.graph import DiffusionInputs
from metacsr_jax.kernels.native import usable
from metacsr_jax.kernels.rows import row_dot
from metacsr_jax.models.attention import allowed_pairs, attend, correlations
from metacsr_jax.models.diffusion import DiffusionRepresenter, ItemTable, represent_drawn
from metacsr_jax.models.encoders import ENCODERS, apply_tapped
from metacsr_jax.models.windows import encode_windows, in_basis, item_kernels, span_of
from metacsr_jax.neighbourhood import Neighbourhood
from metacsr_jax.runs import evenly, tokens_of
from metacsr_jax.tasks import History

Params = Any  # a tree of arrays
# Without a kernel for it and up to so many times as many items as candidates, one product with the catalogue is faster than gathering
# the candidates' vectors and, in the derivative, scattering theirs (docs/performance.md).
DENSE_SCORES = 40
PLAIN_RUNS = 3  # of one length each, without kernels: a program has the plain forms of each of them


class Predictor(nn.Module):
    """F(s_u, i) of eq. 9 as a two-layer perceptron over [s_u, i, s_u * i]."""

    dim: int

    @nn.compact
    def __call__(self, preference_D: jax.Array, vector_ND: jax.Array) -> jax.Array:
        """Returns logits [N]."""
        tiled_ND = jnp.broadcast_to(preference_D, vector_ND.shape)
        joint = jnp.concatenate([tiled_ND, vector_ND, tiled_ND * vector_ND], axis=-1)
        hidden_ND = nn.relu(nn.Dense(self.dim, name="W8")(joint))
        return nn.Dense(1, name="W9")(hidden_ND)[:, 0]


class Network(NamedTuple):
    """Pure functions of the parameters.

    Attributes:
        init: (key, inputs) -> {"representer": theta_1, "encoder": theta_2}; the key is consumed.
        represent: (theta_1, inputs) -> ItemTable. Once per outer step: theta_1 is not adapted. Of a `Neighbourhood` instead of the
            whole graph, with the rows of theta_1 that it names.
        encode: (theta_2, table, context_BL, length_B, key or None, runs or None) -> s_BD. The contexts are left-padded item codes; with
            a key (which is consumed) dropout is on; with runs (`runs.Runs`) no more positions are computed than they say, where that
            pays.
        encode_tapped: (theta_2, table, context_BL, length_B, tap_BO) -> s_BD and what W6 read [B, F]; the taps are added to what W6
            gives. Without dropout.
        item_kernels: paths of theta_2's kernels that read items, where the encoder reads but combinations of items; else none.
        in_span: (theta_2, table, history) -> theta_2 and history in coordinates of the span of the history's items, where a task is
            small (`models.windows`); of encoders that have `item_kernels`.
        encode_windows: (theta_2, history, end_K) -> s_KD after the windows of such a history. Without dropout.
        score_catalogue: (theta_2, table, s_BD) -> logits [B, I].
        score_candidates: (theta_2, table, s_BD, item_BN, fixed) -> logits [B, N]; with `fixed` nothing is differentiated for the
            table.
    """

    init: Callable[[jax.Array, DiffusionInputs], Params]
    represent: Callable[[Params, DiffusionInputs | Neighbourhood], ItemTable]
    encode: Callable[..., jax.Array]
    encode_tapped: Callable[..., tuple[jax.Array, jax.Array]]
    item_kernels: tuple[tuple[str, ...], ...]
    in_span: Callable[[Params, ItemTable, History], tuple[Params, History]]
    encode_windows: Callable[[Params, History, Sequence[int]], jax.Array]
    score_catalogue: Callable[[Params, ItemTable, jax.Array], jax.Array]
    score_candidates: Callable[..., jax.Array]


def make_network(config: ModelConfig, num_users: int, num_items: int) -> Network:
    """Builds the network for a graph of `num_users` users and a catalogue of `num_items` items."""
    representer = DiffusionRepresenter(config, num_users, num_items)
    encoder = ENCODERS[config.encoder](config)
    predictor = Predictor(config.dim)

    def init(key: jax.Array, inputs: DiffusionInputs) -> Params:
        representer_key, encoder_key, predictor_key = jax.random.split(key, 3)
        item_LD, valid_L = (
            jnp.zeros((config.max_length, config.dim)),
            jnp.ones(config.max_length, bool),
        )
        theta_2 = dict(encoder.init(encoder_key, item_LD, valid_L, True)["params"])
        if config.predictor == "mlp":
            theta_2["predictor"] = predictor.init(predictor_key, item_LD[0], item_LD)["params"]
        return {
            "representer": representer.init(representer_key, inputs)["params"],
            "encoder": theta_2,
        }

    def represent(theta_1: Params, inputs: DiffusionInputs | Neighbourhood) -> ItemTable:
        if isinstance(inputs, Neighbourhood):
            return represent_drawn(config, theta_1, inputs)
        return representer.apply({"params": theta_1}, inputs)

    def real(code_L, events):
        return jnp.arange(code_L.shape[0]) >= code_L.shape[0] - events

    def looked_up(table, code_L, events):
        """Vectors of left-padded items, zeros at padding, and where there is none."""
        valid_L = real(code_L, events)
        return jnp.where(valid_L[:, None], table.vector_ID[code_L], 0.0), valid_L

    def encode(theta_2, table, context_BL, length_B, key=None, runs=None):
        if config.dropout == config.input_dropout == 0:
            key = None
        if key is None and config.encoder == "attention" and config.attention == "element":
            return encode_together(theta_2, table, context_BL, length_B, runs)

        def one(context_L, length, sample_key):
            item_LD, valid_L = looked_up(table, context_L, length)
            rngs = {} if key is None else {"dropout": sample_key}
            return encoder.apply({"params": theta_2}, item_LD, valid_L, key is None, rngs=rngs)

        if key is None:
            return jax.vmap(one, in_axes=(0, 0, None))(context_BL, length_B, None)
        return jax.vmap(one)(context_BL, length_B, jax.random.split(key, context_BL.shape[0]))

    def encode_together(theta_2, table, context_BL, length_B, runs):
        """All samples' tokens in one product each, no more of them than the contexts of a run have."""
        if runs is None or jax.default_backend() != "cpu":
            runs = evenly(*context_BL.shape)
        elif not usable(table.vector_ID, context_BL):
            runs = runs.merged(PLAIN_RUNS)
        valid_P = tokens_of(jax.vmap(real)(context_BL, length_B), runs)
        item_PD = table.vector_ID[tokens_of(context_BL, runs)]
        if config.readout_items:  # else an item at padding is read with weight zero only
            item_PD = jnp.where(valid_P[:, None], item_PD, 0.0)
        attention = theta_2["attention"]
        correlation_Q = correlations(attention, item_PD, runs)
        allowed_Q = allowed_pairs(length_B, runs)
        attended_PE = attend(config, attention, item_PD, allowed_Q, correlation_Q, runs)
        return encoder.apply({"params": theta_2}, item_PD, valid_P, True, attended_PE, runs)

    def encode_tapped(theta_2, table, context_BL, length_B, tap_BO):
        def one(context_L, length, tap_O):
            return apply_tapped(encoder, theta_2, tap_O, *looked_up(table, context_L, length))

        return jax.vmap(one)(context_BL, length_B, tap_BO)

    def in_span(theta_2, table, history):
        item_HD, _ = looked_up(table, history.item_H, history.events)
        basis_CD, coordinate_HC = span_of(item_HD)
        return in_basis(config, theta_2, basis_CD), history._replace(coordinate_HC=coordinate_HC)

    def of_windows(theta_2, history, end_K):
        valid_H = real(history.item_H, history.events)
        return encode_windows(encoder, theta_2, history.coordinate_HC, valid_H, end_K)

    def mlp(theta_2, preference_D, vector_ND):
        return predictor.apply({"params": theta_2["predictor"]}, preference_D, vector_ND)

    def score_catalogue(theta_2, table, s_BD):
        if config.predictor == "dot":
            return s_BD @ table.vector_ID.T + table.bias_I[None]
        score_BI = jax.lax.map(lambda s_D: mlp(theta_2, s_D, table.vector_ID), s_BD)
        return score_BI + table.bias_I[None]

    def score_candidates(theta_2, table, s_BD, item_BN, fixed=False):
        if config.predictor == "dot":
            if usable(table.vector_ID, s_BD, item_BN):
                score_BN = row_dot(table.vector_ID, s_BD, item_BN)
            elif not fixed and table.vector_ID.shape[0] <= DENSE_SCORES * item_BN.shape[1]:
                score_BI = score_catalogue(theta_2, table, s_BD)
                return jnp.take_along_axis(score_BI, item_BN, axis=1)
            else:
                score_BN = jnp.einsum("bd,bnd->bn", s_BD, table.vector_ID[item_BN])
        else:
            vector_BND = table.vector_ID[item_BN]
            score_BN = jax.vmap(lambda s_D, v_ND: mlp(theta_2, s_D, v_ND))(s_BD, vector_BND)
        return score_BN + table.bias_I[item_BN]

    return Network(
        init,
        represent,
        encode,
        encode_tapped,
        item_kernels(config),
        in_span,
        of_windows,
        score_catalogue,
        score_candidates,
    )
