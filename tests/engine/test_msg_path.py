"""Types that a bag does not define: folders of definitions, distributions, and what is said of bad ones."""

from __future__ import annotations

import dataclasses
import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from ros_to_parquet import contract, run
from ros_to_parquet.contract import ContractError, ExitCode, ExtractOptions
from ros_to_parquet.definitions import CUSTOM
from ros_to_parquet.errors import ShardError
from ros_to_parquet.layout import Layout, definition_of, resolve_layout, standard_layout
from ros_to_parquet.msg_path import MsgPathError, load_types
from tests.engine.decode.blocks import connection
from tests.engine.decode.oracles import typestore
from tests.engine.sample_bags import write_mcap
from tests.engine.test_run import JOB, cli, extract, plan_for, rows

if TYPE_CHECKING:
    from airflow_batch_ros.local import EmbeddedAws

PACKAGE_XML = '<?xml version="1.0"?>\n<package format="3">\n  <name>{}</name>\n</package>\n'
WHEEL = "uint8 LEFT=0\nuint8 side\nPose[] poses\n"
POSE = "float64 x\nother_msgs/Stamp stamp\n"
STAMP = "builtin_interfaces/Time at\n"
PACKAGES = {
    "car_msgs/msg/Wheel.msg": WHEEL,
    "car_msgs/msg/Pose.msg": POSE,
    "other_msgs/msg/Stamp.msg": STAMP,
}
WHEEL_BYTES = (
    b"\0\1\0\0"
    + struct.pack("<B3xI", 1, 2)
    + struct.pack("<diI", 1.5, 7, 8)
    + struct.pack("<diI", 2.5, 9, 10)
)
WHEEL_ROW = {
    "side": 1,
    "poses": [
        {"x": 1.5, "stamp": {"at": {"sec": 7, "nanosec": 8}}},
        {"x": 2.5, "stamp": {"at": {"sec": 9, "nanosec": 10}}},
    ],
}


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def layout(folder: Path, type_name: str, **more: Any) -> Layout:
    return resolve_layout(connection(type_name, **more), load_types(ExtractOptions(msg_paths=(str(folder),))))


def names(found: Layout) -> list[str]:
    return [field.name for field in found.root.fields]


def test_a_type_of_a_custom_package_becomes_rows(tmp_path: Path) -> None:
    bag = write_mcap(tmp_path / "a.mcap", "car_msgs/msg/Wheel", [WHEEL_BYTES] * 3)
    manifest = extract(bag, output=tmp_path / "lake")
    (topic,) = manifest.topics
    assert (topic.rows, topic.rejected) == (0, 3)
    assert "type car_msgs/msg/Wheel: the bag holds no definition of it" in topic.rejects[0].reason
    assert "--msg-path FOLDER, in a conf 'msg_path'" in topic.rejects[0].reason

    packages = write(tmp_path / "src", PACKAGES)
    done = cli("extract", bag, "--output", tmp_path / "lake2", "--msg-path", packages, "--drive-id", "d")
    assert done.returncode == 0, done.stderr
    table = rows(tmp_path / "lake2", "topic")
    assert table.select(["side", "poses"]).to_pylist() == [WHEEL_ROW] * 3
    (file,) = (tmp_path / "lake2").glob("[!_]*/**/*.parquet")
    metadata = {key.decode(): value.decode() for key, value in pq.read_metadata(file).metadata.items()}
    recorded = connection("car_msgs/msg/Wheel", metadata["ros.definition"])
    assert metadata["ros.definition_format"] == "ros2msg"
    assert resolve_layout(recorded).root == layout(packages, "car_msgs/msg/Wheel").root
    again = cli("extract", bag, "--output", tmp_path / "lake2", "--msg-path", packages, "--drive-id", "d")
    assert "Nothing to do" in again.stdout
    other = cli("extract", bag, "--output", tmp_path / "lake2", "--drive-id", "d")
    assert other.returncode == ExitCode.USAGE
    assert "other options" in other.stderr


def test_of_several_folders_the_first_that_has_a_type_wins(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"pkg/msg/A.msg": "uint8 a", "pkg/msg/B.msg": "A a"})
    two = write(tmp_path / "two", {"pkg/msg/A.msg": "uint8 other", "pkg/msg/C.msg": "A a"})
    types = load_types(ExtractOptions(msg_paths=(str(one), str(two))))
    assert names(resolve_layout(connection("pkg/msg/A"), types)) == ["a"]
    assert names(Layout(resolve_layout(connection("pkg/msg/C"), types).root.fields[0].node, 2, "")) == ["a"]  # type: ignore[arg-type]


def test_bag_then_msg_path_then_standard_types(tmp_path: Path) -> None:
    folder = write(tmp_path, {"std_msgs/msg/String.msg": "uint16 number", "pkg/msg/In.msg": "uint8 custom"})
    assert layout(folder, "std_msgs/msg/String").source == CUSTOM
    assert names(layout(folder, "std_msgs/msg/String")) == ["number"]
    assert names(layout(folder, "std_msgs/msg/String", definition="string data")) == ["data"]
    assert layout(folder, "std_msgs/msg/Bool").source == "ros2_lyrical"
    (inner,) = layout(folder, "pkg/msg/Out", definition="In inside").root.fields
    assert [field.name for field in inner.node.fields] == ["custom"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "place",
    [
        "car_msgs/msg/Wheel.msg",
        "src/deep/car_msgs/msg/Wheel.msg",
        "car_msgs/msg/versioned/Wheel.msg",
        "car_msgs/Wheel.msg",
        "install/car_msgs/share/car_msgs/msg/Wheel.msg",
    ],
)
def test_layouts_of_packages(tmp_path: Path, place: str) -> None:
    assert names(layout(write(tmp_path, {place: "uint8 x"}), "car_msgs/msg/Wheel")) == ["x"]


def test_the_package_is_what_package_xml_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"repository/package.xml": PACKAGE_XML.format("car_msgs"), "repository/msg/A.msg": "uint8 x"},
    )
    assert names(layout(tmp_path, "car_msgs/msg/A")) == ["x"]
    assert names(layout(tmp_path / "repository", "car_msgs/msg/A")) == ["x"]


def test_the_package_itself_and_its_msg_folder_can_be_named(tmp_path: Path) -> None:
    write(tmp_path, PACKAGES)
    assert names(layout(tmp_path / "other_msgs", "other_msgs/msg/Stamp")) == ["at"]
    assert names(layout(tmp_path / "other_msgs" / "msg", "other_msgs/msg/Stamp")) == ["at"]


def test_services_actions_and_idl(tmp_path: Path) -> None:
    verbatim = '@verbatim(language="comment", text="x")'
    idl = f"module pkg {{ module msg {{\n{verbatim}\nstruct Idl {{ octet b; string<3> s; }}; }}; }};"
    write(
        tmp_path,
        {
            "pkg/srv/Add.srv": "int64 a\n---\nint64 sum",
            "pkg/srv/Add_Request.msg": "int64 a",
            "pkg/action/Go.action": "int64 to\n---\nbool there\n---\nfloat32 left",
            "pkg/msg/Idl.idl": idl,
            "pkg/msg/Twice.msg": "uint8 by_hand",
            "pkg/msg/Twice.idl": "module pkg { module msg { struct Twice { octet generated; }; }; };",
        },
    )
    assert names(layout(tmp_path, "pkg/srv/Add_Response")) == ["sum"]
    assert names(layout(tmp_path, "pkg/srv/Add_Event")) == ["info", "request", "response"]
    assert names(layout(tmp_path, "pkg/action/Go_FeedbackMessage")) == ["goal_id", "feedback"]
    assert names(layout(tmp_path, "pkg/msg/Idl")) == ["b", "s"]
    assert names(layout(tmp_path, "pkg/msg/Twice")) == ["by_hand"]


def test_time_and_header_are_those_of_the_bags_ros_version(tmp_path: Path) -> None:
    write(tmp_path, {"pkg/msg/A.msg": "time at\nHeader header"})
    for encoding, header in (("ros1", ["seq", "stamp", "frame_id"]), ("cdr", ["stamp", "frame_id"])):
        found = layout(tmp_path, "pkg/msg/A", encoding=encoding)
        assert [field.name for field in found.root.fields[1].node.fields] == header  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"pkg/notes.txt": "x"}, "no message definition there (.msg, .srv, .action, .idl)"),
        (
            {"pkg/msg/A.msg": "# fine\nuint8 a\nuint8 b-c"},
            "pkg/msg/A.msg, line 3: does not parse: 'uint8 b-c'",
        ),
        ({"pkg/srv/A.srv": "uint8 a\n---\n\nuint8"}, "pkg/srv/A.srv, line 4: does not parse: 'uint8'"),
        ({"pkg/srv/A.srv": "\n---\n---\n---\n"}, "pkg/srv/A.srv, line 4: begins one part too many"),
        (
            {"pkg/msg/A.idl": "module pkg {\n module msg {\n  struct A {\n   octet a\n   octet b;\n}; }; };"},
            "pkg/msg/A.idl, line 5: does not parse as IDL: 'octet b;'",
        ),
        (
            {"pkg/msg/A.idl": "module pkg { module msg {\n struct A { @optional octet a; }; }; };"},
            "A.idl, line 2: is",
        ),
        (
            {"x/pkg/msg/A.msg": "uint8 a", "y/pkg/msg/A.msg": "uint8 b"},
            "y/pkg/msg/A.msg both define pkg/msg/A, and differ; name the folder of one",
        ),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, files: Mapping[str, str], said: str) -> None:
    folder = write(tmp_path / "msgs", files)
    options = ExtractOptions(msg_paths=(str(folder),))
    with pytest.raises(MsgPathError) as caught:
        load_types(options)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    bag = write_mcap(tmp_path / "a.mcap", "pkg/msg/A", [b"\0\1\0\0\1"])
    plan = plan_for(bag, output=tmp_path / "lake", options=options)
    with pytest.raises(ShardError) as refused:
        run.run_shard(plan, 0, JOB)
    assert refused.value.exit_code is ExitCode.USAGE


def test_the_command_line_refuses_before_it_writes(tmp_path: Path) -> None:
    bag = write_mcap(tmp_path / "a.mcap", "pkg/msg/A", [b"\0\1\0\0\1"])
    done = cli("extract", bag, "--output", tmp_path / "lake", "--msg-path", tmp_path / "nothing")
    assert done.returncode == ExitCode.USAGE
    assert "no message definition there" in done.stderr
    done = cli("extract", bag, "--output", tmp_path / "lake", "--ros-distro", "hydra")
    assert done.returncode == ExitCode.USAGE
    assert "humble" in done.stderr
    assert not (tmp_path / "lake").exists()


def test_a_plan_with_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(
        ContractError, match="ROS distribution 'hydra' is not known; known are lyrical, kilted"
    ):
        load_types(ExtractOptions(ros_distro="hydra"))


def test_the_distribution_says_which_standard_type_is_tried_first() -> None:
    bare = connection("visualization_msgs/msg/Marker")
    for name in contract.ROS2_DISTRIBUTIONS:
        types = load_types(ExtractOptions(ros_distro=name))
        found = resolve_layout(bare, types)
        assert found.source == f"ros2_{name}"
        assert found.root == standard_layout(bare.type_name, f"ros2_{name}", 2).root
    humble = load_types(ExtractOptions(ros_distro="humble"))
    assert resolve_layout(connection("std_msgs/Header", encoding="ros1"), humble).source == "ros1_noetic"
    assert resolve_layout(bare, load_types(ExtractOptions(ros_distro="noetic"))).source == "ros2_lyrical"


def test_the_distribution_decides_where_several_fit(tmp_path: Path) -> None:
    """An empty array says nothing of its items: any distribution's definition fits."""
    store = typestore("ros2_foxy")
    markers = store.types["visualization_msgs/msg/MarkerArray"](markers=[])
    payload = bytes(store.serialize_cdr(markers, markers.__msgtype__))
    bag = write_mcap(tmp_path / "a.mcap", markers.__msgtype__, [payload])
    made = {}
    for name in ("", "foxy"):
        extract(bag, output=tmp_path / f"lake_{name}", options=ExtractOptions(ros_distro=name))
        made[name] = rows(tmp_path / f"lake_{name}", "topic").schema.field("markers").type.value_type
        known = standard_layout("visualization_msgs/msg/Marker", f"ros2_{name or 'lyrical'}", 2)
        assert [child.name for child in made[name]] == names(known)
    assert made[""] != made["foxy"]


@pytest.mark.parametrize(("store", "version"), [("ros1_noetic", 1), ("ros2_humble", 2), ("ros2_lyrical", 2)])
def test_definition_texts_say_what_was_resolved(store: str, version: Any) -> None:
    for name in typestore(store).fielddefs:
        known = standard_layout(name, store, version)
        if not known.root.fields:
            continue
        again = connection(name, definition_of(known)[0], encoding="ros1" if version == 1 else "cdr")
        assert resolve_layout(again).root.fields == known.root.fields


def test_folders_of_the_environment_come_after_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an image has its own; they are not outside of what a deployment allows, for it has set them."""
    own = write(tmp_path / "own", PACKAGES)
    (tmp_path / "raw").mkdir()
    bag = write_mcap(tmp_path / "raw" / "a.mcap", "car_msgs/msg/Wheel", [WHEEL_BYTES])
    plan = plan_for(bag, output=tmp_path / "lake")
    path = tmp_path / "lake" / contract.plan_key("drive_1", plan.plan_id)
    environment = {
        "ROS_TO_PARQUET_MSG_PATH": f"{own}, ",
        "ROS_TO_PARQUET_ALLOW": f"{tmp_path}/raw,{tmp_path}/lake",
    }
    done = cli("run", "--plan", path, **environment)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "lake", "topic").select(["side", "poses"]).to_pylist() == [WHEEL_ROW]

    other = write(tmp_path / "other", {"car_msgs/msg/Wheel.msg": "uint8 place\n"})
    monkeypatch.setenv("ROS_TO_PARQUET_MSG_PATH", f"{other},{tmp_path}/missing")
    with pytest.raises(ShardError, match=r"msg path .*missing: no message definition there"):
        run.read_types(ExtractOptions())
    monkeypatch.setenv("ROS_TO_PARQUET_MSG_PATH", str(other))
    layout = resolve_layout(
        connection("car_msgs/msg/Wheel"), run.read_types(ExtractOptions(msg_paths=(str(own),)))
    )
    assert [field.name for field in layout.root.fields] == ["side", "poses"]


def test_msg_paths_on_s3(tmp_path: Path, embedded_aws: EmbeddedAws) -> None:
    bucket = f"msgs-{uuid.uuid4().hex[:12]}"
    s3 = embedded_aws.client("s3")
    s3.create_bucket(Bucket=bucket)
    for name, text in PACKAGES.items():
        s3.put_object(Bucket=bucket, Key=f"ours/{name}", Body=text.encode())
    bag = write_mcap(tmp_path / "a.mcap", "car_msgs/msg/Wheel", [WHEEL_BYTES])
    environment = embedded_aws.environment()
    options = ExtractOptions(msg_paths=(f"s3://{bucket}/ours",))
    plan = plan_for(bag, output=tmp_path / "lake", options=options)
    path = tmp_path / "lake" / contract.plan_key("drive_1", plan.plan_id)
    for allowed, code in (
        (f"{tmp_path}", ExitCode.PLAN_REFUSED),
        (f"{tmp_path},s3://{bucket}/our", ExitCode.PLAN_REFUSED),
        (f"{tmp_path},s3://{bucket}/ours/", ExitCode.OK),
    ):
        done = cli("run", "--plan", path, **environment, ROS_TO_PARQUET_ALLOW=allowed)
        assert done.returncode == code, done.stderr
        assert code is ExitCode.OK or f"s3://{bucket}/ours is outside of what" in done.stderr
    assert rows(tmp_path / "lake", "topic").select(["side", "poses"]).to_pylist() == [WHEEL_ROW]
    missing = dataclasses.replace(options, msg_paths=("s3://no-such-bucket-here/x",))
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        with pytest.raises(ShardError, match="msg path s3://no-such-bucket-here/x") as caught:
            run.read_types(missing)
    assert caught.value.exit_code is ExitCode.INPUT_MISSING
