"""FLOPs and elements of single operators, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import register_flop_formula

from bench.measure.flops import work
from bench.measure.trace import Cost, Trace

aten, prims = torch.ops.aten, torch.ops.prims


def cost_of(computation: Callable[[], object]) -> Cost:
    with Trace() as trace:
        computation()
    return trace.cost()


def whole(computation: Callable[[], object]) -> tuple[int, int, int]:
    """FLOPs, elements and operations; every operator must be counted by a rule."""
    cost = cost_of(computation)
    assert cost.uncounted == {}
    return cost.whole.flops, cost.whole.elementwise, cost.whole.operations


def matrix(*shape: int) -> Tensor:
    return torch.randn(*shape)


@pytest.mark.parametrize(
    ("product", "flops"),
    [
        (lambda: torch.mm(matrix(3, 4), matrix(4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.bmm(matrix(2, 3, 4), matrix(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.mv(matrix(3, 4), matrix(4)), 2 * 3 * 4),
        (lambda: torch.dot(matrix(4), matrix(4)), 2 * 4),
        (lambda: torch.vdot(matrix(4), matrix(4)), 2 * 4),
        (lambda: torch.addmm(matrix(5), matrix(3, 4), matrix(4, 5)), 2 * 3 * 4 * 5),
        (lambda: matrix(3, 5).addmm_(matrix(3, 4), matrix(4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.mm(matrix(3, 4), matrix(4, 5), out=matrix(3, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.addmv(matrix(3), matrix(3, 4), matrix(4)), 2 * 3 * 4),
        (lambda: torch.baddbmm(matrix(2, 3, 5), matrix(2, 3, 4), matrix(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.addbmm(matrix(3, 5), matrix(2, 3, 4), matrix(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: matrix(2, 3, 4) @ matrix(4, 5), 2 * 2 * 3 * 4 * 5),
        (lambda: matrix(2, 3, 4) @ matrix(4), 2 * 2 * 3 * 4),
        (lambda: F.linear(matrix(2, 3, 4), matrix(5, 4), matrix(5)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.einsum("bij,bjk->bik", matrix(2, 3, 4), matrix(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.einsum("bi,bi->b", matrix(2, 3), matrix(2, 3)), 2 * 2 * 3),
        (lambda: torch.einsum("ij,j->i", matrix(3, 4), matrix(4)), 2 * 3 * 4),
        (lambda: torch.einsum("bthd,bshd->bhts", matrix(2, 3, 2, 4), matrix(2, 5, 2, 4)), 2 * 2 * 2 * 3 * 5 * 4),
        (lambda: F.bilinear(matrix(3, 4), matrix(3, 5), matrix(2, 4, 5)), 3 * 3 * 2 * 4 * 5),
        (lambda: F.conv1d(matrix(2, 3, 8), matrix(4, 3, 5)), 2 * 2 * 4 * 4 * 3 * 5),
    ],
)
def test_a_product_counts_two_flops_per_multiply_add(product: Callable[[], Tensor], flops: int) -> None:
    assert whole(product)[0] == flops


@pytest.mark.parametrize(
    "outer",
    [
        lambda a, b: a[:, None] * b[None, :],
        torch.outer,
        lambda a, b: torch.einsum("i,j->ij", a, b),  # no sum, so no matrix product: PyTorch multiplies by broadcasting
        lambda a, b: torch.addr(torch.empty(3, 4), a, b),
    ],
)
def test_an_outer_product_by_broadcasting_counts_its_elements(outer: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = matrix(3), matrix(4)
    assert whole(lambda: outer(a, b)) == (0, 12, 1)


# Convolutions: every term of the sum that a convolution is, one by one.


Term = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Channel and place of the output, of the input, and the index of the weight between them."""


def terms(weight: Tensor, places: tuple[int, ...], stride: int, padding: int, dilation: int, groups: int) -> list[Term]:
    """Multiply-adds of a convolution with this output; for a transposed one, input and output are exchanged."""
    found = []
    for out, inner, *taps in product(*map(range, weight.shape)):
        channel = out // (weight.shape[0] // groups) * weight.shape[1] + inner
        for place in product(*map(range, places)):
            at = (stride * output + dilation * tap - padding for output, tap in zip(place, taps, strict=True))
            found.append(((out, *place), (channel, *at), (out, inner, *taps)))
    return found


def read(tensor: Tensor, index: tuple[int, ...]) -> Tensor | int:
    """An element of every sequence; 0 in the padding."""
    inside = all(0 <= coordinate < size for coordinate, size in zip(index, tensor.shape[1:], strict=True))
    return tensor[(slice(None), *index)] if inside else 0


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "groups", "stride", "padding", "dilation"),
    [
        ((7,), 3, 1, 1, 0, 1),
        ((7,), 3, 4, 1, 2, 1),
        ((9,), 2, 2, 2, 1, 3),
        ((4, 5), 2, 1, 1, 1, 1),
        ((5, 4), 2, 2, 2, 0, 2),
    ],
)
def test_a_convolution_counts_the_terms_of_its_sum_forward_and_for_each_gradient(
    transposed: bool, size: tuple[int, ...], kernel: int, groups: int, stride: int, padding: int, dilation: int
) -> None:
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    convolve = {1: (F.conv1d, F.conv_transpose1d), 2: (F.conv2d, F.conv_transpose2d)}[len(size)][transposed]
    batch, channels = 2, 4
    x = torch.randn(batch, channels, *size, dtype=torch.float64, requires_grad=True)
    shape = (channels, channels // groups, *[kernel] * len(size))
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    with Trace() as trace:
        out = convolve(x, weight, **settings)
        out.backward(upstream := torch.ones_like(out).cumsum(-1))
    narrow, wide = (x, out) if transposed else (out, x)
    found = terms(weight, tuple(narrow.shape[2:]), stride, padding, dilation, groups)
    made, to_x, to_weight = torch.zeros_like(out), torch.zeros_like(x), torch.zeros_like(weight)
    for near, far, index in found:
        here, there = (far, near) if transposed else (near, far)
        if isinstance(read(wide, far), Tensor):
            made[(slice(None), *here)] += weight[index] * read(x, there)
            to_x[(slice(None), *there)] += weight[index] * read(upstream, here)
            to_weight[index] += (read(x, there) * read(upstream, here)).sum()
    torch.testing.assert_close([made, to_x, to_weight], [out, x.grad, weight.grad])
    flops = 2 * batch * len(found)
    assert trace.cost().forward.flops == flops and trace.cost().backward.flops == 2 * flops
    assert trace.cost().uncounted == {}


def test_a_depthwise_convolution_costs_its_own_channel_alone() -> None:
    layer, x = nn.Conv1d(8, 8, 4, groups=8), torch.randn(2, 8, 16, requires_grad=True)
    product = 2 * 2 * 8 * 13 * 4  # two FLOPs for each sequence, channel, output place and tap: 1,664
    cost = cost_of(lambda: layer(x).sum().backward())
    assert (cost.forward.flops, cost.backward.flops) == (product, 2 * product) == (1664, 3328)
    cost = cost_of(lambda: layer(x.detach()).sum().backward())
    assert cost.whole.flops == 2 * product  # no gradient of the input is asked for


# Complex numbers: what the same computation costs in real ones.


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128)


def test_a_complex_product_costs_the_real_one_of_its_parts() -> None:
    a, b = numbers(8, 8), numbers(8, 8)
    left = torch.cat([a.real, a.imag], 1)
    right = torch.cat([torch.cat([b.real, b.imag], 1), torch.cat([-b.imag, b.real], 1)])
    torch.testing.assert_close(torch.complex(*(left @ right).chunk(2, 1)), a @ b)
    assert whole(lambda: a @ b)[0] == whole(lambda: left @ right)[0] == 4 * 2 * 8 * 8 * 8 == 4096


@pytest.mark.parametrize(
    ("product", "multiply_adds"),
    [
        (lambda: numbers(2, 3, 4) @ numbers(2, 4, 5), 2 * 3 * 4 * 5),
        (lambda: F.linear(numbers(2, 3, 4), numbers(5, 4), numbers(5)), 2 * 3 * 4 * 5),
        (lambda: torch.mv(numbers(3, 4), numbers(4)), 3 * 4),
        (lambda: torch.vdot(numbers(4), numbers(4)), 4),
        (lambda: torch.addmm(numbers(5), numbers(3, 4), numbers(4, 5)), 3 * 4 * 5),
        (lambda: torch.baddbmm(numbers(2, 3, 5), numbers(2, 3, 4), numbers(2, 4, 5)), 2 * 3 * 4 * 5),
        (lambda: torch.einsum("bij,bkj->bik", numbers(2, 3, 4), numbers(2, 5, 4).conj()), 2 * 3 * 4 * 5),
    ],
)
def test_every_complex_product_counts_eight_flops_per_multiply_add(
    product: Callable[[], Tensor], multiply_adds: int
) -> None:
    assert whole(product)[0] == 8 * multiply_adds


def test_the_backward_pass_of_a_complex_product_costs_two_of_them() -> None:
    a, b = numbers(3, 4).requires_grad_(), numbers(4, 5).requires_grad_()
    assert cost_of(lambda: (a @ b).abs().sum().backward()).backward.flops == 2 * 8 * 3 * 4 * 5


Z, W, R = numbers(3, 4), numbers(3, 4), torch.rand(3, 4, dtype=torch.float64)
(A, B), (C, D) = torch.view_as_real(Z).unbind(-1), torch.view_as_real(W).unbind(-1)


def length() -> Tensor:
    return (A * A + B * B).sqrt()


def logarithm() -> tuple[Tensor, Tensor]:
    return length().log(), torch.atan2(B, A)


def exponential(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return (scale := a.exp()) * b.cos(), scale * b.sin()


def times(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a * C - b * D, a * D + b * C


def quotient(a: Tensor, b: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    return a / square, b / square


@pytest.mark.parametrize(
    ("computation", "by_parts"),
    [
        (lambda: Z + W, lambda: (A + C, B + D)),
        (lambda: Z * W, lambda: times(A, B)),
        (lambda: Z.clone().mul_(W), lambda: times(A, B)),
        (lambda: torch._foreach_mul([Z], [W])[0], lambda: times(A, B)),
        (lambda: Z * R, lambda: (A * R, B * R)),
        (lambda: R * Z, lambda: (A * R, B * R)),
        (lambda: Z * 2.0, lambda: (A * 2, B * 2)),
        (lambda: Z / R, lambda: (A / R, B / R)),
        (lambda: Z / W, lambda: quotient(A * C + B * D, B * C - A * D, C * C + D * D)),
        (lambda: Z.reciprocal(), lambda: quotient(A, -B, A * A + B * B)),
        (lambda: Z.exp(), lambda: exponential(A, B)),
        (lambda: Z.log(), logarithm),
        (lambda: Z**W, lambda: exponential(*times(*logarithm()))),
        (lambda: Z**R, lambda: exponential(*(R * part for part in logarithm()))),
        (lambda: Z.sgn(), lambda: quotient(A, B, length())),
        (lambda: torch.polar(A, B), lambda: (A * B.cos(), A * B.sin())),
        (lambda: Z.abs(), lambda: (length(),)),
        (lambda: Z.angle(), lambda: (torch.atan2(B, A),)),
        (lambda: Z.sum(0), lambda: (A.sum(0), B.sum(0))),
        (lambda: Z.cumsum(0), lambda: (A.cumsum(0), B.cumsum(0))),
    ],
)
def test_complex_arithmetic_costs_what_it_costs_by_parts(
    computation: Callable[[], Tensor], by_parts: Callable[[], tuple[Tensor, ...]]
) -> None:
    result, parts = computation(), by_parts()
    expected = torch.complex(*parts) if result.is_complex() else parts[0]
    torch.testing.assert_close(result, expected)
    assert whole(computation)[:2] == whole(by_parts)[:2]


# Fourier transforms.


def radix_two(x: Tensor) -> Tensor:
    """The transform of (N) complex numbers, N a power of two, by halves (Cooley and Tukey, 1965)."""
    if len(x) == 1:
        return x
    even, odd = radix_two(x[::2]), radix_two(x[1::2])
    turned = TWIDDLES[len(x)] * odd
    return torch.cat([even + turned, even - turned])


TWIDDLES = {n: torch.exp(-2j * torch.pi * torch.arange(n // 2, dtype=torch.float64) / n) for n in (2, 4, 8, 16)}


def test_a_fourier_transform_costs_the_butterflies_of_radix_two() -> None:
    x = numbers(16)
    torch.testing.assert_close(radix_two(x), torch.fft.fft(x))
    assert whole(lambda: torch.fft.fft(x))[0] == whole(lambda: radix_two(x))[1] == 5 * 16 * 4


@pytest.mark.parametrize(
    ("transform", "flops"),
    [
        (lambda: torch.fft.ifft(numbers(3, 16)), 3 * 5 * 16 * 4),
        (lambda: torch.fft.rfft(matrix(3, 16)), 3 * 5 * 16 * 4 // 2),
        (lambda: torch.fft.irfft(numbers(3, 9)), 3 * 5 * 16 * 4 // 2),
        (lambda: torch.fft.rfft(matrix(16, 3), dim=0), 3 * 5 * 16 * 4 // 2),
        (lambda: torch.fft.fft2(numbers(3, 8, 4)), 3 * 5 * 32 * 5),
        (lambda: torch.fft.fft(numbers(12)), round(5 * 12 * 3.584962500721156)),  # log2(12)
        (lambda: torch.fft.fft(numbers(3, 1)), 0),
    ],
)
def test_a_transform_of_real_numbers_costs_half(transform: Callable[[], Tensor], flops: int) -> None:
    assert whole(transform)[0] == flops


def test_the_backward_pass_through_fourier_transforms_is_counted() -> None:
    x = torch.randn(2, 16, requires_grad=True)
    cost = cost_of(lambda: torch.fft.ifft(torch.fft.fft(x.to(torch.complex64))).abs().sum().backward())
    assert cost.forward.flops == cost.backward.flops == 2 * 2 * 5 * 16 * 4 and cost.uncounted == {}


# Sparse matrices.


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_of_a_sparse_matrix_only_its_values_are_multiplied(layout: torch.layout) -> None:
    sparse = torch.eye(8).to_sparse(layout=layout)
    assert whole(lambda: sparse @ matrix(8, 3))[0] == 2 * 8 * 3


X = torch.rand(3, 4)
INDEX = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("computation", "elements"),
    [
        (lambda: X + 1, 12),
        (lambda: X.clone().add_(1), 12),
        (lambda: torch.tanh(X), 12),
        (lambda: X > 0.5, 12),
        (lambda: torch.where(X > 0.5, X, X), 24),
        (lambda: X.clone().masked_fill_(X > 0.5, 0.0), 24),
        (lambda: X[:, :1] + X, 12),
        (lambda: X.sum(), 12),
        (lambda: X.mean(1), 12),
        (lambda: X.argmax(-1), 12),
        (lambda: X.cumsum(1), 12),
        (lambda: X.sort(), 12),
        (lambda: torch.softmax(X, -1), 60),
        (lambda: X.log_softmax(-1), 60),
        (lambda: F.layer_norm(X, (4,)), 84),
        (lambda: F.cross_entropy(X, torch.tensor([0, 1, 2])), 60 + 3),
        (lambda: F.mse_loss(X, X), 36),
        (lambda: F.logsigmoid(X), 12),
        (lambda: F.binary_cross_entropy_with_logits(X, X), 60),
        (lambda: torch.rand_like(X), 12),
        (lambda: torch.empty(5).normal_(), 5),
        (lambda: torch.randint(3, (5,)), 5),
        (lambda: torch.cdist(X, X), 3 * 3 * 3 * 4),
        (lambda: torch.pdist(X), 3 * 3 * 4),
        (lambda: torch.zeros(5).index_add(0, INDEX, torch.ones(2)), 2),
        (lambda: torch.zeros(5).scatter_add(0, INDEX, torch.ones(2)), 2),
        (lambda: torch.zeros(5).index_put_((INDEX,), torch.ones(2), accumulate=True), 2),
        (lambda: torch._foreach_add([X, X[0]], 1), 16),
        (lambda: torch._foreach_mul_([X.clone(), X[0].clone()], 1), 16),
        (lambda: torch._foreach_norm([X, X[0]]), 16),
        (lambda: torch._foreach_max([X, X[0]]), 16),
    ],
)
def test_other_arithmetic_counts_elements(computation: Callable[[], object], elements: int) -> None:
    assert whole(computation)[:2] == (0, elements)


@pytest.mark.parametrize(
    ("primitive", "by_torch"),
    [
        (lambda: prims.add(X, X), lambda: X + X),
        (lambda: prims.mul(X, X), lambda: X * X),
        (lambda: prims.mul(Z, W), lambda: Z * W),
        (lambda: prims.where(X > 0.5, X, X), lambda: torch.where(X > 0.5, X, X)),
        (lambda: prims.erf_inv(X), lambda: X.erfinv()),
        (lambda: prims.sum(X, [1]), lambda: X.sum(1)),
        (lambda: prims.var(X, [1], 1.0), lambda: X.var(1)),
        (lambda: prims.clone(X), lambda: X.clone()),
        (lambda: prims.convert_element_type(X, torch.float64), lambda: X.double()),
        (lambda: prims.rev(X, [0]), lambda: X.flip(0)),
        (
            lambda: prims.full([3], 2.0, dtype=X.dtype, device=X.device, requires_grad=False),
            lambda: torch.full((3,), 2),
        ),
        (lambda: prims.transpose(X, [1, 0]), lambda: X.t()),
        (lambda: prims.fft_c2c(Z, dim=[1], forward=True), lambda: torch.fft.fft(Z)),
    ],
)
def test_an_operator_of_prims_counts_as_its_like_in_aten(
    primitive: Callable[[], object], by_torch: Callable[[], object]
) -> None:
    assert whole(primitive) == whole(by_torch)


def test_a_primitive_that_is_no_arithmetic_by_elements_has_no_rule() -> None:
    assert work(prims.svd.default) is None


def test_a_safe_softmax_counts_what_it_is_made_of() -> None:
    empty = torch.full((3, 4), -torch.inf)

    def by_parts(x: Tensor) -> Tensor:
        return torch.where((x == -torch.inf).all(-1, keepdim=True), 0.0, x.softmax(-1))

    torch.testing.assert_close(aten._safe_softmax(empty, -1), by_parts(empty))
    assert whole(lambda: aten._safe_softmax(X, -1))[:2] == whole(lambda: by_parts(X))[:2]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.layer_norm(x, (4,)),
        lambda x: F.rms_norm(x, (4,)),
        lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2])),
        lambda x: F.embedding(torch.tensor([0, 2]), x),
        F.silu,
        F.softplus,
        F.logsigmoid,
    ],
)
def test_derivatives_forward_and_of_derivatives_are_counted(function: Callable[[Tensor], Tensor]) -> None:
    def back(x: Tensor) -> Tensor:
        out, pull = vjp(function, x)
        moved: Tensor = pull(torch.ones_like(out))[0]
        return moved

    assert whole(lambda: jvp(function, (X,), (X,)))[2] > 0
    assert whole(lambda: jvp(back, (X,), (X,)))[2] > 0
    assert whole(lambda: vmap(lambda tangent: jvp(function, (X,), (tangent,)))(torch.rand(2, 3, 4)))[2] > 0


def test_attention_that_is_derived_forward_is_counted() -> None:
    heads = X[None, None]
    with sdpa_kernel(SDPBackend.MATH):
        flops, _, _ = whole(lambda: jvp(lambda x: F.scaled_dot_product_attention(x, x, x), (heads,), (heads,)))
    assert flops == 3 * 2 * (2 * 3 * 3 * 4)  # each of two products, and one for each of its factors


@pytest.mark.parametrize(
    "move",
    [
        lambda: X.clone(),
        lambda: X.double(),
        lambda: torch.cat([X, X]),
        lambda: torch.stack([X, X]),
        lambda: X[INDEX],
        lambda: X.gather(0, INDEX[:, None]),
        lambda: F.embedding(INDEX, X),
        lambda: X.roll(1, 0),
        lambda: X.tril(),
        lambda: F.pad(X, (1, 0)),
        lambda: torch.zeros(3),
        lambda: torch.full((3,), 2.0),
        lambda: torch.arange(4),
        lambda: X[0, 0].item(),
        lambda: torch.unfold_copy(X, 0, 2, 1),
    ],
)
def test_what_moves_or_fills_is_an_operator_without_arithmetic(move: Callable[[], object]) -> None:
    assert whole(move) == (0, 0, 1)


@pytest.mark.parametrize(
    "view",
    [
        lambda: X.view(4, 3),
        lambda: X.t(),
        lambda: X[1:, ::2],
        lambda: X.unbind(),
        lambda: X.split(1),
        lambda: X.unsafe_split(1),
        lambda: aten._unsafe_view(X, [12]),
        lambda: X.expand(2, 3, 4),
        lambda: X.detach(),
        lambda: X.as_strided((2,), (3,)),
        lambda: X.view(3, 4).transpose_(0, 1),
        lambda: torch.empty(3),
        lambda: torch.empty_like(X),
        lambda: X.new_empty(3),
        lambda: torch.tensor(3.0),
        lambda: X.size(),
    ],
)
def test_a_view_costs_nothing(view: Callable[[], object]) -> None:
    assert whole(view) == (0, 0, 0)


def test_gathering_an_embeddings_gradient_adds_each_element_once() -> None:
    table = torch.randn(5, 4, requires_grad=True)
    out = F.embedding(torch.tensor([0, 2, 2]), table)
    assert whole(lambda: torch.autograd.grad(out, table, torch.ones(3, 4)))[:2] == (0, 12)


def test_a_fused_optimiser_step_counts_its_passes_over_the_parameters() -> None:
    weights = [torch.randn(3, 4, requires_grad=True), torch.randn(5, requires_grad=True)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimiser = torch.optim.AdamW(weights, fused=True)
    optimiser.step()
    flops, elements, operations = whole(optimiser.step)
    assert (flops, elements, operations) == (0, 14 * 17 + 2, 2)  # and counting the steps, one number per parameter


# Attention.


@pytest.mark.parametrize("causal", [False, True])
def test_flash_attention_counts_two_products_forward_and_five_backward(causal: bool) -> None:
    batch, heads, queries, keys, width = 2, 3, 5, 7, 4
    q = torch.randn(batch, heads, queries, width, requires_grad=True)
    k, v = (torch.randn(batch, heads, keys, width, requires_grad=True) for _ in "kv")
    with Trace() as trace:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        out.backward(torch.ones_like(out))
    cost, product = trace.cost(), 2 * batch * heads * queries * keys * width
    assert cost.uncounted == {}
    assert cost.forward.flops == 2 * product
    assert cost.backward.flops == 5 * product  # the scores once more, then two for each of the two products
    assert cost.forward.elementwise == 5 * batch * heads * queries * keys


def test_grouped_queries_count_as_if_keys_were_repeated() -> None:
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    assert whole(lambda: F.scaled_dot_product_attention(q, k, k, enable_gqa=True))[0] == 2 * 2 * 4 * 5 * 5 * 8


# Recurrences.


STEPS, BATCH, INPUTS, UNITS = 7, 3, 4, 6


@pytest.mark.parametrize(("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_a_recurrent_layer_counts_every_gate_at_every_step(layer: Callable[[int, int], nn.RNNBase], gates: int) -> None:
    rnn, x = layer(INPUTS, UNITS), torch.randn(STEPS, BATCH, INPUTS)
    with torch.no_grad():
        cost = cost_of(lambda: rnn(x))
    assert cost.uncounted == {}
    assert cost.whole.flops == 2 * STEPS * BATCH * gates * UNITS * (INPUTS + UNITS)
    assert cost.whole.elementwise > 0
    assert cost.whole.sequential_operations >= STEPS  # also where all steps are one call of a library


@pytest.mark.parametrize("batch_first", [False, True])
def test_an_lstm_of_two_layers_and_directions_counts_each(batch_first: bool) -> None:
    lstm = nn.LSTM(INPUTS, UNITS, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = torch.randn(STEPS, BATCH, INPUTS)
    steps = BATCH if batch_first else STEPS
    cost = cost_of(lambda: lstm(x)[0].sum().backward())
    first, second = INPUTS + UNITS, 2 * UNITS + UNITS
    assert cost.forward.flops == 2 * STEPS * BATCH * 4 * UNITS * 2 * (first + second)
    assert 2 * steps <= cost.forward.sequential_operations < 2 * steps + 20
    assert cost.uncounted == {}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no fused LSTM")
def test_a_fused_lstm_costs_twice_as_much_backward() -> None:
    lstm, x = nn.LSTM(INPUTS, UNITS), torch.randn(STEPS, BATCH, INPUTS, requires_grad=True)
    cost = cost_of(lambda: lstm(x)[0].sum().backward())
    assert cost.backward.flops == 2 * cost.forward.flops
    assert cost.backward.sequential_operations >= STEPS


def test_the_backward_pass_of_a_gru_costs_what_its_gradients_need() -> None:
    gru, x = nn.GRU(INPUTS, UNITS), torch.randn(STEPS, BATCH, INPUTS)
    cost = cost_of(lambda: gru(x)[0].sum().backward())
    inputs, state = 2 * BATCH * 3 * UNITS * INPUTS, 2 * BATCH * 3 * UNITS * UNITS  # one step's products
    # Weights' gradients at every step; no gradient of x, none of the starting state.
    assert cost.backward.flops == STEPS * (inputs + state) + (STEPS - 1) * state


def test_a_recurrence_on_a_gpu_is_counted_by_its_gates() -> None:
    """The rule alone: its arguments as the operator gets them, on no device."""
    layers, directions = 2, 2
    x = torch.empty(STEPS, BATCH, INPUTS, device="meta")
    state = torch.empty(layers * directions, BATCH, UNITS, device="meta")
    weights = []
    for layer in range(layers):
        for _ in range(directions):
            inputs = INPUTS if layer == 0 else directions * UNITS
            weights += [torch.empty(4 * UNITS, inputs), torch.empty(4 * UNITS, UNITS), torch.empty(4 * UNITS)]
    settings: tuple[object, ...] = (2, UNITS, 0, layers, False, 0.0, True, True, [], None)
    rule = work(aten._cudnn_rnn.default)
    assert rule is not None
    counted = rule((x, weights, 3, None, state, state, *settings), {}, None)
    products = directions * (INPUTS + UNITS) + directions * (directions * UNITS + UNITS)
    cells = layers * directions * 13 * STEPS * BATCH * UNITS
    assert counted == (2 * STEPS * BATCH * 4 * UNITS * products, cells, layers * STEPS)
    backward = work(aten._cudnn_rnn_backward.default)
    assert backward is not None
    twice = backward((x, weights, 3, None, state, state, x, x, x, x, *settings, x, []), {}, None)
    assert twice == (2 * counted[0], 2 * counted[1], counted[2])


# What no rule knows.


@torch.library.custom_op("bench_test_flops::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x.clone()


@torch.library.custom_op("bench_test_flops::known", mutates_args=())
def known(x: Tensor) -> Tensor:
    return x.clone()


@register_flop_formula(torch.ops.bench_test_flops.known)
def known_flops(x_shape: torch.Size, *args: object, **kwargs: object) -> int:
    return 100 * x_shape[0]


def test_an_operator_that_no_rule_counts_is_reported() -> None:
    cost = cost_of(lambda: mystery(mystery(X)))
    assert cost.uncounted == {"bench_test_flops.mystery.default": 2}
    assert cost.whole.operations == cost.whole.sequential_operations == 2


def test_a_fused_operator_that_draws_random_numbers_is_not_taken_for_the_drawing_alone() -> None:
    assert work(aten.miopen_rnn.default) is None
    assert work(aten._scaled_dot_product_fused_attention_overrideable.default) is None


def test_an_operator_that_its_rule_cannot_count_is_reported() -> None:
    @torch.library.custom_op("bench_test_flops::refused", mutates_args=())
    def refused(x: Tensor) -> Tensor:
        return x.clone()

    @register_flop_formula(torch.ops.bench_test_flops.refused)
    def formula(x_shape: torch.Size, *args: object, **kwargs: object) -> int:
        raise AssertionError("only for matrices of another shape")

    assert cost_of(lambda: refused(X)).uncounted == {"bench_test_flops.refused.default": 1}


def test_a_plugins_operator_is_counted_by_the_formula_it_registers_with_pytorch() -> None:
    assert whole(lambda: known(X)) == (300, 0, 1)


def test_an_operator_of_another_library_is_not_taken_for_pytorchs_of_the_same_name() -> None:
    @torch.library.custom_op("bench_test_flops::add", mutates_args=())
    def add(x: Tensor) -> Tensor:
        return x.clone()

    assert cost_of(lambda: add(X)).uncounted == {"bench_test_flops.add.default": 1}


def test_operators_are_taken_apart_where_autograd_is_off_altogether() -> None:
    x, weight = matrix(3, 4), matrix(5, 4)
    with torch.inference_mode():
        assert whole(lambda: F.linear(x, weight))[0] == 2 * 3 * 4 * 5
        assert whole(lambda: torch.matmul(x, weight.t()))[0] == 2 * 3 * 4 * 5
