"""The forward pass once more, in float64 NumPy with loops, from the equations and without a line of the library.

Histories are lists of item codes without padding. Parameters are nested dicts as the network has them; a kernel K stands
for the matrix K^T of the paper, so that W x is `x @ K`.

Dimension key: R users in the graph, I items, D = dim, L positions of a history.
"""

import numpy as np


def relu(x):
    return np.maximum(x, 0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def dense(parameters, x):
    return x @ parameters["kernel"] + parameters.get("bias", 0.0)


def as_float64(tree):
    """Nested dicts of arrays as float64 NumPy."""
    if isinstance(tree, dict):
        return {name: as_float64(part) for name, part in tree.items()}
    return np.asarray(tree, np.float64)


def item_table(
    theta_1, config, events, num_users, num_items, item_features=None, user_features=None
):
    """Eq. 1 and algorithm 1 node by node. Returns item vectors [I, D] and biases [I]."""
    pairs = set(events)
    users_of = [[u for u in range(num_users) if (u, i) in pairs] for i in range(num_items)]
    items_of = [[i for i in range(num_items) if (u, i) in pairs] for u in range(num_users)]
    bias_I = theta_1["item_bias"] if config.item_bias else np.zeros(num_items)
    item = [row.copy() for row in theta_1["item_embedding"]]
    if item_features is not None:
        item = [
            f + dense(theta_1["item_features"], x) for f, x in zip(item, item_features, strict=True)
        ]
    if not config.diffusion:
        return np.array(item), bias_I
    user = [row.copy() for row in theta_1["user_embedding"]]
    if user_features is not None:
        user = [
            f + dense(theta_1["user_features"], x) for f, x in zip(user, user_features, strict=True)
        ]
    for hop in range(1, config.hops + 1):
        weights = theta_1[f"hop{hop}"]
        new_item = [
            convolve(weights, config, item[i], [user[u] for u in users_of[i]])
            for i in range(num_items)
        ]
        user = [
            convolve(weights, config, user[u], [item[i] for i in items_of[u]])
            for u in range(num_users)
        ]
        item = new_item
    return np.array(item), bias_I


def convolve(weights, config, inherent_D, neighbours):
    """Algorithm 1 for one node; a node without neighbours aggregates zeros."""
    aggregate = {"mean": np.mean, "max": np.max, "sum": np.sum}[config.aggregator]
    h_D = aggregate(neighbours, axis=0) if neighbours else np.zeros_like(inherent_D)
    latent_D = relu(dense(weights["W1"], h_D))
    f_D = dense(weights["W2"], np.concatenate([inherent_D, latent_D]))
    if config.node_residual:
        f_D = inherent_D + f_D
    if config.node_relu:
        f_D = relu(f_D)
    if config.node_norm:
        f_D = f_D / np.sqrt(np.sum(f_D**2) + 1e-12)
    return f_D


def attention(weights, config, sequence):
    """Eqs. 2 to 7. Returns lists E_fw and E_bw of a vector per position."""
    length, encodings = len(sequence), []
    for direction in ("fw", "bw"):
        if config.distance == "learned":
            slope = np.log1p(np.exp(weights[f"slope_{direction}"]))
        e = {}  # (m, n) -> e^cor, where the mask of the direction allows it
        for m in range(length):
            for n in range(length):
                if (m < n) if direction == "fw" else (m > n):
                    apart = abs(m - n)
                    d = {"exp": np.exp(apart), "linear": apart}.get(config.distance)
                    d = slope * apart if d is None else d
                    inner = sigmoid(
                        dense(weights["W4"], sequence[m]) + dense(weights["W5"], sequence[n])
                    )
                    e[m, n] = np.exp(inner @ weights["W3"] - d)
        axis = 1 if config.normalise_over == "m" else 0  # the index that the denominator keeps
        encoding = []
        for n in range(length):
            out_D = np.zeros(config.dim)
            for m in range(length):
                if (m, n) in e:
                    total = sum(e[pair] for pair in e if pair[axis] == (m, n)[axis])
                    out_D += e[m, n] / total * sequence[m]
            encoding.append(out_D)
        encodings.append(encoding)
    return encodings


def gru(weights, config, sequence):
    """Cho et al. (2014) with the reset gate behind the recurrent product. Returns the states."""
    h_D, states = np.zeros(config.dim), []
    for x_D in sequence:
        r = sigmoid(dense(weights["ir"], x_D) + dense(weights["hr"], h_D))
        z = sigmoid(dense(weights["iz"], x_D) + dense(weights["hz"], h_D))
        h_D = (1 - z) * np.tanh(dense(weights["in"], x_D) + r * dense(weights["hn"], h_D)) + z * h_D
        states.append(h_D)
    return states


def transformer(theta_2, config, sequence):
    """Pre-norm causal blocks; positions are counted from the latest event. Returns the states."""

    def norm(weights, x_D):
        scaled_D = (x_D - x_D.mean()) / np.sqrt(x_D.var() + 1e-6)
        return weights["scale"] * scaled_D + weights["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    length, width = len(sequence), config.dim // config.heads
    position = theta_2["positions"][config.max_length - length :]
    state = [x_D + position[n] for n, x_D in enumerate(sequence)]
    for layer in range(1, config.layers + 1):
        weights = theta_2[f"block{layer}"]
        normed = [norm(weights["norm1"], x_D) for x_D in state]
        for n in range(length):
            mixed_D = np.zeros(config.dim)
            for head in range(config.heads):
                part = slice(head * width, (head + 1) * width)
                query = dense(weights["query"], normed[n])[part]
                keys = [dense(weights["key"], normed[m])[part] for m in range(n + 1)]
                e = np.exp([query @ key / np.sqrt(width) for key in keys])
                for m in range(n + 1):
                    mixed_D[part] += e[m] / e.sum() * dense(weights["value"], normed[m])[part]
            state[n] = state[n] + dense(weights["out"], mixed_D)
        for n in range(length):
            wide = gelu(dense(weights["wide"], norm(weights["norm2"], state[n])))
            state[n] = state[n] + dense(weights["narrow"], wide)
    return [norm(theta_2["norm"], x_D) for x_D in state]


def encode(theta_2, config, vector_ID, history):
    """s_u of one history (eq. 8)."""
    sequence = [vector_ID[item] for item in history]
    if config.encoder == "mean":
        mean_D = np.mean(sequence, axis=0) if sequence else np.zeros(config.dim)
        return read_out(theta_2["readout"], config, [mean_D], slots=1)
    if config.encoder == "gru":
        states = gru(theta_2["gru"], config, sequence)
    elif config.encoder == "transformer":
        states = transformer(theta_2, config, sequence)
    else:
        parts = attention(theta_2["attention"], config, sequence)
        parts = [*parts, sequence] if config.readout_items else parts
        states = [np.concatenate(place) for place in zip(*parts, strict=True)]
    return read_out(theta_2["readout"], config, states, slots=config.max_length)


def read_out(weights, config, states, slots):
    """Eq. 8; the states fill the last of `slots` places, the others are zeros."""
    if config.compress:
        states = [dense(weights["W0"], state) for state in states]
    width = len(states[0]) if states else config.compress or weights_width(weights, config, slots)
    missing = [np.zeros(width)] * (slots - len(states))
    if config.readout == "flatten":
        flat = np.concatenate([*missing, *states])
    elif config.readout == "last":
        flat = [*missing, *states][-1]
    else:
        flat = np.mean(states, axis=0) if states else np.zeros(width)
    out_D = dense(weights["W6"], flat)
    if config.hidden:
        out_D = dense(weights["W7"], relu(out_D))
    return relu(out_D) if config.output_relu else out_D


def weights_width(weights, config, slots):
    """Width of a state, read off W6: an empty history has no state to measure."""
    rows = weights["W6"]["kernel"].shape[0]
    return rows // slots if config.readout == "flatten" else rows


def scores(theta_2, config, vector_ID, bias_I, s_D):
    """F(s_u, i) of eq. 9 for every item, before the sigmoid."""
    if config.predictor == "dot":
        return np.array([s_D @ i_D + bias for i_D, bias in zip(vector_ID, bias_I, strict=True)])
    out = []
    for i_D, bias in zip(vector_ID, bias_I, strict=True):
        hidden = relu(dense(theta_2["predictor"]["W8"], np.concatenate([s_D, i_D, s_D * i_D])))
        out.append(dense(theta_2["predictor"]["W9"], hidden)[0] + bias)
    return np.array(out)


def bpr_sum(score_I, target, negatives):
    """Eq. 10 as read, of one sample: the sum over its negatives of -log sigmoid(s_j - s_j-)."""
    return sum(np.log1p(np.exp(score_I[other] - score_I[target])) for other in negatives)
