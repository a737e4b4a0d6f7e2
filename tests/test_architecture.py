"""The shape of the source: the README's map, docstrings, sizes, public names."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("orchestrator/**/*.py"), *ROOT.glob("jobs/*.py")])
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60
TOP_LEVEL = {
    "LICENSE",
    "README.md",
    "cluster.yaml",
    "configs",
    "jobs",
    "orchestrator",
    "pyproject.toml",
    "tests",
}
BANNED_NAMES = re.compile(r"(Manager|Helper|Util|Utils|Base|Abstract|Impl)$|^Base[A-Z]")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def first_line(path: Path) -> str:
    return (ast.get_docstring(tree(path)) or "").split("\n")[0]


def is_migration(path: Path) -> bool:
    return "migrations" in path.parts


def test_the_map_in_the_readme_is_the_tree_and_repeats_each_docstring() -> None:
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- map -->\n```text\n(.*?)```", text, re.DOTALL)
    assert block, "README.md has no map"
    told: dict[str, str] = {}
    for line in block[1].splitlines():
        found = re.fullmatch(r"(\S+\.py)\s+(.+)", line.strip())
        if found:
            told[found[1]] = found[2]
    real = {
        str(path.relative_to(ROOT)): first_line(path)
        for path in SOURCES
        if path.name != "__init__.py" and not is_migration(path)
    }
    assert told == real


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_a_module_says_its_job_and_stays_small(path: Path) -> None:
    assert first_line(path), "no docstring"
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_functions_stay_small_and_names_tell_their_job(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = [
                b
                for b in node.body
                if not (isinstance(b, ast.Expr) and isinstance(b.value, ast.Constant))
            ]
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"
        elif isinstance(node, ast.ClassDef):
            assert not BANNED_NAMES.search(node.name), node.name
        else:
            assert not isinstance(node, ast.Global), f"global at line {node.lineno}"
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_public_names_are_listed(path: Path) -> None:
    module = tree(path)
    public = {
        node.name
        for node in module.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    }
    listed: list[str] | None = None
    for node in module.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            listed = list(ast.literal_eval(node.value))
    if is_migration(path) or (path.parent.name == "jobs" and listed is None):
        return
    assert not public or listed is not None, "public names without __all__"
    if listed is not None:
        assert public <= set(listed), f"not in __all__: {sorted(public - set(listed))}"


def test_the_top_level_holds_only_what_was_agreed() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    tops = {line.split("/")[0] for line in listing.stdout.splitlines()}
    assert {top for top in tops if not top.startswith(".")} <= TOP_LEVEL


def test_pins_carry_hashes_and_no_addresses() -> None:
    text = (ROOT / "configs" / "constraints.txt").read_text()
    pins = re.findall(r"^[A-Za-z0-9_.\-\[\]]+==\S+", text, re.MULTILINE)
    assert len(pins) > 50
    assert len(re.findall(r"--hash=sha256:", text)) >= len(pins)
    assert "://" not in text
