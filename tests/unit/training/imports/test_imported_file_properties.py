"""Any file is imported or refused by name: damaged, truncated, exchanged, packed. No pickle in it is run."""

import base64
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import stable_baselines3 as sb3
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from marina.core import zip_files
from marina.core.errors import CallError
from tests.support.foreign_models import Payload
from tests.support.strategies import tried
from training.imports.baselines_policies import activation_of, rebuild
from training.imports.baselines_statistics import read_statistics
from training.imports.baselines_zip import printed_bounds, printed_space, read_policy
from training.imports.class_names import read_class_names
from training.imports.files import load_weights, read_program, read_state
from training.policies.envs.observe import action_spec, observation_spec
from training.policies.graphs.features import ObservationStatistics
from training.recipes.imported_policy import check_spaces

Make = Callable[[Path], None]
Read = Callable[[Path], Any]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


def program(path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(
        Network().eval(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: batch},), strict=False
    )
    torch.export.save(exported, path)


def agent(path: Path) -> None:
    model = sb3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, device="cpu")
    model._setup_learn(1)
    assert model.ep_info_buffer is not None
    model.ep_info_buffer.extend([{"r": 3.0, "l": 3, "t": 0.1}, {"r": np.float64(4.0), "l": 4, "t": 0.2}])
    model.save(path)


def read_whole_policy(path: Path) -> None:
    """As the recipe does, up to the graph."""
    saved = read_policy(path)
    check_spaces(saved, "CartPole-v1", {})
    activation, _ = activation_of(saved, None)
    rebuild(saved, observation_spec("CartPole-v1"), action_spec("CartPole-v1"), activation, None)


FORMATS: dict[str, tuple[Make, Read]] = {
    "a.pth": (lambda path: torch.save(Network().state_dict(), path), read_state),
    "old.pth": (
        lambda path: torch.save(Network().state_dict(), path, _use_new_zipfile_serialization=False),
        read_state,
    ),
    "a.ckpt": (lambda path: torch.save({"state_dict": Network().state_dict(), "epoch": 3}, path), read_state),
    "a.safetensors": (lambda path: safetensors.torch.save_file(Network().state_dict(), path), read_state),
    "a.pt2": (program, lambda path: read_program(path, False)),
    "agent.zip": (agent, read_whole_policy),
    "a.npz": (
        lambda path: np.savez(path, mean=np.zeros(4), var=np.ones(4)),
        lambda path: read_statistics(path, False),
    ),
    "a.json": (
        lambda path: path.write_text(json.dumps({"mean": [0.0] * 4, "var": [1.0] * 4})),
        lambda path: read_statistics(path, False),
    ),
    "names.txt": (
        lambda path: path.write_text("cat\ndog\n"),
        lambda path: read_class_names(str(path)),
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each format."""
    folder = tmp_path_factory.mktemp("sound")
    for name, (make, _) in FORMATS.items():
        make(folder / name)
    return folder


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What happens to the bytes of a file."""
    seed, way = draw(st.integers(0, 2**32)), draw(st.sampled_from(("cut", "flip", "zero", "insert", "other")))
    drawn = random.Random(seed)

    def spoil(content: bytes) -> bytes:
        place = drawn.randrange(len(content))
        spoiled = bytearray(content)
        if way == "cut":
            return content[:place]
        if way == "flip":
            for _ in range(drawn.choice((1, 3, 30))):
                spoiled[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        elif way == "zero":
            spoiled[place : place + 40] = bytes(len(spoiled[place : place + 40]))
        elif way == "insert":
            spoiled[place:place] = drawn.randbytes(drawn.choice((1, 9, 200)))
        else:
            return drawn.randbytes(drawn.choice((0, 1, 8, 300)))
        return bytes(spoiled)

    return spoil


def read_or_refuse(path: Path, read: Read) -> Any:
    """What is read, or None where it was refused by the file's name."""
    try:
        return read(path)
    except CallError as error:
        if path.name not in str(error):
            raise
        return None


@pytest.mark.parametrize("name", FORMATS)
def test_a_sound_file_is_read(name: str, sound: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((sound / name).read_bytes())

    FORMATS[name][1](tmp_path / name)


@tried(60)
@given(name=st.sampled_from(sorted(FORMATS)), spoil=damage())
def test_a_damaged_file_is_read_or_refused_by_name(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, name: str, spoil: Any
) -> None:
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(spoil((sound / name).read_bytes()))

    read_or_refuse(path, FORMATS[name][1])


@tried(30)
@given(name=st.sampled_from(sorted(FORMATS)), other=st.sampled_from(sorted(FORMATS)))
def test_a_file_under_another_name_is_read_or_refused(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, name: str, other: str
) -> None:
    path = tmp_path_factory.mktemp("exchanged") / name
    path.write_bytes((sound / other).read_bytes())

    read_or_refuse(path, FORMATS[name][1])


PARTS = st.lists(
    st.sampled_from(("conv", "norm", "fc", "module", "model", "_orig_mod", "loss", "0", "", "weight")),
    max_size=3,
)
SHAPES = st.sampled_from(((), (3,), (4,), (4, 3, 1, 1), (3, 4), (0,)))


@tried(150)
@given(extra=st.lists(st.tuples(PARTS, SHAPES), max_size=5), start=PARTS, dropped=st.integers(0, 12))
def test_any_state_dict_fits_or_is_refused(extra: Any, start: list[str], dropped: int) -> None:
    network = Network()
    prefix = "".join(f"{part}." for part in start)
    state = {f"{prefix}{key}": value + 1 for key, value in list(network.state_dict().items())[dropped:]}
    state |= {".".join(parts): torch.ones(shape) for parts, shape in extra}
    before = {key: value.clone() for key, value in network.state_dict().items()}

    try:
        load_weights(network, state, "a.pth")
    except CallError:
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    else:
        assert all(torch.equal(value, before[key] + 1) for key, value in network.state_dict().items())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
INNER_KEYS = (":type:", ":serialized:", "__module__", "_shape", "n", "low")
KEYS = st.sampled_from(
    (
        "policy_class",
        "policy_kwargs",
        "observation_space",
        "action_space",
        "num_timesteps",
        "ep_info_buffer",
        "clip_range",
        "_last_original_obs",
    )
)


@tried(100)
@given(
    key=KEYS,
    inner=st.none() | st.sampled_from((":type:", ":serialized:", "__module__", "_shape", "n", "low")),
    value=JSON,
)
def test_any_data_of_a_policy_is_read_or_refused_by_name(
    sound: Path, tmp_path_factory: pytest.TempPathFactory, key: str, inner: str | None, value: Any
) -> None:
    path = tmp_path_factory.mktemp("data") / "agent.zip"
    with zipfile.ZipFile(sound / "agent.zip") as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "data":
                data = json.loads(content)
                if inner is None or not isinstance(data.get(key), dict):
                    data[key] = value
                else:
                    data[key][inner] = value
                content = json.dumps(data).encode()
            new.writestr(member, content)

    read_or_refuse(path, read_whole_policy)


@pytest.mark.parametrize("name", ["a.pth", "a.ckpt", "a.pt2", "agent.zip", "a.npz"])
def test_a_packed_bomb_is_refused_before_it_is_unpacked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_files, "UNPACKED_BYTES", 1 << 20)
    path = tmp_path / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in ("data", "policy.pth", "archive/data.pkl", "archive/data/0", "models/model.json"):
            archive.writestr(member, bytes(1 << 20))

    with pytest.raises(CallError, match=rf"{name}.* unpacks to 5 MB from 0.0 MB"):
        FORMATS[name][1](path)


def test_nothing_is_written_beside_a_file(sound: Path, tmp_path: Path) -> None:
    """Members that would lie outside of a folder that they are unpacked to."""
    folder = tmp_path / "inner"
    folder.mkdir()
    for name in ("a.pth", "a.pt2", "agent.zip", "a.npz"):
        (folder / name).write_bytes((sound / name).read_bytes())
        with zipfile.ZipFile(folder / name, "a") as archive:
            archive.writestr("../outside", b"x")
            archive.writestr(str(tmp_path / "absolute"), b"x")

        read_or_refuse(folder / name, FORMATS[name][1])

    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a.npz",
        "a.pt2",
        "a.pth",
        "agent.zip",
        "inner",
    ]


@pytest.mark.parametrize("name", ["a.pth", "old.pth", "a.ckpt", "a.npz"])
def test_no_pickle_is_run(name: str, tmp_path: Path) -> None:
    payload, path = Payload(tmp_path / "run"), tmp_path / name
    if name == "a.npz":
        np.savez(path, mean=np.array([payload], object), var=np.ones(1))
    else:
        torch.save({"fc.weight": payload}, path, _use_new_zipfile_serialization=name != "old.pth")

    with pytest.raises(CallError, match=name):
        FORMATS[name][1](path)

    assert not (tmp_path / "run").exists()


def test_no_pickle_of_the_returns_is_run(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(sound / "agent.zip") as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "data":
                data = json.loads(content)
                pickled = pickle.dumps([{"r": Payload(tmp_path / "run")}])
                data["ep_info_buffer"][":serialized:"] = base64.b64encode(pickled).decode()
                content = json.dumps(data).encode()
            new.writestr(member, content)

    assert read_policy(path).returns == []
    assert not (tmp_path / "run").exists()


@tried(200)
@given(space=st.dictionaries(st.sampled_from((":type:", "_shape", "n", "nvec", "low", "high")), JSON))
def test_any_printed_space_is_read(space: dict[str, Any]) -> None:
    kind, sizes = printed_space(space)

    assert isinstance(kind, str)
    assert all(isinstance(size, int) for size in sizes)
    for bounds in printed_bounds(space):
        assert all(isinstance(bound, float) for bound in bounds)


@tried(100)
@given(mean=JSON, var=JSON, clip=JSON)
def test_any_statistics_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, mean: Any, var: Any, clip: Any
) -> None:
    path = tmp_path_factory.mktemp("statistics") / "a.json"
    path.write_text(json.dumps({"mean": mean, "var": var, "clip_obs": clip}))

    found = read_or_refuse(path, lambda path: read_statistics(path, False))

    assert found is None or isinstance(found, ObservationStatistics)
