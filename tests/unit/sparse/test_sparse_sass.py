"""Machine code read back: opcodes of one kernel, its loops, and rules about them."""

import pytest

from hwbench.errors import EngineError
from hwbench.sparse import sass
from hwbench.sparse.compilers import find_tool
from hwbench.sparse.manifest import SassRule

TEXT = """
	.section	.text.hwb_other,"ax",@progbits
        /*0000*/                   STL R4 ;
	.section	.text.hwb_toy,"ax",@progbits
        /*0000*/                   LDG.E.128.CONSTANT R4, desc[UR6][R2.64] ;
.L_x_1:
        /*0010*/              @!P0 LDS.U16 R5, [R4] ;
        /*0020*/                   HMMA.16816.F32 R8, R4, R6, R8 ;
        /*0030*/              @P1  BRA `(.L_x_1) ;
        /*0040*/                   EXIT ;
.L_x_0:
        /*0050*/                   BRA `(.L_x_0);
        /*0060*/                   NOP;
"""


def test_opcodes_and_loops():
    found = sass.parse(TEXT, "hwb_toy")
    assert found.count("LDG.128") == 1
    assert found.count("LDG.64") == 0
    (loop,) = found.loops
    assert loop.instructions == 3
    assert loop.count("LDS") == 1


def test_rules():
    rule = SassRule(required=("HMMA", "LDSM"), forbidden=("LDS", "STL"))
    assert sass.parse(TEXT, "hwb_toy").breaks(rule) == ("has no LDSM", "has 1 LDS")


def test_one_of_two_opcodes_is_enough():
    assert sass.parse(TEXT, "hwb_toy").breaks(SassRule(required=("STSM|HMMA",))) == ()
    assert sass.parse(TEXT, "hwb_toy").breaks(SassRule(required=("STSM|MOVM",))) == ("has no STSM|MOVM",)


def test_a_kernel_that_is_not_there():
    with pytest.raises(EngineError, match="no kernel hwb_third"):
        sass.parse(TEXT, "hwb_third")


def test_what_is_no_cubin_is_refused():
    if find_tool("nvdisasm") is None and find_tool("cuobjdump") is None:
        pytest.skip("there is neither nvdisasm nor cuobjdump")
    with pytest.raises(EngineError, match="cannot read the kernel"):
        sass.inspect(b"no cubin", "hwb_toy")


def test_no_disassembler_tells_what_to_install(monkeypatch):
    monkeypatch.setattr(sass, "find_tool", lambda name: None)
    with pytest.raises(EngineError, match="pip install nvidia-cuda-nvdisasm"):
        sass.inspect(b"", "hwb_toy")
