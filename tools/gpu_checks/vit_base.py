"""A campaign on a ViT-Base at 224 px: how many injections a second, and how much memory the GPU gives for it."""

from __future__ import annotations

from pathlib import Path

import torch

import testbed

from .campaigns import cpu_kernels, stage_facts, stages_of
from .common import Section, Setting, require
from .subject import BASE, SMALL, Subject, exported, random_subject

_GIB = 2**30


def vit_base(setting: Setting) -> Section:
    """Faults evaluated by the whole engine and by what is fastest, in this process, whose memory is then the campaign's.

    The weights are random: rates say nothing, the time does not depend on them. On the CPU a small model stands in.
    """
    require(setting.backend)
    checked = random_subject(setting, SMALL if setting.quick else BASE)
    file = exported(setting, checked.name, checked.reference)
    found: Section = {"subject": checked.origin, "engine": setting.backend, "kernels": cpu_kernels()}
    for evaluation in ("whole", "fastest"):
        if evaluation == "fastest" and setting.left_s < 0.5 * setting.limit_s:
            found[evaluation] = {"not_run": "too little time is left"}
            break
        folder = setting.folder / evaluation
        if setting.gpu:
            torch.cuda.reset_peak_memory_stats()
        with testbed.run(_spec(setting, checked, file, evaluation), folder, workers=0) as run:
            rows = len(run.results)
        found[evaluation] = {**_speed(folder, rows), **_memory(setting)}
        setting.tell(found)
    return {"ok": True, **found}


def _speed(folder: Path, rows: int) -> Section:
    seconds = stages_of(folder)["execute"]["seconds"]
    return {"injections": rows, "execute_s": seconds, "injections_per_s": rows / seconds, **stage_facts(folder)}


def _memory(setting: Setting) -> Section:
    if not setting.gpu:
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "gpu_peak_gib": torch.cuda.max_memory_allocated() / _GIB,
        "gpu_reserved_gib": torch.cuda.max_memory_reserved() / _GIB,
        "gpu_in_use_gib": (total - free) / _GIB,
        "gpu_total_gib": total / _GIB,
    }


def _spec(setting: Setting, checked: Subject, file: Path, evaluation: str) -> testbed.CampaignSpec:
    images, bits = (8, [30]) if setting.quick else (32, [0, 22, 30, 31])
    return testbed.load_spec(
        {
            "name": "gpu-check-vit-base",
            "seed": 7,
            "model": {"onnx": str(file)},
            "data": {"name": checked.data},
            "tiers": {"edges": [1.0], "images": [images]},
            "engine": {"backend": setting.backend, "batch": 8 if setting.quick else 64, "evaluation": evaluation},
            "gates": {"parity_max_abs": 1e-3, "drift_max_abs": 1e-4, "zero_fault_rows": 64},
            "tolerance": {"atol": 1e-4, "rtol": 1e-4},
            "faults": [
                {
                    "target": "model",
                    "where": "activation",
                    "ops": ["flip"],
                    "bits": bits,
                    "per_stratum": 1 if setting.quick else 8,
                },
            ],
        }
    )
