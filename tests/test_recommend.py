"""Recommendation to users never seen: the scores of evaluation, in the user's own ids."""

import warnings

import jax
import numpy as np
import pytest
from tiny import config, trained

from metacsr_jax import recommend
from metacsr_jax.baselines import BASELINES
from metacsr_jax.data.interactions import Interactions
from metacsr_jax.errors import DataError, WorkdirError
from metacsr_jax.evaluate import score_of
from metacsr_jax.log import load_log
from metacsr_jax.problem import make_problem, scenario_batches
from metacsr_jax.protocol import build_protocol
from metacsr_jax.train import initial_state
from metacsr_jax.trained import Trained


@pytest.fixture(scope="module", params=["tuned", "paper"])
def served(request):
    """Softmax over the catalogue; and BPR, whose support needs sampled negatives."""
    return recommend.load(trained(request.param))


@pytest.fixture(scope="module")
def tuned():
    return recommend.load(trained())


@pytest.fixture(scope="module")
def item_ids(tuned):
    return tuned._trained.problem.protocol.item_ids


def histories_of(recommender, scenario):
    """Cases of a scenario and their histories in original ids."""
    problem = recommender._trained.problem
    cases, batch = scenario_batches(problem, scenario)
    parts = np.split(problem.protocol.item_ids[cases.item_H], cases.offset_N1[1:-1])
    return [part.tolist() for part in parts], batch


@pytest.mark.parametrize("adapt_steps", [0, 1, 3])
def test_scores_are_those_of_evaluation(served, adapt_steps):
    histories, batch = histories_of(served, "cold")
    evaluated_NI = np.asarray(score_of(served._trained)(batch, adapt_steps))
    everything = len(served._item_ids)
    items, scores = served.recommend(histories, everything, adapt_steps, exclude_seen=False)
    for row, (item_K, score_K) in enumerate(zip(items, scores, strict=True)):
        place_K = np.searchsorted(served._item_ids, item_K)
        assert sorted(place_K) == list(range(everything))
        # Up to rounding: products of another batch size add up in another order.
        np.testing.assert_allclose(score_K, evaluated_NI[row, place_K], rtol=1e-5, atol=1e-5)
        assert (np.diff(score_K) <= 0).all(), "best first"


def test_one_history_gets_what_it_gets_among_many(served):
    histories, _ = histories_of(served, "cold")
    items, scores = served.recommend(histories * 2, k=5)  # more than one batch of 32
    for row in (0, 7, 29):
        alone, its_scores = served.recommend([histories[row]], k=5)
        np.testing.assert_allclose(its_scores[0], scores[row], atol=1e-5)
        np.testing.assert_allclose(its_scores[0], scores[row + 30], atol=1e-5)
        assert alone[0].tolist() == items[row].tolist() == items[row + 30].tolist()


def test_adaptation_and_order_matter(tuned):
    histories, _ = histories_of(tuned, "cold")
    plain, adapted = (
        tuned.recommend(histories[:1], k=160, adapt_steps=steps)[1][0] for steps in (0, 1)
    )
    assert (plain != adapted).any()
    assert (tuned.recommend([histories[0][::-1]], k=160)[1][0] != adapted).any()


def test_seen_items_are_left_out_or_not(tuned, item_ids):
    history = item_ids[:30].tolist()  # longer than the context: all of it is seen
    items, scores = tuned.recommend([history], k=1000)
    assert len(items[0]) == len(scores[0]) == len(item_ids) - 30
    assert not set(items[0].tolist()) & set(history)
    everything, _ = tuned.recommend([history], k=1000, exclude_seen=False)
    assert sorted(everything[0].tolist()) == item_ids.tolist()
    nothing, none = tuned.recommend([item_ids.tolist()], k=3)
    assert nothing[0].size == none[0].size == 0


def test_only_candidates_are_ranked(tuned, item_ids):
    wanted = item_ids[[3, 50, 70]].tolist()
    items, scores = tuned.recommend(
        [item_ids[:2].tolist(), []], k=10, candidates=[*wanted, wanted[0]]
    )
    assert [sorted(part.tolist()) for part in items] == [wanted, wanted]
    everything, all_scores = tuned.recommend([item_ids[:2].tolist()], k=1000)
    lookup = dict(zip(everything[0].tolist(), all_scores[0].tolist(), strict=True))
    np.testing.assert_allclose(scores[0], [lookup[item] for item in items[0].tolist()], atol=1e-5)
    one, _ = tuned.recommend([[wanted[0]]], k=10, candidates=wanted)
    assert sorted(one[0].tolist()) == wanted[1:]


def test_an_empty_history_gets_the_popularity_order(served):
    problem = served._trained.problem
    count_I = BASELINES["popular"](problem.config).fit(problem.protocol, None)
    items, scores = served.recommend([[], [1]], k=20)
    place_K = np.searchsorted(served._item_ids, items[0])
    np.testing.assert_allclose(scores[0], np.log1p(count_I[place_K]), rtol=1e-6)
    np.testing.assert_array_equal(np.sort(count_I)[::-1][:20], count_I[place_K])
    assert items[0].tolist() != items[1].tolist()


def test_no_history_at_all(tuned):
    assert tuned.recommend([]) == ([], [])


def test_unknown_items_are_named_and_skipped(tuned, item_ids):
    known = item_ids[:3].tolist()
    with pytest.warns(
        UserWarning, match=r"histories: not in the catalogue and skipped \(8\): 'x', -1"
    ) as caught:
        items, scores = tuned.recommend(
            [["x", known[0], -1, *known[1:], "x", 4.5, "", 10**30, "é", 99999]], k=5
        )
    assert "and 2 more" in str(caught[0].message) and caught[0].filename == __file__
    expected, its_scores = tuned.recommend([known], k=5)
    assert items[0].tolist() == expected[0].tolist()
    np.testing.assert_array_equal(scores[0], its_scores[0])
    with pytest.warns(UserWarning, match=r"histories: not in the catalogue and skipped \(1\): 'x'"):
        only_unknown, _ = tuned.recommend([["x"]], k=5)
    assert only_unknown[0].tolist() == tuned.recommend([[]], k=5)[0][0].tolist()
    with pytest.warns(UserWarning, match=r"candidates: not in the catalogue and skipped \(1\)"):
        tuned.recommend([known], candidates=[known[0], "x", item_ids[5]])


def test_ids_may_come_as_text_or_numbers_or_arrays(tuned, item_ids):
    known = item_ids[:4]
    expected = tuned.recommend([known.tolist()], k=5)[0][0].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in (known, tuple(map(str, known)), list(known.astype(np.int32))):
            assert tuned.recommend([form], k=5)[0][0].tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"histories": [[1]], "k": 0}, "k=0: expected at least 1"),
        ({"histories": [[1]], "adapt_steps": -1}, "adapt_steps=-1"),
        ({"histories": ["1,2"]}, "history 0 is '1,2': expected a sequence"),
        ({"histories": [[1], 7]}, "history 1 is 7"),
        ({"histories": [[1]], "candidates": []}, "candidates: none"),
    ],
)
def test_bad_arguments_are_refused(tuned, arguments, expected):
    with pytest.raises(DataError) as caught:
        tuned.recommend(**arguments)
    assert expected in str(caught.value)


def test_candidates_that_nobody_knows_are_refused(tuned):
    with (
        pytest.warns(UserWarning, match="candidates"),
        pytest.raises(DataError, match="candidates: none"),
    ):
        tuned.recommend([[1]], candidates=["x"])


def test_the_checkpoint_is_a_choice_and_a_missing_directory_an_error(tmp_path):
    assert recommend.load(trained(), "last")._trained.step == 12
    with pytest.raises(WorkdirError):
        recommend.load(tmp_path / "nowhere")


def test_ids_that_are_words_come_back_as_words(tmp_path):
    plain = load_log(config())
    named = Interactions.from_ids(
        [f"anna, {user}" for user in plain.user_E],
        [f"Größe {item}" for item in plain.item_E],
        time=plain.time_E,
        name="words",
    )
    problem = make_problem(build_protocol(named, config().protocol), config())
    params = jax.jit(lambda: initial_state(problem))().params
    recommender = recommend.Recommender(Trained(tmp_path, problem, params, 0, {}))
    items, _ = recommender.recommend([["Größe 3", "Größe 5"]], k=4)
    assert len(items[0]) == 4 and all(str(item).startswith("Größe ") for item in items[0])
    with pytest.warns(UserWarning, match="'3'"):
        recommender.recommend([["Größe 3", "3"]])
