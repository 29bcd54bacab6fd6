"""How fast pairs and windows of sections are registered on a GPU, beside the plain PyTorch code on the same card.

    python -m benchmarks.gpu [--side 4096] [--sections 11] [--json gpu.json]

Features are ready for the pair solver; `window` is the register stage's computation from uploaded pixels to fields and
confidences. Rates are px of the working image per second and pair, a pair being one section and one neighbour k,
registered both ways. Times are medians of several runs, between CUDA events. Where SOFIMA and jax can be imported, its
flow is run on images of the same size beside it (one way, as it does).
"""

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssem_dask.field.grid import Grid
from ssem_dask.registration.encoders.encoder import encode_observed, load_encoder
from ssem_dask.registration.encoders.local_contrast import normalise_contrast
from ssem_dask.registration.gauss_newton.confidence import measure_match
from ssem_dask.registration.gauss_newton.gauss_newton_window import GaussNewton
from ssem_dask.registration.gauss_newton.solver import (
    FeatureLevel,
    GaussNewtonConfig,
    PairBatch,
    feature_pyramid,
    plan_steps,
    register_pairs,
)
from ssem_dask.registration.registration_method import PairRequest, WindowImages
from ssem_dask.registration.triton.pair_solver import register_fused

_RUNS = 5
_FLOWS = {"patch 160, step 40": (160, 40), "patch 96, step 24": (96, 24)}
"""Patch and step of SOFIMA: those of its own examples, and those of our tables."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096, help="px of the working image")
    parser.add_argument("--sections", type=int, default=11, help="of the window, halo included")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda")
    torch.cuda.init()
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "side": options.side,
        "sections": options.sections,
    }
    record["copy_gb_s"] = _bandwidth(device)
    with torch.inference_mode():
        record["solver"] = _solver(options.side, device)
        record["encoder"] = _encoder(options.side, device)
        record["window"] = _window(options.side, options.sections, device)
    record["sofima"] = _sofima(options.side, device)
    sys.stdout.write(json.dumps(record, indent=1) + "\n")
    if options.json:
        options.json.write_text(json.dumps(record, indent=1))


def _median(work: Callable[[], object], runs: int = _RUNS) -> float:
    """Milliseconds."""
    work()
    times = []
    for _ in range(runs):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def _bandwidth(device: torch.device) -> float:
    """GB/s read and written by a copy of 1 GB: what the card's memory gives."""
    values = torch.zeros(1 << 28, device=device)
    target = torch.empty_like(values)
    return round(2 * values.nbytes / _median(lambda: target.copy_(values)) / 1e6, 0)


def _sections(count: int, side: int, device: torch.device) -> Tensor:
    """Smooth noise that moves a little from section to section."""
    torch.manual_seed(1)
    base = torch.randn(1, 1, side // 4 + 8, side // 4 + 8, device=device)
    image = torch.nn.functional.interpolate(base, scale_factor=4, mode="bicubic")[0, 0]
    shifts = torch.randint(-4, 5, (count, 2)).tolist()
    moved = [torch.roll(image, shift, (0, 1))[16 : 16 + side, 16 : 16 + side] for shift in shifts]
    return (torch.stack(moved) * 30 + 128 + 5 * torch.randn(count, side, side, device=device)).clamp(0, 255)


def _features(count: int, side: int, device: torch.device, dtype: torch.dtype) -> list[FeatureLevel]:
    encoder = load_encoder("metric", digest=None).to(device)
    images = _sections(count, side, device)
    valid = torch.ones(1, side, side, dtype=torch.bool, device=device)
    values = torch.cat([encode_observed(encoder, image[None], valid=valid) for image in images])
    mask = torch.ones(count, *values.shape[-2:], device=device)
    pyramid = feature_pyramid(FeatureLevel(values, mask, Grid((values.shape[2], values.shape[3]), 4.0)), levels=4)
    return [FeatureLevel(level.features.to(dtype), level.valid, level.grid) for level in pyramid]


def _solver(side: int, device: torch.device) -> dict[str, Any]:
    image, config = Grid((side, side), 1.0), GaussNewtonConfig()
    out: dict[str, Any] = {}
    pyramid = _features(9, side, device, torch.float32)
    half = [FeatureLevel(level.features.half(), level.valid, level.grid) for level in pyramid]
    steps = [(z, z + 1) for z in range(8)]
    for n in (2, 8, 16, 32):
        pairs = (steps + [(b, a) for a, b in steps] + steps + [(b, a) for a, b in steps])[:n]
        index = torch.tensor(pairs, device=device)
        fixed, moving = ([level.select(index[:, i]) for level in pyramid] for i in (0, 1))
        row: dict[str, Any] = {}
        for name, levels in (("fused", pyramid), ("fused_half", half)):
            found = register_fused(levels, pairs, image_grid=image, start=None, smoothness=22.6, config=config)
            solve = partial(register_fused, levels, pairs, image_grid=image, smoothness=22.6, config=config)
            cold, warm = _median(partial(solve, start=None)), _median(partial(solve, start=found))
            row[name] = {"cold_ms": cold, "warm_ms": warm, **_rates(cold, warm, n, side)}
            row[name + "_values"] = found
        if n <= 8:
            batch = PairBatch(fixed=fixed, moving=moving, image_grid=image)
            eager = partial(register_pairs, batch, smoothness=22.6, config=config)
            reference = eager(start=None).fields
            cold = _median(partial(eager, start=None), 3)
            warm = _median(partial(eager, start=reference), 3)
            row["eager"] = {"cold_ms": cold, "warm_ms": warm, **_rates(cold, warm, n, side)}
            for name in ("fused", "fused_half"):
                difference = (row[name + "_values"].values - reference.values).abs()
                row[name]["differs_px"] = {
                    "median": float(difference.median()),
                    "largest": float(difference.max()),
                }
        for name in ("fused", "fused_half"):
            del row[name + "_values"]
        out[f"{n} directed pairs"] = row
    values = _traffic(pyramid, config)
    out["bytes per directed cold pair, GB"] = values
    return out


def _rates(cold: float, warm: float, directed: int, side: int) -> dict[str, float]:
    """Gpx/s per pair: of k = 1, of k > 1, and of all three neighbours together."""
    first, later = (side * side * directed / 2 / ms / 1e6 for ms in (cold, warm))
    return {"gpx_s_k1": first, "gpx_s_warm": later, "gpx_s_K3": 3 / (1 / first + 2 / later)}


def _traffic(pyramid: list[FeatureLevel], config: GaussNewtonConfig) -> float:
    """Bytes that the two kernels over pixels must move, at least: features of both sections twice, the warped ones."""
    total = 0.0
    for level, _, iterations in plan_steps(config, pyramid[0].grid, warm=False):
        plane = pyramid[level].features[0].nbytes
        total += iterations * 5 * plane
    return total / 1e9


def _encoder(side: int, device: torch.device) -> dict[str, float]:
    encoder = load_encoder("metric", digest=None).to(device)
    image = _sections(1, side, device)
    raw = image.to(torch.uint8).cpu().pin_memory()
    valid = torch.ones(1, side, side, dtype=torch.bool, device=device)
    contrast = normalise_contrast(image, valid=valid, window=64)
    return {
        "upload_ms": _median(lambda: raw.to(device, non_blocking=True)),
        "contrast_ms": _median(lambda: normalise_contrast(image, valid=valid, window=64)),
        "encode_ms": _median(lambda: encoder.encode(contrast)),
    }


def _window(side: int, sections: int, device: torch.device) -> dict[str, Any]:
    """The stage's computation of a window with 3 sections of halo; per section of its core."""
    images = _sections(sections, side, device)
    valid = torch.ones_like(images, dtype=torch.bool)
    grid = Grid((side, side), 1.0)
    nodes = Grid.of_section((side, side), spacing=16)
    core = range(3, sections)

    def work() -> object:
        return GaussNewton().register(
            WindowImages(images=images, valid=valid, grid=grid),
            PairRequest(nodes=nodes, core=core, neighbours=3),
            config=GaussNewtonConfig(),
            device=device,
        )

    torch.cuda.reset_peak_memory_stats()
    ms = _median(work, 3) / len(core)
    peak = torch.cuda.max_memory_allocated() / 2**30
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    rows = sorted(profiled.key_averages(), key=lambda row: -row.self_device_time_total)[:25]
    kernels = {row.key[:90]: round(row.self_device_time_total / 1000 / len(core), 3) for row in rows}
    total = sum(row.self_device_time_total for row in profiled.key_averages()) / 1000 / len(core)
    level = _features(1, side, device, torch.float32)[0]
    fields = torch.zeros(1, 2, *level.grid.shape, device=device)
    judged = _median(lambda: measure_match(fields, fixed=level, moving=level, nodes=nodes, cutoff=2.0))
    return {
        "ms_per_section": ms,
        "gpx_s": side * side / ms / 1e6,
        "peak_gib": peak,
        "match_ms_per_pair": judged,
        "kernel_ms_per_section": total,
        "kernels_ms_per_section": kernels,
    }


def _sofima(side: int, device: torch.device) -> dict[str, float] | str:
    """Gpx/s of a pair by SOFIMA's flow, from pixels in memory to a flow field in memory, without masks."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        jax, flow_field = importlib.import_module("jax"), importlib.import_module("sofima.flow_field")
    except ImportError as error:
        return f"not measured: {error}"
    fixed, moving = _sections(2, side, device).cpu().numpy()
    calculator, out = flow_field.JAXMaskedXCorrWithStatsCalculator(), {}
    for name, (patch, step) in _FLOWS.items():
        calculator.flow_field(fixed, moving, patch, step)  # compiles
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            calculator.flow_field(fixed, moving, patch, step)
            times.append(time.perf_counter() - begin)
        out[f"{name}, gpx_s, {jax.default_backend()}"] = side * side / statistics.median(times) / 1e9
    return out


if __name__ == "__main__":
    main()
