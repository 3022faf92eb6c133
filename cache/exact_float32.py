"""float32 that is float32, on a GPU too. Every process that computes calls this before it does."""

import torch


def exact_float32() -> None:
    """Switch off what rounds more than the type of the numbers says, whatever was switched on before.

    TF32 would round the inputs of float32 convolutions (torch's default) and products to 10 bits. Products of float16
    and bfloat16 would sum parts of a row in the same few bits, so that a batch's size moved the results.
    It holds for the whole process.
    """
    backends = torch.backends
    # torch refuses to read its older switches where the newer ones, of which these are, say something else.
    for newer in (backends, backends.cudnn, backends.mkldnn):
        newer.fp32_precision = "none"  # type: ignore[attr-defined]
    for operation in (backends.mkldnn.conv, backends.mkldnn.rnn):  # type: ignore[attr-defined]
        operation.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    backends.cuda.matmul.allow_tf32 = False
    backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
