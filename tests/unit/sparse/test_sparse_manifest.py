import pytest

from hwbench.errors import StorageError, UsageError
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import find_kernel, fitting, kernels_folder, load_manifest, parse_manifest, wide_of

ONE = """
schema_version = 1
[[kernel]]
name = "one"
summary = "a test"
source = "one/kernel.cu"
entry = "hwb_one"
format = "gap4"
values = "fp16"
inputs = ["values"]
tile_n = [8, 16]
archs = [80, 90]
threads = 128
rows_per_block = 16
shared_bytes = 0
registers = 64
[kernel.shape]
k_multiple = 8
n_most = 32
"""


def one(**changes):
    text = ONE
    for key, value in changes.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{key} =")]
        text = text.replace(line, f"{key} = {value}")
    return parse_manifest(text.encode(), what="it")["one"]


class TestKernel:
    def test_grid_covers_rows_and_columns(self):
        kernel = one()
        assert kernel.grid(n=9, m=17, tile_n=8) == (2, 2, 1)
        assert kernel.grid(n=8, m=16, tile_n=8) == (1, 1, 1)

    @pytest.mark.parametrize(("n", "tile"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 16)])
    def test_tile_is_the_smallest_that_holds_n(self, n, tile):
        assert one().tile_for(n) == tile

    @pytest.mark.parametrize(
        ("m", "n", "multiprocessors", "rows"),
        [
            (8192, 32, 132, 64),  # 128 blocks
            (8192, 8, 132, 32),  # little of X to read
            (4096, 32, 132, 32),  # 64 blocks would leave half of the GPU without one
            (4096, 9, 64, 64),
            (8192, 32, 108, 64),  # 128 blocks take two turns of 108, 256 take three: 0.59 and 0.79 are busy
        ],
    )
    @pytest.mark.parametrize("name", ["s24", "s24_int8", "vw16", "vw16_int8"])
    def test_wide_blocks_where_there_are_enough(self, name, m, n, multiprocessors, rows):
        kernels = load_manifest()
        wide = wide_of(kernels, kernels[name])
        assert wide.format == name
        assert fitting(kernels[name], wide, m=m, n=n, multiprocessors=multiprocessors).rows_per_block == rows
        assert wide_of(kernels, wide) is None

    def test_most_kernels_have_no_wide_one(self):
        kernels = load_manifest()
        assert wide_of(kernels, kernels["bitmap_mm"]) is None
        assert fitting(kernels["bitmap_mm"], None, m=8192, n=32, multiprocessors=8).name == "bitmap_mm"

    @pytest.mark.parametrize(
        ("shape", "why"),
        [
            ({"n": 33, "m": 16, "k": 8}, "33 rows of inputs are more than 32"),
            ({"n": 1, "m": 16, "k": 9}, "9 columns of weights are no multiple of 8"),
            ({"n": 0, "m": 16, "k": 8}, "has no element"),
        ],
    )
    def test_shapes_outside_are_refused_with_the_reason(self, shape, why):
        assert why in one().shape.refuses(**shape)

    def test_shapes_inside_are_taken(self):
        assert one().shape.refuses(n=32, m=5, k=16) is None


class TestParsing:
    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"tile_n": "[16, 8]"}, "tile_n must ascend"),
            ({"archs": "[]"}, "archs must ascend"),
            ({"threads": "100"}, "100 threads are no warps"),
            ({"threads": "1024"}, None),
            ({"registers": "300"}, "1 to 255 registers"),
            ({"shared_bytes": "50000"}, "more than 49152 bytes"),
            ({"source": '"/etc/kernel.cu"'}, "must lie below kernels/"),
            ({"source": '"../kernel.cu"'}, "must lie below kernels/"),
            ({"entry": '"a b"'}, "no name of a C function"),
            ({"values": '"fp64"'}, "fp64"),
            ({"k_multiple": "0"}, "k_multiple must be at least 1"),
        ],
    )
    def test_what_does_not_fit_is_refused_by_name(self, changes, why):
        if why is None:
            assert one(**changes)
            return
        with pytest.raises(StorageError, match=why):
            one(**changes)

    def test_registers_of_a_block_are_bounded(self):
        with pytest.raises(StorageError, match="no more than 65536 registers"):
            parse_manifest(
                ONE.replace("threads = 128", "threads = 1024").replace("registers = 64", "registers = 65").encode(),
                what="it",
            )

    def test_unknown_keys_are_refused_with_their_place(self):
        with pytest.raises(StorageError, match=r"kernel\[0\]"):
            parse_manifest((ONE.replace('summary = "a test"', 'summary = "a"\ncolour = "red"')).encode(), what="it")

    def test_two_of_one_name_are_refused(self):
        body = ONE.split("schema_version = 1")[1]
        with pytest.raises(StorageError, match="has one twice"):
            parse_manifest(f"schema_version = 1{body}{body}".encode(), what="it")

    @pytest.mark.parametrize("text", ["schema_version = 2", "", "schema_version ="])
    def test_other_files_are_refused(self, text):
        with pytest.raises(StorageError):
            parse_manifest(text.encode(), what="it")


class TestOurs:
    def test_a_missing_manifest_or_source_is_said(self, tmp_path):
        with pytest.raises(StorageError, match="no manifest"):
            load_manifest(tmp_path)
        (tmp_path / "manifest.toml").write_text(ONE)
        with pytest.raises(StorageError, match=r"one/kernel\.cu, is not there"):
            load_manifest(tmp_path)

    def test_an_unknown_kernel_is_told_what_there_is(self):
        with pytest.raises(UsageError, match="there is no kernel 'nothing'; there are"):
            find_kernel("nothing")

    @pytest.mark.parametrize("kernel", load_manifest().values(), ids=lambda kernel: kernel.name)
    def test_a_kernel_has_a_format_and_a_page(self, kernel):
        assert FORMATS[kernel.format].values == kernel.values
        assert (kernels_folder() / kernel.source).with_name("README.md").is_file()
