"""Tests that links, files, fields and commands in README.md and docs/ are real, and that worked examples run."""

import fnmatch
import importlib.util
import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

import main  # defines flags
from configs.variants import STAGES
from experiments.command_line import read_experiment
from experiments.run import configuration
from models.registry import MODELS
from tests.main_server import run_main

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
ROOMS = ("configs", "input_pipeline", "models", "experiments", "benchmarks", "launch", "docs", "tests")
FILES = [str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*")]
FILES += [path.name for path in ROOT.iterdir() if path.is_file()]
FAMILIES = {"__init__", "common", "datasets", "segmenters", "detectors", "schedules", "sweeps", "variants"}
HISTORIES = {"detection_history", "segmentation_history"}  # sweeps over many models
EXPERIMENTS = sorted(path.stem for path in ROOT.glob("configs/*.py") if path.stem not in FAMILIES | HISTORIES)
ANY = "unet_camvid"  # replaces NAME, the name of any config
SECTIONS = ["seed", "mesh", "model", "task", "data", "train", "eval", "optim", "wandb", "pretrained", "init_from"]
OTHERS = {"tfds", "pre-commit"}  # foreign programs
LONGEST = 110  # lines of README.md
LAUNCHERS = {"sbatch", "kubectl", "sky"}  # they take a file of launch/


def code_of(page: str) -> list[str]:
    """Return the texts between backticks in a page's prose."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))


def commands_of(page: str) -> list[str]:
    """Return the commands of a page's sh blocks, without comments.

    Continued lines are one command. `echo WORD |` before a command is left out.
    """
    blocks = re.findall(r"```sh\n(.*?)```", PAGES[page], flags=re.DOTALL)
    lines = [
        line
        for block in blocks
        for line in re.split(r"\n|^echo \w+ \| ", block.replace("\\\n", " "), flags=re.MULTILINE)
    ]
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def rows_of(page: str, title: str) -> list[list[str]]:
    """Return the cells of the rows of the page's table whose first header is `title`."""
    tables = re.findall(rf"^\| {re.escape(title)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGES[page], flags=re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for table in tables for row in table.splitlines()]


def read_config(experiment: str, *arguments: str) -> ConfigDict:
    """Return the config of `FILE[:VARIANT]` with fields set by flags, and raise UserError for a wrong one."""
    config = read_experiment(str(ROOT / experiment), arguments)
    configuration.check(config)
    return config


def leaves(values: dict, prefix: str = "") -> set[str]:
    """Return the dotted names of all fields and sections."""
    found = {prefix + name for name in values}
    return found.union(*(leaves(own, f"{prefix}{name}.") for name, own in values.items() if isinstance(own, dict)))


@pytest.fixture(scope="module")
def known_fields() -> set[str]:
    """The fields that at least one experiment has."""
    files = [f"{name}.py" for name in EXPERIMENTS] + [f"rcnn_shapes.py:{stage}" for stage in STAGES]
    return set().union(*(leaves(read_config(f"configs/{file}").to_dict()) for file in files))


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= LONGEST


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = (ROOT / page).parent / name if name else ROOT / page
        assert place.exists(), f"{page}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", place.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_file_that_a_page_names_exists(page):
    for code in code_of(page):
        name = code.partition(":")[0].rstrip("/")
        if pathlib.PurePath(name).stem == "yours" or name == "load.py":  # a file of exports
            continue
        if code.startswith(tuple(f"{room}/" for room in ROOMS)):
            assert fnmatch.filter(FILES, name) or name in ROOMS, f"{page}: {code}"
        elif re.fullmatch(r"\w+\.(py|md)", name):
            assert fnmatch.filter(FILES, f"*/{name}") or name in FILES, f"{page}: {code}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_field_that_a_page_names_exists(page, known_fields):
    for code in code_of(page):
        for name in re.findall(rf"(?:^|--config\.|config\.)((?:{'|'.join(SECTIONS)})(?:\.\w+)*)", code):
            is_path = re.match(r"[\w.]*(/|\.(py|md|yaml|stablehlo|onnx)\b)", code) or "/" in code.partition("=")[0]
            if not is_path and (name != code or "." in name):
                assert name in known_fields, f"{page}: {code}"


def test_the_table_of_models_is_complete():
    rows = rows_of("README.md", "`model.name`")
    assert [row[0].strip("`") for row in rows] and {row[0].strip("`") for row in rows} == set(MODELS)
    named = {}
    for name, _, configs in rows:
        named |= dict.fromkeys(re.findall(r"`(\w+)`", configs), name.strip("`"))
    assert named == {name: read_config(f"configs/{name}.py").model.name for name in EXPERIMENTS}


def test_the_changelog_says_where_fields_and_modules_went(known_fields):
    for old, new in rows_of("CHANGELOG.md", "old"):
        old, *now = re.findall(r"`([\w./]+)[^`]*`", old + new)
        if "/" in old:
            assert not (ROOT / old).exists() and all((ROOT / name).exists() for name in now), old
        else:
            assert old in ("seed", "task.losses") or old not in known_fields, old
            assert known_fields.issuperset(now), new


@pytest.mark.parametrize(("page", "command"), [(page, command) for page in PAGES for command in commands_of(page)])
def test_every_command_is_real(page, command):
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    program, rest = pathlib.PurePath(words[0]).name, words[1:]
    if program == "make":
        assert re.findall(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif program == "pip":
        assert rest[:2] == ["install", "-r"] and (ROOT / rest[2]).is_file()
    elif program == "python" and rest[0] == "-m":
        check_module(rest[1], rest[2:])
    elif program == "python" and rest[0] == "-I":
        assert rest[1].endswith("/load.py")  # tests/experiments/test_export.py runs this
    elif program == "python":
        assert (ROOT / rest[0]).is_file() and rest[0] == "main.py"
        check_flags(rest[1:])
    elif program in LAUNCHERS or words[0].startswith("launch/"):
        check_launch(words)
    else:
        assert program in OTHERS


EXAMPLES = [
    block for page in PAGES.values() for block in re.findall(r"```python\n((?:from|import) .*?)```", page, re.DOTALL)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs_and_has_its_shapes(example):
    """Python blocks that begin with imports run, and shapes such as `name = ...  # [B,2,7,7,C]` are checked."""
    names = {}
    exec(compile(example, "example", "exec"), names)
    sizes = {"B": 2, "H": 38, "W": 63, "C": 16, "R": 3}
    said = re.findall(r"^(\w+)(?:, \w+)? = .*# \[([\w,]+)\]", example, flags=re.MULTILINE)
    assert len(said) >= 4
    for name, shape in said:
        assert names[name].shape == tuple(sizes.get(size) or int(size) for size in shape.split(",")), name


def check_module(module: str, arguments: list[str]) -> None:
    """Check that one of our modules exists and has the flags."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    source = pathlib.Path(spec.origin).read_text()
    for name in re.findall(r"^--(\w+)", "\n".join(arguments), flags=re.MULTILINE):
        assert re.search(rf"""["'](--)?{name}["']""", source), f"{module}: --{name}"


def check_launch(words: list[str]) -> None:
    """Check that a command names one file of launch/, and that main.py has the flags after a script or in ARGS."""
    (file,) = [word for word in words if word.startswith("launch/")]
    assert (ROOT / file).is_file(), file
    after = words[words.index(file) + 1 :] if file.endswith(".sh") else []
    for word in words:
        after += shlex.split(word.removeprefix("ARGS=")) if word.startswith("ARGS=") else []
    assert after or file.endswith(".yaml")
    check_flags(after)


def check_flags(arguments: list[str]) -> None:
    """Check that main.py accepts the arguments, with known flags, an existing experiment and its fields."""
    experiment, changed = f"configs/{ANY}.py", []
    for argument in arguments:
        name, has_value, value = argument.removeprefix("--").partition("=")
        if name == "config":
            experiment = value.replace("NAME", ANY)
        elif name.startswith("config."):
            changed.append(argument)
        else:
            assert name in flags.FLAGS and bool(has_value) != flags.FLAGS[name].boolean, argument
            flags.FLAGS[name].parser.parse(value if has_value else True)
    read_config(experiment, *changed)


def test_every_mode_is_documented():
    text = "".join(PAGES.values())
    assert all(f"--mode={mode}" in text for mode in main.MODES if mode != "train")  # the default


@pytest.fixture
def masks(tmp_path) -> pathlib.Path:
    """A folder for the README's worked example with masks."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(4):
            image = generator.integers(0, 256, (48, 64, 3), np.uint8)
            save(image, tmp_path / split / "images" / f"{number}.jpg")
            save((image[..., 0] > 127).astype(np.uint8), tmp_path / split / "masks" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("dark\nbright\n")
    return tmp_path


@pytest.fixture
def boxes(tmp_path) -> pathlib.Path:
    """A folder for the README's worked example with boxes."""
    for split in ("train", "val"):
        names = [f"{number}.jpg" for number in range(4)]
        for name in names:
            image = np.zeros((64, 64, 3), np.uint8)
            image[10:40, 20:50] = 255
            save(image, tmp_path / split / name)
        box = {"bbox": [20, 10, 30, 30], "area": 900, "iscrowd": 0, "category_id": 1}
        content = {
            "images": [{"id": i, "file_name": name, "height": 64, "width": 64} for i, name in enumerate(names, 1)],
            "annotations": [box | {"id": i, "image_id": i} for i in range(1, len(names) + 1)],
            "categories": [{"id": 1, "name": "square"}],
        }
        place = tmp_path / "annotations" / f"instances_{split}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(content))
    return tmp_path


def save(image: np.ndarray, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def run(*arguments: str, data_dir: pathlib.Path) -> str:
    done = run_main(f"--tfds_data_dir={data_dir}", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "name", "photo", "score"),
    [("masks", "image_mask", "val/images/0.jpg", "mIoU"), ("boxes", "coco_folder", "val/0.jpg", "AP50")],
)
def test_a_worked_example_runs(tmp_path_factory, request, kind, name, photo, score):
    """The command is the README's, but trains a tiny model for two steps."""
    folder, place = request.getfixturevalue(kind), tmp_path_factory.mktemp(kind)
    (command,) = [command for command in commands_of("README.md") if f"runs/{kind}" in command]
    arguments = [word.replace("DIR", str(folder)) for word in shlex.split(command)[2:]]
    arguments = [re.sub(r"^(--config=.*)$", r"\1:debug", word) for word in arguments]
    arguments = [word.replace(f"runs/{kind}", str(place / "run")) for word in arguments]
    # The variant sets another dataset and its splits.
    arguments += [f"--config.data.name={name}", "--config.data.eval_split=val"]
    arguments += [f"--config.train.{field}=2" for field in ("steps", "eval_every", "checkpoint_every")]
    arguments += ["--config.optim.warmup_steps=1"]
    assert "finished at step 2" in run(*arguments, data_dir=place)
    last = json.loads((place / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and f"val/{score}" in last
    assert (place / "run" / "datacheck.json").exists() == (kind == "boxes")
    predict = ["--mode=predict", f"--workdir={place / 'run'}", "--checkpoint=last", f"--inputs={folder / photo}"]
    assert "1 of 1 images" in run(*predict, f"--output={place / 'out'}", data_dir=place)
    assert any((place / "out").iterdir())


@pytest.mark.slow
def test_the_commands_of_the_page_on_exports_run(tmp_path, data_dir):
    """The run is of a tiny model, and ONNX is skipped if it is not installed."""
    workdir = tmp_path / "run"
    steps = [f"--config.train.{field}=2" for field in ("steps", "eval_every", "checkpoint_every")]
    steps += ["--config.optim.warmup_steps=0"]
    run("--config=configs/unet_pets.py:debug", f"--workdir={workdir}", *steps, data_dir=data_dir)
    folder = workdir / "export" / "best-auto-2"
    np.savez(tmp_path / "inputs.npz", image=np.zeros((3, 64, 64, 3), np.uint8))
    places = {r"runs/\w+/export/[\w-]+": folder, "runs/pets": workdir, "=DIR": f"={data_dir}"}
    places |= {"(in|out)puts.npz": rf"{tmp_path}/\1puts.npz", "^.venv/bin/python": sys.executable}
    left = []
    for command in commands_of("docs/export.md"):
        words = shlex.split(command)
        for pattern, place in places.items():
            words = [re.sub(pattern, str(place), word) for word in words]
        if "onnx" in command and not (ROOT / ".venv-onnx" / "installed").exists():
            left.append(command)
            continue
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        assert done.stdout or "load.py" in command
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert outputs["probability"].shape[:3] == (3, 64, 64)
    assert (folder / "model.onnx").exists() != bool(left)
