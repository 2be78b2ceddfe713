"""The operations that have a type of their own, for those who read graphs with learned embeddings."""

from hypergen.graph.operations import SHAPE_OPS

# Append only: a saved generator knows the first so many of them, and reads all others as one unknown operation.
OPERATIONS = tuple(
    """input conv1d conv2d conv3d conv_transpose2d linear addmm embedding batch_norm layer_norm group_norm rms_norm
    instance_norm relu gelu silu leaky_relu elu tanh sigmoid hardswish hardsigmoid hardtanh mish selu softplus prelu
    relu6 softmax add mul sub div pow matmul bmm einsum cat stack mean sum max_pool2d avg_pool2d adaptive_avg_pool2d
    adaptive_max_pool2d scaled_dot_product_attention multi_head_attention transpose permute lstm gru logsigmoid celu
    softsign exp sqrt rsqrt amax max interpolate baddbmm

    conv_transpose1d conv_transpose3d bilinear embedding_bag rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell
    rnn_relu_cell max_pool1d max_pool3d avg_pool1d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool3d lp_pool2d fold local_response_norm normalize weight_norm norm var std
    glu hardshrink softshrink tanhshrink threshold softmin log_softmax rrelu log log1p expm1 sin cos atan2 erf square
    abs neg sign reciprocal round floor ceil clamp min amin maximum minimum argmax argmin cumsum cumprod cummax
    logsumexp prod any all where masked_fill masked_select setitem getitem index_select gather take_along_dim scatter
    scatter_reduce scatter_add index_add index_copy index_put topk sort argsort unique nonzero bucketize one_hot tril
    triu addcmul addcdiv addmv mv dot outer cdist cosine_similarity pairwise_distance lerp grid_sample affine_grid
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_rfft2 fft_irfft2 fft_fftn stft istft complex real imag
    view_as_complex view_as_real polar grouped_mm remainder floor_divide eq ne lt le gt ge logical_and logical_or
    logical_not bitwise_and bitwise_or bitwise_not""".split()
)

# What generators know that were saved before their configuration said so.
FIRST_VOCABULARY = 61


def has_own_type(op: str, has_parameters: bool) -> bool:
    """Whether an operation has a type of its own, or only moves values and is read as a part of the way."""
    return op in OPERATIONS or (op in SHAPE_OPS and not has_parameters)
