"""The Dockerfile, carried out without an engine: its stages read, the builder's steps run in a folder that stands for its working directory."""

from __future__ import annotations

import fnmatch
import io
import json
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[1]


@dataclass
class Stage:
    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)  # (instruction, its words), in order

    def every(self, instruction: str) -> list[str]:
        return [words for name, words in self.steps if name == instruction]

    def last(self, instruction: str) -> str:
        return self.every(instruction)[-1]

    @property
    def environment(self) -> dict[str, str]:
        return dict(word.split("=", 1) for words in self.every("ENV") for word in shlex.split(words))

    @property
    def labels(self) -> dict[str, str]:
        return dict(word.split("=", 1) for words in self.every("LABEL") for word in shlex.split(words))


def stages(text: str) -> list[Stage]:
    found: list[Stage] = []
    for step in DockerfileParser(fileobj=io.BytesIO(text.encode())).structure:
        if step["instruction"] == "FROM":
            base, _, name = step["value"].partition(" AS ")
            found.append(Stage(base, name))
        elif step["instruction"] != "COMMENT":
            found[-1].steps.append((step["instruction"], step["value"]))
    return found


def context(ignored: str, folder: Path) -> Path:
    """What the engine would send to the builder, of a .dockerignore that refuses all but what it names."""
    lines = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    never = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    for name in (line[1:] for line in lines if line.startswith("!")):
        there = folder / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, there, ignore=lambda _, names: [n for n in names if any(fnmatch.fnmatch(n, p) for p in never)])
        else:
            shutil.copy(ROOT / name, there)
    return folder


def build(stage: Stage, given: Path, folder: Path, path: str) -> None:
    """The stage's COPY and RUN steps, in their order, in `folder`."""
    shell = ["/bin/sh", "-c"]
    for instruction, words in stage.steps:
        if instruction == "SHELL":
            shell = json.loads(words)
        elif instruction == "COPY":
            source, there = words.split()
            (folder / there).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (given / source).is_dir() else shutil.copy
            copy(given / source, folder / there)
        elif instruction == "RUN":
            done = subprocess.run([*shell, words], cwd=folder, env={"PATH": path, "HOME": str(given)}, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
