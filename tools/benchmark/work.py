"""The arithmetic of products in a function, counted in what JAX traces: kernels are calls that a compiler's own count does
not look into.

Dimension key: B lists, N indices, D = dim; P tokens of S sequences, E features of one, O columns of a matrix.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

PREFIX = "metacsr_"


def product_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiplications and additions of matrix products, and of the kernels that stand for some.

    Scans count as often as they run, other loops once, of the branches of a condition the one with kernels or the largest. What no
    result depends on and elementwise arithmetic, the sigmoids of pairs for instance, are not counted. A kernel counts as what it
    computes: where it passes over what is zero, its plain form counts more.

    Args:
        function: is traced, not run.
        arguments: of the function.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _flops(used)


def _flops(jaxpr: Jaxpr) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval
        depth = math.prod(left.shape[axis] for axis in contracted)
        return 2 * depth * equation.outvars[0].aval.size
    if name == "ffi_call":
        return _of_kernel(params["target_name"], equation)
    if name == "cond":
        branches = [branch.jaxpr for branch in params["branches"]]
        with_kernels = [branch for branch in branches if _calls_kernels(branch)]
        return max(_flops(branch) for branch in with_kernels or branches)
    inner = sum(_flops(part) for part in _parts(params))
    return inner * params["length"] if name == "scan" else inner


def _of_kernel(target: str, equation) -> int:
    """Of kernels whose results are sums of products: how many numbers a result or an operand has, times what is summed or made of each."""
    given = [variable.aval for variable in equation.invars]
    out = equation.outvars[0].aval
    tasks = math.prod(out.shape[:-2])
    counts = {
        "StairTimes": lambda: tasks * math.prod(given[0].shape[-2:]) * out.shape[-1],  # P E O
        "StairBack": lambda: out.size * given[1].shape[-1],
        "StairOuter": lambda: tasks * math.prod(given[0].shape[-2:]) * out.shape[-1],
        "Mix": lambda: given[0].size * given[1].shape[-1],  # Q D
        "Unmix": lambda: given[0].size * given[1].shape[-1],
        "MixDot": lambda: out.size * given[0].shape[-1],
        "RowDot": lambda: out.size * given[0].shape[-1],  # B N D
        "RowSum": lambda: out.size * given[1].shape[-1],
        "RowOuter": lambda: tasks * math.prod(given[0].shape[-2:]) * out.shape[-1],
    }
    count = counts.get(target.removeprefix(PREFIX))
    return 2 * count() if count else 0


def _calls_kernels(jaxpr: Jaxpr) -> bool:
    return any(
        equation.primitive.name == "ffi_call"
        or any(_calls_kernels(part) for part in _parts(equation.params))
        for equation in jaxpr.eqns
    )


def _parts(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part
