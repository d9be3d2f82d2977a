"""Regenerates the contracts' Python code from proto/ into services/adapters/codec/generated, or into the folder given."""

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "services/adapters/codec/generated"


def generate(target: Path) -> None:
    """One _pb2.py and one _pb2.pyi a file, importable as trimtab.v1... below `target`."""
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(str(p.relative_to(ROOT / "proto")) for p in (ROOT / "proto").rglob("*.proto"))
    includes = [f"-I{ROOT / 'proto'}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    if protoc.main(["protoc", *includes, f"--python_out={target}", f"--pyi_out={target}", *files]):
        raise SystemExit("protoc failed")
    for folder in (target, target / "trimtab", target / "trimtab" / "v1"):
        (folder / "__init__.py").touch()


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
