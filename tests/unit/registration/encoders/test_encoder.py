import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssem_dask.errors import WeightsError
from ssem_dask.registration.encoders.autoencoder import SPACING, Autoencoder
from ssem_dask.registration.encoders.encoder import (
    ENCODERS,
    SHIPPED,
    SHIPPED_WEIGHTS,
    encode_observed,
    load_encoder,
)
from ssem_dask.registration.encoders.local_contrast import normalise_contrast

NAMES = tuple(ENCODERS)
AUTOENCODER = SHIPPED_WEIGHTS / "autoencoder.safetensors"


def _texture(n: int, y: int, x: int) -> torch.Tensor:
    noise = torch.randn(n, 1, y, x, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)[:, 0] * 40 + 120


def test_the_built_in_encoders_are_registered():
    assert {"metric", "autoencoder", "lcn", "pixels"} <= set(ENCODERS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(64, 64), (61, 47), (16, 130)])
def test_contract_shape_and_gradient(name, shape):
    encoder = load_encoder(name, digest=None)
    images = _texture(2, *shape).requires_grad_(True)
    out = encode_observed(encoder, images, valid=torch.ones(2, *shape, dtype=torch.bool))
    assert out.dtype == torch.float32
    assert out.shape[0] == 2
    assert tuple(out.shape[2:]) == tuple(-(-n // encoder.spacing) for n in shape)
    out.square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert (images.grad != 0).float().mean() > 0.5
    assert encoder.digest


@pytest.mark.parametrize("name", NAMES)
def test_gain_and_offset_of_an_image_do_not_matter(name):
    encoder = load_encoder(name, digest=None)
    images = _texture(1, 96, 96)
    valid = torch.ones(1, 96, 96, dtype=torch.bool)
    as_uint16 = (images * 200 + 3000).round()
    torch.testing.assert_close(
        encode_observed(encoder, as_uint16, valid=valid),
        encode_observed(encoder, images, valid=valid),
        atol=0.02,
        rtol=0.02,
    )


def test_a_feature_of_the_autoencoder_lies_where_its_pixels_are():
    model = Autoencoder((2, 3, 4, 2)).requires_grad_(False)
    for parameter in model.parameters():  # symmetric kernels: only the layout can shift the response
        parameter.fill_(0.1 if parameter.ndim > 1 else 0.0)
    images = torch.zeros(1, 96, 96)
    images[:, 45:51, 45:51] = 2.0  # about px 48
    weight = model.encode(images).sum(dim=1)[0]
    centre = (torch.arange(weight.shape[0]) + 0.5) * SPACING
    assert float((weight.sum(dim=1) * centre).sum() / weight.sum()) == pytest.approx(48.0, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.01, 300), offset=st.floats(-1000, 1000))
def test_local_contrast_law(gain, offset):
    images = _texture(1, 64, 64)
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    reference = normalise_contrast(images, valid=valid, window=32)
    torch.testing.assert_close(
        normalise_contrast(gain * images + offset, valid=valid, window=32), reference, atol=2e-2, rtol=0
    )
    torch.testing.assert_close(
        normalise_contrast(-gain * images + offset, valid=valid, window=32), -reference, atol=2e-2, rtol=0
    )


def test_local_contrast_ignores_what_is_not_tissue():
    images = _texture(1, 64, 64)
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    valid[:, :, :20] = False
    spoilt = images.clone()
    spoilt[:, :, :20] = 1e5
    out = normalise_contrast(spoilt, valid=valid, window=32)
    torch.testing.assert_close(out, normalise_contrast(images, valid=valid, window=32))
    assert (out[:, :, :20] == 0).all()
    assert float(out.abs().max()) <= 4.0


@pytest.mark.parametrize("value", [0.0, 255.0])
def test_a_blank_image_gives_finite_features(value):
    images = torch.full((1, 40, 40), value)
    for name in NAMES:
        for valid in (torch.ones(1, 40, 40, dtype=torch.bool), torch.zeros(1, 40, 40, dtype=torch.bool)):
            assert encode_observed(load_encoder(name, digest=None), images, valid=valid).isfinite().all()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_weights_are_the_ones_the_card_names(name: str) -> None:
    path = SHIPPED_WEIGHTS / f"{name}.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == SHIPPED[name]
    assert digest in path.with_suffix(".md").read_text()
    assert path.stat().st_size < 200_000


@pytest.mark.parametrize("name", SHIPPED)
def test_weights_load_by_path_and_digest(tmp_path, name: str) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes((SHIPPED_WEIGHTS / f"{name}.safetensors").read_bytes())
    by_path = load_encoder(str(path), digest=SHIPPED[name].upper())
    by_name = load_encoder(name, digest=None)
    assert by_path.digest == by_name.digest == SHIPPED[name]
    images = _texture(1, 64, 64)
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    assert torch.equal(encode_observed(by_path, images, valid=valid), encode_observed(by_name, images, valid=valid))


def _without_metadata(payload: bytes) -> bytes:
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    del header["__metadata__"]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload[8 + length :]


def _of_another_kind(payload: bytes) -> bytes:
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    metadata = json.loads(header["__metadata__"]["ssem_dask"])
    header["__metadata__"]["ssem_dask"] = json.dumps({**metadata, "format": "other/9"})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload[8 + length :]


def _of_other_channels(payload: bytes) -> bytes:
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    metadata = json.loads(header["__metadata__"]["ssem_dask"])
    header["__metadata__"]["ssem_dask"] = json.dumps({**metadata, "channels": [2, 2, 2, 2]})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload[8 + length :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: b"not weights at all", "not a safetensors file"),
        (lambda p: b"", "not a safetensors file"),
        (lambda p: p[: len(p) // 2], "not a safetensors file"),
        (lambda p: b"\x80\x04\x95" + p, "not a safetensors file"),
        (_without_metadata, "not of an encoder of ssem_dask"),
        (_of_another_kind, "'other/9', but 'ssem_dask.autoencoder/1' is wanted"),
        (_of_other_channels, "do not fit the network"),
    ],
)
def test_wrong_files_are_one_clear_sentence(tmp_path, change, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(change(AUTOENCODER.read_bytes()))
    with pytest.raises(WeightsError, match=message) as caught:
        load_encoder(str(path), digest=None)
    assert str(path) in str(caught.value)


def test_missing_file_wrong_digest_and_unknown_name(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_encoder(str(tmp_path / "absent.safetensors"), digest=None)
    for name in SHIPPED:
        with pytest.raises(WeightsError, match="0000 is wanted"):
            load_encoder(name, digest="0000")
    with pytest.raises(WeightsError, match="neither a built-in encoder"):
        load_encoder("autoencodr", digest=None)
    with pytest.raises(WeightsError, match="has no weights"):
        load_encoder("lcn", digest="0000")


def test_another_kind_of_encoder_can_be_added(monkeypatch):
    monkeypatch.setitem(ENCODERS, "test-only", lambda digest: load_encoder("lcn", digest=digest))
    assert load_encoder("test-only", digest=None).spacing == load_encoder("lcn", digest=None).spacing
