"""What pyproject.toml cannot say: the packages come from three roots, and models/trained/ is installed as package data."""

from setuptools import find_packages, setup

ROOTS = {"cnngraph": ".", "cnngraph_cpu": "backends", "cnngraph_cuda": "backends", "cnngraph_models": "models"}
TRAINED = "cnngraph_models.trained"

packages: list[str] = []
directories: dict[str, str] = {}
for top, root in ROOTS.items():
    packages += find_packages(root, include=[top, f"{top}.*"])
    directories[top] = top if root == "." else f"{root}/{top}"

setup(
    packages=[*packages, TRAINED],
    package_dir={**directories, TRAINED: "models/trained"},
    package_data={"*": ["py.typed"], "cnngraph.emit": ["*.in"], TRAINED: ["*.onnx", "*.npz", "*.md", "LICENSE*"]},
    include_package_data=False,
)
