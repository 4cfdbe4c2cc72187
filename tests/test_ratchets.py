"""What must stay true of the whole tree."""

import inspect
import os
import re
import subprocess
import sys

import pytest
from conftest import CHECKOUT

from odmt import errors
from odmt.config import RunConfig

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
DOCS = README + "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "docs").glob("*.md"))
SCRIPTS = sorted((CHECKOUT / "launch").glob("*.py"))


def test_the_import_contracts_hold():
    ended = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert ended.returncode == 0, ended.stdout


def test_every_shipped_space_loads():
    from odmt.tuning.space import load_space

    names = sorted(path.stem for path in (CHECKOUT / "search_spaces").glob("*.yaml"))
    assert names == ["arts", "demo", "hm", "office", "stream"]
    for name in names:
        assert isinstance(load_space(name).incumbent_config(), RunConfig)


def test_every_command_of_the_readme_exists():
    named = set(re.findall(r"python launch/(\w+)\.py", README))
    assert named == {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_flag_is_in_the_docs(script, launch, capsys):
    assert launch(script.stem)(["--help"]) == 0
    flags = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert [flag for flag in sorted(flags) if flag not in DOCS] == []


def test_every_error_class_is_raised_by_a_test():
    tests = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "tests").rglob("test_*.py"))
    names = [name for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.OdmtError)]
    assert [name for name in names if name not in tests] == []


def test_every_error_class_stands_in_the_tree_with_its_exit_code():
    tree = inspect.getdoc(errors)
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.OdmtError):
            assert re.search(rf"{name}\s+{kind.exit_code}\s", tree), name


def test_every_configuration_key_is_documented():
    from odmt.config import dotted_values
    from odmt.tuning.sections import SECTIONS

    text = (CHECKOUT / "docs" / "search-spaces.md").read_text(encoding="utf-8")
    keys = [
        *dotted_values(RunConfig()),
        *(f"{name}.{key}" for name, cls in SECTIONS.items() for key in dotted_values(cls())),
    ]
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_the_recipe_of_two_encoders_asks_for_what_it_says(tmp_path):
    from odmt.tuning.space import load_space

    text = (CHECKOUT / "docs" / "search-spaces.md").read_text(encoding="utf-8")
    (recipe,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "swin" in block]
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    found = [(encoder.model, encoder.layer) for encoder in load_space(str(path)).encoders()[1]]
    clip = "openai/clip-vit-base-patch32"
    assert found == [(clip, 8), (clip, 12), ("./encoders/swin", 4)]
