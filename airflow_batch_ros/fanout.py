"""From a conf to running Batch jobs: leases, plans, adoption, submission; for all drives of a run.

Every step is a conditional put or found again by its name, so that a run that is killed anywhere and
starts over submits nothing that is live or done. Drives are handled several at a time, each by one thread;
what a drive takes in requests does not grow with its bags, but for the pages of listings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from airflow_batch_ros import lease, runs
from airflow_batch_ros.adapt import next_sizes
from airflow_batch_ros.causes import Cause, cause_of_error
from airflow_batch_ros.conf import DriveSource, PipelineConf
from airflow_batch_ros.cost import shown
from airflow_batch_ros.estimate import Estimator, Speeds, learn_speeds
from airflow_batch_ros.finding import find_drives, with_found
from airflow_batch_ros.jobs import (
    DriveJob,
    Progress,
    RefusedError,
    SubmitError,
    SubmitOptions,
    Work,
    drive_job,
    find_job,
    job_name,
    live_jobs,
    next_generation,
    read_progress,
    recorded_jobs,
    submit_next,
    terminate,
)
from airflow_batch_ros.lake import Lake, error_code, find_replacing, replaced_in_words, said_by
from airflow_batch_ros.lease import LeaseHeldError
from airflow_batch_ros.pace import Pace
from airflow_batch_ros.plan import (
    DEFAULT_SHARD_BYTES,
    NoBagsError,
    PlanError,
    and_more,
    check_fresh,
    check_saved,
    make_plan,
)
from airflow_batch_ros.pricing import Containers
from ros_to_parquet import contract
from ros_to_parquet.contract import ContractError, DriveManifest, JobRecord, Lease, Plan, Run

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_s3 import S3Client

_PERMANENT = frozenset(
    {
        *("NoSuchBucket", "AccessDenied", "403", "404", "PermanentRedirect", "InvalidBucketName"),
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidObjectState"),
        *("KMS.DisabledException", "KMS.KMSInvalidStateException", "KMS.NotFoundException"),
        *("ClientException", "AccessDeniedException", "UnrecognizedClientException"),
    }
)
"""S3's and Batch's errors that trying again cannot help."""


T = TypeVar("T")
R = TypeVar("R")

THREADS = 16
"""Drives that are planned, or submitted, at a time."""

SUBMITS_PER_S = 40.0
"""Most SubmitJob requests a second: AWS takes near 50 of an account, which others use too."""

PROBLEMS_SHOWN = 100

KILLED = "the Airflow task that submitted it was killed"


class FanoutError(RuntimeError):
    """Drives that could not be planned or submitted: the first `PROBLEMS_SHOWN` of them in one message.

    Attributes:
        problems: of all of them.
        retry_helps: at least one problem may pass by itself, and none is there to stay.
        submitted: how many other drives are submitted.
    """

    def __init__(self, problems: list[str], *, retry_helps: bool, submitted: int = 0) -> None:
        self.problems = tuple(problems)
        self.retry_helps = retry_helps
        self.submitted = submitted
        drives = "1 drive" if len(problems) == 1 else f"{len(problems)} drives"
        others = "1 other is submitted" if submitted == 1 else f"{submitted} others are submitted"
        done = others if submitted else "nothing was submitted"
        lines = [f"- {each}" for each in problems[:PROBLEMS_SHOWN]]
        if len(problems) > PROBLEMS_SHOWN:
            lines.append(f"- and {len(problems) - PROBLEMS_SHOWN} more")
        super().__init__("\n".join([f"{drives} cannot be run; {done}:", *lines]))


class _MayPassError(RuntimeError):
    """AWS did not do what it was asked, and may later: what else there is to do is left to the next try."""


class KilledError(RuntimeError):
    """The task was killed while it planned or submitted."""


NOTHING_NEW = "nothing is new"


@dataclass(frozen=True, slots=True)
class Look:
    """A drive as it would be planned now; without a plan it has no bag.

    ``left_out`` says why there is nothing to do of one that a pattern found; where nothing is new, the plan
    names none of its bags, but the first of those that cannot be read.
    """

    source: DriveSource
    plan: Plan | None
    left_out: str = ""


@dataclass(slots=True)
class Fanout:
    """One operator's work.

    Attributes:
        submitter: a client that does not retry by itself; see `jobs.submit_next`.
        owned: ids of the jobs that were submitted or adopted so far, for `terminate_owned`.
        say: is told what is done, a line at a time.
        chosen: of `jobs.Sizes`, those that are as ``options`` say whatever shards failed by.
        submitting: names of the jobs whose submission has begun and is not confirmed, with their queues.
        killed: nothing more is to be submitted.
        threads: drives at a time.
        containers: what they are and cost, where that is known.
    """

    s3: S3Client
    batch: BatchClient
    submitter: BatchClient
    output: str
    conf: PipelineConf
    run: Run
    options: SubmitOptions
    shard_bytes: int = DEFAULT_SHARD_BYTES
    say: Callable[[str], None] = field(default=logging.getLogger(__name__).info)
    owned: list[str] = field(default_factory=list)
    chosen: frozenset[str] = frozenset()
    submitting: dict[str, str] = field(default_factory=dict)
    killed: bool = False
    threads: int = THREADS
    containers: Containers | None = None
    _estimator: Estimator | None = None
    _pace: Pace = field(default_factory=lambda: Pace(SUBMITS_PER_S))

    def submit_all(self) -> list[DriveJob]:
        """Leases and plans every drive, then submits what is neither live nor done.

        Raises:
            FanoutError: a drive cannot be planned (then nothing is submitted) or submitted (then the
                others are; a retry adopts them).
            KilledError: `kill` was called.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        self._stop_if_killed()
        self._find()
        record, new = self._record_run()
        try:
            prepared = self._prepare_all()
        except FanoutError as error:
            # Nothing was submitted, and nothing is left of the run; where AWS did not do what it was asked,
            # its leases may be, which the next try finds by this record.
            if new and error.__cause__ is None:
                with suppress(ClientError, BotoCoreError):  # it does no harm
                    Lake(self.s3, self.output).delete(record)
            raise
        self._estimator = self.make_estimator([drive.plan.drive_id for drive in prepared])
        jobs, problems, retry_helps = self._for_each(
            [(drive.plan.drive_id, drive.plan.source, drive) for drive in prepared], self._submit
        )
        if problems:
            raise FanoutError(problems, retry_helps=retry_helps, submitted=len(jobs))
        return jobs

    def kill(self, reason: str = KILLED) -> list[str]:
        """Ends every job that this run has at Batch; returns what went wrong.

        Airflow calls it from a signal handler, and 3 lets the task go on where it was: so `submit_all` looks,
        and ends what its threads had on their way to Batch.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        self.killed = True
        ids, problems = list(self.owned), []
        for name, queue in list(self.submitting.items()):
            try:
                unconfirmed = find_job(self.batch, queue, name)
                ids += [unconfirmed] if unconfirmed else []
            except (BotoCoreError, ClientError) as error:
                problems.append(f"job {name}, if it was submitted: {error}")
        return problems + terminate(self.batch, dict.fromkeys(ids), reason)

    def _stop_if_killed(self) -> None:
        if self.killed:
            raise KilledError("the task was killed: its jobs are terminated, nothing more is submitted")

    def _for_each(
        self, drives: Sequence[tuple[str, str, T]], call: Callable[[T], R]
    ) -> tuple[list[R], list[str], bool]:
        """``call`` for each drive (id, source, argument), several at a time.

        What it returned, the problems, and whether trying again helps; both in the drives' order. An error
        that is no drive's own is raised when all that has begun is done, and nothing more begins.
        """
        from botocore.exceptions import ClientError

        def one(drive: tuple[str, str, T]) -> tuple[R | None, str, bool]:
            drive_id, source, argument = drive
            self._stop_if_killed()
            try:
                return call(argument), "", True
            except (RefusedError, PlanError, ContractError) as error:
                return None, _said(error), False
            except (SubmitError, LeaseHeldError) as error:
                return None, _said(error), True
            except ClientError as error:
                return None, self._refusal(drive_id, source, error), False

        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fanout")
        try:
            ends = list(pool.map(one, drives))
        except _MayPassError as error:
            pool.shutdown(cancel_futures=True)  # what has begun is counted
            raise FanoutError([str(error)], retry_helps=True, submitted=len(self.owned)) from error.__cause__
        finally:
            pool.shutdown(cancel_futures=True)
            if self.killed:
                self.kill()  # what was on its way to Batch then
        self._stop_if_killed()
        problems = [problem for _, problem, _ in ends if problem]
        retry_helps = all(helps for _, _, helps in ends)
        return [result for result, problem, _ in ends if result is not None], problems, retry_helps

    # --- finding

    def _find(self) -> None:
        """Puts the drives that the conf's patterns find, and that have something to do, in their place."""
        if not self.conf.patterns or self.conf.found:
            return
        earlier = runs.earlier_drives(Lake(self.s3, self.output), self.run, self.conf)
        if earlier is not None:
            self.conf = replace(self.conf, drives=earlier, found=True)
            return
        looks, problems, retry_helps = self.look()
        if problems:
            raise FanoutError(problems, retry_helps=retry_helps)
        bare = [look.left_out for look in looks if look.plan is None]
        if len(bare) == len(looks):
            raise FanoutError(bare, retry_helps=False)
        left_out = [look for look in looks if look.left_out]
        rare = [look for look in left_out if look.left_out != NOTHING_NEW]
        for look in rare[:PROBLEMS_SHOWN]:
            self.say(f"drive {look.source.drive_id}: left out: {look.left_out}")
        self.say(
            f"{len(looks)} drives found and named: {len(looks) - len(left_out)} to do, "
            f"{nothing_new(left_out)}, {len(rare)} left out"
        )
        drives = tuple(look.source for look in looks if not look.left_out)
        self.conf = replace(self.conf, drives=drives, found=True)

    def look(self) -> tuple[list[Look], list[str], bool]:
        """What there is to do of each drive, those that patterns find among them; nothing is written.

        And what is wrong with those that cannot be planned, and whether trying again helps.

        Raises:
            FanoutError: patterns cannot be asked.
            ConfError: two folders would be one drive.
        """
        conf = self.conf
        if conf.patterns and not conf.found:
            patterns = [(pattern.drive_id, pattern.uri, pattern) for pattern in conf.patterns]
            found, problems, retry_helps = self._for_each(
                patterns,
                lambda pattern: find_drives(
                    self.s3, pattern, output=self.output, requester_pays=self.options.requester_pays
                ),
            )
            if problems:
                raise FanoutError(problems, retry_helps=retry_helps)
            conf = with_found(conf, found)
        lake = Lake(self.s3, self.output)
        sources = [(source.drive_id, source.uri, source) for source in conf.drives]
        return self._for_each(sources, lambda source: self._look(lake, source))

    def _look(self, lake: Lake, source: DriveSource) -> Look:
        try:
            plan = self._make_plan(lake, source)
        except NoBagsError as error:
            if not source.found:
                raise
            return Look(source, None, str(error))
        if not source.found:
            return Look(source, plan)
        if not plan.shards:
            # Night by night there are more of these, and the names of all their bags.
            few = replace(plan, covered=(), ignored=(), unreadable=plan.unreadable[:1])
            return Look(source, few, NOTHING_NEW)
        return Look(source, plan, self._held_by(lake, plan))

    def _held_by(self, lake: Lake, plan: Plan) -> str:
        """Which other live run has the drive; empty for none."""
        key = contract.lease_key(plan.drive_id)
        found = lake.find(key)
        if found is None:
            return ""
        holder = contract.from_json(Lease, found.data, where=lake.uri(key))
        if holder.plan_id == plan.plan_id or not (alive := self._sign_of_life(lake, holder, found.age_s)):
            return ""
        return f"{contract.run_in_words(holder.run)} has it ({alive})"

    def make_estimator(self, drive_ids: Sequence[str]) -> Estimator | None:
        """By what these drives' plans are estimated; None where nothing is known of containers."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self.containers is None:
            return None
        vcpus, lake = self.containers.pricing.vcpus, Lake(self.s3, self.output)
        try:
            speeds = learn_speeds(lake, drive_ids, self.conf.options, vcpus=vcpus)
        except (ClientError, BotoCoreError) as error:
            self.say(f"costs are estimated by default speeds, for earlier runs cannot be read: {error}")
            speeds = Speeds()
        return Estimator(self.containers, speeds)

    # --- planning

    def _record_run(self) -> tuple[str, bool]:
        """Before anything else, so that whoever asks for the run finds it, even if this process is killed."""
        from botocore.exceptions import ClientError

        try:
            return runs.save(
                Lake(self.s3, self.output),
                self.run,
                self.conf,
                options=self.options,
                shard_bytes=self.shard_bytes,
            )
        except ClientError as error:
            try:
                problems = [self._refusal(each.drive_id, each.uri, error) for each in self.conf.drives]
            except _MayPassError as passing:
                raise FanoutError([str(passing)], retry_helps=True) from error
            raise FanoutError(problems, retry_helps=False) from error

    def _prepare_all(self) -> list[_Prepared]:
        lake = Lake(self.s3, self.output)
        sources = [(source.drive_id, source.uri, source) for source in self.conf.drives]
        prepared, problems, retry_helps = self._for_each(sources, lambda source: self._prepare(lake, source))
        if problems:
            for drive in prepared:
                if not drive.saved:
                    lease.release(drive.lake, drive.plan.drive_id, drive.plan.plan_id)
            raise FanoutError(problems, retry_helps=retry_helps)
        return prepared

    def _prepare(self, lake: Lake, source: DriveSource) -> _Prepared:
        """The drive's lease and plan; a lease that was taken for nothing is given back."""
        plan_id = contract.make_plan_id(self.run, source.drive_id)
        saved = _load_plan(lake, source.drive_id, plan_id)
        if saved is not None:
            return self._resume(lake, source, *saved)
        self._lease(lake, source.drive_id, plan_id)
        try:
            lease.end_others(lake, source.drive_id, plan_id, self.run)
            plan = self._make_plan(lake, source)
        except Exception:
            lease.release(lake, source.drive_id, plan_id)
            raise
        return _Prepared(lake, plan, Progress(tuple(range(len(plan.shards))), False), saved=False)

    def _make_plan(self, lake: Lake, source: DriveSource) -> Plan:
        return make_plan(
            self.s3,
            lake,
            source,
            self.conf,
            run=self.run,
            shard_bytes=self.shard_bytes,
            requester_pays=self.options.requester_pays,
            pricing=self.containers.pricing if self.containers else None,
        )

    def _resume(self, lake: Lake, source: DriveSource, plan: Plan, sha256: str) -> _Prepared:
        check_saved(plan, source, self.conf)
        progress = read_progress(self.batch, lake, plan, job_queue=self.options.job_queue)
        if progress.committed:
            self._check_not_taken_over(lake, plan)
        taken = False
        if plan.shards and not progress.committed and not progress.live:
            if progress.generation is not None and (by := find_replacing(lake, plan.drive_id, plan.plan_id)):
                return _Prepared(lake, plan, progress, saved=True, sha256=sha256, replaced_by=by)
            taken = self._own(lake, plan, progress, resumed=True)
        return _Prepared(lake, plan, progress, saved=True, sha256=sha256, taken=taken)

    def _save(self, drive: _Prepared) -> _Prepared:
        """The plan as it is in the lake: the first writer's.

        Not before all drives are planned: a saved plan would grow old while another drive waits for its fix.
        """
        plan, lake = drive.plan, drive.lake
        if drive.saved or lake.create(contract.plan_key(plan.drive_id, plan.plan_id), contract.to_json(plan)):
            return drive
        first, sha256 = _load_plan(lake, plan.drive_id, plan.plan_id) or (plan, "")
        progress = read_progress(self.batch, lake, first, job_queue=self.options.job_queue)
        return _Prepared(lake, first, progress, saved=True, sha256=sha256)

    def _own(self, lake: Lake, plan: Plan, progress: Progress, *, resumed: bool) -> bool:
        """Makes sure of the lease of a saved plan; if it was lost meanwhile, that nobody did its work.

        Returns whether it had to be taken.

        It may have been when the plan is ``resumed``, whoever has it now: an earlier try may have been killed
        when it had it again.
        """
        current = None if resumed else lease.holder(lake, plan.drive_id)
        if current is not None and current.plan_id == plan.plan_id:
            return False
        taken = self._lease(lake, plan.drive_id, plan.plan_id)
        if taken or resumed:
            try:
                lease.end_others(lake, plan.drive_id, plan.plan_id, self.run)
                check_fresh(lake, plan, missing=progress.missing)
            except PlanError:
                lease.release(lake, plan.drive_id, plan.plan_id)
                raise
        return taken

    def _give_back(self, drive: _Prepared, *, taken: bool) -> None:
        """Gives a drive back whose job Batch has refused for good, so that another run can have it at once.

        Not where an earlier try may have submitted the same generation, and its answer was lost: a try that
        was refused gave the lease back, so that the next has ``taken`` it anew. Nor where anything is live.
        What goes wrong does no harm: others wait for `lease.GRACE_S` then.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        lake, plan, progress = drive.lake, drive.plan, drive.progress
        if not taken and progress.generation is not None and progress.record is None:
            return
        with suppress(ClientError, BotoCoreError, ContractError):
            queue = self.options.job_queue
            if not live_jobs(self.batch, lake, plan.drive_id, plan.plan_id, job_queue=queue):
                lease.release(lake, plan.drive_id, plan.plan_id)

    def _check_not_taken_over(self, lake: Lake, plan: Plan) -> None:
        commit = lake.load(DriveManifest, contract.drive_manifest_key(plan.drive_id, plan.plan_id))
        if commit is not None and commit.taken_over_by is not None:
            raise PlanError(f"drive {plan.drive_id!r}: {commit.problems[0]}; start a new run")

    def _lease(self, lake: Lake, drive_id: str, plan_id: str) -> bool:
        acquired_at = datetime.now(UTC).isoformat(timespec="seconds")
        own = Lease(drive_id=drive_id, plan_id=plan_id, run=self.run, acquired_at=acquired_at)
        return lease.acquire(
            lake, own, sign_of_life=lambda other, age_s: self._sign_of_life(lake, other, age_s)
        )

    def _sign_of_life(self, lake: Lake, other: Lease, age_s: float) -> str | None:
        live = live_jobs(self.batch, lake, other.drive_id, other.plan_id, job_queue=self.options.job_queue)
        for job_id, state in live.items():
            return f"its Batch job {job_id} is {state}"
        if recorded_jobs(lake, other.drive_id, other.plan_id):
            return None
        on_one_machine = not other.run.dag_id and not runs.is_recorded(lake, other.run.run_id)
        if on_one_machine and age_s < lease.COMMAND_LINE_GRACE_S:
            uri = lake.uri(contract.lease_key(other.drive_id))
            return f"a process that cannot be asked; delete {uri} if it is dead"
        if age_s < lease.GRACE_S:
            return f"for {age_s:.0f} s, and has not submitted yet"
        return None

    def _refusal(self, drive_id: str, source: str, error: ClientError) -> str:
        """What AWS refused for good, in a sentence.

        Raises:
            _MayPassError: it may pass by itself.
        """
        said = said_by(error)
        if error_code(error) not in _PERMANENT:
            tries = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) + 1
            problem = (
                f"drive {drive_id!r}: AWS did not do {error.operation_name} ({said}), tried {tries} times; "
                f"it may pass: try again, which submits nothing twice [{cause_of_error(error_code(error))}]"
            )
            raise _MayPassError(problem) from error
        if error.operation_name in ("ListJobs", "DescribeJobs"):
            service, check = "Batch", f"queue {self.options.job_queue!r}"
        else:
            bucket = source.removeprefix("s3://").partition("/")[0]
            service, check = "S3", f"bucket {bucket!r}, output {self.output!r}"
        return (
            f"drive {drive_id!r}: {service} refused {error.operation_name} ({said}); check {check} and what "
            f"the connection may do there [{cause_of_error(error_code(error))}]"
        )

    # --- submission

    def _submit(self, prepared: _Prepared) -> DriveJob:
        drive = self._save(prepared)
        plan, progress, lake = drive.plan, drive.progress, drive.lake
        name = f"drive {plan.drive_id}"
        self._tell(plan)
        if not plan.shards:
            lease.release(lake, plan.drive_id, plan.plan_id)
            readable = "that can be read " if plan.unreadable else ""
            self.say(f"{name}: nothing to do, all bags {readable}are in the lake")
            return self._job(plan, Work.NOTHING, None, 0)
        if progress.committed:
            self.say(f"{name}: done by an earlier try")
            return self._job(plan, Work.DONE, progress.record, 0)
        if drive.replaced_by is not None:
            self.say(f"{name}: {replaced_in_words(drive.replaced_by)}; nothing is submitted")
            return self._job(plan, Work.DONE, progress.record, 0)
        if progress.live and progress.record is not None:
            self.owned.append(progress.record.job_id)
            self.say(f"{name}: job {progress.record.job_id} of an earlier try is {progress.state}")
            return self._job(plan, Work.ADOPTED, progress.record, progress.record.array_size or 1)
        # Again: planning the other drives took its time.
        taken = self._own(lake, plan, progress, resumed=False) or drive.taken
        sizes, said = next_sizes(self.batch, lake, plan, progress, self.options, chosen=self.chosen)
        for each in said:
            self.say(f"{name}: {each}")
        given = (progress.sizes if progress.record is None else sizes).but(self.chosen)
        self._pace.wait()
        self._stop_if_killed()
        name_of_job = job_name(plan.drive_id, plan.plan_id, next_generation(progress))
        self.submitting[name_of_job] = given.job_queue or self.options.job_queue
        try:
            record, generation = submit_next(
                *(self.batch, lake, plan, progress, self.options),
                submitter=self.submitter,
                sizes=sizes,
                chosen=self.chosen,
                plan_sha256=drive.sha256,
            )
        except RefusedError:
            del self.submitting[name_of_job]
            self._give_back(drive, taken=taken)
            raise
        self.owned.append(record.job_id)
        del self.submitting[name_of_job]
        shards = f"{len(generation.shards)} of {len(plan.shards)} shards"
        self.say(f"{name}: submitted job {record.job_id} ({record.job_name}) for {shards}")
        return self._job(plan, Work.SUBMITTED, record, len(generation.shards))

    def _tell(self, plan: Plan) -> None:
        name = f"drive {plan.drive_id}"
        size = sum(bag.size_bytes for bag in plan.bags) / 1e6
        foreseen = ""
        if self._estimator is not None and plan.shards:
            estimate = self._estimator.estimate(plan)
            cost = shown(estimate.cost, self._estimator.containers.pricing.currency)
            foreseen = f", about {estimate.seconds:.0f} s a shard at most and {cost}"
        self.say(
            f"{name}: plan {plan.plan_id}: {len(plan.bags)} bags, {size:.1f} MB, {len(plan.shards)} shards "
            f"from {plan.source}{foreseen}"
        )
        if plan.ignored_count:
            self.say(not_taken(plan))
        if plan.replaces and not self.conf.overwrite:
            self.say(f"{name}: bags have changed since they were extracted: all of it is extracted again")
        if plan.covered:
            names = and_more(plan.covered, PROBLEMS_SHOWN)
            self.say(f"{name}: in the lake already, {len(plan.covered):,}: {names}")
        for line in not_tried_again(plan):
            self.say(line)

    def _job(self, plan: Plan, work: Work, record: JobRecord | None, submitted_shards: int) -> DriveJob:
        return drive_job(
            plan,
            work,
            record,
            submitted_shards=submitted_shards,
            job_queue=self.options.job_queue,
            fail_on=self.conf.fail_on,
            min_success_ratio=self.conf.min_success_ratio,
            estimated_cost=self._estimator.estimate(plan).cost if self._estimator else None,
        )


def not_taken(plan: Plan) -> str:
    """What of a drive's folder is not taken, by name: the first `contract.MAX_REASONS`."""
    more = plan.ignored_count - len(plan.ignored)
    names = ", ".join(plan.ignored) + (f" and {more} more" if more else "")
    return f"drive {plan.drive_id}: not taken, {plan.ignored_count}: {names}"


def not_tried_again(plan: Plan) -> list[str]:
    """A line for each of a drive's bags that cannot be read: the first `PROBLEMS_SHOWN`."""
    told = [f"drive {plan.drive_id}: {bag}" for bag in plan.unreadable[:PROBLEMS_SHOWN]]
    if (more := len(plan.unreadable) - PROBLEMS_SHOWN) > 0:
        told.append(f"drive {plan.drive_id}: and {more:,} more bags that are not tried again")
    return told


def nothing_new(left_out: Iterable[Look]) -> str:
    """How many drives have nothing new, and how many of them bags that cannot be read."""
    quiet = [look.plan for look in left_out if look.left_out == NOTHING_NEW]
    unreadable = sum(bool(plan and plan.unreadable) for plan in quiet)
    said = f"nothing new in {len(quiet):,}"
    return f"{said} ({unreadable:,} of them with bags that cannot be read)" if unreadable else said


def _said(error: Exception) -> str:
    """Why a drive was not submitted, with its cause."""
    asked = error.__cause__
    code = error_code(asked) if isinstance(getattr(asked, "response", None), dict) else ""
    passes = isinstance(error, SubmitError) and not code
    cause = Cause.THROTTLED if passes else cause_of_error(code)
    if isinstance(error, RefusedError) and cause is Cause.THROTTLED:  # by a code that is not known
        cause = Cause.REFUSED
    return f"{error} [{cause}]"


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A drive that is leased, where it needs to be, and planned.

    ``saved``: by an earlier try, and then of the ``sha256`` that its bytes have. ``taken``: the lease of a
    saved plan, by this try, for the tries before did not have it any more. ``replaced_by``: another run's
    commit, after which this plan has nothing to do.
    """

    lake: Lake
    plan: Plan
    progress: Progress
    saved: bool
    sha256: str = ""
    taken: bool = False
    replaced_by: DriveManifest | None = None


def _load_plan(lake: Lake, drive_id: str, plan_id: str) -> tuple[Plan, str] | None:
    """A saved plan and its bytes' hash: an earlier version may have written it, with fewer fields."""
    key = contract.plan_key(drive_id, plan_id)
    data = lake.read(key)
    return (
        None if data is None else (contract.from_json(Plan, data, where=lake.uri(key)), contract.sha256(data))
    )
