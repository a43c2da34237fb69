"""Gathers what a machine without a network lacks, and says how large it is: python -m gpu_check.carry.

Wheels of the packages that an image with PyTorch, timm and accelerate usually has not, for its Python, into
build/gpu_check/wheels. With --acdc FOLDER also the slices of the accuracy part.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ROOT / "build" / "gpu_check"
WHEELS = CARRIED / "wheels"
# What unimatch imports while it packs and trains and such an image lacks, and what tests want beside pytest.
PACKAGES = ("zstandard", "nibabel", "pycocotools", "webdataset", "braceexpand", "pytest-timeout")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LIMIT_MIB = 64


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu_check.carry", description=__doc__)
    parser.add_argument("--python", default="3.12", help="of the machine (%(default)s)")
    parser.add_argument(
        "--acdc", type=Path, metavar="FOLDER", help="with data/slices/*.h5: for the accuracy part"
    )
    parser.add_argument("packages", nargs="*", help=f"more packages than {', '.join(PACKAGES)}")
    options = parser.parse_args(arguments)
    WHEELS.mkdir(parents=True, exist_ok=True)
    for old in WHEELS.glob("*.whl"):
        old.unlink()
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--python-version", options.python, "--implementation", "cp", *platforms, "-d", str(WHEELS)]
    subprocess.run([*command, *PACKAGES, *options.packages], check=True)
    if options.acdc:
        from . import slices

        slices.write(options.acdc, CARRIED / "acdc.zip")
    return tell()


def tell() -> int:
    """Prints what lies there; 1 if it is too much."""
    total = 0
    for path in sorted(path for path in CARRIED.rglob("*") if path.is_file()):
        size = path.stat().st_size
        total += size
        print(f"{size / 2**20:8.2f} MiB  {path.relative_to(ROOT)}")
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    tree = sum((ROOT / name).stat().st_size for name in files.split("\0") if name)
    total += tree
    print(f"{tree / 2**20:8.2f} MiB  the repository's files")
    print(f"{total / 2**20:8.2f} MiB  in all, of {LIMIT_MIB}")
    return int(total > LIMIT_MIB * 2**20)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
