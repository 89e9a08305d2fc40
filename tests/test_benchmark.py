"""The benchmark: its PyTorch peer takes the same step, its report says what was measured.

Dimension key: as in tools/benchmark.
"""

import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from metacsr_jax import presets, settings
from metacsr_jax.kernels import native
from metacsr_jax.kernels.rows import row_dot, row_sum
from metacsr_jax.models.products import product
from tools import benchmark_meta_batch as benchmark
from tools.benchmark import big_log
from tools.benchmark.phases import adapting, phases_of
from tools.benchmark.report import markdown, picture
from tools.benchmark.timing import summary
from tools.benchmark.work import product_flops
from tools.benchmark.workload import Sizes, draw_batch, make_workload, random_events

SIZES = Sizes(60, 40, 600)
SMALL = {
    "model.dim": 8,
    "model.max_length": 5,
    "tasks.tasks": 3,
    "tasks.way": 2,
    "tasks.support": 2,
    "tasks.query": 3,
    "loss.negatives": 4,
    "meta.inner_rate": 0.05,
    "train.chunk": 2,
    "train.steps": 8,
    "train.validate_every": 2,
    "train.save_every": 2,
}


def workload(**changes):
    config = settings.replace(presets.preset("movielens-1m/paper"), SMALL | changes)
    return make_workload(config, SIZES)


def test_a_random_log_has_the_size_asked_for_and_popular_items():
    offset_R1, item_F = random_events(SIZES, 0)
    count_R = np.diff(offset_R1)
    assert count_R.size == SIZES.users and count_R.min() >= 2
    assert item_F.size == SIZES.edges and item_F.max() < SIZES.items
    count_I = np.bincount(item_F, minlength=SIZES.items)
    assert count_I[:5].sum() > 2 * count_I[-5:].sum()


# Its sparse matrices are called a beta by PyTorch, and its imports warn of one another.
@pytest.mark.filterwarnings("ignore:.*(Sparse CSR|torch.jit):")
@pytest.mark.parametrize("kind", ["loop", "vmap"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_peer_has_the_same_loss_and_outer_gradient(kind, steps):
    torch = pytest.importorskip("torch", reason="the peer is PyTorch's: pip install '.[reference]'")
    from tools.benchmark import peer as peers

    built = workload(**{"meta.inner_steps": steps})
    state = built.init(jax.random.key(0))
    support, query = draw_batch(built, jax.random.key(1))
    ours = built.learner.outer_gradient(
        state.params, built.data.inputs, support, query, jax.random.key(2)
    )
    peer = peers.make_peer(state.params, built.data.inputs, built.config)
    loss = peer.loss(peers.tensors(support, "cpu"), peers.tensors(query, "cpu"), kind)
    loss.backward()
    np.testing.assert_allclose(loss.item(), ours.loss, rtol=1e-4)
    theirs = {name: part.grad.numpy() for name, part in peer.parameters.items()}
    of_encoder, of_items = ours.gradient["encoder"], ours.gradient["representer"]
    pairs = {
        "1.item": of_items["item_embedding"],
        "1.user": of_items["user_embedding"],
        "1.W1": of_items["hop1"]["W1"]["kernel"],
        "1.b1": of_items["hop1"]["W1"]["bias"],
        "1.W2": of_items["hop1"]["W2"]["kernel"],
        "1.b2": of_items["hop1"]["W2"]["bias"],
        "2.W3": of_encoder["attention"]["W3"],
        "2.W4": of_encoder["attention"]["W4"]["kernel"],
        "2.W5": of_encoder["attention"]["W5"]["kernel"],
        "2.W6": of_encoder["readout"]["W6"]["kernel"],
        "2.b3": of_encoder["readout"]["W6"]["bias"],
    }
    assert set(pairs) == set(theirs)
    # W5's gradient is what is left of terms that cancel, here 1e-5 of W6's: float32 has no more digits of it than the largest one's.
    smallest = 1e-8 * max(np.abs(gradient).max() for gradient in pairs.values())
    for name, gradient in pairs.items():
        assert np.abs(gradient).max() > 0, name
        atol = 1e-4 * np.abs(gradient).max() + smallest
        np.testing.assert_allclose(theirs[name], gradient, atol=atol, err_msg=name)
    del torch


def test_the_peer_refuses_what_it_cannot_do():
    pytest.importorskip("torch", reason="the peer is PyTorch's: pip install '.[reference]'")
    from tools.benchmark import peer as peers

    with pytest.raises(ValueError, match="one hop"):
        peers.check(settings.replace(presets.preset("movielens-1m/paper"), {"model.hops": 2}))


def test_every_phase_runs():
    built = workload()
    state = built.init(jax.random.key(0))
    phases = phases_of(built, state, jax.random.key(1))
    assert list(phases) == [
        "sampling",
        "diffusion",
        "encoder",
        "negatives",
        "inner",
        "outer",
        "optimizer",
    ]
    for phase in (*phases.values(), adapting(built, state)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(phase.call()))


def test_quantiles_by_hand():
    timing = summary([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (timing.median, timing.calls) == (3.0, 5)
    np.testing.assert_allclose([timing.low, timing.high], [1.4, 4.6])


@pytest.fixture
def flags():
    benchmark.flags.FLAGS(["benchmark"])
    with flagsaver.flagsaver():
        yield benchmark.flags.FLAGS


def test_the_defaults_are_the_standard_step(flags):
    ((plan, changed),) = benchmark.plans()
    config = plan.config
    tasks = config.tasks
    assert (tasks.tasks, tasks.way, tasks.support, tasks.query) == (16, 15, 5, 15)
    assert (config.model.dim, config.model.max_length, config.model.hops) == (128, 10, 1)
    assert (config.loss.name, config.loss.negatives) == ("bpr", 100)
    assert (config.meta.method, config.meta.inner_steps) == ("maml", 1)
    assert plan.sizes == (4832, 3533, 516_000) and not changed and plan.phases


def test_lists_are_swept(flags):
    flags.tasks, flags.edges, flags.meta = ["4", "8"], ["20000", "4e5"], ["maml", "fomaml"]
    plans = benchmark.plans()
    assert len(plans) == 8
    assert {plan.sizes.edges for plan, _ in plans} == {20_000, 400_000}
    assert sum(plan.phases for plan, _ in plans) == 1


@pytest.mark.parametrize("size", ["many", "0"])
def test_bad_sizes_are_refused(flags, size):
    flags.items = [size]
    with pytest.raises(benchmark.ConfigError, match=size):
        benchmark.plans()


def result(tasks=16, edges=1000, milliseconds=100.0):
    low, high = 0.9 * milliseconds, 1.2 * milliseconds
    return {
        "device": "some",
        "kernels": "plain forms",
        "devices": 1,
        "jax": "0",
        "changed": "",
        "config": settings.to_dict(
            settings.replace(presets.preset("synthetic"), {"tasks.tasks": tasks})
        ),
        "sizes": SIZES._replace(edges=edges)._asdict(),
        "compile_s": 1.0,
        "outer_step_ms": milliseconds,
        "outer_step_low_ms": low,
        "outer_step_high_ms": high,
        "dispatches": 3,
        "steps_per_dispatch": 2,
        "tasks_per_s": tasks / milliseconds * 1e3,
        "samples_per_s": 1.0,
        "memory": {"process_mib": 10.0},
        "peers": {"loop": {"median_ms": 300.0, "low_ms": 290.0, "high_ms": 310.0, "ratio": 3.0}},
    }


def test_the_report_says_step_and_ratio():
    text = markdown([result()])
    assert "100.0 [90.0, 120.0]" in text and "160.0" in text
    assert "PyTorch loop" in text and "3.00" in text


def test_the_picture_is_drawn(tmp_path):
    results = [result(), result(tasks=4, milliseconds=40.0), result(edges=4000)]
    picture(results, tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_command_writes_its_reports(tmp_path, flags):
    small = "--tasks=2 --way=2 --width=8 --users=50 --items=40 --edges=400 --rounds=1 --chunk=2"
    files = [f"--json={tmp_path / 'r.json'}", f"--markdown={tmp_path / 'r.md'}"]
    flags(["benchmark", *small.split(), "--negatives=4", *files])
    benchmark.main([])
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["outer_step_ms"] > 0 and "phases" in written
    assert "Serving" in (tmp_path / "r.md").read_text()


def test_a_small_big_log_goes_through_all_stages(tmp_path, capsys):
    path = tmp_path / "log.parquet"
    big_log.write_log(path, events=6000, users=400, items=300)
    config = settings.override(
        presets.preset("custom/paper"),
        [
            "model.fan_out=3", "optimizer.lazy=true", "model.dim=8", "loss.negatives=5", "tasks.tasks=2", "tasks.way=2",
            "train.chunk=2", "train.steps=2", "train.validate_every=2", "train.save_every=2",
        ],
    )  # fmt: skip
    report = big_log.measure(path, config, rounds=2)
    assert report["sizes"]["users"] == 400 and abs(report["sizes"]["events"] - 6000) < 1500
    assert [row["stage"] for row in report["stages"]][:3] == ["reading", "protocol", "audit"]
    assert all(row["peak_gib"] > 0 for row in report["stages"]) and np.isfinite(report["loss"])
    text = big_log.markdown(report)
    assert "| audit |" in text and "An outer step:" in text
    assert "audit: " in capsys.readouterr().out


@pytest.mark.parametrize("kernels", [True, False])
def test_products_are_counted_by_hand(monkeypatch, kernels):
    """Four steps of a loop with a product of 6 rows each, by 3 x 5, and its two derivatives; what nobody reads does not count."""
    if not kernels:
        monkeypatch.setattr(native, "usable", lambda *_: False)
    x_KF, kernel_FO, unread = np.ones((6, 3), "f"), np.ones((3, 5), "f"), np.ones((9, 9), "f")

    def loss(x_KF, kernel_FO):
        def step(total, _):
            return total + product(x_KF * total, kernel_FO).sum(), unread @ unread

        return jax.lax.scan(step, 0.0, length=4)[0]

    assert product_flops(loss, x_KF, kernel_FO) == 4 * (2 * 6 * 3 * 5)
    assert product_flops(jax.grad(loss, (0, 1)), x_KF, kernel_FO) == 3 * 4 * (2 * 6 * 3 * 5)
    index_BN = np.zeros((7, 11), np.int32)  # lists of rows of a table
    assert product_flops(row_dot, kernel_FO, np.ones((7, 5), "f"), index_BN) == 2 * 7 * 11 * 5
    assert product_flops(row_sum, kernel_FO, np.ones((7, 11), "f"), index_BN) == 2 * 7 * 11 * 5
