"""The part of the package ``cnngraph`` that runs compiled programs, as a distribution of its own.

It holds the same files under the same names, so one of the two distributions is installed, not both.
"""

import ast
import os
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
os.chdir(HERE)
SOURCE = Path("../../cnngraph")

# Modules by package; None stands for all. The operators are for steps that run by their NumPy definition.
PARTS: dict[str, tuple[str, ...] | None] = {
    "cnngraph": ("__init__", "errors", "options"),
    "cnngraph.ir": ("__init__", "types"),
    "cnngraph.ops": None,
    "cnngraph.runtime": (
        "__init__", "artifact", "cpus", "elf", "execute", "features", "host", "library", "loader", "manifest", "program", "session",
        "slots", "team",
    ),
}  # fmt: skip


class BuildParts(build_py):
    """Takes the modules named above only."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """The modules of a package that are part of this distribution."""
        wanted = PARTS[package]
        return [found for found in super().find_package_modules(package, package_dir) if wanted is None or found[1] in wanted]


def version() -> str:
    """The version that the package itself states."""
    for node in ast.parse((SOURCE / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__":
            return str(ast.literal_eval(node.value))
    raise SystemExit("the package states no version")


setup(
    version=version(),
    packages=list(PARTS),
    package_dir={package: str(SOURCE.joinpath(*package.split(".")[1:])) for package in PARTS},
    package_data={"cnngraph": ["py.typed"]},
    include_package_data=False,
    cmdclass={"build_py": BuildParts},
)
