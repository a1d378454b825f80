"""The documents say what is there: links, configuration keys with their defaults, commands, files."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from streamserve.cli import app
from streamserve.config import Config, LaneConfig, load, names

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("checkpoints/*.md")])
README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()

LINK = re.compile(r"\]\(([^)\s]+)\)")
KEY_ROW = re.compile(r"^\| `([^`]+)` \| (required|`[^`]*`) \|", re.MULTILINE)
OVERRIDE = re.compile(r"^streamserve serve .*--set.*$", re.MULTILINE)
REQUIRED = "required"


def keys(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every setting below a struct by its path, with its default."""
    for field in msgspec.structs.fields(struct):
        if field.name == "lanes":
            yield from keys(LaneConfig, "lanes.N.")
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from keys(field.type, f"{field.name}.")
        elif field.default_factory is not msgspec.NODEFAULT:
            yield f"{prefix}{field.name}", field.default_factory()
        else:
            default = REQUIRED if field.default is msgspec.NODEFAULT else field.default
            yield f"{prefix}{field.name}", list(default) if isinstance(default, tuple) else default


def section(title: str) -> str:
    """The text of one section of the README."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = [link for link in LINK.findall(document.read_text()) if not link.startswith("http")]
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_every_key_is_described_with_its_default_and_no_other() -> None:
    described = {
        key: REQUIRED if default == REQUIRED else yaml.safe_load(default.strip("`"))
        for key, default in KEY_ROW.findall(CONFIGURATION)
    }
    assert described == dict(keys(Config))


@pytest.mark.parametrize("command", OVERRIDE.findall(CONFIGURATION))
def test_the_examples_of_set_load(command: str) -> None:
    words = shlex.split(command)
    config = words[words.index("--config") + 1] if "--config" in words else "cpu-pair"
    overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    assert load(config, overrides) != load(config)


def test_the_readme_lists_the_shipped_configurations_and_no_other() -> None:
    assert sorted(re.findall(r"^\| `([^`]+)` \|", section("Configurations"), re.MULTILINE)) == names()


def test_every_step_of_a_request_names_files_that_exist() -> None:
    steps = re.split(r"^\d\. ", section("The life of a request"), flags=re.MULTILINE)[1:]
    assert len(steps) == 8
    for step in steps:
        files = re.findall(r"\[(streamserve/[^\]]+\.py)\]", step)
        assert files, step
        assert [file for file in files if not (ROOT / file).is_file()] == []


def test_the_folders_of_the_readme_exist() -> None:
    folders = re.findall(r"^\| `([^`]+)/` \|", section("The folders"), re.MULTILINE)
    assert {"agents", "envs", "checkpoints", "configs", "tests", "docs"} <= set(folders)
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


@pytest.mark.parametrize("command", sorted(set(re.findall(r"streamserve (serve|chat|doctor|configs)\b", README))))
def test_the_commands_of_the_readme_exist(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_the_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for document in DOCUMENTS for target in re.findall(r"`make ([a-z]+)", document.read_text())}
    assert named and named <= targets


def test_the_picture_is_well_formed_and_shows_each_step() -> None:
    picture = ElementTree.parse(ROOT / "docs" / "life-of-a-request.svg")
    texts = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {str(step) for step in range(1, 9)} <= texts
