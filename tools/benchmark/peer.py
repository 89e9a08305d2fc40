"""The same outer step in PyTorch, as one would write it there: a loop over tasks, `torch.func.vmap`, and that compiled.

One hop of mean diffusion by sparse products whose derivatives are sparse products too, the paper's attention, inner SGD on the
encoder, BPR, second-order outer gradient, Adam. Reads the parameters and batches of the JAX step, so that both can be compared.

Dimension key: T tasks, K samples, B samples of a batch, L positions, D = dim, N negatives.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional

from metacsr_jax.config import Config
from metacsr_jax.graph import DiffusionInputs
from metacsr_jax.tasks import Samples

KINDS = ("loop", "vmap", "compile")
Tree = dict[str, torch.Tensor]


class Peer(NamedTuple):
    """Functions of the step.

    Attributes:
        parameters: theta_1 and theta_2 by name, leaves of autograd.
        loss: (support, query, kind) -> mean query loss after adaptation, to be differentiated.
        step: (support, query, kind) -> loss as a number, after one Adam step.
    """

    parameters: Tree
    loss: Callable[..., torch.Tensor]
    step: Callable[..., float]


def check(config: Config) -> None:
    """Raises ValueError where the peer cannot do what is configured."""
    model, meta = config.model, config.meta
    plain = model.hops == 1 and model.encoder == "attention" and model.attention == "element"
    if not plain or meta.method != "maml" or config.loss.name != "bpr":
        raise ValueError("--peer=torch: it has one hop, meta=maml, the paper's encoder and loss")


def tensors(samples: Samples, device: str) -> tuple[torch.Tensor, ...]:
    """A batch of the JAX step as context, length, target, mask and negatives."""
    arrays = [
        torch.from_numpy(np.array(part)).to(device)
        for part in (samples.context_KL, samples.length_K, samples.target_K, samples.mask_K)
    ]
    return (*arrays, torch.from_numpy(np.array(samples.negative_KN)).long().to(device))


def make_peer(params: Mapping[str, Any], inputs: DiffusionInputs, config: Config) -> Peer:
    """Builds the peer from the parameters and the graph of the JAX step."""
    check(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    theta_1, theta_2 = copied(params, device)
    to_items, to_users = sparse(inputs, theta_1["user"].shape[0], device)
    length = config.model.max_length
    place = torch.arange(length, device=device)
    distance = torch.exp((place[:, None] - place[None]).abs().float())
    directions = (place[:, None] < place[None], place[:, None] > place[None])

    class Mean(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return to_items @ x

        @staticmethod
        def backward(context, gradient):
            return to_users @ gradient

    def represent():
        latent = functional.relu(Mean.apply(theta_1["user"]) @ theta_1["W1"] + theta_1["b1"])
        joint = torch.cat([theta_1["item"], latent], -1)
        out = functional.relu(joint @ theta_1["W2"] + theta_1["b2"])
        return out * torch.rsqrt((out**2).sum(-1, keepdim=True) + 1e-12)

    def encode(p, x, valid):
        start, end = x @ p["W4"], x @ p["W5"]
        pairs = torch.sigmoid(start[:, :, None] + end[:, None]) @ p["W3"]
        score = pairs[..., 0] - distance
        states = []
        for allowed in directions:
            allowed = allowed & valid[:, :, None] & valid[:, None]
            low = torch.where(allowed, score, torch.full_like(score, -1e30))
            top = low.amax(1, keepdim=True).detach()
            weight = torch.where(allowed, torch.exp(low - top), torch.zeros_like(low))
            weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-9)
            states.append(torch.einsum("bmn,bmd->bnd", weight, x))
        state = torch.cat(states, -1) * valid[..., None]
        return functional.relu(state.flatten(1) @ p["W6"] + p["b3"])

    def task_loss(p, table, context, count, target, real, negative, mean):
        valid = place >= length - count[:, None]
        x = table[context] * valid[..., None]
        s = encode(p, x, valid)
        positive = (s * table[target]).sum(-1)
        others = torch.einsum("bd,bnd->bn", s, table[negative])
        each = functional.softplus(others - positive[:, None]) * real[:, None]
        total = each.sum()
        return total / (real.sum() * negative.shape[1]).clamp_min(1) if mean else total

    inner_mean = config.meta.inner_reduction == "mean"
    rate, steps = config.meta.inner_rate, config.meta.inner_steps

    def by_loop(table, support, query):
        total = 0.0
        for task in range(query[0].shape[0]):
            p = theta_2
            for _ in range(steps):
                loss = task_loss(p, table, *(part[task] for part in support), inner_mean)
                gradient = torch.autograd.grad(loss, list(p.values()), create_graph=True)
                p = {n: v - rate * g for (n, v), g in zip(p.items(), gradient, strict=True)}
            total = total + task_loss(p, table, *(part[task] for part in query), True)
        return total / query[0].shape[0]

    def by_vmap(table, theta_2, support, query):
        def one(support, query):
            p = theta_2
            for _ in range(steps):
                gradient = torch.func.grad(task_loss)(p, table, *support, inner_mean)
                p = {name: value - rate * gradient[name] for name, value in p.items()}
            return task_loss(p, table, *query, True)

        return torch.func.vmap(one)(support, query).mean()

    @functools.cache
    def compiled():
        return torch.compile(by_vmap)

    def loss(support, query, kind):
        table = represent()
        if kind == "loop":
            return by_loop(table, support, query)
        function = compiled() if kind == "compile" else by_vmap
        return function(table, theta_2, support, query)

    named = {
        **{f"1.{n}": v for n, v in theta_1.items()},
        **{f"2.{n}": v for n, v in theta_2.items()},
    }
    adam = torch.optim.Adam(
        list(named.values()), lr=config.optimizer.rate, weight_decay=config.optimizer.weight_decay
    )

    def step(support, query, kind):
        adam.zero_grad()
        value = loss(support, query, kind)
        value.backward()
        adam.step()
        return value.item()  # waits for the device

    return Peer(named, loss, step)


def copied(params: Mapping[str, Any], device: str) -> tuple[Tree, Tree]:
    """theta_1 and theta_2 of the JAX step as leaves of autograd."""

    def leaf(array):
        return torch.tensor(np.array(array), device=device, requires_grad=True)

    representer, encoder = params["representer"], params["encoder"]
    hop, readout = representer["hop1"], encoder["readout"]["W6"]
    theta_1 = {
        "item": leaf(representer["item_embedding"]),
        "user": leaf(representer["user_embedding"]),
        "W1": leaf(hop["W1"]["kernel"]),
        "b1": leaf(hop["W1"]["bias"]),
        "W2": leaf(hop["W2"]["kernel"]),
        "b2": leaf(hop["W2"]["bias"]),
    }
    attention = encoder["attention"]
    theta_2 = {
        "W3": leaf(attention["W3"]),
        "W4": leaf(attention["W4"]["kernel"]),
        "W5": leaf(attention["W5"]["kernel"]),
        "W6": leaf(readout["kernel"]),
        "b3": leaf(readout["bias"]),
    }
    return theta_1, theta_2


def sparse(inputs: DiffusionInputs, users: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over each item's users as a sparse matrix, and its transpose."""
    degree_N = np.asarray(inputs.graph.nodes["degree"])
    half = inputs.graph.senders.size // 2
    user_E = np.asarray(inputs.graph.senders)[half:]
    node_E = np.asarray(inputs.graph.receivers)[half:]
    weight_E = torch.tensor(1 / degree_N[node_E])

    def matrix(rows, columns, shape):
        index = torch.tensor(np.stack([rows, columns]).astype(np.int64))
        coo = torch.sparse_coo_tensor(index, weight_E, shape, check_invariants=False)
        return coo.coalesce().to_sparse_csr().to(device)

    items = degree_N.size - users
    item_E = node_E - users
    return matrix(item_E, user_E, (items, users)), matrix(user_E, item_E, (users, items))
