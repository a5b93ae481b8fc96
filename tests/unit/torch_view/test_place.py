"""Where a view computes: channels last on a CPU, and the same numbers."""

import pytest
from train_nets import conv_net

torch = pytest.importorskip("torch", reason="the torch view is made of torch")

from hwbench.torch_view.build import to_torch  # noqa: E402
from hwbench.torch_view.place import on_device  # noqa: E402


def images_inside(view, x):
    """Run a view; return what it puts out, and what its layers put out that has positions."""
    seen = []
    for layer in view.children():
        layer.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        result = view(x)[0]
    return result, [each for each in seen if each.dim() == 4 and each.shape[2] > 1]


def test_a_view_on_a_cpu_computes_with_channels_last():
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    expected, before = images_inside(to_torch(conv_net()), x)
    found, images = images_inside(on_device(to_torch(conv_net()), "cpu"), x)
    assert len(images) == len(before) == 4
    assert all(each.is_contiguous() for each in before)
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in images)
    torch.testing.assert_close(found, expected)


def test_weights_that_several_layers_share_stay_one():
    view = to_torch(conv_net())
    parameters = [*view.parameters()]
    assert [*map(id, on_device(view, "cpu").parameters())] == [*map(id, parameters)]
