"""The tables: which methods, on which scenes, with which columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.own import Identity, Mode
from benchmarks.accuracy.peers.elastix import ElastixBspline
from benchmarks.accuracy.peers.feabas_mesh import Feabas
from benchmarks.accuracy.peers.optical_flow import SmoothedFlow
from benchmarks.accuracy.peers.sift import SiftSimilarity
from benchmarks.accuracy.peers.stackreg import StackRegAffine
from benchmarks.accuracy.scenes import FIBSEM, VNC, VNC_SMALL, VNC_SPEED, Scene, scenes_of
from benchmarks.accuracy.table import Column

ENCODERS = ("autoencoder", "lcn", "pixels", "metric")
_DAMAGED = 0.1
_DAMAGED_CLAIMS = 0.5
_RELAX: dict[str, Any] = {"compose": {"method": "relax"}, "coarse": {"sections": "separate"}}
_GAUSS_NEWTON: dict[str, Any] = {"method": "gauss_newton"}
_MATCHED: dict[str, Any] = {
    "compose": {"method": "relax", "relax": {"natural_motion": "remove"}},
    "coarse": {"sections": "match"},
}


@dataclass(frozen=True, slots=True)
class TableSpec:
    """Specification of one table."""

    name: str
    title: str
    methods: tuple[Method, ...]
    scenes: tuple[Scene, ...]
    columns: tuple[Column, ...]
    rate: bool


def comparison(*, seeds: int) -> TableSpec:
    """Our modes beside the peers."""
    ours: list[Method] = [
        Identity(),
        Mode("default", "**default**: `align()`"),
        Mode("coarse-match", "coarse only, `match`", {"coarse": {"sections": "match"}}, coarse_only=True),
        Mode("coarse-separate", "coarse only, `separate`", {"coarse": {"sections": "separate"}}, coarse_only=True),
    ]
    for encoder in ENCODERS:
        chosen = {"method": "ssemnet", "ssemnet": {"encoder": encoder}}
        ours.append(
            Mode(f"ssemnet-{encoder}", f"`ssemnet`, {encoder}, chain", {**_CHAIN, "register": chosen}),
        )
    for encoder in ENCODERS:
        chosen = _GAUSS_NEWTON | {"gauss_newton": {"encoder": encoder}}
        ours.append(Mode(f"gauss-newton-{encoder}", f"`gauss_newton`, {encoder}, chain", _CHAIN | {"register": chosen}))
    ours.append(Mode("gauss-newton-matched", "`gauss_newton`, metric, robust least squares", _MATCHED))
    return TableSpec(
        name="comparison",
        title="Beside other aligners",
        methods=(*ours, StackRegAffine(), SiftSimilarity(), SmoothedFlow(), ElastixBspline(), Feabas()),
        scenes=(*scenes_of(FIBSEM, seeds=seeds, damaged=0.0), *scenes_of(VNC, seeds=seeds, damaged=_DAMAGED)),
        columns=(
            Column(
                "FIB-SEM undeformed: jitter med / p95 injected; drift",
                "fibsem-undeformed",
                ("injected_jitter_median", "injected_jitter_p95", "injected_drift_max"),
            ),
            Column(
                "FIB-SEM warped: jitter med / p95; drift",
                "fibsem-warped",
                ("jitter_median", "jitter_p95", "drift_max"),
            ),
            Column("VNC warped: recovery med / p95", "vnc-warped", ("recovery_median", "recovery_p95")),
            Column("VNC warped + damage: recovery med / p95", "vnc-damaged", ("recovery_median", "recovery_p95")),
            Column("VNC undeformed: elastic drift", "vnc-undeformed", ("injected_elastic_drift",)),
            Column("VNC warped: adjacent NCC", "vnc-warped", ("ncc",)),
        ),
        rate=True,
    )


_CHAIN: dict[str, Any] = {"compose": {"method": "chain"}, "coarse": {"sections": "match"}}


def full(name: str, title: str, **gauss_newton: Any) -> Mode:
    """Gauss-Newton, relax and the separated affines, with changes to the registration."""
    return Mode(name, title, _RELAX | {"register": _GAUSS_NEWTON | {"gauss_newton": gauss_newton}})


def ablation(*, seeds: int) -> TableSpec:
    """Contribution of each ingredient: all of them, then one changed at a time."""
    whole = Mode("default", "all: `gauss_newton`, metric, K = 3, chosen L, relax, `separate`")
    single = {
        "register": _GAUSS_NEWTON | {"neighbours": 1},
        "compose": {"method": "relax", "relax": {"neighbours": 1}},
        "coarse": {"sections": "separate"},
    }
    registered = {"register": dict(_GAUSS_NEWTON)}
    methods = (
        whole,
        full("no-metric", "LCN instead of the metric encoder", encoder="lcn"),
        Mode("no-far-pairs", "K = 1 instead of 3", single),
        full("no-robust", "no robust weights in the pair solver", cutoff=1e6),
        full("no-pyramid", "finest level only", levels=(0,), node_spacing=(32,), iterations=(9,), warm_levels=1),
        full("one-pass", "one pass at the finest level", passes=1),
        full("fixed-length", "L = 22.6 px, not chosen", smoothness=(22.6,)),
        full("half-length", "L = 11.3 px", smoothness=(11.3,)),
        full("twice-length", "L = 45 px", smoothness=(45.2,)),
        Mode(
            "no-relax",
            "chain instead of relax",
            registered | {"compose": {"method": "chain"}, "coarse": {"sections": "separate"}},
        ),
        Mode(
            "no-separate",
            "`match` instead of `separate`",
            registered | {"compose": {"method": "relax"}, "coarse": {"sections": "match"}},
        ),
        Mode("coarse-separate", "coarse only", {"coarse": {"sections": "separate"}}, coarse_only=True),
    )
    plain = comparison(seeds=seeds)
    kept = tuple(scene for scene in plain.scenes if not scene.damaged)
    columns = tuple(c for c in plain.columns if c.group != "vnc-damaged")
    return TableSpec("ablation", "Contribution of each ingredient", methods, kept, columns, rate=True)


def claims(*, seeds: int) -> TableSpec:
    """List the modes that test the claims of ssEMnet, on small crops of the VNC."""

    def ssemnet(name: str, title: str, **changes: Any) -> Mode:
        config = {"encoder": "autoencoder"} | changes
        return Mode(f"claims-{name}", title, _CHAIN | {"register": {"method": "ssemnet", "ssemnet": config}})

    methods: Sequence[Method] = (
        ssemnet("features", "autoencoder features, n = 3, loss drop, mask"),
        ssemnet("pixels", "pixels instead of features", encoder="pixels"),
        ssemnet("lcn", "LCN at 2 px instead of features", encoder="lcn"),
        ssemnet("single", "one neighbour, n = 1", neighbour_weights=(1.0,)),
        ssemnet("no-drop", "without loss drop", loss_drop=0.0),
        ssemnet("no-mask", "without mask", mask=False),
        ssemnet("no-drop-no-mask", "without loss drop and mask", loss_drop=0.0, mask=False),
        Mode("claims-coarse", "coarse only", _CHAIN, coarse_only=True),
    )
    recovery = ("recovery_median", "recovery_p95")
    damaged = "vnc-small-damaged"
    return TableSpec(
        name="claims",
        title="What ssEMnet claims",
        methods=tuple(methods),
        scenes=tuple(scenes_of(VNC_SMALL, seeds=seeds, damaged=_DAMAGED_CLAIMS)),
        columns=(
            Column("warped: recovery med / p95", "vnc-small-warped", recovery),
            Column("warped: NCC", "vnc-small-warped", ("ncc",)),
            Column("half damaged: recovery med / p95", damaged, recovery),
            Column("where a section is damaged", damaged, ("recovery_damaged_median", "recovery_damaged_p95")),
            Column("between sound sections", damaged, ("recovery_sound_median", "recovery_sound_p95")),
            Column("half damaged: NCC", damaged, ("ncc",)),
        ),
        rate=False,
    )


def devices(*, seeds: int) -> TableSpec:
    """The default on the CPU, on a GPU in plain PyTorch, and on one by the fused kernels."""
    methods = (
        Mode("on-cpu", "CPU", device="cpu"),
        Mode("on-gpu-plain", "GPU, plain PyTorch", device="plain"),
        Mode("on-gpu-kernels", "GPU, fused kernels", device="kernels"),
    )
    plain = comparison(seeds=seeds)
    return TableSpec("devices", "The same on every device", methods, plain.scenes, plain.columns, rate=False)


def speed(*, seeds: int) -> TableSpec:
    """CPU seconds of the stages on whole sections, 20 × 1024²."""
    stages = ("coarse", "calibrate", "register", "compose", "render", "downsample")
    methods = (
        Mode("default", "default: `align()`"),
        Mode("gauss-newton-chain", "`gauss_newton`, metric, chain", _CHAIN | {"register": dict(_GAUSS_NEWTON)}),
    )
    columns = tuple(Column(f"{s}, CPU s", "vnc-whole-undeformed", (f"seconds:{s}",)) for s in (*stages, "whole"))
    return TableSpec("speed", "Seconds for 20 × 1024²", methods, (Scene(VNC_SPEED),), columns, rate=True)
