"""The Triton backend without a GPU: it decodes in Triton's interpreter, and it compiles for GPUs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvquilt_kernels import available

triton = pytest.importorskip("triton")
compiler = pytest.importorskip("triton.compiler")
backends = pytest.importorskip("triton.backends.compiler")
rans = pytest.importorskip("kvquilt_kernels.rans_triton_kernels")
OPTIONS = pytest.importorskip("kvquilt_kernels.rans_triton_batch").OPTIONS

HERE = Path(__file__).parent

# The types of the arguments as `BatchDecoder` passes them (test_rans_triton_batches compares them); those that are not
# here are constants.
SIZES = {"tokens": "i32", "channels": "i32"}
DECODE = SIZES | {
    "states": "*u32",
    "words": "*u16",
    "word_offsets": "*i64",
    "slots": "*u32",
    "table_ids": "*u8",
    "escape_counts": "*u8",
    "faults": "*i32",
    "contexts_known": "i32",
    "tables_known": "i32",
    "alphabet": "i32",
}
PLACE = SIZES | {"escape_counts": "*u8", "firsts": "*i64", "escapes": "*i32", "escape_offsets": "*i64"}
OF_KIND = {
    "symbols": {"out": "*u8"},
    "int32": {"out": "*u32"},
    "float32": {"out": "*u32", "steps": "*fp32"},
    "bfloat16": {"out": "*u16", "steps": "*fp32"},
}
CONTEXTS = {"contexts": "*u8"}
VARIANTS = [
    *((rans.decode, DECODE | own, {"kind": kind}) for kind, own in OF_KIND.items()),
    (rans.decode, DECODE | OF_KIND["symbols"] | CONTEXTS, {"kind": "symbols"}),
    # Triton makes a constant of an argument that is 1.
    (rans.decode, DECODE | OF_KIND["symbols"] | CONTEXTS, {"kind": "symbols", "channels": 1}),
    *((rans.place_escapes, PLACE | own, {"kind": kind}) for kind, own in OF_KIND.items() if kind != "symbols"),
    (rans.place_escapes, PLACE | OF_KIND["bfloat16"], {"kind": "bfloat16", "channels": 1}),
]


def compiled(kernel: Any, arguments: dict[str, str], constants: dict[str, Any], capability: int) -> Any:
    """The kernel for a GPU of a compute capability."""
    types = arguments | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    values = {name: constants.get(name) for name, type_ in signature.items() if type_ == "constexpr"}
    aligned = [at for at, (name, type_) in enumerate(signature.items()) if type_[0] == "*" or name == "channels"]
    # Triton compiles anew for addresses and numbers of channels that 16 divides, as they mostly are.
    attributes = {} if "channels" in constants else {(at,): [["tt.divisibility", 16]] for at in aligned}
    source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes)
    return triton.compile(source, target=backends.GPUTarget("cuda", capability, 32), options=OPTIONS)


def check_compiled(kernel: Any, capability: int, scratch: Path) -> str:
    """Machine code for that GPU that keeps to registers, and PTX with the arithmetic of the other backends."""
    ptx = kernel.asm["ptx"]
    assert re.search(rf"^\.target sm_{capability}", ptx, re.MULTILINE)
    assert ".ftz" not in ptx, "subnormal products are kept"
    assert not re.search(r"\bfma\b", ptx), "a product is rounded once"
    assert not re.search(r"\bmul\.f32", ptx), "ptxas may contract a product without a rounding"
    assert "bar.sync" not in ptx, "one warp needs no barriers"
    cubin = scratch / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([cuobjdump, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    found = re.search(rf"Function {kernel.metadata.name}:\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert found, usage
    registers, *memory = map(int, found.groups())
    assert memory == [0, 0, 0], "no stack, no shared memory, nothing spilled"
    assert registers <= 128, "an SM holds at least 16 warps"
    return str(ptx)


@pytest.mark.skipif(rans.INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("lanes", [32, 64, 128])
def test_every_kernel_compiles_for_gpus(
    capability: int, lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel, arguments, constants in VARIANTS:
        made = compiled(kernel, arguments, constants | {"lanes": lanes}, capability)
        ptx = check_compiled(made, capability, tmp_path)
        products = lanes // 32 if "steps" in arguments else 0
        assert len(re.findall(r"\bmul\.rn\.f32", ptx)) == products, "every lane of a thread multiplies once"


@pytest.mark.skipif("triton" in available(), reason="here every test of the backends runs it")
@pytest.mark.parametrize("modules", [("triton_batches",), ("triton_hostile", "blocks", "quantised")], ids=" ".join)
def test_it_decodes_in_the_interpreter_what_the_other_backends_do(modules: tuple[str, ...]) -> None:
    """The tests of batches and those of all backends, in processes that interpret the kernels."""
    names = [f"test_rans_{name}.py" for name in modules]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "triton"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    ran = subprocess.run(
        [*command, *(str(HERE / name) for name in names)],
        env=environment | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^\d{2,} passed(, \d+ deselected)? in", ran.stdout, re.MULTILINE), (
        f"none is skipped: {ran.stdout}"
    )
