"""The work of a call of an aten operator, derived from its arguments and outputs.

    work(torch.ops.aten.mm.default)((a, b), {}, out)  ->  (2 m k n, 0, 1)

Matrix products and convolutions are counted as FLOPs, two per multiply-add (the bias that they start from is free);
Fourier transforms by FFTW's convention, 5 N log2 N for N complex numbers and half of it for real ones (fftw.org/speed).
All other arithmetic is counted in elements, in a column of its own:

- pointwise operators (comparisons, casts by arithmetic, random draws too): one per output element, whatever they do;
- reductions, scans and sorts: one per input element; sums into indexed elements (`scatter_add`): one per element added;
- fused operators (softmax, norms, losses, recurrent cells, optimisers): the passes over elements that they fuse;
- operators that only move or fill (copy, cat, gather, embedding, `zeros`): none, though each counts as an operator.

Complex numbers cost as much as the same computation in real numbers: eight FLOPs per multiply-add of a matrix product;
elsewhere 2 for a sum, 6 for a product (2 where a factor is real), what `COMPLEX` says, or else one for each part.

Attention is counted as if nothing were masked, as in the dense formula. PyTorch's own formulas are used where there are
any (`torch.utils.flop_counter`), so that an operator of a plugin that is registered there is counted, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from math import log2, prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

Work = tuple[int, int, int]
"""FLOPs, elements, and steps: the number of sequential operators it stands for, above 1 for fused recurrences only."""
Rule = Callable[[tuple[Any, ...], Mapping[str, Any], Any], Work]

SOFTMAX, SOFTMAX_BACKWARD = 5, 4  # max, subtract, exp, sum, divide; multiply, sum, multiply, subtract
RECOMPUTED = 2  # flash attention computes its scores again in the backward pass: subtract, exp
LSTM_CELL, GRU_CELL, PLAIN_CELL = (
    13,
    10,
    2,
)  # per unit, as many as `nn.LSTMCell`, `nn.GRUCell` and `nn.RNNCell` run unfused
PASSES = {
    "_softmax": SOFTMAX,
    "_log_softmax": SOFTMAX,
    "_safe_softmax": SOFTMAX + 3,  # compare, all, where: rows that are masked altogether become 0
    "_softmax_backward_data": SOFTMAX_BACKWARD,
    "_log_softmax_backward_data": SOFTMAX_BACKWARD,
    "logsumexp": 4,  # max, subtract, exp, sum
    "native_layer_norm": 7,  # mean, subtract, square, mean, divide, scale, shift
    "native_group_norm": 7,
    "native_batch_norm": 7,
    "_fused_rms_norm": 4,  # square, mean, divide, scale
    "native_layer_norm_backward": 14,  # twice the forward, as for matrix products
    "native_group_norm_backward": 14,
    "native_batch_norm_backward": 14,
    "_fused_rms_norm_backward": 8,
    "mse_loss": 3,  # subtract, square, mean
    "mse_loss_backward": 3,
    "smooth_l1_loss": 3,
    "smooth_l1_loss_backward": 3,
    "huber_loss": 3,
    "huber_loss_backward": 3,
    "binary_cross_entropy": 5,
    "binary_cross_entropy_backward": 5,
    "binary_cross_entropy_with_logits": 5,
    "log_sigmoid_forward": 1,
    "log_sigmoid_backward": 1,
    "softplus_backward": 1,
    "_fused_sgd": 4,
    "_fused_adam": 14,  # decay, two moving averages (3 and 4), two corrections, square root, sum, quotient, step
    "_fused_adamw": 14,
}
"""Passes of a fused operator over the largest of its tensor arguments (for an optimiser, over its parameters)."""
COMPLEX = {
    "mul": 6,
    "div": 11,  # by the conjugate (6), by the square of the absolute value (3 + 2)
    "reciprocal": 6,
    "exp": 5,  # exp, cos, sin, two products
    "log": 6,  # abs, log, angle
    "pow": 17,  # exp of a product with the log
    "abs": 4,
    "angle": 1,
    "sgn": 6,  # abs, two quotients
    "conj_physical": 1,
    "_conj_physical": 1,
    "polar": 4,
    "addcmul": 4,  # each part of one factor by each of the other
    "prod": 6,
    "cumprod": 6,
}
"""Elements per complex number: how many real operators compute it. Other operators count 2."""
BY_REAL = {"mul": 2, "div": 2, "pow": 13}
"""Elements per complex number where one factor, the divisor or the exponent is real."""
REDUCTIONS = re.compile(
    "(nan)?sum|mean|prod|a?max|a?min|aminmax|arg(max|min|sort)|all|any|(std|var)(_mean)?|(linalg_vector_)?norm|powsum|"
    "(nan)?median|mode|kthvalue|m?sort|topk|(log)?cum(sum|sumexp|prod|max|min)|_cum(max|min)_helper|count_nonzero|equal|"
    "trace|xor_sum|renorm|histc|bincount|bucketize|searchsorted|nonzero|isin|_unique2|unique_(dim|consecutive)"
)
MOVES = re.compile(
    "(_to_)?copy|clone|lift|_pin_memory|zero|fill|(new_)?(zeros|ones|full)|(zeros|ones|full)_like|_new_zeros_with_same_feature_meta|complex|scalar_tensor|"
    "arange|linspace|logspace|eye|(tril|triu)(_indices)?|cat|stack|repeat(_interleave)?|block_diag|"
    "constant_pad_nd|(reflection|replication)_pad1d|roll|flip|rot90|index(_select|_copy|_fill)?|gather|take|embedding|"
    "masked_(select|scatter)|((select|slice|diagonal|as_strided)_)?scatter|(select|slice|diagonal|unfold)_backward|"
    "_local_scalar_dense|is_nonzero|_to_sparse|_coalesce|_efficientzerotensor|"
    "convert_element_type|copy_(to|strided)|device_put|item|iota|rev|collapse|reshape|resize|(max|min)imum_value"
)
DRAWS = re.compile(
    "rand(n|int|perm)?(_like)?|(log_)?normal|normal_functional|uniform|random|bernoulli|exponential|geometric|cauchy|"
    "poisson|binomial|multinomial|(native|_fused)_dropout|rrelu_with_noise(_functional)?|_standard_gamma|_sample_dirichlet|"
    "_cudnn_init_dropout_state"
)
POINTWISE = re.compile(
    "bessel_[ij][01]e?|spherical_bessel_j0|cbrt|erfcx|erf_inv|ndtri|zeta|shift_(left|right_arithmetic)"
)
"""Pointwise operators of prims without a tag that says so."""
SUMS_INTO = {"scatter_add": 3, "scatter_reduce": 3, "index_add": 3, "index_reduce": 3, "embedding_dense_backward": 0}
"""Operators that add elements at indices, and the argument that holds these elements."""
REDUCTION_TAG = getattr(torch.Tag, "reduction", None)  # PyTorch 2.6 has none


@cache
def work(operator: OpOverload) -> Rule | None:
    """The rule for an operator: (arguments, keyword arguments, outputs) -> its work. None where no rule is known."""
    name = base_name(operator)
    if name in RULES:
        return RULES[name]
    name = name.removeprefix("_foreach_")  # the same for each tensor of a list
    formula = flop_registry.get(operator.overloadpacket)
    if formula is not None:
        return lambda args, kwargs, out: (int(formula(*args, **kwargs, out_val=out)), 0, 1)
    if name in PASSES:
        return _passes(PASSES[name])
    tags = _tags(operator, name)
    if MOVES.fullmatch(name) or torch.Tag.view_copy in tags:
        return _nothing
    if name in SUMS_INTO:
        return _of_argument(SUMS_INTO[name])
    if REDUCTIONS.fullmatch(name) or REDUCTION_TAG in tags:
        return _of_argument(0, name)
    if torch.Tag.pointwise in tags or POINTWISE.fullmatch(name) or DRAWS.fullmatch(name) or name in COMPLEX:
        return _of_result(name)
    return None


def base_name(operator: OpOverload) -> str:
    """The name without namespace, overload and the underscore of in-place variants: `aten.add_.Tensor` -> `add`.

    Operators of prims, of which PyTorch makes its forward-mode derivatives, are named as in aten. Others keep their
    namespace, so that they are not mistaken for these: `mine::add`.
    """
    namespace, _, name = operator._schema.name.partition("::")
    return name.removesuffix("_") if namespace in ("aten", "prims") else operator._schema.name


def _tags(operator: OpOverload, name: str) -> set[Any]:
    """The tags of an operator and of its variant that is not in place, which has them more often."""
    variant = getattr(torch.ops.aten, name, None) if "::" not in name else None
    overloads = [getattr(variant, overload) for overload in variant.overloads()] if variant else []
    return {tag for overload in (operator, *overloads) for tag in overload.tags}


def tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments or outputs, also those in lists; in place of a sparse tensor, its values."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value if value.layout is torch.strided else _values(value))
        elif isinstance(value, list | tuple):
            found += tensors(value)
    return found


def _values(sparse: Tensor) -> Tensor:
    return sparse._values() if sparse.layout is torch.sparse_coo else sparse.values()


def _size(values: Any) -> int:
    if isinstance(values, Tensor) and values.layout is torch.strided:  # nearly always
        return values.numel()
    return sum(tensor.numel() for tensor in tensors((values,)))


def _complex(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_complex()
    return any(map(_complex, value)) if isinstance(value, list | tuple) else isinstance(value, complex)


def _real(name: str, args: tuple[Any, ...], out: Any = None) -> int:
    """The number of real operators that an operator stands for at each element: 1, except on complex numbers."""
    if not _complex(out) and not any(map(_complex, args)):
        return 1
    if name in BY_REAL and not all(map(_complex, args[:2] if name == "mul" else args[1:2])):
        return BY_REAL[name]
    return COMPLEX.get(name, 2)


# Rules for whole families.


def _nothing(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    return 0, 0, 1


def _of_result(name: str) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
        made = args[0] if out is None else out  # None: a list of tensors is changed in place
        return 0, _size(made) * _real(name, args, out), 1

    return rule


def _of_argument(index: int, name: str = "") -> Rule:
    return lambda args, kwargs, out: (0, _size(args[index]) * _real(name, (args[index],)), 1)


def _passes(number: int) -> Rule:
    def rule(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
        return 0, number * max(_size(arg) for arg in args), 1

    return rule


# Matrix products, convolutions, Fourier transforms.


def _product(first: int) -> Rule:
    """The rule for (.., m, k) @ (.., k, n), or a vector in place of either; the left factor is argument `first`.

    Only the values of a sparse factor count.
    """

    def rule(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
        left, right = args[first], args[first + 1]
        if right.layout is not torch.strided:
            return _multiply_add(left) * left.shape[0] * _size(right), 0, 1
        return _multiply_add(left) * _size(left) * (right.shape[-1] if right.dim() > 1 else 1), 0, 1

    return rule


def _linear(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    return _multiply_add(args[0]) * args[0].numel() * (args[1].shape[0] if args[1].dim() > 1 else 1), 0, 1


def _multiply_add(factor: Tensor) -> int:
    """FLOPs of one multiply-add with numbers of this type."""
    return 8 if factor.is_complex() else 2


def _convolution(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    return _weights_met(args[0] if args[6] else out, args[1]), 0, 1


def _convolution_backward(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    """The gradients of input and weight each repeat the products of the forward pass; that of the bias is a sum."""
    upstream, inputs, weight, transposed, wanted = *args[:3], args[7], args[10]
    products = _weights_met(inputs if transposed else upstream, weight)
    return (wanted[0] + wanted[1]) * products, wanted[2] * upstream.numel(), 1


def _weights_met(image: Tensor, weight: Tensor) -> int:
    """FLOPs of multiplying every weight once with every pixel of an image (B, channels, ..).

    The image is the output or, for a transposed convolution, the input; padding is multiplied like the rest. Channels
    of a group have weights for one another only.
    """
    return 2 * weight.numel() * image.shape[0] * prod(image.shape[2:])


def _fourier(nominal: float, of_result: bool) -> Rule:
    """The rule `nominal` N log2 N for each transform of N numbers, over one dimension or several, whatever N is.

    With `of_result`, N is the size of the result; where real numbers go in, half of their spectrum may come out.
    """

    def rule(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
        shape = (out if of_result else args[0]).shape
        dims = args[1] if len(args) > 1 else kwargs["dim"]  # in prims
        return round(nominal * prod(shape) * log2(prod(shape[dim] for dim in dims))), 0, 1

    return rule


def _trilinear(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    """A sum over products of three tensors, with missing dimensions inserted: two products and a sum."""
    shapes = []
    for tensor, inserted in zip(args[:3], args[3:6]):
        for position in inserted:
            tensor = tensor.unsqueeze(position)
        shapes.append(tensor.shape)
    return (14 if _complex(args) else 3) * prod(torch.broadcast_shapes(*shapes)), 0, 1


def _distances(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    return 0, 3 * out.numel() * args[0].shape[-1], 1  # subtract, square, sum


def _distances_backward(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    distances = args[4] if len(args) > 4 else args[3]  # between two sets, or within one
    return 0, 3 * distances.numel() * out.shape[-1], 1


def _picked(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    """The negative log likelihood reads one number for each target."""
    return 0, next(tensor.numel() for tensor in args if isinstance(tensor, Tensor) and tensor.dtype == torch.int64), 1


def _index_put(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    return 0, _size(args[2]) * _real("add", args) if accumulate else 0, 1


# Attention: the scores are a product with the keys, the result one with the values. Queries may have more heads.


def _attention(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    query, key, value = (arg.shape for arg in args[:3])  # (B, heads, T, width)
    scores = prod(query[:-1]) * key[-2]
    return 2 * scores * (query[-1] + value[-1]), SOFTMAX * scores, 1


def _attention_backward(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
    """The scores are computed again; then there is one product for each factor of each product."""
    _, query, key, value = (arg.shape for arg in args[:4])
    scores = prod(query[:-1]) * key[-2]
    return 2 * scores * (3 * query[-1] + 2 * value[-1]), (SOFTMAX_BACKWARD + RECOMPUTED) * scores, 1


# Fused recurrences: each gate is a product with the input and one with the state, at every time step.


def _recurrence(inputs: Tensor, matrices: list[Tensor], hidden: int, cells: int) -> tuple[int, int]:
    """FLOPs and elements of `cells` LSTM, GRU or plain cells of `hidden` units over all rows of inputs (.., I)."""
    rows = prod(inputs.shape[:-1])
    cell = {4: LSTM_CELL, 3: GRU_CELL}.get(matrices[1].shape[0] // hidden, PLAIN_CELL)
    return 2 * rows * sum(matrix.numel() for matrix in matrices), cell * rows * hidden * cells


def _mkldnn_rnn(times: int) -> Rule:
    """The rule for one layer in one direction: inputs (T, B, I), two matrices, state (B, H)."""

    def rule(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
        inputs, state = args[0], args[5]
        flops, elements = _recurrence(inputs, [args[1], args[2]], state.shape[-1], 1)
        return times * flops, times * elements, prod(inputs.shape[:-1]) // state.shape[-2]

    return rule


def _cudnn_rnn(times: int, settings: int) -> Rule:
    """The rule for all layers: inputs (T, B, I), (B, T, I) or packed (rows, I).

    From argument `settings` on, the arguments are those of `nn.LSTM`.
    """

    def rule(args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> Work:
        hidden, layers, bidirectional = args[settings + 1], args[settings + 3], args[settings + 7]
        lengths = args[settings + 8]  # of packed inputs: the number of sequences at each step
        matrices = [weight for weight in args[1] if weight.dim() == 2]
        flops, elements = _recurrence(args[0], matrices, hidden, layers * (1 + bidirectional))
        steps = len(lengths) or prod(args[0].shape[:-1]) // args[4].shape[-2]
        return times * flops, times * elements, layers * steps

    return rule


def _cell(number: int, units: int) -> Rule:
    """The rule for a fused cell without its matrix products, on GPUs; argument `units` has one element per unit."""
    return lambda args, kwargs, out: (0, number * args[units].numel(), 1)


RULES: dict[str, Rule] = {
    "mm": _product(0),
    "bmm": _product(0),
    "mv": _product(0),
    "dot": _product(0),
    "vdot": _product(0),
    "addmm": _product(1),
    "_addmm_activation": _product(1),
    "addmv": _product(1),
    "addbmm": _product(1),
    "baddbmm": _product(1),
    "linear": _linear,
    "_trilinear": _trilinear,
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "_fft_c2c": _fourier(5, of_result=False),
    "fft_c2c": _fourier(5, of_result=False),
    "_fft_r2c": _fourier(2.5, of_result=False),
    "fft_r2c": _fourier(2.5, of_result=False),
    "_fft_c2r": _fourier(2.5, of_result=True),
    "fft_c2r": _fourier(2.5, of_result=True),
    "addr": _of_result("addcmul"),
    "_cdist_forward": _distances,
    "_pdist_forward": _distances,
    "_cdist_backward": _distances_backward,
    "_pdist_backward": _distances_backward,
    "nll_loss_forward": _picked,
    "nll_loss_backward": _picked,
    "nll_loss2d_forward": _picked,
    "nll_loss2d_backward": _picked,
    "index_put": _index_put,
    "_index_put_impl": _index_put,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_flash_attention_backward": _attention_backward,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "_scaled_dot_product_efficient_attention_backward": _attention_backward,
    "_scaled_dot_product_cudnn_attention_backward": _attention_backward,
    "mkldnn_rnn_layer": _mkldnn_rnn(1),
    "mkldnn_rnn_layer_backward": _mkldnn_rnn(2),
    "_cudnn_rnn": _cudnn_rnn(1, settings=6),
    "_cudnn_rnn_backward": _cudnn_rnn(2, settings=10),
    "_thnn_fused_lstm_cell": _cell(LSTM_CELL, units=2),
    "_thnn_fused_lstm_cell_backward_impl": _cell(2 * LSTM_CELL, units=2),
    "_thnn_fused_gru_cell": _cell(GRU_CELL, units=2),
    "_thnn_fused_gru_cell_backward": _cell(2 * GRU_CELL, units=0),
}
