// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * What processes do, as it happens: fork, exec, change of credentials, exit. One rule: whatever is seen is
 * either handed to the ring or counted as lost, by kind and by reason.
 *
 * Processes, not threads: forks that make a thread, exits that leave a thread behind and credentials of
 * threads other than the leader are not seen at all.
 */
#include "kernel.bpf.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "records.bpf.h"
#include "facts.bpf.h"
#include "names.bpf.h"
#include "tasks.bpf.h"

char licence[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KINDS *COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* One per processor; the loader sets the number. Too large for a per-cpu map, whose values stop at 32 KiB. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct scratch);
} exec_scratch SEC(".maps");

/* Processes whose last exit was reported, for kernels that do not say which exit is the last. */
struct ended {
	u64 start_boottime;
	u64 tgid;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct ended);
	__type(value, u8);
} ended_processes SEC(".maps");

static __always_inline void count(enum kind kind, enum counter counter)
{
	u32 key = kind * COUNTERS + counter;
	u64 *value = bpf_map_lookup_elem(&counters, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline void emit(enum kind kind, void *record, u32 length)
{
	u64 waiting;

	if (bpf_ringbuf_output(&ring, record, length, 0) == 0) {
		count(kind, OUTPUT);
		return;
	}
	/* Every failure is EAGAIN. The ring may also refuse while a lock is held or a record is unfinished. */
	waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
	count(kind, waiting + length + 2 * sizeof(u64) > RING_BYTES ? RING_FULL : RING_BUSY);
}

static __always_inline void begin(struct header *header, enum kind kind, u32 length)
{
	header->kind = kind;
	header->layout = LAYOUT;
	header->length = length;
	header->boot_ns = bpf_ktime_get_boot_ns() + settings.boottime_offset_ns;
}

/* Count a process of `kind` as seen; its pid here, or 0 when it lies outside (counted as such). */
static __always_inline u32 see(enum kind kind, struct task_struct *leader)
{
	u32 pid = pid_here(leader->thread_pid);

	count(kind, SEEN);
	if (!pid)
		count(kind, OUTSIDE);
	return pid;
}

SEC("tp_btf/sched_process_fork")
int on_fork(u64 *arguments)
{
	struct task_struct *forker = (void *)arguments[0];
	struct task_struct *child = (void *)arguments[1];
	struct fork_record record = {};
	u32 pid;

	if (child->group_leader != child)
		return 0;
	pid = see(KIND_FORK, child);
	if (!pid)
		return 0;
	forker = forker->group_leader;
	begin(&record.header, KIND_FORK, sizeof(record));
	read_identity(&record.child, child, pid);
	read_ids(&record.child, child->real_cred);
	record.forker_pid = pid_here(forker->thread_pid);
	record.forker_start_ns = record.forker_pid ? start_of(forker) : 0;
	emit(KIND_FORK, &record, sizeof(record));
	return 0;
}

static __always_inline bool is_last_exit(struct task_struct *task, u64 *arguments)
{
	struct ended key = {};
	u8 value = 0;

	if (bpf_core_field_exists(struct trace_event_raw_sched_process_exit, group_dead) && !settings.count_threads)
		return arguments[1] & 0xff;
	if (task->signal->live.counter != 0)
		return false;
	/* Two threads may end together, and both find none left: the first one here reports. */
	key.start_boottime = task->group_leader->start_boottime;
	key.tgid = task->tgid;
	return bpf_map_update_elem(&ended_processes, &key, &value, BPF_NOEXIST) == 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(u64 *arguments)
{
	struct task_struct *task = (void *)arguments[0];
	struct task_struct *leader = task->group_leader;
	struct exit_record record = {};
	u32 pid;

	if (!is_last_exit(task, arguments))
		return 0;
	pid = see(KIND_EXIT, leader);
	if (!pid)
		return 0;
	begin(&record.header, KIND_EXIT, sizeof(record));
	read_identity(&record.process, leader, pid);
	read_ids(&record.process, leader->real_cred);
	record.run_ns = record.header.boot_ns - record.process.start_ns;
	record.status = leader->signal->flags & GROUP_EXIT ? leader->signal->group_exit_code : leader->exit_code;
	emit(KIND_EXIT, &record, sizeof(record));
	return 0;
}

static __always_inline bool same_ids(const struct cred *one, const struct cred *other)
{
	return one->uid.val == other->uid.val && one->euid.val == other->euid.val && one->gid.val == other->gid.val &&
	       one->egid.val == other->egid.val;
}

/* Every change of a task's own credentials ends in commit_creds, which cannot fail any more. */
SEC("fentry/commit_creds")
int on_credentials(u64 *arguments)
{
	const struct cred *next = (void *)arguments[0];
	struct task_struct *task = bpf_get_current_task_btf();
	struct credentials_record record = {};
	u32 pid;

	/* An exec that changes them is told by its own record. */
	if (task->group_leader != task || BPF_CORE_READ_BITFIELD(task, in_execve) || same_ids(task->real_cred, next))
		return 0;
	pid = see(KIND_CREDENTIALS, task);
	if (!pid)
		return 0;
	begin(&record.header, KIND_CREDENTIALS, sizeof(record));
	read_identity(&record.process, task, pid);
	read_ids(&record.process, next);
	record.former_uid = task->real_cred->uid.val;
	record.former_euid = task->real_cred->euid.val;
	record.former_gid = task->real_cred->gid.val;
	record.former_egid = task->real_cred->egid.val;
	emit(KIND_CREDENTIALS, &record, sizeof(record));
	return 0;
}

/* Append a string of the kernel's without its NUL; returns its length. */
static __always_inline u16 append_string(struct scratch *to, const char *string, u32 bound)
{
	u32 used = to->used;
	long length;

	if (used > RECORD_BYTES - PATH_BYTES)
		return 0;
	length = bpf_probe_read_kernel_str(&to->record[used], bound, string);
	if (length <= 0 || length > bound)
		return 0;
	to->used = used + length - 1;
	return length - 1;
}

static __always_inline void append_arguments(struct scratch *to, struct exec_record *record, struct mm_struct *mm)
{
	u64 length = mm->arg_end - mm->arg_start;
	u32 used = to->used;

	record->argument_length = length;
	if (length > ARGUMENT_BYTES)
		length = ARGUMENT_BYTES;
	if (used > RECORD_BYTES - ARGUMENT_BYTES)
		return;
	/* The kernel has just written these pages; should one be gone nevertheless, it must not wait for it. */
	if (bpf_probe_read_user(&to->record[used], length, (void *)mm->arg_start)) {
		record->process.flags |= FLAG_ARGUMENTS_UNREADABLE;
		return;
	}
	record->arguments = length;
	to->used = used + length;
}

static __always_inline void read_exec(struct scratch *to, struct task_struct *task, struct linux_binprm *program,
				      u32 pid)
{
	struct exec_record *record = (void *)to->record;
	struct mm_struct *mm = task->mm;
	struct fs_struct *fs = task->fs;
	struct file *file = mm->exe_file;
	u32 *flags = &record->process.flags;

	__builtin_memset(record, 0, sizeof(*record));
	to->used = sizeof(*record);
	begin(&record->header, KIND_EXEC, 0);
	read_identity(&record->process, task, pid);
	read_ids(&record->process, task->real_cred);
	if (BPF_CORE_READ_BITFIELD(program, secureexec))
		*flags |= FLAG_SECURE;
	record->filename = append_string(to, program->filename, PATH_BYTES);
	if (program->interp != program->filename) {
		*flags |= FLAG_INTERPRETED;
		record->interpreter = append_string(to, program->interp, INTERPRETER_BYTES);
	}
	if (file) {
		struct vfsmount *mount = file->f_path.mnt;
		struct dentry *entry = file->f_path.dentry;

		read_image(&record->image, file);
		*flags |= FLAG_IMAGE | (is_deleted(mount, entry) ? FLAG_IMAGE_DELETED : 0);
		record->path = append_path(to, mount, entry, flags, FLAG_PATH_CUT);
	}
	if (fs) {
		struct vfsmount *mount = fs->pwd.mnt;
		struct dentry *entry = fs->pwd.dentry;

		*flags |= FLAG_CWD | (is_deleted(mount, entry) ? FLAG_CWD_DELETED : 0);
		record->cwd = append_path(to, mount, entry, flags, FLAG_CWD_CUT);
	}
	record->cgroup = append_cgroup(to, task, flags);
	append_arguments(to, record, mm);
	record->header.length = to->used;
}

SEC("tp_btf/sched_process_exec")
int on_exec(u64 *arguments)
{
	/* Whichever thread called execve, it is the leader by now. */
	struct task_struct *task = (void *)arguments[0];
	struct linux_binprm *program = (void *)arguments[2];
	u32 pid = see(KIND_EXEC, task);
	u32 processor = bpf_get_smp_processor_id();
	struct scratch *to;

	if (!pid)
		return 0;
	to = bpf_map_lookup_elem(&exec_scratch, &processor);
	if (!to) {
		count(KIND_EXEC, NO_SCRATCH);
		return 0;
	}
	read_exec(to, task, program, pid);
	if (to->used > RECORD_BYTES) {
		count(KIND_EXEC, NO_SCRATCH);
		return 0;
	}
	emit(KIND_EXEC, to->record, to->used);
	return 0;
}
