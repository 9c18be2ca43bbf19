"""The wire contract as released. One rule: lines are added, never changed: a number means one thing for ever.

Each line is `number [repeated|optional] type name`; `reserved` gives first and last number.
"""

from __future__ import annotations

from typing import Final

CONTRACT: Final = """\
message DetectionTask
    reserved 6 99
    1 string task_id
    2 TaskType task_type
    3 optional ProcessFilter process_filter
    4 optional HashCheck hash_check
    5 optional string metadata
    100 bool stream
    101 uint32 deadline_ms
    102 optional CapabilityRequest capability_request
    103 optional CollectionOptions options
    104 string target_task_id
message ProcessFilter
    1 repeated string process_names
    2 repeated uint32 pids
    3 optional string executable_pattern
message HashCheck
    1 string expected_hash
    2 string hash_algorithm
    3 string executable_path
message CollectionOptions
    1 bool skip_hashes
    2 repeated string digests
    3 uint32 hash_budget_ms
    4 bool environment
    5 repeated ProcessEventKind event_kinds
    6 bool live
message DetectionResult
    reserved 6 99
    1 string task_id
    2 bool success
    3 optional string error_message
    4 repeated ProcessRecord processes
    5 optional HashResult hash_result
    100 bool more
    101 uint32 sequence
    102 ErrorCode error_code
    103 optional CollectionSummary summary
    104 optional CapabilityResponse capability_response
    105 repeated ProcessEvent events
    106 repeated ExecutableReport executables
    107 string boot_id
message CollectionSummary
    1 uint32 processes_seen
    2 uint32 processes_returned
    3 uint32 processes_vanished
    4 uint32 processes_inaccessible
    5 uint32 executables_hashed
    6 uint32 executables_pending
    7 uint32 executables_unhashed
    8 uint64 events_delivered
    9 uint64 events_lost
    10 uint64 duration_us
    11 repeated Loss losses
    12 int64 boot_time
message Loss
    1 string reason
    2 uint64 count
    3 ProcessEventKind kind
message ProcessRecord
    reserved 18 99
    1 uint32 pid
    2 optional uint32 ppid
    3 string name
    4 optional string executable_path
    5 repeated string command_line
    6 optional int64 start_time
    7 optional double cpu_usage
    8 optional uint64 memory_usage
    9 optional string executable_hash
    10 optional string hash_algorithm
    11 optional string user_id
    12 bool accessible
    13 bool file_exists
    14 int64 collection_time
    15 optional string ssdeep_hash
    16 bool on_disk_mismatch
    17 bool ssdeep_degraded
    100 uint64 start_ticks
    101 optional uint64 parent_start_ticks
    102 ProcessStatus status
    103 uint32 threads
    104 uint64 cpu_time_ns
    105 uint32 real_uid
    106 uint32 effective_uid
    107 uint32 real_gid
    108 uint32 effective_gid
    109 optional uint32 login_uid
    110 string user_name
    111 uint32 session
    112 string tty
    113 string cwd
    114 string cgroup
    115 string container_id
    116 uint64 pid_namespace
    117 uint64 mount_namespace
    118 string invoked_path
    119 uint64 executable_device
    120 uint64 executable_inode
    121 HashState hash_state
    122 repeated Digest digests
    123 bool is_kernel_thread
    124 bool memory_backed
    125 uint32 command_line_length
    126 bool command_line_blocked
    127 bool redacted
    128 Provenance provenance
    129 repeated FieldProvenance exceptions
    130 repeated EnvironmentVariable environment
    131 string script_path
    132 optional bool reparented
message FieldProvenance
    1 uint32 field
    2 Provenance provenance
    3 string reason
message Digest
    1 string algorithm
    2 string value
message EnvironmentVariable
    1 string name
    2 string value
message HashResult
    1 string hash_value
    2 string algorithm
    3 string file_path
    4 bool success
    5 optional string error_message
message ExecutableReport
    1 string path
    2 HashVerdict verdict
    3 HashState hash_state
    4 repeated Digest digests
    5 uint64 size
    6 uint32 mode
    7 uint32 owner_uid
    8 uint32 owner_gid
    9 uint64 device
    10 uint64 inode
    11 int64 modified_ns
    12 int64 changed_ns
    13 string file_capabilities
    14 repeated uint32 running_pids
    15 bool on_disk_mismatch
    16 ErrorCode error_code
    17 string error_message
message ProcessEvent
    1 ProcessEventKind kind
    2 uint64 sequence
    3 uint64 boot_time_ns
    4 int64 wall_time_ms
    5 uint32 pid
    6 uint64 start_ticks
    7 optional ProcessRecord process
    8 optional uint32 parent_pid
    9 optional uint64 parent_start_ticks
    10 optional int32 exit_code
    11 optional uint32 exit_signal
    12 optional uint64 run_time_ns
    13 optional Gap gap
message Gap
    1 string reason
    2 uint64 count
    3 uint64 from_sequence
    4 uint64 to_sequence
    5 uint64 from_boot_time_ns
    6 uint64 to_boot_time_ns
    7 repeated Loss losses
message CapabilityRequest
    reserved 4 99
    1 string client_id
    2 repeated MonitoringDomain requested_domains
    3 optional string client_version
    100 uint32 protocol_version
message AdvancedCapabilities
    1 bool kernel_level
    2 bool realtime
    3 bool system_wide
message CollectionCapabilities
    1 repeated MonitoringDomain supported_domains
    2 optional AdvancedCapabilities advanced
message CapabilityResponse
    reserved 5 99
    1 bool negotiation_success
    2 optional CollectionCapabilities capabilities
    3 optional string error_message
    4 optional string server_version
    100 uint32 protocol_version
    101 repeated TaskType task_types
    102 repeated string digests
    103 EventSource event_source
    104 string event_source_reason
    105 uint32 max_frame_size
    106 uint32 max_tasks_in_flight
    107 repeated string retained_capabilities
    108 bool confined
    109 string collector
    110 Permission permission
    111 repeated string limitations
enum TaskType
    reserved 4 99
    0 ENUMERATE_PROCESSES
    1 CHECK_PROCESS_HASH
    2 MONITOR_PROCESS_TREE
    3 VERIFY_EXECUTABLE
    100 NEGOTIATE_CAPABILITIES
    101 CANCEL_TASK
enum ErrorCode
    0 ERROR_CODE_UNSPECIFIED
    1 ERROR_CODE_INVALID
    2 ERROR_CODE_UNSUPPORTED
    3 ERROR_CODE_DENIED
    4 ERROR_CODE_BUSY
    5 ERROR_CODE_DEADLINE
    6 ERROR_CODE_CANCELLED
    7 ERROR_CODE_TOO_LARGE
    8 ERROR_CODE_NOT_FOUND
    9 ERROR_CODE_REFUSED
    10 ERROR_CODE_SHUTTING_DOWN
    11 ERROR_CODE_PROTOCOL
    12 ERROR_CODE_INTERNAL
enum ProcessStatus
    0 PROCESS_STATUS_UNSPECIFIED
    1 PROCESS_STATUS_RUNNING
    2 PROCESS_STATUS_SLEEPING
    3 PROCESS_STATUS_DISK_SLEEP
    4 PROCESS_STATUS_STOPPED
    5 PROCESS_STATUS_TRACED
    6 PROCESS_STATUS_ZOMBIE
    7 PROCESS_STATUS_IDLE
    8 PROCESS_STATUS_DEAD
enum HashState
    0 HASH_STATE_UNSPECIFIED
    1 HASH_STATE_OK
    2 HASH_STATE_PENDING
    3 HASH_STATE_TOO_LARGE
    4 HASH_STATE_TIMED_OUT
    5 HASH_STATE_CHANGED
    6 HASH_STATE_DENIED
    7 HASH_STATE_GONE
    8 HASH_STATE_NO_EXECUTABLE
    9 HASH_STATE_NOT_REGULAR
    10 HASH_STATE_IO_ERROR
enum Provenance
    0 PROVENANCE_UNSPECIFIED
    1 PROVENANCE_KERNEL
    2 PROVENANCE_PROC
    3 PROVENANCE_PARENT
    4 PROVENANCE_FILE
    5 PROVENANCE_MISSING
enum HashVerdict
    0 HASH_VERDICT_UNSPECIFIED
    1 HASH_VERDICT_MATCH
    2 HASH_VERDICT_MISMATCH
    3 HASH_VERDICT_UNKNOWN
enum ProcessEventKind
    0 PROCESS_EVENT_KIND_UNSPECIFIED
    1 PROCESS_EVENT_KIND_SNAPSHOT
    2 PROCESS_EVENT_KIND_SNAPSHOT_END
    3 PROCESS_EVENT_KIND_FORK
    4 PROCESS_EVENT_KIND_EXEC
    5 PROCESS_EVENT_KIND_EXIT
    6 PROCESS_EVENT_KIND_CREDENTIALS
    7 PROCESS_EVENT_KIND_GAP
enum MonitoringDomain
    0 PROCESS
    1 NETWORK
    2 FILESYSTEM
    3 PERFORMANCE
enum EventSource
    0 EVENT_SOURCE_UNSPECIFIED
    1 EVENT_SOURCE_EBPF
    2 EVENT_SOURCE_PROCESS_CONNECTOR
    3 EVENT_SOURCE_POLLING
enum Permission
    0 PERMISSION_UNSPECIFIED
    1 PERMISSION_QUERY
    2 PERMISSION_ADMINISTER
"""
