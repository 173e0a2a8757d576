"""Every end of a shard has one cause, by the texts that AWS gives and the codes that the engine ends with."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from airflow_batch_ros import failures
from airflow_batch_ros.causes import HELP, Cause, cause_of, cause_of_error, cause_of_problem, reclaims
from airflow_batch_ros.failures import FailedShard, add_log_lines, last_lines
from ros_to_parquet.contract import ExitCode
from tests.provider.conftest import ROOT

EXITED = "Essential container in task exited"


def ended(
    status: str = EXITED, *, exit_code: int | None = None, reason: str | None = None, **more: Any
) -> dict[str, Any]:
    """A job that failed, as DescribeJobs has it after its only attempt."""
    container = {"exitCode": exit_code, "reason": reason, "logStreamName": "x/default/1"}
    said = {key: value for key, value in container.items() if value is not None}
    attempt = {"container": said, "statusReason": status}
    return {"status": "FAILED", "statusReason": status, "container": said, "attempts": [attempt], **more}


MISCONFIGURED = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"
NO_CAPACITY = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested"
UNDETERMINED = "UNDETERMINED - Batch job is blocked, root cause is undetermined."
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
PULL = "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref"
NO_RIGHT = f"{PULL}: AccessDeniedException: not authorized to perform ecr:BatchGetImage"
NO_ROLE = "ECS was unable to assume the role 'arn:aws:iam::123456789012:role/x' that was provided."
REGISTRY = (
    "ResourceInitializationError: unable to pull secrets or registry auth: The task cannot pull registry "
    "auth from Amazon ECR: There is a connection issue between the task and Amazon ECR."
)
TIMED_OUT = "Job attempt duration exceeded timeout"
NO_COMMAND = 'CannotStartContainerError: exec: "x": executable file not found in $PATH'


def unstarted(reason: str) -> dict[str, Any]:
    return ended("Task failed to start", reason=reason)


@pytest.mark.parametrize(
    ("detail", "cause"),
    [
        # Spot, on EC2 and on Fargate, whether the container had time to end or not
        (ended("Host EC2 (instance i-0f2c6e1bd) terminated."), Cause.SPOT_RECLAIM),
        (ended("Host EC2 Terminated"), Cause.SPOT_RECLAIM),
        (ended("Your Spot Task was interrupted.", exit_code=75), Cause.SPOT_RECLAIM),
        (ended("Your Spot Task was interrupted.", exit_code=137), Cause.SPOT_RECLAIM),
        (ended(exit_code=143), Cause.SPOT_RECLAIM),
        # Memory, as the two platforms word it, and where the kernel alone knows
        (ended(exit_code=137, reason=OUT_OF_MEMORY), Cause.OUT_OF_MEMORY),
        (ended(exit_code=137, reason="OutOfMemory: container was killed"), Cause.OUT_OF_MEMORY),
        (ended(exit_code=137), Cause.OUT_OF_MEMORY),
        (ended(TIMED_OUT, exit_code=75), Cause.TIMEOUT),
        (ended(TIMED_OUT, exit_code=137), Cause.TIMEOUT),
        # What never started
        (unstarted(PULL), Cause.IMAGE_MISSING),
        (unstarted(REGISTRY), Cause.IMAGE_MISSING),
        (unstarted(f"{PULL}: no space left on device"), Cause.DISK),
        (unstarted(NO_RIGHT), Cause.ACCESS_DENIED),
        (unstarted(NO_ROLE), Cause.ACCESS_DENIED),
        (unstarted("DockerTimeoutError: Could not transition to started"), Cause.THROTTLED),
        (unstarted(NO_COMMAND), Cause.IMAGE_MISSING),
        (unstarted("CannotCreateContainerError: bad mount"), Cause.REFUSED),
        (ended(MISCONFIGURED, isCancelled=True), Cause.STUCK_IN_RUNNABLE),
        (ended(NO_CAPACITY, isCancelled=True), Cause.STUCK_IN_RUNNABLE),
        (ended(UNDETERMINED, isCancelled=True), Cause.STUCK_IN_RUNNABLE),
        (ended("Stuck in RUNNABLE for 3600 s", isTerminated=True), Cause.STUCK_IN_RUNNABLE),
        # Somebody's act, whatever the container did about it
        (ended("make room", isTerminated=True), Cause.CANCELLED),
        (ended("make room", exit_code=75, isTerminated=True), Cause.CANCELLED),
        (ended("make room", isCancelled=True), Cause.CANCELLED),
        # The engine's own
        (ended(exit_code=1), Cause.ENGINE_ERROR),
        (ended(exit_code=2), Cause.REFUSED),
        (ended(exit_code=4), Cause.REFUSED),
        (ended(exit_code=65), Cause.BAG_UNREADABLE),
        (ended(exit_code=66), Cause.INPUT_MISSING),
        (ended(exit_code=73), Cause.INPUT_MISSING),
        (ended(exit_code=75), Cause.THROTTLED),
        (ended(exit_code=77), Cause.ACCESS_DENIED),
        (ended(exit_code=78), Cause.REFUSED),
        (ended(exit_code=139), Cause.ENGINE_ERROR),
        (ended(exit_code=70), Cause.ENGINE_ERROR),
        (ended(""), Cause.LOST),
        (ended(exit_code=0), Cause.LOST),
        (None, Cause.LOST),
    ],
)
def test_what_batch_says(detail: dict[str, Any] | None, cause: Cause) -> None:
    assert cause_of(detail) is cause


@pytest.mark.parametrize(
    ("code", "reason", "status", "cause"),
    [
        (75, "s3://x/y: SlowDown", EXITED, Cause.THROTTLED),
        (75, "ended by SIGTERM; run it again, which goes on from what is done", EXITED, Cause.SPOT_RECLAIM),
        (75, "ended by SIGTERM; run it again", TIMED_OUT, Cause.TIMEOUT),
        (73, "/tmp: No space left on device", EXITED, Cause.DISK),
        (1, "OSError: [Errno 28] Error writing bytes to file", EXITED, Cause.DISK),
        (73, "[Errno 122] Disk quota exceeded; scratch is /tmp", EXITED, Cause.DISK),
        (73, "s3://lake/x: no such bucket", EXITED, Cause.INPUT_MISSING),
        (1, "KeyError: 'x'", EXITED, Cause.ENGINE_ERROR),
        (
            1,
            "type a/B: the bag holds no definition of it and it is no standard type",
            EXITED,
            Cause.TYPE_UNKNOWN,
        ),
        (77, "s3://x/y: access denied", EXITED, Cause.ACCESS_DENIED),
    ],
)
def test_what_the_shards_own_record_says(code: int, reason: str, status: str, cause: Cause) -> None:
    assert cause_of(ended(status, exit_code=code), exit_code=code, reason=reason) is cause
    if status == EXITED:  # and where Batch has forgotten the job
        assert cause_of(None, exit_code=code, reason=reason) is cause


def test_every_exit_code_has_a_cause() -> None:
    assert {cause_of(ended(exit_code=int(code))) for code in ExitCode if code} - set(Cause) == set()


def test_attempts_that_were_reclaimed_are_counted() -> None:
    job = ended("Your Spot Task was interrupted.")
    others = [
        {"statusReason": EXITED, "container": {}},
        {"statusReason": "Host EC2 (instance i-0) terminated."},
    ]
    assert reclaims({**job, "attempts": [*others, *job["attempts"]]}) == 2
    assert reclaims({}) == 0


def test_errors_and_problems_have_causes() -> None:
    assert cause_of_error("AccessDeniedException") is Cause.ACCESS_DENIED
    assert cause_of_error("TooManyRequestsException") is Cause.THROTTLED
    assert cause_of_error("ClientException") is Cause.REFUSED
    assert cause_of_problem("bag x at offset 3: cut off") is Cause.BAG_UNREADABLE
    text = "topic /a: 3 of 3 messages rejected; the first: bag b at offset 1: type a/B: "
    assert cause_of_problem(f"{text}cut off") is Cause.BAG_UNREADABLE
    assert cause_of_problem(f"{text}the bag holds no definition of it") is Cause.TYPE_UNKNOWN


def test_every_cause_is_documented() -> None:
    assert set(HELP) == set(Cause)
    table = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(Cause)


# --- log lines --------------------------------------------------------------------------------------


class Logs:
    """CloudWatch with the pages of one stream."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), 0

    def get_log_events(self, **_: Any) -> Any:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {"events": [{"message": text} for text in answer], "nextBackwardToken": "b"}


def lines(*answers: Any) -> tuple[str, ...]:
    return last_lines(cast(Any, Logs(*answers)), "group", "stream")


def test_the_last_lines_are_few_and_short() -> None:
    assert lines(["1\n2", "3", "4", "5", "6"]) == ("2", "3", "4", "5", "6")
    (long,) = lines(["x" * 1000])
    assert (len(long), long[-3:]) == (failures.LOG_LINE_LENGTH, "...")
    assert lines([], ["late"]) == ("late",), "CloudWatch may give an empty page first"


def test_a_log_that_is_not_there_is_said() -> None:
    def refused(code: str) -> ClientError:
        return ClientError({"Error": {"Code": code, "Message": "no"}}, "GetLogEvents")

    assert lines(refused("ResourceNotFoundException")) == ("(CloudWatch has no stream stream in group)",)
    assert "AccessDeniedException" in lines(refused("AccessDeniedException"))[0]
    assert "cannot be read" in lines(EndpointConnectionError(endpoint_url="http://x"))[0]
    assert lines([]) == ("(its log is empty)",)


def test_lines_are_of_the_first_shard_of_each_cause() -> None:
    causes = [Cause.DISK, Cause.DISK, Cause.LOST, Cause.IMAGE_MISSING, Cause.TIMEOUT, Cause.THROTTLED]
    shards = [FailedShard(number, cause, "x", log_stream="s") for number, cause in enumerate(causes)]
    shards[2] = FailedShard(2, Cause.LOST, "x")
    shards[3] = FailedShard(3, Cause.IMAGE_MISSING, "x", url="http://console/job")
    logs = Logs(["said"])
    found = add_log_lines(cast(Any, logs), shards, at_most=3)
    said, none = ("said",), ("(it left no log)",)
    assert [shard.log_lines for shard in found] == [said, (), (), none, said, ()]
    assert logs.asked == 2
