"""Which products are in bfloat16, and that they are nearly those of float32."""

import json
import os
import subprocess
import sys

import pytest

from guim_tf.precision import VARIABLE, prefer_bfloat16


@pytest.fixture
def cpu(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("flags\t\t: fpu avx512_bf16 amx_tile amx_bf16\n")
    return file


def test_a_processor_with_amx_gets_bfloat16(cpu, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert prefer_bfloat16(cpu)
    assert os.environ[VARIABLE] == "BF16"
    monkeypatch.delenv(VARIABLE)


def test_others_stay_in_float32(cpu, tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    cpu.write_text("flags\t\t: fpu avx512_bf16 amx_bf16_not\n")
    assert not prefer_bfloat16(cpu)
    assert not prefer_bfloat16(tmp_path / "none")
    assert VARIABLE not in os.environ


def test_the_users_choice_stands(cpu, monkeypatch):
    monkeypatch.setenv(VARIABLE, "FP32")
    assert not prefer_bfloat16(cpu)
    assert os.environ[VARIABLE] == "FP32"


_LOSS = """
import json
import numpy as np
import tensorflow as tf
from guim_tf.losses import Candidates, InfoNCE
from guim_tf.layers import Linear

rng = np.random.default_rng(0)
layer = Linear(64, initializer="glorot")
x = tf.constant(rng.normal(size=[96, 32]), tf.float32)
layer(x)
layer.kernel.assign(rng.normal(size=[32, 64]) / 6)
candidates = Candidates(
    vector=tf.constant(rng.normal(size=[48, 64]), tf.float32),
    key=tf.range(48, dtype=tf.int64),
    probability=tf.fill([48], 0.1),
    item=tf.range(48),
    owner=tf.range(48) % 8,
)

@tf.function
def step():
    with tf.GradientTape() as tape:
        loss = InfoNCE(5.0, None, True)(
            tf.reshape(layer(x), [48, 2, 64]), tf.range(48), candidates, seed=tf.constant([0, 0])
        )
    return loss, tape.gradient(loss, layer.kernel)

loss, gradient = step()
print(json.dumps([float(loss), gradient.numpy().tolist()]))
"""


def test_a_loss_and_its_gradient_are_nearly_those_of_float32():
    found = {}
    for mode in ("BF16", "FP32"):
        done = subprocess.run(
            [sys.executable, "-c", _LOSS],
            env=os.environ | {VARIABLE: mode, "TF_USE_LEGACY_KERAS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        loss, gradient = json.loads(done.stdout)
        found[mode] = [loss, *(number for row in gradient for number in row)]
    scale = max(map(abs, found["FP32"][1:]))
    assert found["BF16"][0] == pytest.approx(found["FP32"][0], rel=2e-3)
    for mine, exact in zip(found["BF16"][1:], found["FP32"][1:], strict=True):
        assert mine == pytest.approx(exact, abs=0.03 * scale)
