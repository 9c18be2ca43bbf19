"""The public specification's messages, copied from it. One rule: this text is never adapted to our schema."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SPECIFICATION: Final = """\
syntax = "proto3";
package specification;

message DetectionTask {
  string task_id = 1; // Unique correlation ID
  TaskType task_type = 2; // Type of operation
  optional ProcessFilter process_filter = 3; // Optional filtering
  optional HashCheck hash_check = 4; // Optional hash verification
  optional string metadata = 5; // Optional task metadata
}

message DetectionResult {
  string task_id = 1; // Matching correlation ID
  bool success = 2; // Operation success status
  optional string error_message = 3; // Error details if failed
  repeated ProcessRecord processes = 4; // Collected process data
  optional HashResult hash_result = 5; // Hash verification result
}

message ProcessRecord {
  uint32 pid = 1; // Process ID
  optional uint32 ppid = 2; // Parent process ID
  string name = 3; // Process name
  optional string executable_path = 4; // Full executable path
  repeated string command_line = 5; // Command line arguments
  optional int64 start_time = 6; // Start time (Unix timestamp)
  optional double cpu_usage = 7; // CPU usage percentage
  optional uint64 memory_usage = 8; // Memory usage in bytes
  optional string executable_hash = 9; // File hash (hex-encoded)
  optional string hash_algorithm = 10; // Hash algorithm name
  optional string user_id = 11; // User ID
  bool accessible = 12; // Data accessibility flag
  bool file_exists = 13; // Executable file existence
  int64 collection_time = 14; // Collection timestamp (millis)
}

enum TaskType {
  ENUMERATE_PROCESSES = 0; // List all accessible processes
  CHECK_PROCESS_HASH = 1; // Verify executable hash
  MONITOR_PROCESS_TREE = 2; // Monitor process hierarchy
  VERIFY_EXECUTABLE = 3; // Verify executable integrity
}

message ProcessFilter {
  repeated string process_names = 1; // Filter by process names
  repeated uint32 pids = 2; // Filter by process IDs
  optional string executable_pattern = 3; // Filter by path pattern
}

message HashCheck {
  string expected_hash = 1; // Expected hash value
  string hash_algorithm = 2; // Algorithm (e.g., "sha256")
  string executable_path = 3; // Path to verify
}

message HashResult {
  string hash_value = 1; // Computed hash
  string algorithm = 2; // Algorithm used
  string file_path = 3; // File path processed
  bool success = 4; // Computation success
  optional string error_message = 5; // Error details if failed
}
"""


def specification_classes() -> dict[str, Any]:
    """Protobuf classes of the specification's messages by name, compiled by protoc as a stranger would."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "specification.proto").write_text(SPECIFICATION)
        protoc = (sys.executable, "-m", "grpc_tools.protoc", "-I.", "--descriptor_set_out=out")
        subprocess.run([*protoc, "specification.proto"], cwd=folder, check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(folder, "out").read_bytes())
    # A pool of its own: nothing of ours can leak into these classes.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(files.file[0])
    file = pool.FindFileByName("specification.proto")
    return {
        name: message_factory.GetMessageClass(descriptor)
        for name, descriptor in file.message_types_by_name.items()
    }
