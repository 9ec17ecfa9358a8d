import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Isolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ISOLATION_UNSPECIFIED: _ClassVar[Isolation]
    ISOLATION_NONE: _ClassVar[Isolation]
    ISOLATION_NO_NETWORK: _ClassVar[Isolation]
    ISOLATION_LOOPBACK: _ClassVar[Isolation]
    ISOLATION_HOST_NETWORK: _ClassVar[Isolation]

class LogFull(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_FULL_UNSPECIFIED: _ClassVar[LogFull]
    LOG_FULL_DROP_OLDEST: _ClassVar[LogFull]
    LOG_FULL_STOP_RECORDING: _ClassVar[LogFull]
    LOG_FULL_BLOCK: _ClassVar[LogFull]

class LimitKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_KIND_UNSPECIFIED: _ClassVar[LimitKind]
    LIMIT_KIND_CPU: _ClassVar[LimitKind]
    LIMIT_KIND_CPUSET: _ClassVar[LimitKind]
    LIMIT_KIND_MEMORY: _ClassVar[LimitKind]
    LIMIT_KIND_MEMORY_HIGH: _ClassVar[LimitKind]
    LIMIT_KIND_MEMORY_SWAP: _ClassVar[LimitKind]
    LIMIT_KIND_PIDS: _ClassVar[LimitKind]

class IoRate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IO_RATE_UNSPECIFIED: _ClassVar[IoRate]
    IO_RATE_READ_BPS: _ClassVar[IoRate]
    IO_RATE_WRITE_BPS: _ClassVar[IoRate]
    IO_RATE_READ_IOPS: _ClassVar[IoRate]
    IO_RATE_WRITE_IOPS: _ClassVar[IoRate]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_STARTING: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_PAUSED: _ClassVar[JobState]
    JOB_STATE_STOPPING: _ClassVar[JobState]
    JOB_STATE_TERMINATED: _ClassVar[JobState]

class EndCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    END_CAUSE_UNSPECIFIED: _ClassVar[EndCause]
    END_CAUSE_EXITED: _ClassVar[EndCause]
    END_CAUSE_SIGNAL: _ClassVar[EndCause]
    END_CAUSE_STOP: _ClassVar[EndCause]
    END_CAUSE_STOP_KILL: _ClassVar[EndCause]
    END_CAUSE_TIMEOUT: _ClassVar[EndCause]
    END_CAUSE_TIMEOUT_KILL: _ClassVar[EndCause]
    END_CAUSE_OOM: _ClassVar[EndCause]
    END_CAUSE_OOM_ABOVE: _ClassVar[EndCause]
    END_CAUSE_LOST: _ClassVar[EndCause]

class OomScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OOM_SCOPE_UNSPECIFIED: _ClassVar[OomScope]
    OOM_SCOPE_JOB: _ClassVar[OomScope]
    OOM_SCOPE_ABOVE: _ClassVar[OomScope]

class LogStream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_STREAM_UNSPECIFIED: _ClassVar[LogStream]
    LOG_STREAM_STDOUT: _ClassVar[LogStream]
    LOG_STREAM_STDERR: _ClassVar[LogStream]
ISOLATION_UNSPECIFIED: Isolation
ISOLATION_NONE: Isolation
ISOLATION_NO_NETWORK: Isolation
ISOLATION_LOOPBACK: Isolation
ISOLATION_HOST_NETWORK: Isolation
LOG_FULL_UNSPECIFIED: LogFull
LOG_FULL_DROP_OLDEST: LogFull
LOG_FULL_STOP_RECORDING: LogFull
LOG_FULL_BLOCK: LogFull
LIMIT_KIND_UNSPECIFIED: LimitKind
LIMIT_KIND_CPU: LimitKind
LIMIT_KIND_CPUSET: LimitKind
LIMIT_KIND_MEMORY: LimitKind
LIMIT_KIND_MEMORY_HIGH: LimitKind
LIMIT_KIND_MEMORY_SWAP: LimitKind
LIMIT_KIND_PIDS: LimitKind
IO_RATE_UNSPECIFIED: IoRate
IO_RATE_READ_BPS: IoRate
IO_RATE_WRITE_BPS: IoRate
IO_RATE_READ_IOPS: IoRate
IO_RATE_WRITE_IOPS: IoRate
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_STARTING: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_PAUSED: JobState
JOB_STATE_STOPPING: JobState
JOB_STATE_TERMINATED: JobState
END_CAUSE_UNSPECIFIED: EndCause
END_CAUSE_EXITED: EndCause
END_CAUSE_SIGNAL: EndCause
END_CAUSE_STOP: EndCause
END_CAUSE_STOP_KILL: EndCause
END_CAUSE_TIMEOUT: EndCause
END_CAUSE_TIMEOUT_KILL: EndCause
END_CAUSE_OOM: EndCause
END_CAUSE_OOM_ABOVE: EndCause
END_CAUSE_LOST: EndCause
OOM_SCOPE_UNSPECIFIED: OomScope
OOM_SCOPE_JOB: OomScope
OOM_SCOPE_ABOVE: OomScope
LOG_STREAM_UNSPECIFIED: LogStream
LOG_STREAM_STDOUT: LogStream
LOG_STREAM_STDERR: LogStream

class StartRequest(_message.Message):
    __slots__ = ("argv", "argv_bytes", "env", "working_directory", "labels", "name", "stop_signal", "grace_ms", "timeout_ms", "request_id", "limits", "log", "user", "isolate", "share")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ARGV_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STOP_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    ISOLATE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    argv: _containers.RepeatedScalarFieldContainer[str]
    argv_bytes: _containers.RepeatedScalarFieldContainer[bytes]
    env: _containers.ScalarMap[str, str]
    working_directory: str
    labels: _containers.ScalarMap[str, str]
    name: str
    stop_signal: int
    grace_ms: int
    timeout_ms: int
    request_id: str
    limits: Limits
    log: LogBounds
    user: str
    isolate: Isolation
    share: _containers.RepeatedCompositeFieldContainer[Share]
    def __init__(self, argv: _Optional[_Iterable[str]] = ..., argv_bytes: _Optional[_Iterable[bytes]] = ..., env: _Optional[_Mapping[str, str]] = ..., working_directory: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., name: _Optional[str] = ..., stop_signal: _Optional[int] = ..., grace_ms: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., request_id: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., log: _Optional[_Union[LogBounds, _Mapping]] = ..., user: _Optional[str] = ..., isolate: _Optional[_Union[Isolation, str]] = ..., share: _Optional[_Iterable[_Union[Share, _Mapping]]] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("user", "verbs")
    USER_FIELD_NUMBER: _ClassVar[int]
    VERBS_FIELD_NUMBER: _ClassVar[int]
    user: str
    verbs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user: _Optional[str] = ..., verbs: _Optional[_Iterable[str]] = ...) -> None: ...

class LogBounds(_message.Message):
    __slots__ = ("max_bytes", "on_full")
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    ON_FULL_FIELD_NUMBER: _ClassVar[int]
    max_bytes: int
    on_full: LogFull
    def __init__(self, max_bytes: _Optional[int] = ..., on_full: _Optional[_Union[LogFull, str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("cpu_millis", "cpu_weight", "cpuset", "memory_bytes", "memory_high_bytes", "memory_swap_bytes", "pids", "io_weight", "io", "oom_group", "unlimited")
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    CPU_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CPUSET_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_HIGH_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_SWAP_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    IO_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    IO_FIELD_NUMBER: _ClassVar[int]
    OOM_GROUP_FIELD_NUMBER: _ClassVar[int]
    UNLIMITED_FIELD_NUMBER: _ClassVar[int]
    cpu_millis: int
    cpu_weight: int
    cpuset: str
    memory_bytes: int
    memory_high_bytes: int
    memory_swap_bytes: int
    pids: int
    io_weight: int
    io: _containers.RepeatedCompositeFieldContainer[IoLimit]
    oom_group: bool
    unlimited: _containers.RepeatedScalarFieldContainer[LimitKind]
    def __init__(self, cpu_millis: _Optional[int] = ..., cpu_weight: _Optional[int] = ..., cpuset: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., memory_high_bytes: _Optional[int] = ..., memory_swap_bytes: _Optional[int] = ..., pids: _Optional[int] = ..., io_weight: _Optional[int] = ..., io: _Optional[_Iterable[_Union[IoLimit, _Mapping]]] = ..., oom_group: _Optional[bool] = ..., unlimited: _Optional[_Iterable[_Union[LimitKind, str]]] = ...) -> None: ...

class IoLimit(_message.Message):
    __slots__ = ("path", "read_bps", "write_bps", "read_iops", "write_iops", "unlimited")
    PATH_FIELD_NUMBER: _ClassVar[int]
    READ_BPS_FIELD_NUMBER: _ClassVar[int]
    WRITE_BPS_FIELD_NUMBER: _ClassVar[int]
    READ_IOPS_FIELD_NUMBER: _ClassVar[int]
    WRITE_IOPS_FIELD_NUMBER: _ClassVar[int]
    UNLIMITED_FIELD_NUMBER: _ClassVar[int]
    path: str
    read_bps: int
    write_bps: int
    read_iops: int
    write_iops: int
    unlimited: _containers.RepeatedScalarFieldContainer[IoRate]
    def __init__(self, path: _Optional[str] = ..., read_bps: _Optional[int] = ..., write_bps: _Optional[int] = ..., read_iops: _Optional[int] = ..., write_iops: _Optional[int] = ..., unlimited: _Optional[_Iterable[_Union[IoRate, str]]] = ...) -> None: ...

class StartResponse(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("job", "signal", "grace_ms")
    JOB_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    job: str
    signal: int
    grace_ms: int
    def __init__(self, job: _Optional[str] = ..., signal: _Optional[int] = ..., grace_ms: _Optional[int] = ...) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: JobStatus
    def __init__(self, status: _Optional[_Union[JobStatus, _Mapping]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: JobStatus
    def __init__(self, status: _Optional[_Union[JobStatus, _Mapping]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("exit_code", "signal", "lost")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    signal: int
    lost: str
    def __init__(self, exit_code: _Optional[int] = ..., signal: _Optional[int] = ..., lost: _Optional[str] = ...) -> None: ...

class StopRequested(_message.Message):
    __slots__ = ("by", "at", "signal", "grace_ms")
    BY_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    by: str
    at: _timestamp_pb2.Timestamp
    signal: int
    grace_ms: int
    def __init__(self, by: _Optional[str] = ..., at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., signal: _Optional[int] = ..., grace_ms: _Optional[int] = ...) -> None: ...

class JobStatus(_message.Message):
    __slots__ = ("job_id", "owner", "name", "labels", "argv", "state", "outcome", "created_at", "started_at", "ended_at", "stop_requested", "timed_out", "killed", "oom", "cause", "limits", "usage", "log", "user", "isolation", "shares")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    STOP_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    TIMED_OUT_FIELD_NUMBER: _ClassVar[int]
    KILLED_FIELD_NUMBER: _ClassVar[int]
    OOM_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    owner: str
    name: str
    labels: _containers.ScalarMap[str, str]
    argv: _containers.RepeatedScalarFieldContainer[bytes]
    state: JobState
    outcome: Outcome
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    stop_requested: StopRequested
    timed_out: bool
    killed: bool
    oom: Oom
    cause: EndCause
    limits: Limits
    usage: Usage
    log: LogBounds
    user: str
    isolation: Isolation
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    def __init__(self, job_id: _Optional[str] = ..., owner: _Optional[str] = ..., name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., argv: _Optional[_Iterable[bytes]] = ..., state: _Optional[_Union[JobState, str]] = ..., outcome: _Optional[_Union[Outcome, _Mapping]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stop_requested: _Optional[_Union[StopRequested, _Mapping]] = ..., timed_out: _Optional[bool] = ..., killed: _Optional[bool] = ..., oom: _Optional[_Union[Oom, _Mapping]] = ..., cause: _Optional[_Union[EndCause, str]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., log: _Optional[_Union[LogBounds, _Mapping]] = ..., user: _Optional[str] = ..., isolation: _Optional[_Union[Isolation, str]] = ..., shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ...) -> None: ...

class Oom(_message.Message):
    __slots__ = ("scope", "kills", "leader")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    scope: OomScope
    kills: int
    leader: bool
    def __init__(self, scope: _Optional[_Union[OomScope, str]] = ..., kills: _Optional[int] = ..., leader: _Optional[bool] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("wall_ns", "cpu_us", "cpu_user_us", "cpu_system_us", "cpu_periods", "cpu_throttled_periods", "cpu_throttled_us", "memory_bytes", "memory_peak_bytes", "swap_bytes", "swap_peak_bytes", "memory_high_events", "memory_max_events", "pids", "pids_peak", "pids_refused", "io_read_bytes", "io_write_bytes", "io_reads", "io_writes")
    WALL_NS_FIELD_NUMBER: _ClassVar[int]
    CPU_US_FIELD_NUMBER: _ClassVar[int]
    CPU_USER_US_FIELD_NUMBER: _ClassVar[int]
    CPU_SYSTEM_US_FIELD_NUMBER: _ClassVar[int]
    CPU_PERIODS_FIELD_NUMBER: _ClassVar[int]
    CPU_THROTTLED_PERIODS_FIELD_NUMBER: _ClassVar[int]
    CPU_THROTTLED_US_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    SWAP_BYTES_FIELD_NUMBER: _ClassVar[int]
    SWAP_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_HIGH_EVENTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MAX_EVENTS_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    PIDS_PEAK_FIELD_NUMBER: _ClassVar[int]
    PIDS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    IO_READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    IO_WRITE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IO_READS_FIELD_NUMBER: _ClassVar[int]
    IO_WRITES_FIELD_NUMBER: _ClassVar[int]
    wall_ns: int
    cpu_us: int
    cpu_user_us: int
    cpu_system_us: int
    cpu_periods: int
    cpu_throttled_periods: int
    cpu_throttled_us: int
    memory_bytes: int
    memory_peak_bytes: int
    swap_bytes: int
    swap_peak_bytes: int
    memory_high_events: int
    memory_max_events: int
    pids: int
    pids_peak: int
    pids_refused: int
    io_read_bytes: int
    io_write_bytes: int
    io_reads: int
    io_writes: int
    def __init__(self, wall_ns: _Optional[int] = ..., cpu_us: _Optional[int] = ..., cpu_user_us: _Optional[int] = ..., cpu_system_us: _Optional[int] = ..., cpu_periods: _Optional[int] = ..., cpu_throttled_periods: _Optional[int] = ..., cpu_throttled_us: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., memory_peak_bytes: _Optional[int] = ..., swap_bytes: _Optional[int] = ..., swap_peak_bytes: _Optional[int] = ..., memory_high_events: _Optional[int] = ..., memory_max_events: _Optional[int] = ..., pids: _Optional[int] = ..., pids_peak: _Optional[int] = ..., pids_refused: _Optional[int] = ..., io_read_bytes: _Optional[int] = ..., io_write_bytes: _Optional[int] = ..., io_reads: _Optional[int] = ..., io_writes: _Optional[int] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("job", "follow", "interval_ms")
    JOB_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    job: str
    follow: bool
    interval_ms: int
    def __init__(self, job: _Optional[str] = ..., follow: _Optional[bool] = ..., interval_ms: _Optional[int] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("usage", "status")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    usage: Usage
    status: JobStatus
    def __init__(self, usage: _Optional[_Union[Usage, _Mapping]] = ..., status: _Optional[_Union[JobStatus, _Mapping]] = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("job", "limits", "share", "unshare")
    JOB_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    UNSHARE_FIELD_NUMBER: _ClassVar[int]
    job: str
    limits: Limits
    share: _containers.RepeatedCompositeFieldContainer[Share]
    unshare: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., share: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., unshare: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: JobStatus
    def __init__(self, status: _Optional[_Union[JobStatus, _Mapping]] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: JobStatus
    def __init__(self, status: _Optional[_Union[JobStatus, _Mapping]] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: JobStatus
    def __init__(self, status: _Optional[_Union[JobStatus, _Mapping]] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class RemoveResponse(_message.Message):
    __slots__ = ("job_id", "freed_bytes")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    freed_bytes: int
    def __init__(self, job_id: _Optional[str] = ..., freed_bytes: _Optional[int] = ...) -> None: ...

class PruneRequest(_message.Message):
    __slots__ = ("ended_before_ms", "keep", "all_owners", "dry_run")
    ENDED_BEFORE_MS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    ALL_OWNERS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    ended_before_ms: int
    keep: int
    all_owners: bool
    dry_run: bool
    def __init__(self, ended_before_ms: _Optional[int] = ..., keep: _Optional[int] = ..., all_owners: _Optional[bool] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class PruneResponse(_message.Message):
    __slots__ = ("job_ids", "freed_bytes")
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    freed_bytes: int
    def __init__(self, job_ids: _Optional[_Iterable[str]] = ..., freed_bytes: _Optional[int] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("job", "follow", "cursor", "tail_lines", "since", "until", "streams", "grep")
    JOB_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TAIL_LINES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    GREP_FIELD_NUMBER: _ClassVar[int]
    job: str
    follow: bool
    cursor: str
    tail_lines: int
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    streams: _containers.RepeatedScalarFieldContainer[LogStream]
    grep: str
    def __init__(self, job: _Optional[str] = ..., follow: _Optional[bool] = ..., cursor: _Optional[str] = ..., tail_lines: _Optional[int] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., streams: _Optional[_Iterable[_Union[LogStream, str]]] = ..., grep: _Optional[str] = ...) -> None: ...

class LogChunk(_message.Message):
    __slots__ = ("stream", "time_ns", "data")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    stream: LogStream
    time_ns: int
    data: bytes
    def __init__(self, stream: _Optional[_Union[LogStream, str]] = ..., time_ns: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class LogGap(_message.Message):
    __slots__ = ("stream", "lost_bytes", "first_ns", "last_ns", "cause")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    LOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_NS_FIELD_NUMBER: _ClassVar[int]
    LAST_NS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    stream: LogStream
    lost_bytes: int
    first_ns: int
    last_ns: int
    cause: str
    def __init__(self, stream: _Optional[_Union[LogStream, str]] = ..., lost_bytes: _Optional[int] = ..., first_ns: _Optional[int] = ..., last_ns: _Optional[int] = ..., cause: _Optional[str] = ...) -> None: ...

class LogEntry(_message.Message):
    __slots__ = ("chunk", "gap")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    chunk: LogChunk
    gap: LogGap
    def __init__(self, chunk: _Optional[_Union[LogChunk, _Mapping]] = ..., gap: _Optional[_Union[LogGap, _Mapping]] = ...) -> None: ...

class LogsBatch(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[LogEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[LogEntry, _Mapping]]] = ...) -> None: ...

class LogsEnd(_message.Message):
    __slots__ = ("complete", "stdout_bytes", "stderr_bytes", "lost_bytes", "status", "sent_stdout_bytes", "sent_stderr_bytes")
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    STDOUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STDERR_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SENT_STDOUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_STDERR_BYTES_FIELD_NUMBER: _ClassVar[int]
    complete: bool
    stdout_bytes: int
    stderr_bytes: int
    lost_bytes: int
    status: JobStatus
    sent_stdout_bytes: int
    sent_stderr_bytes: int
    def __init__(self, complete: _Optional[bool] = ..., stdout_bytes: _Optional[int] = ..., stderr_bytes: _Optional[int] = ..., lost_bytes: _Optional[int] = ..., status: _Optional[_Union[JobStatus, _Mapping]] = ..., sent_stdout_bytes: _Optional[int] = ..., sent_stderr_bytes: _Optional[int] = ...) -> None: ...

class LogsResponse(_message.Message):
    __slots__ = ("batch", "end", "cursor")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    batch: LogsBatch
    end: LogsEnd
    cursor: str
    def __init__(self, batch: _Optional[_Union[LogsBatch, _Mapping]] = ..., end: _Optional[_Union[LogsEnd, _Mapping]] = ..., cursor: _Optional[str] = ...) -> None: ...

class WhoAmIRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhoAmIResponse(_message.Message):
    __slots__ = ("name", "roles", "serial", "not_after", "address", "server_version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROLES_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    roles: _containers.RepeatedScalarFieldContainer[str]
    serial: str
    not_after: _timestamp_pb2.Timestamp
    address: str
    server_version: str
    def __init__(self, name: _Optional[str] = ..., roles: _Optional[_Iterable[str]] = ..., serial: _Optional[str] = ..., not_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., address: _Optional[str] = ..., server_version: _Optional[str] = ...) -> None: ...

class CanIRequest(_message.Message):
    __slots__ = ("verb", "job")
    VERB_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    verb: str
    job: str
    def __init__(self, verb: _Optional[str] = ..., job: _Optional[str] = ...) -> None: ...

class CanIResponse(_message.Message):
    __slots__ = ("allowed", "rule", "why")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    rule: str
    why: str
    def __init__(self, allowed: _Optional[bool] = ..., rule: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("start",)
    START_FIELD_NUMBER: _ClassVar[int]
    start: StartRequest
    def __init__(self, start: _Optional[_Union[StartRequest, _Mapping]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("allowed", "refusal", "role", "rules", "program", "account", "uid", "limits", "log", "isolation", "resource_limits", "working_directory", "stop_signal", "grace_ms", "timeout_ms", "notes", "shares", "quota")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_LIMITS_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    STOP_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    refusal: StartRefusal
    role: str
    rules: _containers.RepeatedScalarFieldContainer[str]
    program: str
    account: str
    uid: int
    limits: Limits
    log: LogBounds
    isolation: str
    resource_limits: _containers.RepeatedCompositeFieldContainer[ResourceLimit]
    working_directory: str
    stop_signal: int
    grace_ms: int
    timeout_ms: int
    notes: _containers.RepeatedScalarFieldContainer[str]
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    quota: Quota
    def __init__(self, allowed: _Optional[bool] = ..., refusal: _Optional[_Union[StartRefusal, _Mapping]] = ..., role: _Optional[str] = ..., rules: _Optional[_Iterable[str]] = ..., program: _Optional[str] = ..., account: _Optional[str] = ..., uid: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., log: _Optional[_Union[LogBounds, _Mapping]] = ..., isolation: _Optional[str] = ..., resource_limits: _Optional[_Iterable[_Union[ResourceLimit, _Mapping]]] = ..., working_directory: _Optional[str] = ..., stop_signal: _Optional[int] = ..., grace_ms: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., notes: _Optional[_Iterable[str]] = ..., shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., quota: _Optional[_Union[Quota, _Mapping]] = ...) -> None: ...

class Quota(_message.Message):
    __slots__ = ("jobs", "cpu_millis", "memory_bytes", "log_bytes", "followers", "starts_per_second")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    FOLLOWERS_FIELD_NUMBER: _ClassVar[int]
    STARTS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    jobs: int
    cpu_millis: int
    memory_bytes: int
    log_bytes: int
    followers: int
    starts_per_second: float
    def __init__(self, jobs: _Optional[int] = ..., cpu_millis: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., log_bytes: _Optional[int] = ..., followers: _Optional[int] = ..., starts_per_second: _Optional[float] = ...) -> None: ...

class StartRefusal(_message.Message):
    __slots__ = ("reason", "message", "remedy")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    remedy: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class ResourceLimit(_message.Message):
    __slots__ = ("name", "soft", "hard")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    HARD_FIELD_NUMBER: _ClassVar[int]
    name: str
    soft: int
    hard: int
    def __init__(self, name: _Optional[str] = ..., soft: _Optional[int] = ..., hard: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr_pem", "proof")
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    proof: bytes
    def __init__(self, csr_pem: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate_pem", "ca_pem")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    CA_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    ca_pem: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ..., ca_pem: _Optional[bytes] = ...) -> None: ...
