"""Tests of the promises of docs/security.md, such as no pickle, no code from text, no shell and no hidden download."""

import ast
from collections.abc import Iterator

import pytest

from tests.sources import ROOT, parse

ROOMS = ("configs", "input_pipeline", "models", "experiments", "benchmarks")
SOURCES = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.unsafe_load"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
NETWORK = {"urllib", "requests", "http", "ftplib", "httpx", "aiohttp"}
MAY_DOWNLOAD = {"input_pipeline/preparation.py"}  # checks that the server of a named dataset can be reached
NEEDED = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True), "yaml.load": ("Loader", "LOADER")}


def find_calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def find_wrong(path: str, tree: ast.Module) -> list[str]:
    """Return the forbidden calls and imports of a source."""
    wrong = []
    for name, call in find_calls(tree):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        if name in FORBIDDEN or given.get("shell") not in (None, "False") or given.get("allow_pickle") == "True":
            wrong.append(f"{path}:{call.lineno} {name}")
        if name in NEEDED and given.get(NEEDED[name][0]) != str(NEEDED[name][1]):
            wrong.append(f"{path}:{call.lineno} {name} without {NEEDED[name][0]}={NEEDED[name][1]}")
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        tops = {name.split(".")[0] for name in names}
        if tops & MODULES or (tops & NETWORK and path not in MAY_DOWNLOAD):
            wrong.append(f"{path}:{node.lineno} imports {', '.join(names)}")
    return wrong


def test_the_sources_keep_the_promises():
    assert [line for path in SOURCES for line in find_wrong(str(path.relative_to(ROOT)), parse(path))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval(name)",
        "os.system('ls')",
        "subprocess.run(command, shell=True)",
        "np.load(place)",
        "np.load(place, allow_pickle=True)",
        "torch.load(place)",
        "yaml.load(text)",
        "import urllib.request",
    ],
)
def test_each_promise_can_be_broken(source):
    assert len(find_wrong("somewhere.py", ast.parse(source))) >= 1
