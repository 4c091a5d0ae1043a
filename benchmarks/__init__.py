"""What the pack costs: time, memory, and how often anything is computed twice. Each command writes a JSON into `results/`.

    python -m benchmarks.sampling                     # plain, pair, cascades: ratios to a plain KSampler, in ComfyUI
    python -m benchmarks.memory                       # their peak memory, each in a process of its own
    python -m benchmarks.encode                       # photo -> reference, first and second time
    python -m benchmarks.training                     # steps a second, with prepared data and without
    python -m benchmarks.parts                        # Parts2Whole: what each part costs, at Stable Diffusion 1.5's widths
    python -m benchmarks.gpu                          # all that only a GPU tells, at real sizes
    python -m benchmarks.report                       # tables and plot of docs/benchmarks.md, from the JSON files

The first two need a ComfyUI (`COMFYUI_PATH`, or ~/comfy/ComfyUI), the others the `train` extra. Random weights of SDXL's layout:
how long a picture takes does not depend on what is on it.
"""
