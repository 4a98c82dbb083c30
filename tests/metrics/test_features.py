"""The classifier behind the scores: trained once, equal every time, kept in the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tinygen import metrics, random
from tinygen.data import Dataset, load
from tinygen.metrics import feature_net, features, score_samples


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(features, "STEPS", 80)
    monkeypatch.setattr(features, "BATCH", 32)
    return tmp_path / "cache"


def stripes(n=300, seed=0, labelled=True):
    """12 x 12 images with a horizontal or a vertical bar, in noise."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (n, 1, 12, 12))
    labels = rng.integers(0, 2, n)
    for image, label, place in zip(images, labels, rng.integers(0, 12, n), strict=True):
        (image[0] if label else image[0].T)[place] += 150
    images = images.astype(np.uint8)
    return Dataset(images, labels, ("up", "across"), "stripes") if labelled else Dataset(images)


def weights(net):
    return {name: value.numpy().copy() for name, value in net.state_dict().items()}


def test_it_learns_the_classes_and_says_how_well():
    held_out = stripes(seed=1)
    net = feature_net(stripes(), held_out)
    assert net.accuracy.item() > 0.9
    p = net.probabilities(held_out.images)
    assert (p.argmax(axis=1) == held_out.labels).mean() == pytest.approx(net.accuracy.item())
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert net.features(held_out.images).shape == (300, 128)


def test_bytes_and_floats_are_the_same_images():
    data = stripes(8)
    net = feature_net(stripes(labelled=False))
    floats = data.images.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(net.features(data.images), net.features(floats), rtol=1e-4)


def test_equal_data_and_seed_give_equal_weights():
    first = weights(feature_net(stripes(), cache=False))
    random.uniform(100)  # the default generator stands elsewhere now
    second = weights(feature_net(stripes(), cache=False))
    other = weights(feature_net(stripes(), cache=False, seed=1))
    assert all((first[name] == second[name]).all() for name in first if name != "accuracy")
    assert (first["head.weight"] != other["head.weight"]).any()


def test_it_draws_nothing_from_the_default_generator():
    before = random.get_state()
    feature_net(stripes())
    assert random.get_state() == before


def test_it_is_trained_once(own_cache, monkeypatch):
    first = weights(feature_net(stripes(), stripes(seed=1)))
    (file,) = own_cache.rglob("*.safetensors")
    assert file.name.startswith("stripes-1x12x12-")
    monkeypatch.setattr(features, "_train", None)  # calling it would be an error
    second = weights(feature_net(stripes(), stripes(seed=1)))
    assert all((first[name] == second[name]).all() for name in first)


def test_other_images_are_other_data(own_cache):
    feature_net(stripes())
    feature_net(stripes(seed=2))
    assert len(list(own_cache.rglob("*.safetensors"))) == 2


def test_a_damaged_cache_is_made_again(own_cache):
    first = weights(feature_net(stripes()))
    (file,) = own_cache.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    second = weights(feature_net(stripes()))
    assert (first["head.weight"] == second["head.weight"]).all()
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written(own_cache):
    own_cache.write_text("a file where the folder should be")
    assert feature_net(stripes(), stripes(seed=1)).accuracy.item() > 0.9


def test_without_labels_the_features_are_random_ones(own_cache):
    data = stripes(labelled=False)
    net = feature_net(data)
    assert (net.features(data.images) == feature_net(data).features(data.images)).all()
    assert np.isnan(net.accuracy.item())
    assert not own_cache.exists()
    with pytest.raises(ValueError, match="no labels"):
        net.probabilities(data.images)


@pytest.mark.parametrize("labelled", [True, False])
def test_scores_tell_good_samples_from_bad_ones(labelled):
    training, held_out = stripes(300, labelled=labelled), stripes(150, 1, labelled)
    net = feature_net(training, held_out)
    like_real = stripes(150, seed=2)
    real = like_real.images.astype(np.float32) / 127.5 - 1

    def scores(samples):
        return score_samples(samples, training, held_out, net)

    good = scores(real)
    noise = scores(np.random.default_rng(0).uniform(-1, 1, real.shape))
    few = scores(real[np.arange(150) % 5])
    copies = scores(training.images[:150].astype(np.float32) / 127.5 - 1)
    assert good["frechet"] < 0.2 * noise["frechet"]
    assert good["frechet"] < 0.5 * few["frechet"]
    assert good["precision"] > 0.8 > 0.2 > noise["precision"]
    assert good["recall"] > 0.8 > 0.2 > few["recall"]
    assert copies["nearest_rms"] == 0
    assert good["nearest_rms"] == pytest.approx(good["nearest_rms_real"], rel=0.1)
    assert all(isinstance(value, int | float) for value in good.values())
    assert ("score" in good) == labelled
    if labelled:
        assert good["score"] == pytest.approx(good["score_real"], rel=0.1)
        one_class = scores(real[like_real.labels == 1])
        assert one_class["largest_class_share"] > 0.8 > good["largest_class_share"]
        assert one_class["score"] - 1 < 0.5 * (good["score"] - 1)


def test_few_held_out_images_are_not_what_samples_are_compared_with():
    training, held_out = stripes(200, labelled=False), stripes(20, 1, labelled=False)
    net = feature_net(training)
    scores = score_samples(np.zeros((500, 1, 12, 12), np.float32), training, held_out, net)
    assert scores["samples"] == 200
    assert "frechet_real" not in scores
    assert "nearest_rms_real" in scores


def test_real_digits_score_as_real_ones_should(monkeypatch):
    if not (Path(os.environ.get("TINYGEN_DATA", "")) / "mnist").is_dir():
        pytest.skip("needs MNIST in TINYGEN_DATA")
    monkeypatch.setattr(features, "STEPS", 150)
    monkeypatch.setattr(features, "BATCH", 128)
    training, test = load("mnist"), load("mnist", split="test")
    net = feature_net(training, test)
    assert net.accuracy.item() > 0.9  # 0.987 after full training
    p, f = net.probabilities(test.images), net.features(test.images)
    assert metrics.inception_style_score(p).mean > 6.5  # 9.4 after full training
    assert metrics.frechet_distance(net.features(training.images[:10_000]), f) < 5
    noise = np.random.default_rng(0).uniform(-1, 1, (2000, 1, 28, 28)).astype(np.float32)
    assert metrics.inception_style_score(net.probabilities(noise)).mean < 2.5
    assert metrics.frechet_distance(net.features(noise), f) > 100
