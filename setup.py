"""Packaging of delf_tf; the rest of the project's settings are in pyproject.toml."""

from pathlib import Path

import setuptools

# The folders protos/, configs/ and tools/ of the repository are installed inside the package, so
# that a wheel never puts modules of such common names on a user's path.
PACKAGE_DIR = {
    "delf_tf": "delf_tf",
    "delf_tf.protos": "protos",
    "delf_tf.configs": "configs",
    "delf_tf.tools": "tools",
}

# tensorflow-addons ends at TensorFlow 2.15 and Python 3.11; Python's version chooses the stack, so
# that pip cannot resolve a mix that does not import.
STACK_A = 'python_version < "3.12"'
STACK_B = 'python_version >= "3.12"'

REQUIRED = [
    f"tensorflow>=2.15,<2.16; {STACK_A}",
    f"tensorflow-addons>=0.23,<0.24; {STACK_A}",
    f"tensorflow>=2.16,<2.22; {STACK_B}",
    f"numpy>=1.23,<2; {STACK_A}",
    f"numpy>=1.26; {STACK_B}",
    f"protobuf>=4.25,<5; {STACK_A}",
    f"protobuf>=4.25; {STACK_B}",
    "absl-py>=1.4",
    "scikit-learn>=1.3",
    "threadpoolctl>=3",
    "scipy>=1.10",
    "faiss-cpu>=1.8",
    "h5py>=3.8",
    "jinja2>=3.1",
    "matplotlib>=3.7",
    "numba>=0.58",
    "pillow>=10.1",
    "pooch>=1.8",
    "safetensors>=0.4",
    "tqdm>=4.65",
]

# Resolved together with the pins above: installed on their own later, some of these lift numpy or
# protobuf and break stack A.
EXTRAS = {
    "beam": ["apache-beam>=2.60"],
    "dask": ["apache-beam[dask]>=2.60"],
    # COLMAP's database, see `delf_tf pairs`.
    "colmap": ["pycolmap>=3.12"],
    # pyarrow 26 needs NumPy 2 and does not declare it.
    "databases": [
        "milvus-lite>=3",
        "pymilvus>=2.5",
        f"pyarrow>=14,<26; {STACK_A}",
        f"pyarrow>=14; {STACK_B}",
    ],
    # Runs networks on CPUs, and quantises them.
    "openvino": ["nncf>=2.14", "openvino>=2025.0"],
    "peers": [
        f"opencv-python-headless<4.12; {STACK_A}",
        f"opencv-python-headless; {STACK_B}",
        f"pydegensac; {STACK_A}",
        "scikit-image>=0.22",
    ],
    "serve": ["fastapi>=0.110", "prometheus_client>=0.17", "uvicorn>=0.23"],
    "test": [
        "build>=1",
        # What Starlette's test client speaks by: the one since Starlette 1, the other before.
        'httpx2; python_version >= "3.11"',
        'httpx>=0.24; python_version < "3.11"',
        "hypothesis>=6",
        # The notebook docs/tour.ipynb.
        "ipykernel>=6",
        "mypy>=1.8",
        "nbclient>=0.8",
        "nbformat>=5.9",
        "playwright>=1.40",
        "pytest>=8",
        "pytest-xdist>=3",
        "ruff>=0.6",
        "setuptools>=68,<81",
        "wheel",
    ],
}
EXTRAS["test"] += EXTRAS["dask"] + EXTRAS["peers"] + EXTRAS["databases"] + EXTRAS["serve"]
EXTRAS["test"] += EXTRAS["openvino"] + EXTRAS["colmap"]

setuptools.setup(
    name="delf_tf",
    version="0.1.0",
    description="Instance-level image retrieval in TensorFlow: DELF, DELG, DOLG, Super-features",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *setuptools.find_packages(include=["delf_tf", "delf_tf.*"]),
        "delf_tf.protos",
        "delf_tf.configs",
        "delf_tf.tools",
    ],
    package_dir=PACKAGE_DIR,
    package_data={
        "delf_tf": ["py.typed"],
        "delf_tf.configs": ["*.textproto", "comparisons/*.textproto"],
        "delf_tf.protos": ["*.proto"],
        "delf_tf.models.zoo": ["weights/*.npz"],
        "delf_tf.report": ["*.html"],
        "delf_tf.serving": ["static/*"],
    },
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["delf_tf = delf_tf.tools.main:main"]},
    classifiers=[
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
