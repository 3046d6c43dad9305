"""The figures of the paper, to stand beside ours: DiffuSpec, arXiv 2510.02358v1.

Measured there on one A100 80GB with Qwen2.5-32B as the target and Dream-7B as the drafter, greedy,
batch 1. MAT counts accepted drafted tokens only (Eq. 2): our accepted_per_step. Tables 1 and 4
differ slightly in the paper itself (MT 3.09 and 3.12).
"""

from __future__ import annotations

SOURCE = "arXiv 2510.02358v1: A100 80GB, Qwen2.5-32B target, Dream-7B drafter, greedy"
TASKS = {"mt": "MT", "translation": "Trans", "summarization": "Sum", "qa": "QA", "math": "Math", "rag": "RAG"}

# Table 1: speed-up by task in the order of TASKS, mean MAT, mean speed-up
METHODS = {
    "Lookahead": ((1.37, 1.16, 1.15, 1.33, 1.52, 1.21), 1.82, 1.30),
    "PLD": ((1.83, 1.29, 2.76, 1.87, 1.55, 2.37), 2.11, 1.93),
    "Recycling": ((2.15, 1.85, 2.03, 2.06, 2.45, 1.83), 3.13, 2.07),
    "SAMD": ((1.99, 1.54, 3.38, 2.44, 1.63, 3.27), 2.18, 2.35),
    "SPS (Qwen2.5-7B)": ((1.69, 1.64, 1.74, 1.50, 1.86, 1.62), 6.18, 1.67),
    "DiffuSpec": ((3.09, 3.38, 2.41, 3.03, 4.02, 2.38), 6.99, 3.08),
    "Medusa (Vicuna-33B)": ((1.69, 1.61, 2.24, 1.74, 2.35, 2.48), 2.31, 2.02),
    "Hydra (Vicuna-33B)": ((2.48, 2.08, 2.57, 2.14, 3.25, 2.74), 3.23, 2.54),
    "EAGLE (Vicuna-33B)": ((2.68, 2.21, 2.68, 2.24, 3.26, 2.50), 3.37, 2.76),
    "EAGLE2 (Vicuna-33B)": ((3.45, 2.49, 2.94, 2.52, 3.70, 2.58), 4.02, 2.95),
}
# Table 2: (CPS, ADL) -> mean MAT, mean speed-up
ABLATION = {
    (True, True): (6.99, 3.08),
    (True, False): (6.95, 2.98),
    (False, True): (6.43, 2.73),
    (False, False): (6.05, 2.69),
}
# Table 4: (CPS, ADL) -> MAT by task, speed-up by task
ABLATION_BY_TASK = {
    (True, True): ((7.02, 7.35, 6.25, 7.49, 7.61, 8.04), (3.12, 3.40, 2.45, 3.05, 4.05, 2.40)),
    (True, False): ((6.98, 7.29, 6.18, 7.40, 7.55, 7.96), (3.01, 3.28, 2.37, 2.92, 3.88, 2.34)),
    (False, True): ((6.41, 6.72, 5.88, 6.92, 7.00, 7.25), (2.70, 2.79, 2.11, 2.55, 3.11, 2.14)),
    (False, False): ((6.03, 6.48, 5.72, 6.75, 6.82, 7.08), (2.65, 2.61, 1.96, 2.41, 2.95, 2.02)),
}
# Table 5: fixed draft length, and None for ADL -> mean MAT, mean speed-up
DRAFT_LENGTH = {
    10: (5.53, 2.74),
    20: (6.56, 2.98),
    30: (6.49, 2.98),
    50: (6.51, 2.91),
    100: (6.69, 2.78),
    None: (6.99, 3.08),
}
# Figure 6: seconds by stage
SECONDS = {
    "DiffuSpec": {"verify": 2.13, "draft": 1.6, "search": 0.03},
    "SPS": {"verify": 2.02, "draft": 4.1},
}
# Figure 7: drafter passes S -> mean MAT, mean speed-up
REFINEMENT = {1: (6.99, 3.08), 10: (7.33, 0.93)}
