"""Generate protos/generated/ from protos/*.proto; `--check` fails when what is there is not what would be generated."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = PROTOS / "generated"
SUFFIXES = (".py", ".pyi")


def generate(out: Path) -> None:
    """Write the modules of every .proto file to out/protos/generated."""
    files = sorted(path.name for path in PROTOS.glob("*.proto"))
    if not files:
        sys.exit(f"No .proto file in {PROTOS}.")
    # The virtual path makes protoc write `from protos.generated import ...`, so that nothing needs patching afterwards.
    plugins = Path(sys.executable).parent
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-Iprotos/generated={PROTOS}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        *(f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")),
        *(f"protos/generated/{name}" for name in files),
    ]
    protoc = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if protoc.returncode:
        sys.exit(f"{protoc.stderr}protoc failed; is the dev extra installed (grpcio-tools, mypy-protobuf)?")


def contents(folder: Path) -> dict[str, bytes]:
    """Generated modules by name; the hand-written __init__ is not one of them."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and path.name != "__init__.py"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the files are out of date")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "protos" / "generated"
        new, old = contents(fresh), contents(GENERATED)
        stale = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
        if not stale:
            return
        if arguments.check:
            sys.exit(f"Out of date: {', '.join(stale)}. Run: python scripts/gen_protos.py")
        for name in stale:
            if name in new:
                shutil.copyfile(fresh / name, GENERATED / name)
            else:
                (GENERATED / name).unlink()
    print(f"Updated {', '.join(stale)}.")


if __name__ == "__main__":
    main()
