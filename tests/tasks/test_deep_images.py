"""16-bit, float and many-band images through every task, in the values of their files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import openmae
from openmae.cli import main
from openmae.data.decode import decode
from openmae.data.transforms import EvalTransform
from openmae.models.encoder import Encoder, build_vit
from openmae.randomness import Rand
from openmae.report.display import display_of, to_rgb
from openmae.report.pictures import reconstruct
from openmae.tasks.decoding import decoding_of
from openmae.weights.encoderfile import formula
from openmae.weights.writers import deep_input
from openmae.weights.writers_huggingface import write_hugging_face

BANDS = 5


def deep(seed: int, kind: str, channels: int = BANDS, size=(40, 44)) -> np.ndarray:
    """Slopes that the seed turns, on levels that differ from band to band."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
    slope = (rng.random() * rows + rng.random() * cols)[..., None] / 2
    unit = 0.1 + 0.15 * np.arange(channels) / channels + 0.5 * slope
    noisy = unit + 0.01 * rng.normal(size=(*size, channels))
    if kind == "float32":
        return (-30 + 40 * noisy).astype(kind)
    return np.clip(4095 * noisy, 0, 4095).astype(kind)


def write(folder, count: int, kind: str = "uint16", channels: int = BANDS, first: int = 0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = deep(first + i, kind, channels)
        more = {"planarconfig": "contig"} if channels > 1 else {}
        image = image if channels > 1 else image[..., 0]
        tifffile.imwrite(folder / f"{i:02d}.tif", image, photometric="minisblack", **more)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("deep")
    for number, name in enumerate(("day", "night")):
        write(root / name, 10, first=100 * number)
    return root


@pytest.fixture(scope="module")
def run_folder(folders, run, sized, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "x"
    said = run("pretrain", folders, "--channels", BANDS, "--out", out, *sized("--steps", 3))
    assert "5-channel uint16, value range 0:4095 (found" in said
    return out


def metadata(folder) -> dict[str, str]:
    with safe_open(folder / "encoder.safetensors", "pt") as file:
        return file.metadata()


def test_the_range_is_kept_where_a_reader_needs_it(run_folder):
    resolved = yaml.safe_load((run_folder / "config.yaml").read_text())["resolved"]
    assert resolved["value_range"] == [0.0, 4095.0]
    assert json.loads(metadata(run_folder)["value_range"]) == [0.0, 4095.0]
    for path in (run_folder, run_folder / "encoder.safetensors"):
        model = openmae.load(path)
        assert getattr(model, "encoder", model).value_range == (0.0, 4095.0)


def test_mean_and_std_are_of_the_values(run_folder, folders):
    values = np.stack([tifffile.imread(p) for p in sorted(folders.rglob("*.tif"))]) / 4095
    encoder = openmae.load(run_folder).encoder
    axes = (0, 1, 2)
    np.testing.assert_allclose(encoder.mean.flatten(), values.mean(axes), atol=1e-5)
    np.testing.assert_allclose(encoder.std.flatten(), values.std(axes), atol=1e-5)


def test_what_the_model_sees_is_the_published_normalisation(run_folder, folders):
    encoder = openmae.load(run_folder).encoder
    path = folders / "day/03.tif"
    seen = EvalTransform((40, 44))(decode(path, decoding_of(encoder)))
    values = torch.from_numpy(tifffile.imread(path).astype(np.float64)).permute(2, 0, 1)
    expected = (values / 4095 - encoder.mean.double()) / encoder.std.double()
    torch.testing.assert_close(seen.double(), expected, atol=1e-5, rtol=1e-5)
    assert encoder.normalize(seen) is seen


@pytest.mark.parametrize("task", ["knn", "probe"])
def test_scores(task, run, run_folder, folders, tmp_path):
    run(task, run_folder, folders, "--out", tmp_path / "x", "--workers", 0)
    results = json.loads((tmp_path / "x/results.json").read_text())
    assert {f"{task}_accuracy", f"raw_pixels_{task}_accuracy"} <= results.keys()
    assert np.isfinite([v for v in results.values() if isinstance(v, float)]).all()


def test_embed_is_not_that_of_8_bits(run, run_folder, folders, tmp_path):
    run("embed", run_folder, folders, "-o", tmp_path / "x.npz", "--workers", 0)
    vectors = np.load(tmp_path / "x.npz")["vector"]
    assert np.isfinite(vectors).all()
    assert vectors.std(axis=0).max() > 1e-3


def test_finetune_predict_and_go_on(run, run_folder, folders, tmp_path, sized):
    words = ["--randaug", "none", "--workers", 0, "--batch-size", 4, "--recipe", "small"]
    more = [*words, "--out", tmp_path / "f", "--warmup-epochs", 0, "--steps", 3]
    run("finetune", run_folder, folders, *more, "--save-every", 2)
    assert openmae.load(tmp_path / "f").encoder.value_range == (0.0, 4095.0)
    assert json.loads(metadata(tmp_path / "f")["value_range"]) == [0.0, 4095.0]
    run("predict", tmp_path / "f", folders, "-o", tmp_path / "p.csv", "--workers", 0)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 21
    longer = ["--steps", 5, "--allow-change", "steps", "--out", tmp_path / "f", "--workers", 0]
    run("finetune", run_folder, folders, *longer)
    run("evaluate", tmp_path / "f", folders, "--workers", 0)


def test_other_forms_say_how_values_go_in(run, run_folder, tmp_path, capsys):
    """Nothing that leaves openmae may tell its reader to divide 12-bit values by 255."""
    told = "(x / 4095 - mean) / std"
    assert f"value range 0:4095, so its input is {told}" in run("inspect", run_folder)
    file = tmp_path / "x.pt2"
    run("export", run_folder, "-o", file)
    extra = {"openmae.json": ""}
    torch.export.load(file, extra_files=extra)
    about = json.loads(extra["openmae.json"])
    assert about["input"] == f"images (B, {BANDS}, 32, 32) float32, {told}"
    assert json.loads(about["value_range"]) == [0, 4095]
    assert main(["export", str(run_folder), "-o", str(tmp_path / "u.pt2"), "--uint8"]) == 2
    assert "reads values of 0 to 4095, which 8 bits do not hold" in capsys.readouterr().err
    assert not (tmp_path / "u.pt2").exists()
    for to in ("hf", "timm"):
        said = run("convert", run_folder, "--to", to, "-o", tmp_path / to)
        assert "not in this format: value range 0:4095" in said
        assert told in (tmp_path / to / "README.md").read_text()
    processor = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    assert processor["rescale_factor"] == pytest.approx(1 / 4095)
    assert processor["image_mean"] == pytest.approx(openmae.load(run_folder).encoder.mean.flatten())


def test_a_low_end_other_than_zero_goes_into_the_mean_of_an_image_processor(tmp_path):
    vit = {"model_name": "vit_tiny_patch16_224", "img_size": 32, "depth": 1, "in_chans": 1}
    encoder = Encoder(build_vit(vit), [0.25], [0.5], vit, (-30, 10), [2])
    write_hugging_face(encoder, tmp_path / "hf")
    found = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    (mean,), (std,) = found["image_mean"], found["image_std"]
    assert (-10 * found["rescale_factor"] - mean) / std == pytest.approx((20 / 40 - 0.25) / 0.5)
    assert formula(encoder) == "((x + 30) / 40 - mean) / std"
    assert deep_input(encoder)[1] == "bands 3 of the files"


def test_a_model_is_not_given_other_values_without_a_word(run_folder, tmp_path, capsys):
    shallow = write(tmp_path / "s", 4, "uint8")
    words = [str(run_folder), str(shallow), "-o", str(tmp_path / "x.npz"), "--workers", "0"]
    assert main(["embed", *words]) == 0
    assert "4 of 4 images are 8-bit: 8-bit values are scaled by 255" in capsys.readouterr().err
    other = write(tmp_path / "o", 4, channels=3)
    assert main(["embed", words[0], str(other), *words[2:]]) == 3
    error = capsys.readouterr().err
    assert "expects 5. Give such images, or a model of 3" in error
    assert "--channels" not in error


def test_randaugment_is_refused(run_folder, folders, tmp_path, capsys):
    words = ["finetune", run_folder, folders, "--out", tmp_path / "f", "--recipe", "small"]
    assert main([str(w) for w in [*words, "--randaug", "rand-m9-mstd0.5-inc1"]]) == 2
    assert "--randaug none" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_an_overfitted_model_is_right_in_the_values_of_the_file(tmp_path, run, sized):
    data = write(tmp_path / "d", 2, "float32", 2)
    words = sized("--dim", 48, "--depth", 2, "--heads", 4, "--decoder-dim", 32, "--batch-size", 8)
    more = ["--crop", 1.0, "--no-flip", "--lr", 0.1, "--target", "pixels", "--steps", 150]
    run("pretrain", data, "--channels", 2, "--out", tmp_path / "r", *words, *more)
    method = openmae.load(tmp_path / "r")
    low, high = method.encoder.value_range
    values = [tifffile.imread(p) for p in sorted(data.glob("*.tif"))]
    assert low == pytest.approx(min(v.min() for v in values))
    assert high == pytest.approx(max(v.max() for v in values))
    transform = EvalTransform((32, 32))
    images = torch.stack(
        [transform(decode(p, decoding_of(method.encoder))) for p in sorted(data.iterdir())]
    )
    (row, _) = reconstruct(method, images, Rand(0, 0, 0.0, 0, 2), ["a", "b"])
    physical = row.pictures[2] * (high - low) + low
    true = row.pictures[0] * (high - low) + low
    assert -30 < true.min() < true.max() < 10
    # the picture "original" has the values of the file, resized from 40x40 to 32x32
    file = tifffile.imread(data / "00.tif")[:, 2:42].mean(axis=(0, 1))
    np.testing.assert_allclose(true.mean(axis=(1, 2)), file, atol=0.1)
    hidden = np.isnan(row.pictures[1])
    error = np.sqrt(np.mean((physical[hidden] - true[hidden]) ** 2))
    assert error == pytest.approx(row.rmse[0], rel=1e-3)
    assert error < 0.4 * row.rmse[1]
    assert error < 3  # of 40 dB


def test_bands_select_and_order(tmp_path, run, sized):
    data = write(tmp_path / "d", 6)
    out = tmp_path / "r"
    run("pretrain", data, "--bands", 4, 1, "--out", out, *sized("--steps", 2))
    encoder = openmae.load(out).encoder
    assert (encoder.in_chans, encoder.bands) == (2, (3, 0))
    assert json.loads(metadata(out)["bands"]) == [3, 0]
    path = data / "00.tif"
    read = decode(path, decoding_of(encoder))
    mean, std = encoder.mean.flatten().numpy(), encoder.std.flatten().numpy()
    expected = (tifffile.imread(path)[..., [3, 0]] / 4095 - mean) / std
    np.testing.assert_allclose(read, expected, atol=1e-5)
    run("embed", out, data, "-o", tmp_path / "x.npz", "--workers", 0)
    run("reconstruct", out, data, "-o", tmp_path / "x.png", "--bands", 1)
    assert np.asarray(Image.open(tmp_path / "x.png")).std() > 3


MISTAKES = {
    "band": (["--bands", "1", "9"], 3, "has 5 bands, --bands asks for number 9"),
    "zero": (["--bands", "0"], 2, "counted from 1"),
    "count": (["--bands", "1", "2", "--channels", "3"], 2, "2 bands for 3 channels"),
    "range": (["--channels", "5", "--value-range", "9:1"], 2, "LOW:HIGH"),
    "channels": ([], 3, "Images have 5 channels (all 6), model expects 3. Add --channels 5"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name, tmp_path, sized, capsys):
    words, code, text = MISTAKES[name]
    data = write(tmp_path / "d", 6)
    out = tmp_path / "r"
    assert main(["pretrain", str(data), "--out", str(out), *sized("--steps", 2), *words]) == code
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) <= 4
    assert "Traceback" not in error
    assert not out.exists()


def test_a_deep_file_among_8_bit_ones_is_named_and_replaced(tmp_path, run, sized, make_images):
    data = make_images(tmp_path / "d", 6, channels=1)
    run("pretrain", data, "--channels", 1, "--out", tmp_path / "a", *sized("--steps", 2))
    Image.fromarray(deep(0, "uint16", 1)[..., 0]).save(data / "zz.png")
    found = run("embed", tmp_path / "a", data, "-o", tmp_path / "x.npz", "--workers", 0)
    assert "zz.png: uint16 values where 8-bit ones are read (pretrain --value-range)" in found


def test_the_bands_that_are_shown():
    def shown(channels, bands=(), chosen=(), value_range=None):
        encoder = openmae.MAE(
            in_chans=channels,
            image_size=32,
            encoder_args={"embed_dim": 16, "depth": 1, "num_heads": 2},
            decoder_depth=1,
        ).encoder
        encoder.bands, encoder.value_range = bands, value_range
        return display_of(encoder, chosen)

    assert shown(1).bands == shown(2).bands == (0,)
    assert shown(3).title() == ""
    assert shown(13).title() == ", bands 4 3 2 of 13"
    assert shown(4, bands=(7, 3, 2, 1)).numbers == (8, 4, 3)
    assert shown(4, bands=(7, 3, 2, 1), chosen=(4, 3, 2)).bands == (1, 2, 3)
    deep_one = shown(13, value_range=(0.0, 4095.0))
    picture = np.random.default_rng(0).random((13, 20, 20), dtype=np.float32) * 0.1
    window = deep_one.window(picture)
    out = to_rgb(picture, 1.0, deep_one.bands, window)
    np.testing.assert_allclose(np.percentile(out[..., 0], [2, 98]), [0, 255], atol=3)
    assert window[0, 1, 0, 0] == pytest.approx(np.percentile(picture[2], 2))
