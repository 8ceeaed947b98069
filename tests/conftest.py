"""Eight virtual CPU devices, exact matrix products, checked annotations, no network."""

import gc
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs here are small: compiling them takes longer than running them unoptimised.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Tests and their processes share compiled programs. A directory in the environment
# outlives the session, a temporary one does not.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="programs_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# open_clip and transformers import torchvision, which comes with the former. Beside a
# CPU build of torch this one module of PyPI's torchvision ends the import: "operator
# torchvision::nms does not exist". It registers shapes of operators no test calls.
_ABSENT = "torchvision._meta_registrations"
sys.modules.setdefault(_ABSENT, types.ModuleType(_ABSENT))

import jax  # noqa: E402
import pytest  # noqa: E402
from beartype import BeartypeConf, beartype  # noqa: E402
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

collect_ignore = [] if shutil.which("chromium") else ["report/test_page_browser.py"]

# As PEP 484 has it, an int is welcome where a float is asked for.
check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("vl_ltr_jax", f"{__name__}.check_types")
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def jax_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command may name a cache of programs; the tests after it have the session's."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _is_local(host: Any) -> bool:
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guarded(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Refuses internet addresses; unix sockets carry their path as a plain string."""

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            if not _is_local(address[0]):
                raise RuntimeError(f"a test called socket.{name}({address!r})")
        return call(self, address)

    return guarded


def _guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
    name = host.decode() if isinstance(host, bytes) else host
    if not _is_local(name) and name not in ("0.0.0.0", "::"):
        raise RuntimeError(f"a test looked up the host {host!r}")
    return _lookup(host, *args, **kwargs)


_lookup = socket.getaddrinfo
socket.getaddrinfo = _guarded_lookup
socket.socket.connect = _guarded(socket.socket.connect, "connect")
socket.socket.connect_ex = _guarded(socket.socket.connect_ex, "connect_ex")


# Few tests, many minutes: last, they would leave one worker without company.
_LONG = (
    "processes/test_soak",
    "processes/test_launch",
    "processes/test_processes",
    "comparison/test_runs",
    "systems/test_recipes",
    "benchmarks/test_benchmarks",
    "train/test_layouts",
)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    def place(item: Any) -> int:
        name = f"{item.path.parent.name}/{item.path.stem}"
        return _LONG.index(name) if name in _LONG else len(_LONG)

    items.sort(key=place)


# What is imported stays: no collection of garbage has to look at it.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
