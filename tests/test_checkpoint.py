"""Checkpoints: what is saved comes back, the best and the latest are kept, and a step is found by name."""

import contextlib
import shutil

import jax.numpy as jnp
import pytest
from tiny import assert_same_bits

from metacsr_jax.checkpoint import Checkpoints, Progress, abstract_on
from metacsr_jax.errors import WorkdirError
from metacsr_jax.parallel import shardings
from metacsr_jax.step import TrainState


def state(step: int, width: int = 3) -> TrainState:
    """A state whose numbers tell its step."""
    table = jnp.full((2, width), step / 7, jnp.float32)
    return TrainState({"encoder": {"W": table}}, (table * 2, jnp.int32(step)), jnp.int32(step))


def abstract(width: int = 3) -> TrainState:
    return abstract_on(state(0, width), shardings(state(0, width), None, "replicated"))


@pytest.fixture
def checkpoints(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints", keep=2)) as opened:
        yield opened


def save(checkpoints: Checkpoints, *steps: int, best: int = -1) -> None:
    for step in steps:
        checkpoints.save(state(step), Progress(best_step=best, best_value=step / 3, stale=step))
    checkpoints.wait()


def test_a_state_and_its_progress_come_back_bit_for_bit(checkpoints):
    save(checkpoints, 2)
    assert_same_bits(checkpoints.restore(2, abstract()), state(2))
    assert checkpoints.progress(2) == Progress(best_step=-1, best_value=2 / 3, stale=2)


def test_the_latest_and_the_best_are_kept(checkpoints):
    save(checkpoints, 2, 4, best=2)
    save(checkpoints, 6, 8, 10, best=4)
    assert checkpoints.steps() == [4, 8, 10]
    save(checkpoints, 12, best=12)
    assert checkpoints.steps() == [10, 12]


def test_a_step_saved_before_is_left_as_it_is(checkpoints):
    save(checkpoints, 2)
    changed = state(2)._replace(params={"encoder": {"W": jnp.zeros((2, 3))}})
    checkpoints.save(changed, Progress())
    checkpoints.wait()
    assert_same_bits(checkpoints.restore(2, abstract()), state(2))


def test_steps_are_found_by_name(checkpoints):
    save(checkpoints, 2)
    assert checkpoints.resolve("best") == 2, "nothing validated yet: the last one"
    save(checkpoints, 4, 6, 8, best=4)
    assert checkpoints.resolve("best") == 4
    assert checkpoints.resolve("last") == 8
    assert checkpoints.resolve("6") == 6


@pytest.mark.parametrize("name", ["3", "-2", "worst", "", "2.0", "²"])
def test_unknown_steps_are_refused_with_those_there(checkpoints, name):
    save(checkpoints, 2, 4)
    with pytest.raises(WorkdirError) as caught:
        checkpoints.resolve(name)
    assert repr(name) in str(caught.value) and "best, last or one of 2, 4" in str(caught.value)


def test_an_empty_directory_has_no_step(checkpoints):
    assert checkpoints.steps() == []
    with pytest.raises(WorkdirError, match="no checkpoint"):
        checkpoints.resolve("best")


def test_a_best_step_that_was_removed_is_refused(checkpoints):
    save(checkpoints, 2, 4, best=2)
    with contextlib.closing(Checkpoints(checkpoints._directory, 2)) as again:
        shutil.rmtree(checkpoints._directory / "2")
        with (
            contextlib.closing(Checkpoints(checkpoints._directory, 2)) as later,
            pytest.raises(WorkdirError),
        ):
            later.resolve("best")
        assert again.resolve("last") == 4


def test_another_shape_or_tree_is_refused(checkpoints):
    save(checkpoints, 2)
    with pytest.raises(WorkdirError, match="does not fit"):
        checkpoints.restore(2, abstract(width=4))
    other = abstract()._replace(params={"encoder": {"V": abstract().params["encoder"]["W"]}})
    with pytest.raises(WorkdirError, match="does not fit"):
        checkpoints.restore(2, other)


def test_a_damaged_checkpoint_is_named(checkpoints):
    save(checkpoints, 2)
    for file in (checkpoints._directory / "2" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(WorkdirError, match="2"):
        checkpoints.restore(2, abstract())


def test_saved_steps_survive_the_process(checkpoints, tmp_path):
    save(checkpoints, 2, 4, best=4)
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints", keep=2)) as again:
        assert again.steps() == [2, 4]
        assert_same_bits(again.restore(4, abstract()), state(4))
        save(again, 6, best=4)
        assert again.steps() == [4, 6]
