"""Settings and fixtures shared by all tests."""

import gc
import importlib.metadata
import os
import pathlib
import resource

ROOT = pathlib.Path(__file__).parents[1]

# Before jax is imported, and inherited by the processes that tests start: equal programs compile once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compilation takes most of the time. A tiny program runs as fast without XLA's later passes. `make test-slow` keeps them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Programs compile three times as fast with the older code generator for fusions, and a little faster in one piece, for which
# nothing is inlined. Other versions of jax end with an error on flags that they do not know, as 0.12 does.
if importlib.metadata.version("jax").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        " --xla_llvm_force_inline_before_split=false",
    )
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WANDB_MODE", "offline")

# Tracing and syntax trees make many objects and little garbage. Looking for it rarely saves a tenth of the time.
gc.set_threshold(100_000, 20, 100)

import hypothesis  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Calls in these packages are checked against the shapes in their annotations; an int passes for a float. The packages must
# not be imported before.
HOOKED = ["models.ops", "experiments.tasks", "experiments.metrics"]
jaxtyping.install_import_hook(HOOKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# No deadlines: a busy machine is not a failure.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real images next to the repository, without which its tests are skipped."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the folder of real images, ../shared/data")
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> str:
    """The folder in which `shapes` is prepared, once for all workers of a test run."""
    return str(tmp_path_factory.getbasetemp().parent / "tfds")


@pytest.fixture
def full_disk():
    """A function that limits the size of files, so that writes fail half way as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Modules of few tests that start whole runs. The longest go first, so that no process is left alone with one at the end.
LONG = (
    "test_main",
    "test_docs",
    "test_resume",
    "test_processes",
    "test_evaluator",
    "test_members",
    "test_detectors",
    "test_benchmarks",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    gc.freeze()  # modules stay until the end
