"""LSTM: a twin in PyTorch on copied weights, and what padding, order and length have to do with it.

Dimension key: L positions, D = dim, I items.
"""

import jax
import numpy as np
import pytest

from metacsr_jax.baselines.lstm import make_encoder
from metacsr_jax.config import LSTMConfig

ITEMS, DIM, LENGTH = 11, 6, 5


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def lstm(request):
    encoder = make_encoder(DIM, LSTMConfig(tied=request.param, dropout=0.5))
    params = encoder.init(jax.random.key(0), ITEMS)
    generator = np.random.default_rng(0)
    params["network"]["bias"] += generator.normal(size=4 * DIM).astype(np.float32)
    return params, jax.jit(encoder.encode), encoder.table(params)


def padded(history):
    return np.array([0] * (LENGTH - len(history)) + history, np.int32)


def test_scores_equal_a_twin_in_pytorch(lstm):
    torch = pytest.importorskip(
        "torch", reason="PyTorch is not installed (the extra named `reference`)"
    )
    params, encode, table_ID = lstm
    twin = torch.nn.LSTM(DIM, DIM, batch_first=True)
    network = {name: torch.tensor(np.asarray(leaf)) for name, leaf in params["network"].items()}
    with torch.no_grad():
        twin.weight_ih_l0.copy_(network["input"].T)
        twin.weight_hh_l0.copy_(network["state"].T)
        twin.bias_ih_l0.copy_(network["bias"])
        twin.bias_hh_l0.zero_()
        for history in ([3], [3, 7], [1, 10, 0, 4, 4]):
            item_LD = torch.tensor(np.asarray(params["items"]["in"])[history])
            _, (h, _) = twin(item_LD[None])
            wanted_I = h[0, 0].numpy() @ np.asarray(table_ID).T
            s_D = encode(params, padded(history), len(history))
            np.testing.assert_allclose(table_ID @ s_D, wanted_I, atol=1e-5)


def test_the_state_is_taken_after_the_last_real_event(lstm):
    """What the padding holds is without effect, nothing gives nothing, and the order counts."""
    params, encode, _ = lstm
    one = encode(params, padded([3, 7]), 2)
    garbage = padded([3, 7])
    garbage[: LENGTH - 2] = 9
    np.testing.assert_array_equal(encode(params, garbage, 2), one)
    np.testing.assert_array_equal(encode(params, garbage, 0), np.zeros(DIM))
    assert not np.allclose(encode(params, padded([7, 3]), 2), one, atol=1e-3)


def test_the_forget_gate_starts_open():
    bias = make_encoder(DIM, LSTMConfig()).init(jax.random.key(0), ITEMS)["network"]["bias"]
    assert bias.tolist() == [0.0] * DIM + [1.0] * DIM + [0.0] * 2 * DIM


def test_dropout_wants_a_key(lstm):
    params, encode, _ = lstm
    once, again, other = (
        encode(params, padded([3, 7]), 2, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)
    assert not np.array_equal(once, encode(params, padded([3, 7]), 2))
