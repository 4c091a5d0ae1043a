"""What sessions of ONNX Runtime are asked to run on."""

from dhumandiff.faces.providers import provider_options, provider_order, session_providers


def test_on_cuda_no_size_of_a_photo_is_searched_for_the_fastest_kernels():
    assert provider_order("CUDA") == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    cuda, cpu = provider_options("CUDA")
    assert (cuda["cudnn_conv_algo_search"], cuda["arena_extend_strategy"]) == ("HEURISTIC", "kSameAsRequested")
    assert cpu == {}
    assert session_providers("CUDA") == [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def test_the_cpu_is_asked_for_alone():
    assert provider_options("CPU") == [{}]
    assert session_providers("CPU") == ["CPUExecutionProvider"]
