"""float32 that is float32, on a GPU too. Every process that computes calls this before it does."""

import torch


def exact_float32() -> None:
    """Switch off what rounds more than the type of the numbers says, whatever the environment switched on.

    TF32 would round the inputs of float32 convolutions (torch's default) and products to 10 bits. Products of float16
    and bfloat16 would sum parts of a row in the same few bits, so that a batch's size moved the results.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
