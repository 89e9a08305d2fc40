"""Kernels for CPUs, compiled for the machine at hand when they are first wanted, and called from XLA.

What XLA does row by row on one thread (gathers, scatters, small sums) a few lines of C++ do several times as fast
(docs/performance.md). They are an addition: without a C++ compiler, on other devices, for other types than float32 and on a mesh of
several devices the plain forms in jax.numpy are used, with the same results up to rounding. `METACSR_KERNELS=off` does without;
`METACSR_KERNELS=on` makes it an error if they cannot be had.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from metacsr_jax.compilation import cache_directory
from metacsr_jax.errors import ConfigError
from metacsr_jax.parallel import mesh_size

SOURCES = ("rows.cc", "pairs.cc", "matrices.cc")
HEADERS = ("parallel.h", "product.h", "runs.h")
NAMES = (
    *("RowDot", "RowSum", "RowOuter", "RowCount", "NeighbourSum"),
    *("PairScore", "PairPull", "PairPullPull"),
    *("SideSum", "SideMax", "Mix", "Unmix", "MixDot"),
    *("StairTimes", "StairBack", "StairOuter"),
)
# Sums may be taken in any order, but NaN and infinity stay what they are: a diverged model has to show.
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"),
    "-freciprocal-math",
)
SWITCH = "METACSR_KERNELS"
_CHECKED: dict[tuple[Any, ...], Callable[..., Any]] = {}  # plain forms of calls that have been


def kernel(
    name: str, plain: Callable[..., Any], result: Any, *arguments: jax.Array, **attributes: Any
) -> Any:
    """Calls a kernel where it can be had, and what it stands for elsewhere.

    Args:
        name: of `NAMES`.
        plain: the same function of the arguments in jax.numpy.
        result: shape and type of what comes back, a `ShapeDtypeStruct` or several.
        arguments: float32 and int32 arrays; under `vmap` an operand that is not mapped is not copied.
        attributes: what the kernel knows besides, NumPy arrays and numbers; where there are any, `plain` knows nothing else either.

    Returns:
        What `plain` returns. Its derivative is that of `plain`: what is to be fast has a rule of its own around the call.

    Raises:
        TypeError, ValueError: the arguments do not fit together, or are not for such a result; a kernel does not look.
    """
    if not usable(*arguments):
        return plain(*arguments)
    plain = _checked(name, plain, result, arguments, attributes)
    call = jax.ffi.ffi_call(f"metacsr_{name}", result, vmap_method="expand_dims")

    @jax.custom_vjp
    def compiled_or_plain(*arguments):
        return jax.lax.platform_dependent(
            *arguments, cpu=functools.partial(call, **attributes), default=plain
        )

    compiled_or_plain.defvjp(
        lambda *arguments: (compiled_or_plain(*arguments), arguments),
        lambda arguments, g: jax.vjp(plain, *arguments)[1](g),
    )
    return compiled_or_plain(*arguments)


def _checked(name, plain, result, arguments, attributes):
    """`plain`, traced once for each kernel, shapes and attributes: a program has the same calls many times over."""
    wanted = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(result)]
    given = [(a.shape, a.dtype) for a in arguments]
    constants = [(key, value.tobytes()) for key, value in sorted(attributes.items())]
    asked = (name, *wanted, *given, *constants)
    if asked in _CHECKED:
        # What is known by attributes alone is the same function, and need not be traced again.
        return _CHECKED[asked] if attributes else plain
    form = jax.jit(plain) if attributes else plain
    made = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(jax.eval_shape(form, *arguments))]
    if made != wanted:
        raise ValueError(f"{name} of {given}: makes {made}, expected {wanted}")
    _CHECKED[asked] = form
    return form


def usable(*arguments: jax.Array) -> bool:
    """Whether a computation that is traced now can call the kernels on these arguments."""
    if jax.default_backend() != "cpu" or mesh_size() > 1:
        return False
    return all(a.dtype in (jnp.float32, jnp.int32) for a in arguments) and load() is None


@functools.cache
def load() -> str | None:
    """Compiles the kernels, unless that has been done before, and makes them known to XLA.

    Returns:
        None, or why there are none.

    Raises:
        ConfigError: METACSR_KERNELS is "on" and there are none, or it is something else than "auto", "on" or "off".
    """
    wanted = os.environ.get(SWITCH, "auto")
    if wanted not in ("auto", "on", "off"):
        raise ConfigError(f"{SWITCH}={wanted!r}: expected auto, on or off")
    if wanted == "off":
        return f"{SWITCH}=off"
    try:
        library = ctypes.cdll.LoadLibrary(str(compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        if wanted == "on":
            raise ConfigError(f"{SWITCH}=on, but there are no kernels: {reason}") from error
        if not isinstance(error, FileNotFoundError) or os.environ.get("CXX"):
            warnings.warn(
                f"no kernels for this CPU, the plain forms are used: {reason}", stacklevel=2
            )
        return reason
    for name in NAMES:
        target = f"metacsr_{name}"
        jax.ffi.register_ffi_target(
            target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu"
        )
    return None


def compiled() -> Path:
    """The library, compiled now if there is none of these sources, this compiler and this processor.

    Raises:
        FileNotFoundError: there is no compiler.
        OSError, subprocess.SubprocessError: it does not compile, or cannot be written.
    """
    compiler = shlex.split(os.environ.get("CXX", "")) or [_compiler()]
    here = Path(__file__).parent
    sources = [str(here / name) for name in SOURCES]
    asked = [*compiler, "--version"]
    version = subprocess.run(asked, capture_output=True, check=True, text=True).stdout
    named = (version, *compiler, *FLAGS, jax.__version__)
    parts = [_processor(), *(part.encode() for part in named)]
    parts += [(here / name).read_bytes() for name in (*SOURCES, *HEADERS)]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    library = cache_directory() / "kernels" / f"{key}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as directory:
            out = Path(directory) / library.name
            command = [*compiler, *FLAGS, "-isystem", jax.ffi.include_dir(), *sources, "-o", out]
            subprocess.run(command, capture_output=True, check=True, text=True)
            out.replace(library)  # another process may have been faster, with the same
    return library


def _compiler() -> str:
    for name in ("g++", "clang++", "c++"):
        if found := shutil.which(name):
            return found
    raise FileNotFoundError("no C++ compiler (g++, clang++, c++, or what CXX names)")


def _processor() -> bytes:
    """What -march=native depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_bytes().splitlines() if info.exists() else []
    kinds = {line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}
    return b"\0".join(sorted(kinds)) or f"{platform.machine()} {platform.processor()}".encode()
