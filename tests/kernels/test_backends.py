"""Which backends there are: those that can run here, and a clear answer of the others."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from kvquilt_kernels import BackendUnavailableError, available, backend, default


def test_the_reference_is_always_there_and_the_default_comes_first() -> None:
    names = list(available())
    assert names[-1] == "reference", "the backend of last resort"
    on_hosts = [name for name in names if name != "triton"]
    assert on_hosts in (["native", "reference"], ["reference"])
    assert default().name == on_hosts[0]


@pytest.mark.skipif(
    torch.cuda.is_available() or "TRITON_INTERPRET" in os.environ or not importlib.util.find_spec("triton"),
    reason="it can run here, or is not installed",
)
def test_without_a_gpu_triton_is_not_offered_and_says_why() -> None:
    assert "triton" not in available()
    with pytest.raises(BackendUnavailableError, match=r"expected a GPU .* TRITON_INTERPRET=1"):
        backend("triton")


def test_without_triton_the_others_work_and_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert list(available())[-1] == "reference"
    assert "triton" not in available()
    with pytest.raises(BackendUnavailableError, match=r"triton not installed: pip install kvquilt\[triton\]"):
        backend("triton")


def test_backends_by_name() -> None:
    for name in available():
        assert backend(name).name == name
    assert default().name in ("native", "reference")
    with pytest.raises(ValueError, match="expected one of native, triton, reference; got 'cuda'"):
        backend("cuda")


def test_the_default_needs_neither_torch_nor_triton() -> None:
    code = (
        "import sys, kvquilt_kernels; kvquilt_kernels.default(); sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
