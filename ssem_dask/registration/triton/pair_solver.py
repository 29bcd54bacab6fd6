"""Registration of pairs by the fused kernels; on a GPU as one recorded CUDA graph.

A solver belongs to one size of window, one number of pairs and one plan of steps. It is kept, since making one compiles
kernels and records the graph; it allocates all its memory when it is made. On a GPU features are stored in half
precision, which moves fields by less than 0.02 px (docs/performance.md); everything that is computed from them is
float32.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ssem_dask.field.device import freed_on_release, in_batches
from ssem_dask.field.grid import Grid
from ssem_dask.geometry.chunks import round_up
from ssem_dask.registration.gauss_newton.normal_equations import NodeBasis
from ssem_dask.registration.gauss_newton.scales import ResidualScale
from ssem_dask.registration.gauss_newton.solver import FeatureLevel, GaussNewtonConfig, NodeFields, plan_steps
from ssem_dask.registration.triton.level import LevelStep, Sections, fits
from ssem_dask.registration.vector_map import covering_nodes

_MAX_SOLVERS = 6
"""Solvers that a process keeps: first and inner windows, cold and warm starts."""
_BATCH = 32
"""Pairs at a time: larger batches are not faster per pair."""


def suits(pyramid: Sequence[FeatureLevel], *, image_grid: Grid, config: GaussNewtonConfig) -> bool:
    """Check whether the fused kernels can register these sections: bilinear nodes, 4 or 8 feature px apart."""
    return config.interpolation == "bilinear" and all(
        fits(nodes=covering_nodes(image_grid, spacing=spacing * image_grid.spacing), pixels=pyramid[level].grid)
        for level, spacing, _ in plan_steps(config, pyramid[0].grid, warm=False)
    )


def register_fused(
    pyramid: Sequence[FeatureLevel],
    pairs: Sequence[tuple[int, int]],
    *,
    image_grid: Grid,
    start: NodeFields | None,
    smoothness: float,
    config: GaussNewtonConfig,
    scales: Sequence[ResidualScale] | None = None,
) -> NodeFields:
    """Register pairs of sections as `solver.register_pairs` does, to within rounding.

    Args:
        pyramid: of all sections of the window, level 0 first; `suits` it.
        pairs: (fixed, moving), indices of sections.
        image_grid: grid of the working image's pixels.
        start: see `register_pairs`.
        smoothness: L, px of the working image.
        config: the solver's parameters.
        scales: see `register_pairs`.

    Raises:
        torch.OutOfMemoryError: the GPU cannot hold a single pair.
    """
    warm = start is not None

    def run(batch: Sequence[int]) -> _Registered:
        part = [pairs[i] for i in batch]
        try:
            solver = _solver(pyramid, pairs=_rounded(len(part)), image_grid=image_grid, warm=warm, config=config)
            begin = None if start is None else start.values[batch[0] : batch[-1] + 1]
            return _Registered(solver(pyramid, part, start=begin, smoothness=smoothness, scales=scales), solver.nodes)
        except torch.OutOfMemoryError:
            forget_solvers()  # the memory that they hold may be all that is missing
            raise

    parts = [part for _, part in in_batches(run, range(len(pairs)), size=_BATCH)]
    return NodeFields(torch.cat([part.values for part in parts]), parts[0].nodes, config.interpolation)


@dataclass(frozen=True, slots=True)
class _Registered:
    values: Tensor
    nodes: Grid


@dataclass(frozen=True)
class _Key:
    shapes: tuple[tuple[int, ...], ...]
    grid: Grid
    image_grid: Grid
    pairs: int
    warm: bool
    config: GaussNewtonConfig
    device: torch.device


_LOCK = threading.RLock()
_SOLVERS: OrderedDict[_Key, "_Solver"] = OrderedDict()


def forget_solvers() -> None:
    """Free the memory of all solvers that are kept."""
    with _LOCK:
        _SOLVERS.clear()


freed_on_release(forget_solvers)


def _solver(
    pyramid: Sequence[FeatureLevel], *, pairs: int, image_grid: Grid, warm: bool, config: GaussNewtonConfig
) -> "_Solver":
    plain = config.model_copy(update={"smoothness": None, "encoder": "", "encoder_digest": None, "scales": None})
    finest = pyramid[0]
    key = _Key(
        tuple(tuple(level.features.shape) for level in pyramid),
        finest.grid,
        image_grid,
        pairs,
        warm,
        plain,
        finest.features.device,
    )
    with _LOCK:
        solver = _SOLVERS.pop(key, None)
        if solver is None:
            while len(_SOLVERS) >= _MAX_SOLVERS:
                _SOLVERS.popitem(last=False)
            solver = _Solver(pyramid, pairs=pairs, image_grid=image_grid, warm=warm, config=plain)
        _SOLVERS[key] = solver
        return solver


def _rounded(pairs: int) -> int:
    """Round the number of pairs of a batch up, so that few sizes occur."""
    return min(_BATCH, round_up(pairs, multiple=4))


class _Solver:
    def __init__(
        self, pyramid: Sequence[FeatureLevel], *, pairs: int, image_grid: Grid, warm: bool, config: GaussNewtonConfig
    ) -> None:
        device = pyramid[0].features.device
        stored = torch.float16 if device.type == "cuda" else torch.float32
        plan = plan_steps(config, pyramid[0].grid, warm=warm)
        self._lock = threading.Lock()
        self._config, self._warm = config, warm
        self._pairs = torch.zeros(pairs, 2, dtype=torch.int32, device=device)
        self._sections = {
            level: Sections(
                torch.zeros(pyramid[level].features.shape, dtype=stored, device=device),
                torch.zeros(pyramid[level].valid.shape, dtype=stored, device=device),
                pyramid[level].grid,
            )
            for level, _, _ in plan
        }
        self._steps: dict[tuple[int, int], LevelStep] = {}
        self._relative: dict[int, Tensor] = {}
        for level, spacing, _ in plan:
            if (level, spacing) in self._steps:
                continue
            self._relative.setdefault(spacing, torch.zeros(1, device=device))
            self._steps[level, spacing] = LevelStep(
                self._sections[level],
                nodes=covering_nodes(image_grid, spacing=spacing * image_grid.spacing),
                pairs=self._pairs,
                relative=self._relative[spacing],
                cutoff=config.cutoff,
                conjugate_gradients=config.conjugate_gradients,
                largest_step=config.largest_step,
            )
        self._plan = plan
        self._scales = torch.zeros(sum(iterations for _, _, iterations in plan), 2, device=device)
        last = self._steps[plan[-1][:2]]
        self.nodes = last.nodes
        self._start = torch.zeros_like(last.u)
        self._out = torch.zeros_like(last.u)
        self._bases = self._bases_between()
        self._replay = _recorded(self._launch) if device.type == "cuda" else self._launch

    def __call__(
        self,
        pyramid: Sequence[FeatureLevel],
        pairs: Sequence[tuple[int, int]],
        *,
        start: Tensor | None,
        smoothness: float,
        scales: Sequence[ResidualScale] | None,
    ) -> Tensor:
        """Compute displacements `(n, 2, ny, nx)` of the pairs, mip-0 px."""
        n = len(pairs)
        with self._lock:
            filled = list(pairs) + [pairs[-1]] * (len(self._pairs) - n)
            self._pairs.copy_(torch.tensor(filled, dtype=torch.int32))
            for level, sections in self._sections.items():
                sections.features.copy_(pyramid[level].features)
                sections.valid.copy_(pyramid[level].valid)
            for spacing, relative in self._relative.items():
                relative.fill_((smoothness / spacing) ** 4)
            per_pair = [(0.0, 0.0)] * len(self._scales)  # 0: the kernels take each pair's own
            self._scales.copy_(torch.tensor(per_pair if scales is None else [(s.error, s.hessian) for s in scales]))
            if start is not None:
                self._start[:n] = start
                self._start[n:] = start[-1]
            self._replay()
            return self._out[:n].clone()

    def _bases_between(self) -> dict[tuple[int, int], NodeBasis]:
        """Make the bases from the nodes of each step to those of the next, if they differ."""
        bases = {}
        spacings = [spacing for _, spacing, _ in self._plan]
        by_spacing = {spacing: step.nodes for (_, spacing), step in self._steps.items()}
        if self._warm:  # it starts from fields on the finest nodes
            spacings = [spacings[-1], *spacings]
        for a, b in pairwise(spacings):
            if a != b and (a, b) not in bases:
                bases[a, b] = NodeBasis.between(
                    nodes=by_spacing[a], pixels=by_spacing[b], kind="bilinear", device=self._pairs.device
                )
        return bases

    def _launch(self) -> None:
        """Run the whole plan, `start` to `out`; see `register_pairs`."""
        passes = 1 if self._warm else self._config.passes
        spacing_before = self._plan[-1][1]
        fields = anchor = self._start if self._warm else None
        done = 0
        for number, (level, spacing, iterations) in enumerate(self._plan, start=1):
            step = self._steps[level, spacing]
            unit = step.sections.grid.spacing
            basis = self._bases.get((spacing_before, spacing))
            for target, values in ((step.u, fields), (step.smooth, anchor)):
                if values is None:
                    target.zero_()
                else:
                    torch.div(values if basis is None else basis.spread(values), unit, out=target)
            step.run(self._scales[done : done + iterations])
            done += iterations
            fields = step.u * unit
            if self._warm:
                anchor = self._on(anchor, basis)
            elif number > len(self._plan) - passes:
                anchor = fields
            spacing_before = spacing
        assert fields is not None
        self._out.copy_(fields)

    @staticmethod
    def _on(values: Tensor | None, basis: NodeBasis | None) -> Tensor | None:
        return values if values is None or basis is None else basis.spread(values)


def _recorded(launch: Callable[[], None]) -> Callable[[], None]:
    """Record a CUDA graph; returns a function that launches the same kernels again with one call."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launch()  # compiles the kernels, which cannot be recorded
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        launch()
    return graph.replay
