"""Commands as a user types them: what they print, what they write, and one line where something is wrong."""

import csv
import io
import json

import jax
import numpy as np
import pytest
from tiny import config, copy, flags, launch_many, saved_state, started, trained, values

from metacsr_jax import recommend
from metacsr_jax.evaluation.rows import KEYS, read_rows
from metacsr_jax.problem import scenario_batches
from metacsr_jax.workdir import read_config, read_manifest


def assert_one_line(ended, *parts: str, code: int = 2) -> None:
    """An error a user can act on: one line, no traceback."""
    assert ended.code == code, ended.err
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), ended.err
    assert "Traceback" not in ended.err
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def parse():
    """A table from text."""
    return lambda text: list(csv.DictReader(io.StringIO(text)))


def test_train_refuses_in_one_line_and_dry_run_writes_nothing(tmp_path):
    broken = tmp_path / "broken.csv"
    broken.write_text("user,item,timestamp\n1,2,3\n1,3,yesterday\n")
    workdir = f"--workdir={tmp_path / 'run'}"
    commands = {
        "preset": ["--preset=synthetic/tune", workdir],
        "setting": ["--set=meta.inner_step=2", workdir],
        "value": ["--set=train.steps=many", workdir],
        "multiple": ["--set=train.chunk=7", workdir],
        "workdir": ["--preset=synthetic/tuned"],
        "other": [*flags(), "--seed=4", f"--workdir={trained()}"],
        "positional": [*flags(), workdir, "extra"],
        "log": ["--preset=custom/tuned", "--data=nowhere.csv", workdir],
        "no log": ["--preset=movielens-1m/paper", workdir],
        "line": [
            "--preset=custom/tuned",
            f"--data={broken}",
            f"--workdir={tmp_path / 'broken-run'}",
        ],
        "few": [*flags(), "--set=synthetic.users=2", f"--workdir={tmp_path / 'few-run'}"],
        "diverging": [
            *flags(),
            "--set=optimizer.pretrain_rate=1e30",
            "--set=optimizer.clip=0",
            f"--workdir={tmp_path / 'diverging'}",
        ],
        "done": [*flags(), f"--workdir={trained()}"],
        "dry": [*flags(), "--seed=3", "--dry_run", f"--workdir={tmp_path / 'dry-run'}"],
    }
    ended = dict(zip(commands, launch_many("train", list(commands.values())), strict=True))
    assert_one_line(ended["preset"], "synthetic/tune", "nearest: synthetic/tuned")
    assert_one_line(ended["setting"], "meta.inner_step", "nearest: meta.inner_steps")
    assert_one_line(ended["value"], "train.steps='many'", "a whole number")
    assert_one_line(ended["multiple"], "multiple of train.chunk=7")
    assert_one_line(ended["workdir"], "--workdir")
    assert_one_line(ended["other"], "train.seed: 0, 4", "another configuration")
    assert_one_line(ended["positional"], "'extra'")
    assert_one_line(ended["log"], "nowhere.csv")
    assert_one_line(ended["no log"], "--data")
    assert_one_line(ended["line"], "broken.csv:3:", "yesterday")
    assert ended["few"].code == 2 and ended["few"].err.startswith("error: ")
    assert ended["diverging"].code == 2 and "gradient norm" in ended["diverging"].err
    assert "Traceback" not in ended["diverging"].err

    assert ended["done"].code == 0 and ended["done"].err == ""
    assert "finished" in ended["done"].out and "nothing to do" in ended["done"].out
    dry = ended["dry"]
    assert dry.code == 0, dry.err
    start, end = dry.out.index("{"), dry.out.rindex("\n}") + 2
    printed = json.loads(dry.out[start:end])
    assert printed["train"]["seed"] == 3 and printed["model"]["dim"] == values()["model.dim"]
    for part in (
        *(
            f"parameters of {name}: {sum(leaf.size for leaf in jax.tree.leaves(tree)):,}\n"
            for name, tree in saved_state(trained()).params.items()
        ),
        "regular 108",
        "of 108 users and 160 items",
        "outer step: 4 tasks x 1 users x (3 support + 3 query) = 24 samples",
        "pre-training: 4 steps, working memory of one:",
        "meta-training: 8 steps, working memory of one:",
        "MB",
    ):
        assert part in dry.out
    assert not (tmp_path / "dry-run").exists()
    assert not (tmp_path / "run" / "protocol").exists()


def test_evaluate_prints_a_table_and_refuses_in_one_line(tmp_path):
    workdir = copy(trained(), tmp_path / "run")
    here = f"--workdir={workdir}"
    commands = {
        "cold": [
            here,
            "--scenarios=cold",
            "--adapt_steps=0,2",
            "--checkpoint=last",
            "--batch=16",
            "--baselines=popular",
        ],
        "nowhere": [f"--workdir={tmp_path / 'nowhere'}"],
        "scenario": [here, "--scenarios=hot"],
        "steps": [here, "--adapt_steps=-1"],
        "checkpoint": [here, "--checkpoint=3"],
        "per": [here, "--adapt_per=crowd"],
        "baseline": [here, "--scenarios=cold", "--adapt_steps=0", "--baselines=popullar"],
    }
    ended = dict(zip(commands, launch_many("evaluate", list(commands.values())), strict=True))
    assert ended["cold"].code == 0, ended["cold"].err
    for part in ("metacsr", "popular", "cold"):
        assert part in ended["cold"].out
    rows = read_rows(workdir)
    assert {(row["model"], row["adapt_steps"]) for row in rows} >= {
        ("metacsr", 0),
        ("metacsr", 2),
        ("popular", 0),
    }
    assert all(tuple(row) == KEYS for row in rows)
    assert_one_line(ended["nowhere"], "nowhere: no such directory")
    assert_one_line(ended["scenario"], "hot", "cold, warm")
    assert_one_line(ended["steps"], "-1")
    assert_one_line(ended["checkpoint"], "'3'", "best, last or one of")
    assert_one_line(ended["per"], "crowd")
    assert_one_line(ended["baseline"], "popullar")


def test_recommend_serves_files_and_single_histories(tmp_path, parse):
    workdir = trained()
    here = f"--workdir={workdir}"
    recommender = recommend.load(workdir)
    problem = recommender._trained.problem
    cases, _ = scenario_batches(problem, "cold")
    histories = [
        part.tolist()
        for part in np.split(problem.protocol.item_ids[cases.item_H], cases.offset_N1[1:-1])
    ]
    chosen = read_manifest(workdir)["chosen_adapt_steps"]
    ordered = [(f"u{row:02}", item) for row, history in enumerate(histories) for item in history]
    plain, timed, back = (tmp_path / name for name in ("plain.csv", "timed.csv", "back.tsv"))
    plain.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in ordered))
    lines = [f"{user},{item},{1000 + time}\n" for time, (user, item) in enumerate(ordered)]
    timed.write_text("user,item,timestamp\n" + "".join(reversed(lines)))
    back.write_text("user\titem\n" + "".join(f"{user}\t{item}\n" for user, item in ordered[:3]))
    single, one_user, broken = (tmp_path / name for name in ("single.csv", "one.csv", "broken.csv"))
    single.write_text(f"user,item\nanna,{histories[0][0]}\n")
    one_user.write_text("user,item\n" + "".join(f"anna,{item}\n" for item in histories[0]))
    broken.write_text("who,what\n1,2\n")
    odd, strangers, malformed = (tmp_path / name for name in ("odd.csv", "new.csv", "bad.csv"))
    odd.write_text("who,what\n" + "".join(f"anna,{item}\n" for item in histories[0]))
    strangers.write_text(f"user,item\nanna,x\nbert,{histories[0][0]}\ncarl,y\n")
    malformed.write_text("user,item\nanna,1\nbert\n")
    text = ",".join(map(str, histories[0]))
    output = tmp_path / "next.csv"
    commands = {
        "plain": [here, f"--histories={plain}", "--k=3"],
        "timed": [here, f"--histories={timed}", "--k=3"],
        "tsv": [here, f"--histories={back}", "--k=3"],
        "single": [here, f"--histories={single}", "--k=3"],
        "one": [here, f"--histories={one_user}", "--k=3"],
        "history": [here, f"--history={text}", "--k=3"],
        "spaces": [here, f"--history= {text.replace(',', ' , ')} ,", "--k=3"],
        "output": [here, f"--history={text}", "--k=3", f"--output={output}"],
        "steps": [here, f"--history={text}", "--k=3", "--adapt_steps=2", "--checkpoint=last"],
        "empty": [here, "--history=", "--k=3"],
        "unknown": [here, f"--history={text},nothing", "--k=3"],
        "candidates": [here, f"--history={text}", "--candidates=1,2,3", "--noexclude_seen"],
        "named": [here, f"--histories={odd}", "--k=3", "--user_column=who", "--item_column=what"],
        "strangers": [here, f"--histories={strangers}", "--k=3"],
        "none": [here],
        "both": [here, "--history=1", f"--histories={plain}"],
        "k": [here, "--history=1", "--k=0"],
        "blanks": [here, f"--history={text.replace(',', ' ')}"],
        "malformed": [here, f"--histories={malformed}"],
        "columns": [here, f"--histories={broken}"],
        "missing": [here, f"--histories={tmp_path / 'nowhere.csv'}"],
        "nowhere": [f"--workdir={tmp_path / 'nowhere'}", "--history=1"],
        "checkpoint": [here, "--history=1", "--checkpoint=worst"],
        "negative": [here, "--history=1", "--adapt_steps=-1"],
        "stranger": [here, "--history=1", "--candidates=x"],
        "unwritable": [here, "--history=1", f"--output={tmp_path / 'no' / 'such' / 'folder.csv'}"],
    }
    ended = dict(zip(commands, launch_many("recommend", list(commands.values())), strict=True))
    good = list(commands)[: list(commands).index("none")]
    assert all(ended[name].code == 0 for name in good), {name: ended[name].err for name in good}

    items, scores = recommender.recommend(histories, k=3, adapt_steps=chosen)
    table = parse(ended["plain"].out)
    assert list(table[0]) == ["user", "rank", "item", "score"]
    assert [row["user"] for row in table[::3]] == [f"u{row:02}" for row in range(30)]
    assert [int(row["rank"]) for row in table[:3]] == [1, 2, 3]
    assert [int(row["item"]) for row in table] == [item for part in items for item in part.tolist()]
    np.testing.assert_allclose(
        [float(row["score"]) for row in table], np.concatenate(scores), atol=2e-6
    )
    assert ended["timed"].out == ended["plain"].out, "sorted by time"
    own = [row["item"] for row in table[:3]]
    for name in ("history", "spaces", "one", "unknown", "named"):
        assert [row["item"] for row in parse(ended[name].out)] == own, name
    assert [row["user"] for row in parse(ended["one"].out)] == ["anna"] * 3
    assert parse(output.read_text()) == parse(ended["history"].out) and ended["output"].out == ""
    assert len(parse(ended["single"].out)) == len(parse(ended["tsv"].out)) == 3
    assert [int(row["item"]) for row in parse(ended["empty"].out)] == recommender.recommend(
        [[]], k=3
    )[0][0].tolist()
    assert "'nothing'" in ended["unknown"].err and len(ended["unknown"].err.splitlines()) == 1
    assert sorted(row["item"] for row in parse(ended["candidates"].out)) == ["1", "2", "3"]
    assert "no known item: anna, carl; popularity order" in ended["strangers"].err
    assert "no known item: history;" in ended["empty"].err
    assert ended["steps"].out != ended["history"].out

    assert_one_line(ended["none"], "--history and --histories")
    assert_one_line(ended["both"], "--history and --histories")
    assert_one_line(ended["k"], "k=0")
    assert_one_line(ended["columns"], "broken.csv")
    assert "in user_column" in ended["columns"].err, "a flag of this command"
    assert_one_line(ended["blanks"], "separated by commas")
    assert_one_line(ended["malformed"], "bad.csv:3")
    assert "skip_malformed" not in ended["malformed"].err
    assert_one_line(ended["missing"], "nowhere.csv: no such file or directory; expected histories")
    assert_one_line(ended["nowhere"], "nowhere: no such directory")
    assert_one_line(ended["checkpoint"], "'worst'")
    assert_one_line(ended["negative"], "adapt_steps=-1")
    assert ended["stranger"].code == 2 and "candidates: none" in ended["stranger"].err
    assert_one_line(ended["unwritable"], "folder.csv")


def test_a_reader_that_stops_early_is_no_error():
    with started("recommend", f"--workdir={trained()}", "--history=1", "--k=100") as process:
        process.stdout.close()
        assert process.wait(timeout=900) == 0
        assert "Traceback" not in process.stderr.read()


def test_the_flags_of_the_tests_are_their_configuration(tmp_path):
    """The command lines here and `config` mean the same run."""
    assert read_config(trained()) == config()
