"""What README.md, CHANGELOG.md and docs/ name exists: settings, presets, commands, flags, files."""

import ast
import functools
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from metacsr_jax import presets, sections, settings
from metacsr_jax.config import Config
from metacsr_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.exists()
]
OWN = ("experiments", "tools", "metacsr_jax")
ABSL = {"help", "helpfull", "helpshort", "verbosity"}  # every launcher has these
SUFFIXES = {"py", "md", "json", "jsonl", "csv", "npz", "npy", "png", "toml"}
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SETTING = re.compile(r"([a-z_]+)\.([a-z_0-9]+)(?:=(.+))?")


def spans(text: str) -> list[str]:
    """Backticked pieces outside of fenced blocks, with the bars of tables unescaped."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [span.replace("\\|", "|") for span in SPAN.findall(prose)]


def refusal(name: str, value: str | None, companions: tuple[str, ...] = ()) -> str | None:
    """Why a setting, with or without a value, is none; None where all is well.

    Its companions, `section.name=value`, are set beside it, since some settings are refused alone.
    """
    section, _, field = name.partition(".")
    if not hasattr(Config(), section) or not hasattr(getattr(Config(), section), field):
        return f"{name}: no such setting"
    for choice in [] if value is None else value.split("|"):
        try:
            settings.override(reader(section), [*companions, f"{name}={choice}"])
        except ConfigError as error:
            return str(error)
    return None


def reader(section: str) -> Config:
    """A configuration whose model reads the section: metaCSR's unless it is a rival's own."""
    readers = [name for name, own in sections.OWN_SECTIONS.items() if section in own]
    return presets.preset("synthetic/paper", readers[0]) if readers else Config()


def settings_problems(text: str) -> list[str]:
    """Settings in backticks (`section.name`, `section.name=a|b`) and after --set that are refused."""
    named = []
    for span in spans(text):
        match = SETTING.fullmatch(span)
        # Without a value only a known section makes a dotted word a setting, and `meta.py` is a file.
        if match and (match[3] or (match[1] in sections.SECTIONS and match[2] not in SUFFIXES)):
            named.append((f"{match[1]}.{match[2]}", match[3]))
    problems = [problem for name, value in named if (problem := refusal(name, value))]
    for command in text.replace("\\\n", " ").splitlines():
        given = re.findall(r"--set[ =]([a-z_]+\.[a-z_0-9]+)=([^\s`]+)", command)
        together = tuple(f"{name}={value}" for name, value in given if name != "section.name")
        for name, value in given:
            if name != "section.name" and (problem := refusal(name, value, together)):
                problems.append(problem)
    return problems


def preset_problems(text: str) -> list[str]:
    """Presets in backticks (`log/variant`) and after --preset that do not exist."""
    named = re.findall(r"--preset[= ]([^\s`]+)", text)
    named += [span for span in spans(text) if re.fullmatch(r"[a-z0-9-]+/(paper|tuned)", span)]
    return [f"{name}: no such preset" for name in named if not _is_preset(name)]


def _is_preset(name: str) -> bool:
    try:
        presets.preset(name)
    except ConfigError:
        return False
    return True


@functools.cache
def defined_flags(module: str) -> frozenset[str] | None:
    """Names of the absl flags that a module's source defines, None where there is no such module."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None:
        return None
    if not module.startswith(OWN):
        return frozenset()
    names = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_call and node.func.attr.startswith("DEFINE_"):
            names.add(ast.literal_eval(node.args[0]))
    return frozenset(names)


def command_problems(text: str) -> list[str]:
    """`python -m module` whose module is missing, and flags beside it that the module does not define."""
    joined = re.sub(r"\\\n\s*", " ", text)
    problems = []
    for module, rest in re.findall(r"python[0-9.]* -m ([\w.]+)([^\n`#|&;]*)", joined):
        known = defined_flags(module.rstrip("."))
        if known is None:
            problems.append(f"{module}: no such module")
        elif module.startswith(OWN):
            problems += [
                f"{module}: no flag --{flag}" for flag in _flags(rest) if not _is_flag(flag, known)
            ]
    return problems


def flag_problems(text: str) -> list[str]:
    """Backticked `--flag`s that no launcher or tool defines."""
    modules = [
        f"{place}.{path.stem}" for place in OWN[:2] for path in (ROOT / place).glob("[a-z]*.py")
    ]
    known = frozenset().union(*(defined_flags(module) for module in modules))
    named = [flag for span in spans(text) if span.startswith("--") for flag in _flags(span)]
    return [f"--{flag}: no such flag" for flag in named if not _is_flag(flag, known)]


def _flags(arguments: str) -> list[str]:
    return re.findall(r"(?<![\w-])--([a-z_]+)", arguments)


def _is_flag(flag: str, known: frozenset[str]) -> bool:
    return flag in known | ABSL or (flag.startswith("no") and flag[2:] in known)


def name_problems(text: str) -> list[str]:
    """Dotted Python names of this package, in prose and in code, that cannot be imported."""
    named = re.findall(r"(?<![\w/.-])metacsr_jax(?:\.[A-Za-z_]\w*)+", text)
    return [f"{name}: no such name" for name in named if not _is_name(name)]


def _is_name(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


def link_problems(text: str, document: Path) -> list[str]:
    """Relative links, headings behind `#`, and backticked paths of this project that lead nowhere."""
    problems = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        path = document.parent / file if file else document
        if not path.exists():
            problems.append(f"{target}: no such file")
        elif heading and heading not in headings(path.read_text(encoding="utf-8")):
            problems.append(f"{target}: no such heading")
    for span in spans(text):
        if (
            re.fullmatch(rf"(?:{'|'.join(OWN)}|tests|docs)/[\w/.-]+", span)
            and not (ROOT / span).exists()
        ):
            problems.append(f"{span}: no such file")
    return problems


def headings(text: str) -> set[str]:
    """Anchors of a document's headings as GitHub writes them."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document):
    text = document.read_text(encoding="utf-8")
    problems = settings_problems(text) + preset_problems(text) + command_problems(text)
    problems += flag_problems(text) + name_problems(text) + link_problems(text, document)
    assert problems == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_is_left_to_fill_in(document):
    left = re.findall(r"@@|\bTODO\b|\bTBD\b|\bFIXME\b", document.read_text(encoding="utf-8"))
    assert left == []


def test_every_page_is_there():
    names = {path.name for path in DOCUMENTS}
    assert names >= {"CHANGELOG.md", "reading.md", "protocol.md", "workdir.md", "data.md"}


def test_the_page_on_tuned_names_what_tuned_changes():
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    table = text.partition("## The loosened network")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {}
    for span in spans("\n".join(cells)):
        name, equals, value = span.partition("=")
        named[name] = value if equals else None
    assert set(named) == set(presets.TUNED)
    for name, value in named.items():
        if value is not None:  # a value in the page is the value of the preset
            written = settings.override(Config(), [f"{name}={value}"])
            section, _, field = name.partition(".")
            assert getattr(getattr(written, section), field) == presets.TUNED[name], name


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (settings_problems, "`meta.inner_steps`", "`meta.inner_step`"),
        (settings_problems, "`train.py`", "`train.pi`"),
        (settings_problems, r"| `meta.method=maml\|anil` |", r"| `meta.method=maml\|anal` |"),
        (settings_problems, "`loss.name=bpr`", "`losses.name=bpr`"),
        (settings_problems, "--set model.hops=2", "--set model.hops=0"),
        (preset_problems, "`custom/paper`", "`customs/paper`"),
        (preset_problems, "--preset=synthetic", "--preset=synthetics/tuned"),
        (command_problems, "python -m pytest --any", "python -m pytesst"),
        (command_problems, "python -m experiments.train --seed=0", "python -m experiments.trains"),
        (
            command_problems,
            "python -m experiments.train --noprogress",
            "python -m experiments.train --sead=0",
        ),
        (
            command_problems,
            "python -m experiments.recommend \\\n  --k=3",
            "python -m experiments.train \\\n  --k=3",
        ),
        (flag_problems, "`--adapt_steps=0,1`", "`--adapt_step=0,1`"),
        (name_problems, "metacsr_jax.recommend.load(x)", "metacsr_jax.recommend.loads(x)"),
        (name_problems, "`metacsr_jax.data.read`", "`metacsr_jax.date.read`"),
        (
            functools.partial(link_problems, document=ROOT / "docs" / "a.md"),
            "[a](../pyproject.toml)",
            "[a](pyproject.toml)",
        ),
        (
            functools.partial(link_problems, document=ROOT / "docs" / "data.md"),
            "[a](data.md#formats)",
            "[a](#format)",
        ),
        (
            functools.partial(link_problems, document=ROOT / "a.md"),
            "`tests/test_docs.py`",
            "`tests/test_dogs.py`",
        ),
    ],
)
def test_the_checks_tell_right_from_wrong(check, right, wrong):
    assert check(right) == []
    assert len(check(wrong)) == 1
