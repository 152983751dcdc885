"""The prose of this tree is plain English: what a docstring begins with, and words that a hurried reader stumbles over."""

import ast
import re
import subprocess

from tests.sources import ROOT, list_statements, parse

FILES = sorted(
    path
    for path in subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    if (ROOT / path).exists() and path != "tests/test_english.py"  # which quotes them
)
SOURCES = [path for path in FILES if path.endswith(".py")]

# A function does something: its docstring begins with the verb, as in an order. These begin something else.
NO_VERBS = set(
    re.findall(
        r"\w+",
        """a about after again all along also always among an and another any anything around as at away back because before
    below besides between both but by down each either else enough equation even every everything few first five for
    four from half here how however if image in inside instead intersection into it its just last later less like logits
    many mean more most much neither never no none nor not nothing of off often on once one only or other our out over
    own per quite same second several since so some something sometimes such than that the their them then there these
    they third this those three through to together too true two under until up very we what whatever when whenever where
    wherever whether which whichever while who whole whose why with within without you your""",
    )
)
STARTS = {
    "as",
    "how",
    "of",
    "those",
    "what",
    "whatever",
    "where",
    "whether",
    "which",
}  # of a class or a module, neither
WORDS = {
    r"\bbeside\b": "next to, in addition to",
    r"(?<!\bthere )(?<!\bThere )\b(is|are|was|were) no (?!longer\b|more\b|other\b|one\b)": "is not a, has no",
    r"\bmade data\b": "synthetic data",
    r"\blearn(s|ed|t)? by heart\b": "overfit",
    r"\b(is|are|was|were) told\b": "is reported, a warning names",
    r"\bTo expect\b": "Expected",
    r"\bknows no\b": "does not support, has no",
}


def read_prose(path: str) -> str:
    """Return the text of a source, or of a page without its code, on one line."""
    text = (ROOT / path).read_text()
    if path.endswith(".md"):
        return " ".join(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())
    return re.sub(r"\s*\n\s*(# )?", " ", text)


def list_docstrings(path: str) -> list[tuple[ast.AST, str]]:
    """Return the nodes of a source that have a docstring, each with its first line."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    own = [node for node in (parse(ROOT / path), *list_statements(ROOT / path)) if isinstance(node, kinds)]
    return [(node, text.splitlines()[0]) for node in own if (text := ast.get_docstring(node))]


def is_order(node: ast.AST) -> bool:
    """Return whether a node is a function that is called to do something: not a test, a fixture or a property."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("test_"):
        return False
    return not any("fixture" in name or "property" in name for name in map(ast.unparse, node.decorator_list))


def find_faults(path: str) -> list[str]:
    """Return what a reader stumbles over in the docstrings of a source, a line each."""
    faults = []
    for node, line in list_docstrings(path):
        place = f"{path}:{getattr(node, 'lineno', 1)}: {line}"
        word = line.split()[0].strip(",.")
        if re.search(r"[:;](?!//)", re.sub(r"`[^`]*`", "", line)):
            faults.append(f"{place}\n    one thought a line: no colon, no semicolon")
        if word.lower() in STARTS:
            faults.append(f"{place}\n    say what it is, not {word!r}")
        elif is_order(node) and (
            not re.fullmatch(r"[A-Z][a-z-]+", word) or word.lower() in NO_VERBS or re.search(r"[^s]s$", word)
        ):
            faults.append(f"{place}\n    begin with a verb, such as Return: not {word!r}")
    return faults


def test_docstrings_begin_plainly():
    faults = [fault for path in SOURCES for fault in find_faults(path)]
    assert not faults, "\n".join(faults)


def test_words_are_plain():
    faults = [
        f"{path}: {text[max(0, found.start() - 60) : found.end() + 40]}\n    not {found[0]!r}; write {better}"
        for path in FILES
        for text in [read_prose(path)]
        for word, better in WORDS.items()
        for found in re.finditer(word, text)
    ]
    assert not faults, "\n".join(faults)
